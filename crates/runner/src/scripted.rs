use std::{
    collections::VecDeque,
    fmt,
    io::{self, Cursor},
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, ReadBuf};

use crate::{Call, Exit, Output, RunError, Runner, Streaming};

/// Replays a script of expected calls, in order. A call that the script does
/// not expect panics, and so does dropping the runner with calls left over.
#[derive(Default)]
pub struct ScriptedRunner {
    script: Mutex<VecDeque<(String, Reply)>>,
}

/// What the scripted program does.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Prints this and returns zero.
    Stdout(Vec<u8>),
    /// Complains with this text and returns this status.
    Failure(i32, String),
    /// Prints this, complains with this text and returns this status.
    StdoutThenFailure(Vec<u8>, i32, String),
    /// Does not end before the deadline.
    Hang,
}

impl ScriptedRunner {
    /// A script without calls.
    pub fn new() -> Self {
        Self::default()
    }

    /// Expects this command line next, `zpool status -j` for example.
    #[must_use]
    pub fn expect(self, command_line: impl Into<String>, reply: Reply) -> Self {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).push_back((command_line.into(), reply));
        self
    }

    fn next(&self, call: &Call) -> Reply {
        let asked = call.command_line();
        let next = self.script.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let (expected, reply) = next.unwrap_or_else(|| panic!("`{asked}` was called, the script has ended"));
        assert_eq!(asked, expected, "the script expects another call");
        reply
    }
}

#[async_trait::async_trait]
impl Runner for ScriptedRunner {
    async fn run(&self, call: &Call) -> Result<Output, RunError> {
        let (exit, stdout, stderr) = match self.next(call) {
            Reply::Stdout(stdout) => (Exit::Code(0), stdout, Vec::new()),
            Reply::Failure(code, stderr) => (Exit::Code(code), Vec::new(), stderr.into_bytes()),
            Reply::StdoutThenFailure(stdout, code, stderr) => (Exit::Code(code), stdout, stderr.into_bytes()),
            Reply::Hang => {
                return Err(RunError::Deadline { command_line: call.command_line(), deadline: Duration::ZERO });
            }
        };
        Ok(Output { command_line: call.command_line(), exit, stdout, stderr })
    }

    async fn stream(&self, call: &Call) -> Result<Streaming, RunError> {
        let command_line = call.command_line();
        let (exit, stdout, stderr) = match self.next(call) {
            Reply::Stdout(stdout) => (Exit::Code(0), stdout, Vec::new()),
            Reply::Failure(code, stderr) => (Exit::Code(code), Vec::new(), stderr.into_bytes()),
            Reply::StdoutThenFailure(stdout, code, stderr) => (Exit::Code(code), stdout, stderr.into_bytes()),
            Reply::Hang => {
                let stdout = Box::new(Silence);
                return Ok(Streaming { stdout, ended: Box::pin(std::future::pending()) });
            }
        };
        let ended = async move { Ok(Output { command_line, exit, stdout: Vec::new(), stderr }) };
        Ok(Streaming { stdout: Box::new(Cursor::new(stdout)), ended: Box::pin(ended) })
    }
}

/// Standard output of a program that prints nothing and does not end.
struct Silence;

impl AsyncRead for Silence {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl Drop for ScriptedRunner {
    fn drop(&mut self) {
        let left = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::thread::panicking() {
            assert!(left.is_empty(), "the script expects more calls: {left:?}");
        }
    }
}

impl fmt::Debug for ScriptedRunner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ScriptedRunner").finish_non_exhaustive()
    }
}
