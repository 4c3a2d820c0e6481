//! The supervisor: unit and journal identifier `incus-osd`.
//!
//! It owns the order in which the machine comes up and the word of when it is
//! ready, the operator's log, the messages over the status screen, power, the
//! settings of the HTTPS listener (whom to trust, which certificate to show),
//! kernel and logging settings, and the hardware inventory. It never touches links, disks, keys or versions: the
//! services that own those do, when they are asked.
//!
//! Invariants:
//!
//! * Its socket answers before start-up has finished, and whatever happens to
//!   the other services.
//! * Start-up runs once per boot. A supervisor that was restarted on a running
//!   machine asks nobody to start anything.
//! * At level info, its journal holds operator lines and nothing else; after
//!   `System is ready` it is silent until something happens.
//! * It runs without privilege. What only root may read is handed over as open
//!   files; power goes through sockets that can do one thing each.

mod environment;
mod inventory;
mod kernel;
mod listener;
mod machine;
mod modals;
mod operator;
mod overview;
mod power;
mod rpc;
mod seeded;
mod startup;
mod state;

use std::{future, sync::Arc};

use api::v1::{KernelConfig, operator_line::Level, supervisor_server::SupervisorServer};
use futures_util::FutureExt as _;
use service::{Context, Error};
use tokio::sync::watch;
use tonic::service::Routes;

pub use crate::machine::Machine;
pub use crate::startup::Pace;
use crate::{
    environment::Environment, inventory::CachedInventory, listener::Listener, modals::Modals, operator::OperatorLog,
    overview::Sources, power::Power, rpc::Rpc, seeded::Sections, startup::Startup, state::State,
};

/// Runs the supervisor on this machine.
pub async fn run(mut context: Context) -> Result<(), Error> {
    let machine = Machine::system(&mut context);
    serve(context, machine, Pace::default()).await
}

/// Runs the supervisor on any machine, which is what tests do.
pub async fn serve(context: Context, mut machine: Machine, pace: Pace) -> Result<(), Error> {
    let operator = Arc::new(OperatorLog::new(&machine));
    let seed = machine.seed.take();
    let sections = seed.as_ref().map(Sections::read).unwrap_or_default();
    let machine = Arc::new(machine);
    let state = Arc::new(State::open(context.state_dir()).map_err(|error| Error::Service(error.into()))?);
    take_over_consoles(&state, sections.kernel.as_ref(), &operator).await;
    let environment = Environment::new(machine.clone(), context.peers());
    let listener = Listener::new(state.clone(), context.state_dir());

    let started = machine.was_started();
    let (ready, is_ready) = watch::channel(started);
    let startup = Startup {
        machine: machine.clone(),
        operator: operator.clone(),
        peers: context.peers(),
        seed: sections,
        ready,
        pace,
    };
    // The listener's settings need the seed and the certificate of the first
    // start, which are read beside the start of the other services: neither
    // waits for the other.
    let prepare = listener.prepare(seed, environment.fallback_hostname(), operator.clone());
    let bring_up = async {
        if started {
            prepare.await;
        } else {
            tokio::join!(prepare, startup.run());
        }
        future::pending::<()>().await;
    };

    let modals = Arc::new(Modals::default());
    let rpc = Rpc {
        environment,
        is_ready,
        inventory: CachedInventory::new(&machine),
        listener: listener.clone(),
        power: Power::new(machine.clone(), operator.clone(), modals.clone(), pace),
        machine,
        modals,
        operator,
        sources: Sources::of(&context.peers()),
        state,
        stopped: context.stopped().boxed().shared(),
    };
    let routes = Routes::new(SupervisorServer::new(rpc));
    tokio::select! {
        served = context.serve(routes) => served,
        () = bring_up => unreachable!("ends with the service only"),
    }
}

/// Keeps the consoles that the seed names, unless there are any already.
async fn take_over_consoles(state: &Arc<State>, seed: Option<&KernelConfig>, operator: &OperatorLog) {
    let consoles = seed.map(|seed| seed.console.clone()).unwrap_or_default();
    let is_new = state.get().kernel.is_none_or(|kernel| kernel.console.is_empty());
    if consoles.is_empty() || !is_new {
        return;
    }
    let changed = state.clone();
    let change = move || changed.change(|state| state.kernel.get_or_insert_default().console = consoles);
    let saved = tokio::task::spawn_blocking(change).await.unwrap_or(Ok(()));
    if let Err(error) = saved {
        let reason = error.to_string();
        operator.say(Level::Warn, "The consoles of the seed cannot be kept", &[("error", &reason)]).await;
    }
}
