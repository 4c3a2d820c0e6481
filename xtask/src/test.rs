//! `cargo xtask test`: all tests, fast ones first.

use std::{fmt, ops::AddAssign, time::Duration};

use anyhow::Result;
use testkit::image::VARIABLE;

use crate::{
    archive::Archive,
    cmd::{Cmd, Log},
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

/// Runs the tests. What fails is printed in full, what passes is counted.
pub(crate) fn run(paths: &Paths, archive: &Archive, steps: &Steps, options: &Options) -> Result<()> {
    let cargo_test = |args: &[&str]| {
        Cmd::new("cargo")
            .args(["test", "--locked", "--no-fail-fast"])
            .args(args)
            .args(&options.args)
            .dir(&paths.checkout)
    };
    let mut count = count("tests", steps, Duration::from_mins(6), |log| cargo_test(&["--workspace"]).run_logged(log))?;
    if !options.fast {
        let wanted = image::Options { flavour: Flavour::Test, ..image::Options::default() };
        let (_, description) = image::build(paths, archive, steps, &wanted)?;
        count += self::count("system tests", steps, Duration::from_mins(15), |log| {
            cargo_test(&["--package", "system-tests"]).env(VARIABLE, description.as_str()).run_logged(log)
        })?;
    }
    println!("{count}");
    Ok(())
}

/// Runs one step of tests and counts what its log says of them.
fn count(name: &str, steps: &Steps, guess: Duration, work: impl FnOnce(&Log) -> Result<()>) -> Result<Count> {
    steps.step(name, guess, |log| {
        let outcome = work(log);
        let text = log.text()?;
        if outcome.is_err() {
            eprintln!("{text}");
        }
        outcome?;
        Ok(text.lines().filter_map(Count::of_line).fold(Count::default(), |mut sum, count| {
            sum += count;
            sum
        }))
    })
}

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Count {
    /// Reads the line in which libtest sums up one program.
    fn of_line(line: &str) -> Option<Self> {
        let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut parts = numbers.split("; ").map(|part| part.split(' ').next().and_then(|number| number.parse().ok()));
        let mut next = || parts.next().flatten();
        Some(Self { passed: next()?, failed: next()?, skipped: next()? })
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_libtest_are_read() {
        let line = "test result: ok. 40 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(Count::of_line(line), Some(Count { passed: 40, failed: 1, skipped: 2 }));
        for other in ["", "test result: ok.", "test a ... ok", "test result: ok. x passed; y failed; z ignored"] {
            assert_eq!(Count::of_line(other), None, "{other}");
        }
    }
}
