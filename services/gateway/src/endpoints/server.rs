//! `GET /1.0`: the one document that is always there, whatever else is not.

use std::time::Duration;

use api::v1::{Empty, Environment, OsVersions, Server};
use service::Identity;

use crate::{
    answer::Answer,
    dispatch::{Call, ask},
    failure::Failure,
    machine::Machine,
};

/// How long the owners may take before the document goes out without them.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) async fn get(call: Call) -> Result<Answer, Failure> {
    let mut supervisor = call.gateway.owners.supervisor.clone();
    let mut update = call.gateway.owners.update.clone();
    let (environment, versions) = tokio::join!(
        ask(Identity::Supervisor, PATIENCE, supervisor.get_environment(Empty {})),
        ask(Identity::Update, PATIENCE, update.get_versions(Empty {})),
    );
    let environment = environment.unwrap_or_else(|_| own_knowledge(&call.gateway.machine));
    let environment = with_versions(environment, versions.unwrap_or_default());
    Ok(Answer::document(&Server { environment: Some(environment) }))
}

/// What can be said while the supervisor does not answer.
fn own_knowledge(machine: &Machine) -> Environment {
    let machine_id = machine.machine_id();
    let os_name = machine.os_release("NAME");
    Environment {
        hostname: if machine_id.is_empty() { os_name.clone() } else { machine_id.clone() },
        machine_id,
        os_name,
        os_version: machine.os_release("IMAGE_VERSION"),
        uptime: machine.uptime_seconds(),
        // Only the supervisor knows better.
        system_is_ready: false,
        ..Environment::default()
    }
}

fn with_versions(environment: Environment, versions: OsVersions) -> Environment {
    let known = |version: String, otherwise: String| if version.is_empty() { otherwise } else { version };
    Environment {
        os_version: known(versions.running, environment.os_version),
        os_version_next: known(versions.next, environment.os_version_next),
        os_version_alternate: known(versions.alternate, environment.os_version_alternate),
        ..environment
    }
}
