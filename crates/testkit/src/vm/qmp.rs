//! The emulator's control socket: one JSON object per line, both ways.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The emulator did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// Nobody listens, or the connection broke.
    #[error("no control connection at `{path}`")]
    Connection {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something other than the protocol came.
    #[error("`{path}` does not speak the control protocol: {line}")]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What came.
        line: String,
    },
    /// The command was refused.
    #[error("the emulator refused `{command}`: {reason}")]
    Refused {
        /// The command.
        command: String,
        /// The emulator's words.
        reason: String,
    },
    /// A command's answer or an awaited event did not come.
    #[error("waited {} s for {what} from the emulator", limit.as_secs())]
    Silent {
        /// What was awaited.
        what: String,
        /// For how long.
        limit: Duration,
    },
    /// A background job ended badly.
    #[error("the emulator's job `{job}` failed: {reason}")]
    Job {
        /// The job.
        job: String,
        /// The emulator's words.
        reason: String,
    },
}

/// Something that happened to the machine, as the emulator told it.
#[derive(Clone, Debug)]
pub struct Event {
    /// Such as `SHUTDOWN` or `DEVICE_DELETED`.
    pub name: String,
    /// Its details.
    pub data: Value,
}

/// One connection to a control socket. A socket serves one connection at a time.
#[derive(Debug)]
pub struct Qmp {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    line: Vec<u8>,
    events: VecDeque<Event>,
    commands: u64,
}

/// How long the emulator may take for an ordinary command. Long, because it answers only between
/// two slices of emulated work, on a machine that may be busy with others.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Events that nobody asked for are kept up to this number; the oldest go first.
const EVENTS_KEPT: usize = 256;

impl Qmp {
    /// Connects and leaves the capabilities negotiation behind.
    ///
    /// # Errors
    ///
    /// When nobody listens, or the socket is served to somebody else right now.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self, QmpError> {
        let stream =
            UnixStream::connect(path).map_err(|source| QmpError::Connection { path: path.to_owned(), source })?;
        let mut qmp = Self {
            path: path.to_owned(),
            stream: BufReader::new(stream),
            line: Vec::new(),
            events: VecDeque::new(),
            commands: 0,
        };
        let greeting = qmp.message(limit, "its greeting")?;
        if greeting.get("QMP").is_none() {
            return Err(qmp.protocol(&greeting.to_string()));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and gives what it returns. Events that come meanwhile are kept.
    ///
    /// # Errors
    ///
    /// When it is refused, or the connection breaks.
    #[expect(clippy::needless_pass_by_value, reason = "always called with a fresh json! value")]
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.commands += 1;
        let id = self.commands;
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        self.stream
            .get_mut()
            .write_all(line.as_bytes())
            .map_err(|source| QmpError::Connection { path: self.path.clone(), source })?;

        let start = Instant::now();
        loop {
            let left = ANSWER_LIMIT.saturating_sub(start.elapsed());
            let mut message = self.message(left, &format!("an answer to `{command}`"))?;
            if let Some(reason) = message.pointer("/error/desc").and_then(Value::as_str) {
                return Err(QmpError::Refused { command: command.to_owned(), reason: reason.to_owned() });
            }
            if message.get("id").and_then(Value::as_u64) == Some(id) {
                return Ok(message["return"].take());
            }
            self.keep(message);
        }
    }

    /// Gives the next event for which `wanted` answers true, past or future; the ones before it
    /// are dropped.
    ///
    /// # Errors
    ///
    /// When it does not come, or the connection breaks.
    pub fn wait_event(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Event, QmpError> {
        let start = Instant::now();
        loop {
            while let Some(event) = self.events.pop_front() {
                if wanted(&event) {
                    return Ok(event);
                }
            }
            let message = self.message(limit.saturating_sub(start.elapsed()), what)?;
            self.keep(message);
        }
    }

    /// Runs a command that starts the background job `job`, and waits for its end.
    ///
    /// # Errors
    ///
    /// When the command is refused, or the job fails or takes longer than `limit`.
    pub fn run_job(&mut self, command: &str, job: &str, arguments: Value, limit: Duration) -> Result<(), QmpError> {
        self.execute(command, arguments)?;
        self.wait_event(&format!("the end of `{command}`"), limit, |event| {
            event.name == "JOB_STATUS_CHANGE" && event.data["id"] == job && event.data["status"] == "concluded"
        })?;
        let jobs = self.execute("query-jobs", json!({}))?;
        self.execute("job-dismiss", json!({ "id": job }))?;
        let failure = jobs
            .as_array()
            .into_iter()
            .flatten()
            .find(|entry| entry["id"] == job)
            .and_then(|entry| entry["error"].as_str());
        match failure {
            None => Ok(()),
            Some(reason) => Err(QmpError::Job { job: job.to_owned(), reason: reason.to_owned() }),
        }
    }

    fn keep(&mut self, mut message: Value) {
        if let Some(name) = message.get("event").and_then(Value::as_str) {
            let name = name.to_owned();
            if self.events.len() == EVENTS_KEPT {
                self.events.pop_front();
            }
            self.events.push_back(Event { name, data: message["data"].take() });
        }
    }

    /// Reads one line. A line that arrives in pieces across two calls is not lost.
    fn message(&mut self, limit: Duration, what: &str) -> Result<Value, QmpError> {
        // Zero would mean "for ever" to the socket.
        let timeout = limit.max(Duration::from_millis(1));
        let read = self
            .stream
            .get_ref()
            .set_read_timeout(Some(timeout))
            .and_then(|()| self.stream.read_until(b'\n', &mut self.line));
        match read {
            Ok(_) if self.line.ends_with(b"\n") => {
                let line = std::mem::take(&mut self.line);
                serde_json::from_slice(&line).map_err(|_| self.protocol(&String::from_utf8_lossy(&line)))
            }
            Ok(_) => Err(QmpError::Connection { path: self.path.clone(), source: io::ErrorKind::UnexpectedEof.into() }),
            Err(error) if is_timeout(&error) => Err(QmpError::Silent { what: what.to_owned(), limit }),
            Err(source) => Err(QmpError::Connection { path: self.path.clone(), source }),
        }
    }

    fn protocol(&self, line: &str) -> QmpError {
        QmpError::Protocol { path: self.path.clone(), line: line.trim().to_owned() }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A scripted emulator: a greeting, then for each line that comes the next of `answers`.
    fn emulator(answers: &'static [&'static str]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut writer = stream.try_clone().unwrap();
            let mut lines = BufReader::new(stream).lines();
            writer.write_all(b"{\"QMP\": {}}\r\n").unwrap();
            for answer in ["{\"return\": {}, \"id\": 1}\r\n"].iter().chain(answers) {
                if lines.next().is_none_or(|line| line.is_err()) {
                    return;
                }
                writer.write_all(answer.as_bytes()).unwrap();
            }
            // Stays open until the other side goes.
            lines.next();
        });
        (folder, path)
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn answer_is_found_among_events_and_events_are_kept() {
        let (_folder, path) = emulator(&[
            "{\"event\": \"STOP\", \"data\": {\"a\": 1}}\r\n{\"return\": {\"status\": \"paused\"}, \"id\": 2}\r\n",
        ]);
        let mut qmp = Qmp::connect(&path, LIMIT).unwrap();
        assert_eq!(qmp.execute("query-status", json!({})).unwrap()["status"], "paused");
        let event = qmp.wait_event("STOP", Duration::ZERO, |event| event.name == "STOP").unwrap();
        assert_eq!(event.data["a"], 1);
    }

    #[test]
    fn refusal_carries_the_emulators_words() {
        let (_folder, path) =
            emulator(&["{\"id\": 2, \"error\": {\"class\": \"GenericError\", \"desc\": \"Bus 'x' not found\"}}\r\n"]);
        let mut qmp = Qmp::connect(&path, LIMIT).unwrap();
        let error = qmp.execute("device_add", json!({})).unwrap_err();
        assert_eq!(error.to_string(), "the emulator refused `device_add`: Bus 'x' not found");
    }

    #[test]
    fn failed_job_is_an_error() {
        let (_folder, path) = emulator(&[
            "{\"return\": {}, \"id\": 2}\r\n{\"event\": \"JOB_STATUS_CHANGE\", \"data\": {\"id\": \"j\", \"status\": \"concluded\"}}\r\n",
            "{\"return\": [{\"id\": \"j\", \"error\": \"no space\"}], \"id\": 3}\r\n",
            "{\"return\": {}, \"id\": 4}\r\n",
        ]);
        let mut qmp = Qmp::connect(&path, LIMIT).unwrap();
        let error = qmp.run_job("snapshot-save", "j", json!({}), LIMIT).unwrap_err();
        assert_eq!(error.to_string(), "the emulator's job `j` failed: no space");
    }

    #[test]
    fn silence_is_an_error_that_says_what_was_awaited() {
        let (_folder, path) = emulator(&[]);
        let mut qmp = Qmp::connect(&path, LIMIT).unwrap();
        let error =
            qmp.wait_event("SHUTDOWN", Duration::from_millis(20), |event| event.name == "SHUTDOWN").unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s for SHUTDOWN from the emulator");
    }
}
