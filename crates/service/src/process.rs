//! The process around a service.

use std::process::ExitCode;

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing_subscriber::{filter::LevelFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{Context, Error, Identity, context::notify};

/// Runs one daemon: journal, runtime, sockets, watchdog and stop signal around
/// the service's own function. One thread is enough for every daemon here; what
/// blocks goes to tokio's blocking threads.
pub fn main<F, S>(identity: Identity, service: F) -> ExitCode
where
    F: FnOnce(Context) -> S,
    S: Future<Output = Result<(), Error>>,
{
    log_to_journal(identity);
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .map_err(|source| Error::setup("start the runtime", source))
        .and_then(|runtime| {
            runtime.block_on(async {
                let context = Context::from_environment(identity, stop_signal()?)?;
                tokio::select! {
                    served = service(context) => served,
                    never = feed_watchdog() => never,
                }
            })
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("the {identity} service ends: {}", causes::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn log_to_journal(identity: Identity) {
    let level = if std::env::var_os("INCUS_OS_DEBUG").is_some() { LevelFilter::DEBUG } else { LevelFilter::INFO };
    match tracing_journald::layer() {
        Ok(journal) => {
            tracing_subscriber::registry()
                .with(level)
                .with(journal.with_syslog_identifier(identity.unit().into()))
                .init();
        }
        Err(error) => eprintln!("{}: no journal, log lines are lost: {error}", identity.unit()),
    }
}

fn stop_signal() -> Result<watch::Receiver<bool>, Error> {
    let cannot = |source| Error::setup("watch for stop signals", source);
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let (stopper, stop) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopper.send_replace(true);
    });
    Ok(stop)
}

/// Feeds the service manager's watchdog from the runtime that answers requests,
/// so that a blocked runtime is noticed.
async fn feed_watchdog() -> Result<(), Error> {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    let mut tick = tokio::time::interval(limit / 2);
    loop {
        tick.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}
