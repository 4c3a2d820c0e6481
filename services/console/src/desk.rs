//! What is done for the menus of all terminals: logs are read, recovery keys
//! tried, actions passed on to the service that carries them out.
//!
//! The console itself can change nothing. It asks the security service whether a
//! key is one of the machine's, and then the supervisor to act; wrong keys are
//! counted over all terminals, and each one makes the next try wait longer.

use std::{fmt, sync::Arc, time::Duration};

use api::v1::{
    Empty, OperatorLine, Overview, PowerRequest, RecoveryKey, operator_line::Level, power_request::Action as Power,
};
use runner::{Call, Runner, Tool};
use service::{Identity, Peers, call_error};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tonic::Code;

use crate::{
    lines::Lines,
    menu::{Action, Answer, LogOf, Request, TypedKey},
    text::{plain, plain_lines},
};

/// Lines of a log that are shown.
const LOG_LINES: usize = 300;

/// How long a service or a log is waited for. Trying a key means deriving a key
/// from it, once for each that the machine has, which is slow by design.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long a line for the log is waited for: it must not hold up a terminal.
const SHORT_PATIENCE: Duration = Duration::from_secs(5);

/// Longest wait after a wrong key.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// Does what menus ask for.
pub(crate) struct Desk {
    peers: Peers,
    runner: Arc<dyn Runner>,
    /// Held while a key is tried: one at a time.
    attempts: Mutex<Attempts>,
}

impl Desk {
    pub(crate) fn new(peers: Peers, runner: Arc<dyn Runner>) -> Self {
        Self { peers, runner, attempts: Mutex::default() }
    }

    /// Does what a menu on this terminal asks for.
    pub(crate) async fn answer(&self, terminal: &str, request: Request) -> Answer {
        match request {
            Request::Log(log) => self.journal(log_arguments(log), &[]).await,
            Request::LastBoot => self.last_boot().await,
            Request::Tpm => self.tpm().await,
            Request::Perform(action, key) => self.perform(terminal, action, &key).await,
        }
    }

    /// Writes a line to the operator's log.
    pub(crate) async fn tell(&self, level: Level, message: &str, attributes: &[(&str, &str)]) {
        let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let line = OperatorLine { level: level.into(), message: message.to_owned(), attributes };
        let mut supervisor = self.peers.supervisor();
        let problem = match timeout(SHORT_PATIENCE, supervisor.write_operator_line(line.clone())).await {
            Ok(Ok(_)) => None,
            Ok(Err(status)) => Some(call_error(Identity::Supervisor, &status)),
            Err(_) => Some("no answer in time".to_owned()),
        };
        if let Some(problem) = problem {
            tracing::warn!("an operator line was lost: {problem}: {} {:?}", line.message, line.attributes);
        }
    }

    async fn last_boot(&self) -> Answer {
        let overview = self.overview().await;
        let mut before = Vec::new();
        if let Some(environment) = overview.and_then(|overview| overview.environment) {
            before.push(format!("Running version: {}", environment.os_version));
            before.push(format!("Other version:   {}", or_none(&environment.os_version_alternate)));
        }
        before.push("What went wrong before this start (warnings and errors of the previous one):".to_owned());
        before.push(String::new());
        let arguments = ["--boot=-1", "--priority=warning"].map(str::to_owned).to_vec();
        match self.journal(arguments, &before).await {
            Answer::Failed(reason) => Answer::Failed(format!("There is no log of an earlier start: {reason}")),
            text => text,
        }
    }

    async fn tpm(&self) -> Answer {
        let mut before = match self.overview().await.and_then(|overview| overview.security) {
            Some(state) => {
                let mut lines = vec![
                    format!("TPM:         {}{}", state.tpm_status, tpm_meaning(&state.tpm_status)),
                    format!("Secure Boot: {}", if state.secure_boot_enabled { "enabled" } else { "disabled" }),
                    format!("State:       {}", state.system_state_status),
                ];
                let volumes = state.encrypted_volumes.iter();
                lines.extend(volumes.map(|volume| format!("Volume {}: {}", volume.volume, volume.state)));
                lines
            }
            None => vec!["The security service does not answer.".to_owned()],
        };
        before.push(String::new());
        before.push("Log of the unlocking and of the security service:".to_owned());
        before.push(String::new());
        let units = ["systemd-cryptsetup@root", "systemd-cryptsetup@swap", Identity::Security.unit()];
        let arguments =
            std::iter::once("--boot=0".to_owned()).chain(units.map(|unit| format!("--unit={unit}.service"))).collect();
        match self.journal(arguments, &before).await {
            Answer::Text { lines, .. } => Answer::Text { lines, from_end: false },
            other => other,
        }
    }

    async fn overview(&self) -> Option<Overview> {
        let mut supervisor = self.peers.supervisor();
        let reply = timeout(PATIENCE, supervisor.get_overview(Empty {})).await.ok()?;
        reply.ok().map(tonic::Response::into_inner)
    }

    /// The end of a part of the journal, after some lines of our own.
    async fn journal(&self, arguments: Vec<String>, before: &[String]) -> Answer {
        let fixed = ["--no-pager", "--quiet", "--no-hostname", "--output=short"].map(str::to_owned);
        let lines = format!("--lines={LOG_LINES}");
        let call = Call::new(Tool::Journalctl, fixed.into_iter().chain([lines]).chain(arguments));
        match timeout(PATIENCE, self.read(&call)).await {
            Ok(Ok(found)) => {
                let mut lines: Vec<_> = before.iter().map(|line| plain(line)).collect();
                if found.is_empty() {
                    lines.push("The log has nothing to say.".to_owned());
                }
                lines.extend(found);
                Answer::Text { lines, from_end: true }
            }
            Ok(Err(reason)) => Answer::Failed(plain(&reason)),
            Err(_) => Answer::Failed("reading the log takes too long".to_owned()),
        }
    }

    async fn read(&self, call: &Call) -> Result<Vec<String>, String> {
        let mut running = self.runner.stream(call).await.map_err(|error| error.to_string())?;
        let mut found = Vec::new();
        let mut lines = Lines::new(&mut running.stdout);
        while let Some(line) = lines.next().await.map_err(|error| error.to_string())? {
            found.extend(plain_lines(&String::from_utf8_lossy(line)));
        }
        running.finish().await.map_err(|error| error.to_string())?;
        Ok(found)
    }

    async fn perform(&self, terminal: &str, action: Action, key: &TypedKey) -> Answer {
        let mut attempts = self.attempts.lock().await;
        if let Some(wait) = attempts.wait(Instant::now()) {
            return Answer::Refused(format!("Not tried. The next try is in {} s.", seconds(wait)));
        }
        let mut security = self.peers.security();
        let asked = RecoveryKey { key: key.as_str().to_owned() };
        match timeout(PATIENCE, security.check_recovery_key(asked)).await {
            Ok(Ok(_)) => attempts.forget(),
            Ok(Err(status)) if is_wrong(status.code()) => {
                let delay = attempts.wrong(Instant::now());
                let count = attempts.wrong.to_string();
                self.tell(Level::Warn, "Wrong recovery key at a console", &[("terminal", terminal), ("wrong", &count)])
                    .await;
                return Answer::Refused(format!(
                    "Wrong recovery key ({count} so far). The next try is in {} s.",
                    seconds(delay)
                ));
            }
            Ok(Err(status)) => {
                let problem = call_error(Identity::Security, &status);
                return Answer::Failed(plain(&format!("The recovery key cannot be checked: {problem}")));
            }
            Err(_) => return Answer::Failed("The recovery key cannot be checked: no answer in time".to_owned()),
        }
        drop(attempts);
        let attributes = [("action", action.title()), ("terminal", terminal)];
        self.tell(Level::Info, "An action was chosen at a console", &attributes).await;
        self.act(action).await
    }

    async fn act(&self, action: Action) -> Answer {
        let power = match action {
            Action::Reboot => Power::Reboot,
            Action::PowerOff => Power::Poweroff,
            Action::NetworkBack | Action::OtherVersion => {
                return Answer::Failed(action.unavailable().unwrap_or("This is not available.").to_owned());
            }
        };
        match self.peers.supervisor().power(PowerRequest { action: power.into() }).await {
            Ok(_) => Answer::Done("It is under way.".to_owned()),
            Err(status) => Answer::Failed(plain(&call_error(Identity::Supervisor, &status))),
        }
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Desk").field("attempts", &self.attempts).finish_non_exhaustive()
    }
}

/// Wrong keys since the last right one.
#[derive(Debug, Default)]
struct Attempts {
    wrong: u32,
    not_before: Option<Instant>,
}

impl Attempts {
    /// How long no key is tried.
    fn wait(&self, now: Instant) -> Option<Duration> {
        self.not_before?.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// Counts a wrong key. Returns how long no key is tried.
    fn wrong(&mut self, now: Instant) -> Duration {
        self.wrong = self.wrong.saturating_add(1);
        let delay = Duration::from_secs(1 << self.wrong.min(6)).min(LONGEST_DELAY);
        self.not_before = Some(now + delay);
        delay
    }

    fn forget(&mut self) {
        *self = Self::default();
    }
}

/// What the security service says of a key that is none of the machine's.
fn is_wrong(code: Code) -> bool {
    matches!(code, Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument)
}

/// Rounded up, as nobody likes to wait for 0 seconds.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn log_arguments(log: LogOf) -> Vec<String> {
    let of = match log {
        // With what the service manager says of it.
        LogOf::Service(identity) => format!("--unit={}.service", identity.unit()),
        LogOf::Kernel => "--dmesg".to_owned(),
        LogOf::Problems => "--priority=warning".to_owned(),
    };
    vec!["--boot=0".to_owned(), of]
}

fn tpm_meaning(status: &str) -> &'static str {
    match status {
        "ok" => "",
        "pcr mismatch" => ": what was measured at this start is not what the firmware's keys and log give",
        "swtpm" => ": a program, which protects nothing from whoever has the disk",
        "unavailable" => ": there is none, it does not answer, or the firmware kept no event log",
        _ => "",
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_key_makes_the_next_try_wait_longer() {
        let mut attempts = Attempts::default();
        let mut now = Instant::now();
        assert_eq!(attempts.wait(now), None);
        let mut delays = Vec::new();
        for _ in 0..8 {
            let delay = attempts.wrong(now);
            delays.push(delay.as_secs());
            assert_eq!(attempts.wait(now), Some(delay));
            now += delay;
            assert_eq!(attempts.wait(now), None);
        }
        assert_eq!(delays, [2, 4, 8, 16, 32, 60, 60, 60]);
        attempts.forget();
        assert_eq!(attempts.wrong(now).as_secs(), 2);
    }

    #[test]
    fn logs_are_chosen_by_fixed_arguments() {
        assert_eq!(log_arguments(LogOf::Service(Identity::Supervisor)), ["--boot=0", "--unit=incus-osd.service"]);
        assert_eq!(log_arguments(LogOf::Kernel), ["--boot=0", "--dmesg"]);
        assert_eq!(log_arguments(LogOf::Problems), ["--boot=0", "--priority=warning"]);
    }
}
