//! `cargo xtask test`: all tests, fast ones first.

use std::time::Duration;

use anyhow::Result;
use testkit::image::VARIABLE;

use crate::{
    archive::Archive,
    cmd::Cmd,
    image::{self, Flavour},
    paths::Paths,
    progress::Steps,
};

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Leave out what boots a machine
    #[arg(long)]
    fast: bool,
    /// Arguments for `cargo test` and the test programs
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs the tests.
pub(crate) fn run(paths: &Paths, archive: &Archive, steps: &Steps, options: &Options) -> Result<()> {
    steps.step("tests", Duration::from_mins(6), |log| {
        Cmd::new("cargo")
            .args(["test", "--workspace", "--locked", "--no-fail-fast"])
            .args(&options.args)
            .dir(&paths.checkout)
            .run_logged(log)
    })?;
    if options.fast {
        return Ok(());
    }
    let wanted = image::Options { flavour: Flavour::Test, ..image::Options::default() };
    let (_, description) = image::build(paths, archive, steps, &wanted)?;
    steps.step("system tests", Duration::from_mins(15), |log| {
        Cmd::new("cargo")
            .args(["test", "--package", "system-tests", "--locked", "--no-fail-fast"])
            .args(&options.args)
            .env(VARIABLE, description.as_str())
            .dir(&paths.checkout)
            .run_logged(log)
    })
}
