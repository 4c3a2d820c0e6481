//! Installs the system: the one service that runs when the initrd found a wish to
//! install, instead of all others.
//!
//! It looks at the machine ([`facts`]), decides from that and nothing else whether
//! and where to install ([`mod@plan`]), and does it ([`install`]). What keeps it from
//! installing is told in one sentence, and looked at again whenever the machine
//! changes: connecting a drive is enough, no restart is needed.
//!
//! Invariants:
//!
//! * Nothing is written to any drive before the whole seed was checked and every
//!   condition of [`mod@plan`] holds.
//! * A drive with anything recognisable on it is overwritten only when the seed
//!   says so.
//! * A failed installation is not repeated by itself: its reason stays on the
//!   screen. It left no partition table, so that starting again is all it takes.

mod facts;
mod install;
mod machine;
mod plan;
mod screen;
mod select;

use std::{process::ExitCode, sync::Arc, time::Duration};

use runner::SystemRunner;

use crate::{
    facts::Facts,
    install::Leave,
    machine::Machine,
    plan::{Plan, plan},
    screen::{Message, Screen},
};

/// How often the machine is looked at while something keeps it from being installed to.
const PERIOD: Duration = Duration::from_secs(1);

/// How long a warning stands before the installation begins: long enough to read it and to turn
/// the machine off.
const WARNING_SECONDS: u32 = 30;

/// Runs the installer. Returns only when it cannot even begin, or, in an unlikely world, when the
/// machine does not restart.
pub fn main() -> ExitCode {
    let screen = Screen::of_machine();
    // The system runs from the medium: once that is gone, no page of it can be read any more.
    if let Err(error) = rustix::mm::mlockall(rustix::mm::MlockAllFlags::CURRENT | rustix::mm::MlockAllFlags::FUTURE) {
        screen.show(&Message::warning(format!("The installer cannot be kept in memory ({error}).")));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(&Machine::real(Arc::new(SystemRunner)), &screen)),
        Err(error) => screen.show(&Message::error(format!("The installer cannot start: {error}."))),
    }
    ExitCode::FAILURE
}

async fn run(machine: &Machine, screen: &Screen) {
    let plan = wait_for_plan(machine, screen).await;
    for warning in &plan.warnings {
        screen.log(&Message::warning(warning.clone()));
    }
    if let Some(weakness) = plan.weakness {
        for left in (1..=WARNING_SECONDS).rev() {
            screen.show(&Message::warning(format!(
                "WARNING: {weakness} will result in a degraded security state. \
                 The installation begins in {left} seconds; turn the machine off to stop it."
            )));
            tokio::time::sleep(PERIOD).await;
        }
    }
    let leave = match install::install(machine, &plan, screen).await {
        Ok(leave) => leave,
        Err(error) => {
            screen.show(&Message::error(format!(
                "{}. The installation to {} is not finished; restart the machine to try again.",
                causes::chain(&error),
                plan.target.path()
            )));
            // Whatever comes next is a person's decision.
            std::future::pending().await
        }
    };
    let done = format!("{} was installed to {}.", machine.os, plan.target.path());
    match leave {
        Leave::Restart => screen.show(&Message::info(format!("{done} The machine restarts now."))),
        Leave::WaitForRemoval => {
            screen.show(&Message::info(format!("{done} Remove the install medium; the machine then restarts.")));
            while machine.medium_is_present(&plan.medium) {
                tokio::time::sleep(PERIOD).await;
            }
        }
    }
    install::restart(machine, screen).await;
}

/// Looks at the machine until it can be installed to.
async fn wait_for_plan(machine: &Machine, screen: &Screen) -> Plan {
    let mut shown: Option<String> = None;
    let mut seen = None;
    loop {
        // Looking closely wakes drives, so it is done only when something has changed.
        let devices = machine.devices();
        if seen.as_ref() != Some(&devices) {
            seen = Some(devices);
            let facts = Facts::gather(machine).await;
            match plan(&facts) {
                Ok(plan) => return plan,
                Err(refusal) => {
                    let text = refusal.to_string();
                    if shown.as_ref() != Some(&text) {
                        screen.show(&Message::system_check(&text));
                        shown = Some(text);
                    }
                }
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}
