//! Serves customised images. See `docs/tools.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tools::customizer::main()
}
