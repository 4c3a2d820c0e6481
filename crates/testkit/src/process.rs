//! The one place of this crate that starts programs.
#![expect(
    clippy::disallowed_methods,
    reason = "dev-only: drives the emulator and its tools, which the shipped `runner` must not know"
)]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// A program could not be started or did not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// Mostly: it is not installed.
    #[error("cannot start `{program}`")]
    Start {
        /// Program name or path.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ran and reported failure.
    #[error("`{call}` failed with {status}: {stderr}")]
    Failed {
        /// Program and arguments.
        call: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// It was ended because it did not finish in time.
    #[error("`{call}` was ended after {} s", limit.as_secs())]
    TimedOut {
        /// Program and arguments.
        call: String,
        /// The time it had.
        limit: Duration,
    },
    /// Its log could not be made, or its state not be read.
    #[error("cannot use `{path}` for `{program}`")]
    Log {
        /// The file.
        path: PathBuf,
        /// Program name or path.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What a long-running program's life is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Ends with the process that started it, even when that one is killed.
    Tied,
    /// Goes on after the process that started it, in a session of its own.
    Detached,
}

/// Runs a program to its end in `folder` and gives its standard output.
///
/// # Errors
///
/// When it cannot be started, fails, or needs longer than `limit`.
pub fn run<A: AsRef<OsStr>>(
    program: &str,
    arguments: &[A],
    folder: &Path,
    limit: Duration,
) -> Result<String, ProcessError> {
    let start = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| ProcessError::Start { program: program.to_owned(), source })?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());

    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if start.elapsed() < limit => thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                // Either call fails only when the program has ended meanwhile.
                drop(child.kill());
                drop(child.wait());
                return Err(ProcessError::TimedOut { call: describe(program, arguments), limit });
            }
            Err(source) => {
                return Err(ProcessError::Start { program: program.to_owned(), source });
            }
        }
    };
    let text =
        |reader: thread::JoinHandle<Vec<u8>>| String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned();
    let (stdout, stderr) = (text(stdout), text(stderr));
    if status.success() {
        Ok(stdout)
    } else {
        let call = describe(program, arguments);
        Err(ProcessError::Failed { call, status, stderr: stderr.trim().to_owned() })
    }
}

/// Starts a program that goes on running; both its outputs are appended to `log`.
pub(crate) fn spawn(
    program: &str,
    arguments: &[OsString],
    lifetime: Lifetime,
    log: &Path,
) -> Result<Child, ProcessError> {
    let log_error = |source| ProcessError::Log { path: log.to_owned(), program: program.to_owned(), source };
    let output = File::options().create(true).append(true).open(log).map_err(log_error)?;
    // Both wrappers are from util-linux and replace themselves by the program, so the process id
    // is the program's own.
    let mut command = match lifetime {
        Lifetime::Tied => {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL"]);
            command
        }
        Lifetime::Detached => Command::new("setsid"),
    };
    command
        .arg(program)
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(log_error)?)
        .stderr(output);
    start(command).map_err(|source| ProcessError::Start { program: program.to_owned(), source })
}

/// Starts `command` from a thread that lives as long as this process.
///
/// The kernel sends the "parent died" signal when the *thread* that started the program ends, and
/// a test's thread ends long before a machine that several tests use.
fn start(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static STARTER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();

    let starter = STARTER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // The one who asked may be gone; then the child is of no interest either.
                drop(reply.send(command.spawn()));
            }
        });
        orders
    });
    let (reply, answer) = mpsc::channel();
    starter.send((command, reply)).map_err(|_| io::Error::other("the starting thread is gone"))?;
    answer.recv().map_err(|_| io::Error::other("the starting thread is gone"))?
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before a broken pipe is still worth printing.
            drop(pipe.read_to_end(&mut bytes));
        }
        bytes
    })
}

fn describe<A: AsRef<OsStr>>(program: &str, arguments: &[A]) -> String {
    let mut text = program.to_owned();
    for argument in arguments {
        text.push(' ');
        text.push_str(&argument.as_ref().to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_success_and_text_of_failure_reach_the_caller() {
        let here = Path::new("/");
        let limit = Duration::from_secs(20);
        assert_eq!(run("echo", &["a", "b"], here, limit).unwrap(), "a b\n");
        let error = run("ls", &["/no/such/place"], here, limit).unwrap_err().to_string();
        assert!(error.contains("ls /no/such/place"), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn program_that_hangs_is_an_error() {
        let error = run("sleep", &["60"], Path::new("/"), Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, ProcessError::TimedOut { .. }), "{error}");
    }

    #[test]
    fn missing_program_is_named() {
        let error = run("no-such-program", &["x"], Path::new("/"), Duration::ZERO).unwrap_err();
        assert_eq!(error.to_string(), "cannot start `no-such-program`");
    }
}
