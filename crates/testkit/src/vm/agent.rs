//! Commands inside a machine whose image is of the `test` flavour.
//!
//! The product has no way in but its API, so nothing here works with it. The other side is the
//! program in `tests/agent`: one JSON request a line, one JSON answer a line.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

/// A command inside a machine could not be asked for, or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// Nobody answers: the machine is off, its image has no agent, or the command hangs.
    #[error("no answer from the agent at `{socket}` to {call:?}")]
    Silent {
        /// The emulator's end of the port.
        socket: PathBuf,
        /// The command.
        call: Vec<String>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What came is no answer.
    #[error("the agent answered {call:?} with `{line}`")]
    Garbled {
        /// The command.
        call: Vec<String>,
        /// What came.
        line: String,
    },
    /// The command ran and reported failure.
    #[error("{call:?} ended with {exit}: {stderr}")]
    Failed {
        /// The command.
        call: Vec<String>,
        /// Its exit status.
        exit: i32,
        /// What it said.
        stderr: String,
    },
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Outcome {
    /// Exit status; 127 when it could not be started, -1 when a signal ended it.
    pub exit: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// The way into a machine. The port serves one connection at a time.
#[derive(Debug)]
pub struct Agent {
    socket: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Agent {
    /// Connects to the emulator's end; whether an agent is behind it shows at the first command.
    ///
    /// # Errors
    ///
    /// When the machine is off.
    pub fn connect(socket: &Path, limit: Duration) -> Result<Self, AgentError> {
        let stream = UnixStream::connect(socket).and_then(|stream| {
            stream.set_read_timeout(Some(limit))?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => Ok(Self { socket: socket.to_owned(), stream: BufReader::new(stream) }),
            Err(source) => Err(AgentError::Silent { socket: socket.to_owned(), call: Vec::new(), source }),
        }
    }

    /// Runs a command to its end, whatever that is.
    ///
    /// # Errors
    ///
    /// When no answer comes. A command that fails is an answer.
    pub fn outcome(&mut self, call: &[&str]) -> Result<Outcome, AgentError> {
        let mut line = json!({ "argv": call }).to_string();
        line.push('\n');
        let silent = |source| AgentError::Silent { socket: self.socket.clone(), call: owned(call), source };
        self.stream.get_mut().write_all(line.as_bytes()).map_err(silent)?;
        loop {
            let mut line = String::new();
            let silent = |source| AgentError::Silent { socket: self.socket.clone(), call: owned(call), source };
            if self.stream.read_line(&mut line).map_err(silent)? == 0 {
                return Err(silent(io::ErrorKind::UnexpectedEof.into()));
            }
            // Its greeting, when the agent started after this connection did.
            if line.contains(r#""ready":true"#) {
                continue;
            }
            return serde_json::from_str(&line)
                .map_err(|_| AgentError::Garbled { call: owned(call), line: line.trim().to_owned() });
        }
    }

    /// Runs a command and gives its standard output.
    ///
    /// # Errors
    ///
    /// When no answer comes, or the command fails.
    pub fn run(&mut self, call: &[&str]) -> Result<String, AgentError> {
        let outcome = self.outcome(call)?;
        if outcome.exit == 0 {
            Ok(outcome.stdout)
        } else {
            let stderr = outcome.stderr.trim().to_owned();
            Err(AgentError::Failed { call: owned(call), exit: outcome.exit, stderr })
        }
    }
}

fn owned(call: &[&str]) -> Vec<String> {
    call.iter().map(|&word| word.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn greeting_is_skipped_and_failure_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let answers = [
                "{\"ready\":true}\n{\"exit\":0,\"stdout\":\"yes\",\"stderr\":\"\"}\n",
                "{\"exit\":3,\"stdout\":\"\",\"stderr\":\"no such unit\\n\"}\n",
            ];
            for answer in answers {
                lines.next();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut agent = Agent::connect(&socket, Duration::from_secs(10)).unwrap();
        assert_eq!(agent.run(&["true"]).unwrap(), "yes");
        let error = agent.run(&["systemctl", "x"]).unwrap_err();
        assert_eq!(error.to_string(), r#"["systemctl", "x"] ended with 3: no such unit"#);
    }
}
