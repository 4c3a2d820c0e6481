//! Asking for what the screen shows, again and again. A service that does not
//! answer leaves on the screen what it said last.

use std::time::Duration;

use api::v1::{Empty, KernelConsole};
use modal::{Modal, Severity};
use service::Peers;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tonic::{Response, Status};

use crate::{
    Pace,
    machine::Machine,
    text::plain,
    view::{self, Fact, View},
};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(4);

/// Unanswered questions in a row after which the screen says so. Fewer happen
/// whenever the supervisor is restarted.
const SILENCE: u32 = 3;

/// Keeps the view in step with the services.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) machine: Machine,
    pub(crate) peers: Peers,
    pub(crate) view: watch::Sender<View>,
    pub(crate) pace: Pace,
}

impl Facts {
    /// What is known before any service has answered.
    pub(crate) fn first_view(machine: &Machine) -> View {
        View {
            is_installing: machine.is_installing(),
            hostname: plain(&machine.hostname()),
            system: plain(&machine.system()),
            clock: plain(&machine.clock()),
            ..View::default()
        }
    }

    /// Asks the supervisor for everything that is not a message.
    pub(crate) async fn follow_overview(self, consoles: watch::Sender<Vec<KernelConsole>>) {
        let mut supervisor = self.peers.supervisor();
        let mut hardware = None;
        let mut silent = 0;
        let mut tick = interval(self.pace.poll);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let mut next = self.known();
            if !next.is_installing {
                if hardware.is_none() {
                    let resources = answer(supervisor.get_resources(Empty {})).await;
                    hardware = resources.and_then(|resources| view::machine_line(&resources));
                }
                match answer(supervisor.get_overview(Empty {})).await {
                    Some(overview) => {
                        silent = 0;
                        next.describe(&overview, hardware.as_deref());
                        consoles.send_if_modified(|known| {
                            let is_new = *known != overview.consoles;
                            *known = overview.consoles;
                            is_new
                        });
                    }
                    None => {
                        silent += 1;
                        if silent == SILENCE {
                            let text = "The supervisor does not answer: what is shown here may be out of date";
                            next.footer.insert(0, Fact::Warning(Severity::Warning, text.to_owned()));
                        }
                    }
                }
            }
            self.view.send_if_modified(|current| {
                // Log and messages belong to others, who went on meanwhile.
                let next = View {
                    log: std::mem::take(&mut current.log),
                    modals: std::mem::take(&mut current.modals),
                    installer: current.installer.take(),
                    ..next
                };
                let is_new =
                    (&next.hostname, &next.system, &next.clock, &next.notices, &next.footer, next.is_installing)
                        != (
                            &current.hostname,
                            &current.system,
                            &current.clock,
                            &current.notices,
                            &current.footer,
                            current.is_installing,
                        );
                *current = next;
                is_new
            });
        }
    }

    /// What is shown now, except for what others follow; with the time of now.
    fn known(&self) -> View {
        let view = self.view.borrow();
        View {
            is_installing: self.machine.is_installing(),
            hostname: view.hostname.clone(),
            system: view.system.clone(),
            clock: plain(&self.machine.clock()),
            notices: view.notices.clone(),
            footer: view.footer.clone(),
            ..View::default()
        }
    }

    /// Follows the messages of the services.
    pub(crate) async fn follow_messages(self) {
        let mut supervisor = self.peers.supervisor();
        loop {
            if let Ok(stream) = supervisor.watch_modals(Empty {}).await {
                let mut stream = stream.into_inner();
                while let Ok(Some(all)) = stream.message().await {
                    // A category that only a newer release knows is passed over.
                    let modals: Vec<Modal> = all.modals.into_iter().filter_map(|modal| modal.try_into().ok()).collect();
                    self.show(modals);
                }
                // Whoever had something to say says it again.
                self.show(Vec::new());
            }
            sleep(self.pace.retry).await;
        }
    }

    fn show(&self, modals: Vec<Modal>) {
        self.view.send_if_modified(|view| {
            let is_new = view.modals != modals;
            view.modals = modals;
            is_new
        });
    }
}

async fn answer<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Option<T> {
    timeout(PATIENCE, call).await.ok()?.ok().map(Response::into_inner)
}
