//! `cargo xtask run`: from a checkout to a machine that answers.

use anyhow::Result;
use clap::Args;
use testkit::{image::Image, vm::Store};

use crate::progress::Steps;
use crate::vm::{self, Shape};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Name of the machine; one of this name is thrown away first.
    #[arg(long, default_value = "run")]
    name: String,
    #[command(flatten)]
    shape: Shape,
}

/// Builds the image, boots it in a new machine, waits until it is ready and says how to reach it.
pub(crate) fn run(arguments: &Run, steps: &Steps, build: impl FnOnce() -> Result<Image>) -> Result<()> {
    // Before the old machine goes: a build that fails should not cost one that works.
    let image = build()?;
    let store = Store::of_user();
    vm::discard(&store, &arguments.name)?;
    let vm = vm::bring_up(&store, &arguments.name, &arguments.shape, true, steps, || Ok(image))?;
    vm::print_access(&vm);
    println!();
    println!("The machine goes on running: `cargo xtask vm console {0}`, `cargo xtask vm down {0}`.", vm.name());
    Ok(())
}
