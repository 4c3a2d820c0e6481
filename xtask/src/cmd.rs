//! Starting programs.
//!
//! The services start programs through `runner` only; a developer tool is the one exception,
//! and this module is the only place of it. Output of long steps goes to a [`Log`], whose tail is
//! shown when the step fails: a build that works stays quiet, one that fails says why.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};
use camino::{Utf8Path, Utf8PathBuf};

/// How many lines of a log are worth showing after a failure.
const TAIL: usize = 40;
/// How much of one line; some tools print their whole command line.
const WIDTH: usize = 400;

/// The file that receives the output of one step.
#[derive(Debug)]
pub(crate) struct Log {
    path: Utf8PathBuf,
}

impl Log {
    /// Starts an empty log.
    pub(crate) fn create(path: &Utf8Path) -> Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {dir}"))?;
        }
        File::create(path).with_context(|| format!("cannot create {path}"))?;
        Ok(Self { path: path.to_owned() })
    }

    fn open(&self) -> Result<File> {
        File::options().append(true).open(&self.path).with_context(|| format!("cannot open {}", self.path))
    }

    /// Everything that the step has printed so far.
    pub(crate) fn text(&self) -> Result<String> {
        let bytes = fs::read(&self.path).with_context(|| format!("cannot read {}", self.path))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn tail(&self) -> String {
        let mut lines = VecDeque::with_capacity(TAIL);
        if let Ok(file) = File::open(&self.path) {
            for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
                if lines.len() == TAIL {
                    lines.pop_front();
                }
                lines.push_back(String::from_utf8_lossy(&line).chars().take(WIDTH).collect::<String>());
            }
        }
        Vec::from(lines).join("\n")
    }
}

/// One program call.
#[derive(Debug)]
pub(crate) struct Cmd {
    inner: Command,
    shown: String,
}

impl Cmd {
    /// A call of `program`, found in `PATH` unless it is a path.
    #[expect(clippy::disallowed_methods, reason = "`runner` belongs to the product; this is its counterpart here")]
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref();
        Self { inner: Command::new(program), shown: program.to_string_lossy().into_owned() }
    }

    /// Adds one argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        let arg = arg.as_ref();
        self.shown.push(' ');
        self.shown.push_str(&arg.to_string_lossy());
        self.inner.arg(arg);
        self
    }

    /// Adds several arguments.
    pub(crate) fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets one environment variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value);
        self
    }

    /// Replaces the environment.
    pub(crate) fn only_env(mut self, vars: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        self.inner.env_clear().envs(vars);
        self
    }

    /// Sets the working directory.
    pub(crate) fn dir(mut self, dir: &Utf8Path) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// Runs to completion with all output in `log`.
    pub(crate) fn run_logged(mut self, log: &Log) -> Result<()> {
        use std::io::Write;

        let mut out = log.open()?;
        writeln!(out, "+ {}", self.shown).with_context(|| format!("cannot write to {}", log.path))?;
        let err = out.try_clone().with_context(|| format!("cannot share {}", log.path))?;
        let status = self
            .inner
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .status()
            .with_context(|| format!("cannot start `{}`", self.shown))?;
        if !status.success() {
            let program = self.shown.split(' ').next().unwrap_or_default();
            return Err(anyhow!("`{program}` failed: {status}; end of {}:\n{}", log.path, log.tail()));
        }
        Ok(())
    }

    /// Runs to completion and returns its standard output.
    pub(crate) fn read(mut self) -> Result<String> {
        let out = self
            .inner
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .with_context(|| format!("cannot start `{}`", self.shown))?;
        if !out.status.success() {
            bail!("`{}` failed: {}\n{}", self.shown, out.status, String::from_utf8_lossy(&out.stderr).trim_end());
        }
        String::from_utf8(out.stdout).with_context(|| format!("`{}` printed something that is not UTF-8", self.shown))
    }

    /// Becomes the program; returns only when that is impossible.
    pub(crate) fn exec(mut self) -> anyhow::Error {
        anyhow::Error::new(self.inner.exec()).context(format!("cannot start `{}`", self.shown))
    }
}

/// The path of `program` in `PATH`, if it is installed.
pub(crate) fn which(program: &str) -> Option<Utf8PathBuf> {
    let path = std::env::var("PATH").ok()?;
    path.split(':').map(|dir| Utf8Path::new(dir).join(program)).find(|candidate| candidate.is_file())
}
