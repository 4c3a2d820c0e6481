//! Prepares install media. See `docs/tools.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tools::flasher::main()
}
