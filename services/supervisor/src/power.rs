//! Power: answered first, acted on afterwards.
//!
//! logind authorises a caller by its user id or by polkit, not by capabilities.
//! Neither a root user is wanted here, nor a reboot that depends on polkit being
//! well. So each action has a socket of its own that only this service may
//! connect to, and a connection makes the service manager run `systemctl` with
//! that one verb: unit `incus-osd-power@.service`.

use std::sync::{Arc, Mutex, PoisonError};

use api::v1::{operator_line::Level, power_request::Action};
use modal::{Category, Modal, Severity};
use tokio::net::UnixStream;

use crate::{Machine, Pace, modals::Modals, operator::OperatorLog};

/// Pending power actions.
#[derive(Debug)]
pub(crate) struct Power {
    machine: Arc<Machine>,
    operator: Arc<OperatorLog>,
    modals: Arc<Modals>,
    pace: Pace,
    pending: Arc<Mutex<Option<Action>>>,
}

impl Power {
    pub(crate) fn new(machine: Arc<Machine>, operator: Arc<OperatorLog>, modals: Arc<Modals>, pace: Pace) -> Self {
        Self { machine, operator, modals, pace, pending: Arc::default() }
    }

    /// Schedules the action. The same one again changes nothing, another one
    /// takes the first one's place.
    pub(crate) fn request(&self, action: Action) {
        let scheduled = self.pending.lock().unwrap_or_else(PoisonError::into_inner).replace(action);
        if scheduled.is_some() {
            return;
        }
        let (machine, operator) = (self.machine.clone(), self.operator.clone());
        let (modals, pending) = (self.modals.clone(), self.pending.clone());
        let delay = self.pace.power_delay;
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let action = pending.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(action) = action {
                act(&machine, &operator, &modals, action).await;
            }
        });
    }
}

async fn act(machine: &Machine, operator: &OperatorLog, modals: &Modals, action: Action) {
    let name = action.as_str_name().to_ascii_lowercase();
    if matches!(action, Action::Poweroff | Action::Reboot) {
        operator.say(Level::Info, "System is shutting down", &[("action", &name)]).await;
        modals.show(Modal {
            category: Category::Shutdown,
            title: "Shutdown".into(),
            text: "System is shutting down".into(),
            severity: Severity::Info,
            progress: None,
        });
    }
    // The connection itself is the request; nothing is said on it.
    let socket = machine.path("run/incus-os/power").join(&name);
    if let Err(error) = UnixStream::connect(socket).await {
        operator.say(Level::Error, &format!("Cannot {name} the system"), &[("error", &error.to_string())]).await;
        modals.hide(Category::Shutdown.as_str()).expect("a category knows its own name");
    }
}
