//! The one program of ours in the initrd.

use std::{env, process::ExitCode, sync::Arc};

use initrd::{Machine, Refusal};
use runner::SystemRunner;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let machine = Machine::real(Arc::new(SystemRunner));
    let outcome = match env::args().nth(1).as_deref() {
        Some("begin") => initrd::begin(&machine).await,
        Some("unlock") => initrd::unlock(&machine).await,
        _ => Err(Refusal::new("usage: incus-os-initrd begin|unlock")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            machine.tell(&refusal);
            ExitCode::FAILURE
        }
    }
}
