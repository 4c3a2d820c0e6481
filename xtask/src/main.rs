//! The developer's commands. Start with `cargo xtask run`; `cargo xtask help` lists the rest.
//!
//! Built on the bare host with nothing but Rust. Commands that need tools make a tools tree once
//! and continue inside it; see [`tree`].

mod archive;
mod bench;
mod check;
mod cmd;
mod fuzz;
mod host;
mod image;
mod paths;
mod pki;
mod progress;
mod run;
mod test;
mod tree;
mod vm;
mod zfs;

use std::{ffi::OsString, path::Path, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use testkit::image::{Image, VARIABLE};

use crate::{archive::Archive, cmd::Cmd, paths::Paths, progress::Steps};

/// Build, run, test and check the system.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    /// Debian archive to fetch packages from, instead of the one this machine's apt uses
    #[arg(long, global = true, value_name = "URL", env = archive::MIRROR_ENV)]
    mirror: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the disk image and its update files
    ///
    /// Makes the tools tree, the test keys and the ZFS modules when they are missing. An image
    /// that was built from the same inputs is not built again.
    Image {
        #[command(flatten)]
        options: image::Options,
        /// Print one JSON object on standard output
        #[arg(long)]
        json: bool,
    },
    /// Build the system, boot it in a new machine and say how to reach it
    Run(run::Run),
    /// Measure the management plane inside a booted machine
    Bench(bench::Bench),
    /// Work with virtual machines
    #[command(subcommand)]
    Vm(vm::Command),
    /// Check format, lints, documentation and units
    Check,
    /// Run all tests, in a machine that boots the image too
    Test(test::Options),
    /// Try to break what reads bytes from foreign media
    Fuzz(fuzz::Fuzz),
    /// Run a program inside the tools tree
    ///
    /// The tree is a Debian root with everything that builds, boots and tests the image. The
    /// checkout, the caches, Rust, /tmp and /dev are the machine's own.
    Tools {
        /// The program and its arguments; `bash` gives an interactive shell
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        call: Vec<OsString>,
    },
    /// Run cargo inside the tools tree, against the libraries of the image
    Cargo {
        /// Arguments of cargo
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        args: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let paths = Paths::find()?;
    let mirror = cli.mirror.as_deref();
    match cli.command {
        Command::Image { options, json } => {
            let archive = tree::enter(&paths, mirror)?;
            let (info, _) = image::build(&paths, &archive, &Steps::new(&paths.cache), &options)?;
            if json {
                println!("{}", serde_json::to_string(&info)?);
                return Ok(());
            }
            image::describe(&info)
        }
        Command::Run(arguments) => {
            let archive = tree::enter(&paths, mirror)?;
            let steps = Steps::new(&paths.cache);
            run::run(&arguments, &steps, || described_or_built(&paths, &archive, &steps))
        }
        Command::Bench(arguments) => {
            let archive = tree::enter(&paths, mirror)?;
            let steps = Steps::new(&paths.cache);
            bench::run(&arguments, &steps, |services| {
                let bare = services == bench::Services::Without;
                let wanted = image::Options { flavour: image::Flavour::Test, bare, ..image::Options::default() };
                Ok(image::build(&paths, &archive, &steps, &wanted)?.0)
            })
        }
        Command::Vm(command) => {
            let archive = tree::enter(&paths, mirror)?;
            let steps = Steps::new(&paths.cache);
            vm::run(command, &steps, || described_or_built(&paths, &archive, &steps))
        }
        Command::Check => {
            tree::enter(&paths, mirror)?;
            check::run(&paths, &Steps::new(&paths.cache))
        }
        Command::Test(options) => {
            let archive = tree::enter(&paths, mirror)?;
            test::run(&paths, &archive, &Steps::new(&paths.cache), &options)
        }
        Command::Fuzz(arguments) => {
            tree::enter(&paths, mirror)?;
            fuzz::run(&paths, &Steps::new(&paths.cache), &arguments)
        }
        Command::Tools { call } => {
            tree::enter(&paths, mirror)?;
            let (program, args) = call.split_first().expect("clap requires one argument");
            Err(Cmd::new(program).args(args).exec())
        }
        Command::Cargo { args } => {
            tree::enter(&paths, mirror)?;
            Err(Cmd::new("cargo").args(args).exec())
        }
    }
}

/// The image that the environment names, or the one of this checkout.
fn described_or_built(paths: &Paths, archive: &Archive, steps: &Steps) -> Result<Image> {
    match std::env::var_os(VARIABLE) {
        Some(path) => Ok(Image::load(Path::new(&path))?),
        None => Ok(image::build(paths, archive, steps, &image::Options::default())?.0),
    }
}
