#![expect(clippy::disallowed_methods, reason = "this is the one place that starts programs")]

use std::{
    io,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

use crate::{Call, Exit, Output, RunError, Runner, Streaming};

/// Most that is kept of what one program prints.
const OUTPUT_LIMIT: usize = 16 << 20;

/// How long a killed program may take to be gone.
const REAP_PATIENCE: Duration = Duration::from_secs(1);

/// Starts real programs.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRunner;

#[async_trait::async_trait]
impl Runner for SystemRunner {
    async fn run(&self, call: &Call) -> Result<Output, RunError> {
        let mut child = spawn(call)?;
        let group = Group::of(&child);
        let conversation = converse(call, &mut child);
        let outcome = match timeout(call.deadline, conversation).await {
            Ok(outcome) => outcome,
            Err(_) => Err(RunError::Deadline { command_line: call.command_line(), deadline: call.deadline }),
        };
        if outcome.is_err() {
            group.kill();
            // Reaped so that no zombie stays. A program stuck in the kernel does
            // not end yet; the runtime reaps it when it does.
            let _ = timeout(REAP_PATIENCE, child.wait()).await;
        }
        outcome
    }

    async fn stream(&self, call: &Call) -> Result<Streaming, RunError> {
        let mut child = spawn(call)?;
        let stdout = child.stdout.take().ok_or_else(|| start_error(call, io::Error::other("no standard output")))?;
        // Read all along, so that a talkative program does not block on it.
        let complaints = tokio::spawn(complaints(child.stderr.take()));
        let command_line = call.command_line();
        let mut running = KillOnDrop { group: Group::of(&child), child };
        let ended = async move {
            let status = match running.child.wait().await {
                Ok(status) => status,
                Err(source) => return Err(RunError::Start { command_line, source }),
            };
            let stderr = complaints.await.unwrap_or_default();
            Ok(Output { command_line, exit: exit(status), stdout: Vec::new(), stderr })
        };
        Ok(Streaming { stdout: Box::new(stdout), ended: Box::pin(ended) })
    }
}

/// The first kilobytes of what a program complains of.
async fn complaints(pipe: Option<ChildStderr>) -> Vec<u8> {
    const KEPT: u64 = 4 << 10;
    let mut kept = Vec::new();
    if let Some(mut pipe) = pipe {
        // An error ends the text, and the exit status still tells of the failure.
        let _ = (&mut pipe).take(KEPT).read_to_end(&mut kept).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    kept
}

fn spawn(call: &Call) -> Result<Child, RunError> {
    Command::new(call.tool.path())
        .args(&call.args)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin")
        .env("LC_ALL", "C.UTF-8")
        .stdin(if call.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| start_error(call, source))
}

async fn converse(call: &Call, child: &mut Child) -> Result<Output, RunError> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let send = async {
        if let (Some(mut pipe), Some(bytes)) = (stdin, &call.stdin) {
            // A program may end without reading all of it: its exit status tells.
            let _ = pipe.write_all(bytes).await;
        }
    };
    let (stdout, stderr, ()) = tokio::join!(collect(call, stdout), collect(call, stderr), send);
    let status = child.wait().await.map_err(|source| start_error(call, source))?;
    Ok(Output { command_line: call.command_line(), exit: exit(status), stdout: stdout?, stderr: stderr? })
}

async fn collect(call: &Call, pipe: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, RunError> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // One byte past the limit tells a full buffer from a flood.
        pipe.take(OUTPUT_LIMIT as u64 + 1).read_to_end(&mut bytes).await.map_err(|source| start_error(call, source))?;
    }
    if bytes.len() > OUTPUT_LIMIT {
        return Err(RunError::TooMuchOutput { command_line: call.command_line(), limit: OUTPUT_LIMIT });
    }
    Ok(bytes)
}

fn exit(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }
}

fn start_error(call: &Call, source: io::Error) -> RunError {
    RunError::Start { command_line: call.command_line(), source }
}

/// The process group of a program: itself and its children.
#[derive(Clone, Copy)]
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    fn kill(self) {
        if let Some(group) = self.0 {
            // The group may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Ends a streaming program together with its children; tokio reaps it.
struct KillOnDrop {
    group: Group,
    child: Child,
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.group.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tool;

    #[tokio::test]
    async fn output_and_status_are_returned() {
        let own = std::process::id().to_string();
        let output = SystemRunner.run(&Call::new(Tool::Ps, ["-o", "pid=", "-p", &own])).await.unwrap();
        assert_eq!(output.exit, Exit::Code(0));
        assert_eq!(String::from_utf8(output.success().unwrap()).unwrap().trim(), own);
    }

    #[tokio::test]
    async fn a_failing_program_is_told_from_a_missing_one() {
        let failed = SystemRunner.run(&Call::new(Tool::Ps, ["--no-such-option"])).await.unwrap();
        assert!(matches!(failed.success(), Err(RunError::Failed { exit: Exit::Code(1), .. })));
    }

    #[tokio::test]
    async fn a_streamed_program_that_fails_is_a_failure_at_its_end() {
        let mut running = SystemRunner.stream(&Call::new(Tool::Ps, ["--no-such-option"])).await.unwrap();
        let mut printed = Vec::new();
        running.stdout.read_to_end(&mut printed).await.unwrap();
        let Err(RunError::Failed { exit: Exit::Code(1), stderr, .. }) = running.finish().await else {
            panic!("the failure was not noticed");
        };
        assert!(!stderr.is_empty());
    }

    #[tokio::test]
    async fn a_program_past_its_deadline_is_killed() {
        // Zero is over before any program can end.
        let call = Call::new(Tool::Ps, ["aux"]).deadline(Duration::ZERO);
        assert!(matches!(SystemRunner.run(&call).await, Err(RunError::Deadline { .. })));
    }
}
