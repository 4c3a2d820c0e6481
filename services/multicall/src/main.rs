//! All services in one program. Which one runs is decided by the name it was
//! started under, so each unit starts a link of its own; the text pages are
//! shared by all.

use std::{env, ffi::OsStr, path::Path, process::ExitCode};

use service::Identity;

/// No service: it runs instead of them, on a machine that is being installed.
const INSTALLER: &str = "incus-osd-installer";

fn main() -> ExitCode {
    let program = env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().and_then(OsStr::to_str).unwrap_or_default();
    match Identity::from_program(name) {
        Some(Identity::Gateway) => service::main(Identity::Gateway, gateway::run),
        Some(Identity::Supervisor) => service::main(Identity::Supervisor, supervisor::run),
        Some(Identity::Network) => service::main(Identity::Network, network::run),
        Some(Identity::Storage) => service::main(Identity::Storage, storage::run),
        Some(Identity::Security) => service::main(Identity::Security, security::run),
        Some(Identity::Update) => service::main(Identity::Update, update::run),
        Some(Identity::Console) => service::main(Identity::Console, console::run),
        None if name == INSTALLER => installer::main(),
        None => {
            let names = Identity::ALL.map(Identity::unit).join(", ");
            eprintln!("{name}: no service of this name; start it under one of: {names}");
            ExitCode::FAILURE
        }
    }
}
