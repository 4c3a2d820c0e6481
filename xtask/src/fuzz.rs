//! `cargo xtask fuzz`: what reads foreign bytes, against libFuzzer.
//!
//! With the compiler of all other builds: coverage is an LLVM pass, and no sanitizer is needed where
//! nothing is unsafe. What is looked for are panics, overflows, endless loops and memory without limit.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::{cmd::Cmd, paths::Paths, progress::Steps};

/// Arguments of `fuzz`.
#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// What reads the bytes
    target: Target,
    /// How long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// One file of `tests/fuzz` each.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    /// The archive on the seed partition, and whatever is in it
    SeedArchive,
    /// One file of a seed
    SeedDocument,
    /// The partition table of a foreign drive
    MediaTable,
    /// The file system of a foreign medium
    MediaVolume,
}

impl Target {
    fn program(self) -> String {
        let value = self.to_possible_value().expect("every target can be named");
        value.get_name().replace('-', "_")
    }

    /// A shell script that makes a first input, of which all others are made: no mutation finds the
    /// form of a file system.
    fn examples(self) -> &'static str {
        match self {
            Self::SeedArchive => {
                r#"
                echo '{}' >install.json
                echo 'version: "1"' >network.yaml
                tar --create --format=ustar --file=archive install.json network.yaml
                "#
            }
            Self::SeedDocument => {
                r#"
                printf '\000{"version": "1", "target": {"bus": "nvme"}}' >install.json
                printf '\020interfaces:\n- name: eth0\n  addresses: [dhcp4]\n' >network.yaml
                "#
            }
            Self::MediaTable => {
                r"
                truncate --size=64K table
                printf 'label: gpt\nsize=1\n' | sfdisk --quiet table
                "
            }
            Self::MediaVolume => {
                r"
                echo '{}' >install.json
                truncate --size=64K fat
                mkfs.fat -n SEED_DATA fat
                mcopy -i fat install.json ::
                truncate --size=48K iso
                printf '\001CD001\001' | dd of=iso bs=2048 seek=16 conv=notrunc status=none
                "
            }
        }
    }
}

/// The passes that tell libFuzzer which code an input has reached, and the checks of a debug build.
const FLAGS: [&str; 10] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
    "--cfg",
    "fuzzing",
];

/// Named, so that the flags do not reach build scripts.
#[cfg(target_arch = "x86_64")]
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
#[cfg(target_arch = "aarch64")]
const TRIPLE: &str = "aarch64-unknown-linux-gnu";

/// Builds a target, and runs it from where the last run has come to. A failing input ends it; it is
/// kept beside the corpus, and named.
pub(crate) fn run(paths: &Paths, steps: &Steps, arguments: &Fuzz) -> Result<()> {
    let program = arguments.target.program();
    let place = paths.target().join("fuzz");
    let corpus = place.join("corpus").join(&program);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot create {corpus}"))?;
    if fs::read_dir(&corpus).with_context(|| format!("cannot read {corpus}"))?.next().is_none() {
        steps.quiet("examples", |log| {
            Cmd::new("sh").args(["-e", "-c", arguments.target.examples()]).dir(&corpus).run_logged(log)
        })?;
    }
    steps.step("fuzz target", Duration::from_mins(2), |log| {
        Cmd::new("cargo")
            .args(["build", "--release", "--locked", "--target", TRIPLE, "--bin", &program])
            .arg("--manifest-path")
            .arg(paths.checkout.join("tests/fuzz/Cargo.toml"))
            .arg("--target-dir")
            .arg(&place)
            .env("RUSTFLAGS", FLAGS.join(" "))
            .run_logged(log)
    })?;
    Err(Cmd::new(place.join(TRIPLE).join("release").join(&program))
        .arg(format!("-max_total_time={}", arguments.seconds))
        .arg(format!("-artifact_prefix={place}/{program}-"))
        .args(["-max_len=1048576", "-timeout=10", "-rss_limit_mb=512", "-print_final_stats=1"])
        .arg(corpus)
        .exec())
}
