use std::{ffi::OsString, fmt, pin::Pin, time::Duration};

use tokio::io::AsyncRead;

use crate::{RunError, Tool};

/// What to run, and for how long at most.
#[derive(Clone)]
pub struct Call {
    pub(crate) tool: Tool,
    pub(crate) args: Vec<OsString>,
    pub(crate) stdin: Option<Vec<u8>>,
    pub(crate) deadline: Duration,
}

impl Call {
    /// Runs `tool` with these arguments and nothing on standard input, for at
    /// most thirty seconds.
    pub fn new<A: Into<OsString>>(tool: Tool, args: impl IntoIterator<Item = A>) -> Self {
        Self { tool, args: args.into_iter().map(Into::into).collect(), stdin: None, deadline: Duration::from_secs(30) }
    }

    /// Sends these bytes to standard input. They are never printed.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Ends the program, with all its children, after this time.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The command line, arguments joined by one space.
    pub fn command_line(&self) -> String {
        let mut line = self.tool.name().to_owned();
        for arg in &self.args {
            line.push(' ');
            line.push_str(&arg.to_string_lossy());
        }
        line
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`{}`", self.command_line())?;
        match &self.stdin {
            Some(bytes) => write!(out, " with {} bytes on standard input", bytes.len()),
            None => Ok(()),
        }
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(out, "exit status {code}"),
            Self::Signal(signal) => write!(out, "signal {signal}"),
        }
    }
}

/// What a program left behind.
#[derive(Debug, Clone)]
pub struct Output {
    pub(crate) command_line: String,
    /// How it ended.
    pub exit: Exit,
    /// What it printed, up to the runner's limit.
    pub stdout: Vec<u8>,
    /// What it complained of, up to the runner's limit.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output of a program that returned zero; otherwise the failure
    /// in the words that clients compare.
    pub fn success(self) -> Result<Vec<u8>, RunError> {
        if self.exit == Exit::Code(0) {
            return Ok(self.stdout);
        }
        let stderr = String::from_utf8_lossy(&self.stderr).trim().to_owned();
        Err(RunError::Failed { command_line: self.command_line, exit: self.exit, stderr })
    }
}

/// A running program whose output is read as it comes. Dropping it ends the
/// program together with its children.
pub struct Streaming {
    /// Its standard output.
    pub stdout: Box<dyn AsyncRead + Send + Sync + Unpin>,
    /// Resolves when the program has ended; owns the program until then.
    pub(crate) ended: Pin<Box<dyn Future<Output = Result<Output, RunError>> + Send + Sync>>,
}

impl Streaming {
    /// A program that prints this and then ends well, for runners that stand in
    /// for the real one.
    pub fn standing_in(call: &Call, stdout: impl AsyncRead + Send + Sync + Unpin + 'static) -> Self {
        let command_line = call.command_line();
        let ended =
            async move { Ok(Output { command_line, exit: Exit::Code(0), stdout: Vec::new(), stderr: Vec::new() }) };
        Self { stdout: Box::new(stdout), ended: Box::pin(ended) }
    }

    /// Waits for the program to end by itself, which it does once its output was
    /// read to the end. A status other than zero is a failure here, since what
    /// was read is then not the whole.
    pub async fn finish(self) -> Result<(), RunError> {
        self.ended.await?.success().map(drop)
    }
}

impl fmt::Debug for Streaming {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Streaming")
    }
}
