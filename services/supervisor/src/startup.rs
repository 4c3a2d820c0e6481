//! Bringing the machine up: which service is asked first, what happens when one
//! does not answer, and when the machine is ready.

use std::{sync::Arc, time::Duration};

use api::v1::{NetworkStart, SecurityStart, StartReply, StartRequest, UpdateStart, operator_line::Level};
use service::{Identity, Peers, call_error};
use tokio::sync::watch;
use tonic::Status;

use crate::{Machine, operator::OperatorLog, seeded::Sections};

/// How many times a stage is tried before the next one has its turn. The stages
/// depend on each other only loosely: a machine whose storage fails is still to
/// be reachable over the network.
const TRIES_IN_ORDER: u32 = 4;

/// The waiting times of the supervisor.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Before a failed stage is tried again; doubled with each failure.
    pub first_retry: Duration,
    /// Longest time between two tries.
    pub longest_retry: Duration,
    /// Longest time that one stage may take. The first start of a machine makes
    /// keys and a pool, which takes minutes under emulation.
    pub stage: Duration,
    /// Between the answer to a power request and the act.
    pub power_delay: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first_retry: Duration::from_millis(250),
            longest_retry: Duration::from_secs(15),
            stage: Duration::from_secs(600),
            power_delay: Duration::from_secs(1),
        }
    }
}

/// One boot's start-up.
#[derive(Debug)]
pub(crate) struct Startup {
    pub(crate) machine: Arc<Machine>,
    pub(crate) operator: Arc<OperatorLog>,
    pub(crate) peers: Peers,
    /// What services take over at their first start.
    pub(crate) seed: Sections,
    pub(crate) ready: watch::Sender<bool>,
    pub(crate) pace: Pace,
}

impl Startup {
    /// Returns when the machine is ready, however long that takes.
    pub(crate) async fn run(self) {
        let version = self.machine.os_version();
        let attributes =
            [("mode", self.machine.mode()), ("version", &version), ("machine-id", &self.machine.machine_id())];
        self.operator.say(Level::Info, "System is starting up", &attributes).await;

        let mut pending = Vec::new();
        for stage in Stage::ALL {
            if let Some(announcement) = stage.announcement() {
                self.operator.say(Level::Info, announcement, &[]).await;
            }
            let mut attempts = Attempts::new(stage, self.pace);
            if !self.attempt(&mut attempts, TRIES_IN_ORDER).await {
                pending.push(attempts);
            }
        }
        while !pending.is_empty() {
            let mut still_pending = Vec::new();
            for mut attempts in pending {
                if !self.attempt(&mut attempts, 1).await {
                    still_pending.push(attempts);
                }
            }
            pending = still_pending;
        }

        self.operator.say(Level::Info, "System is ready", &[("version", &version)]).await;
        self.ready.send_replace(true);
        // After the line: a crash in between writes it twice, which harms nobody,
        // where a boot without it would count as failed.
        if let Err(error) = self.machine.mark_started() {
            tracing::error!("a restart of this service will repeat the start-up: {error}");
        }
    }

    /// Tries a stage up to `tries` times. Says what went wrong, once per reason.
    async fn attempt(&self, attempts: &mut Attempts, tries: u32) -> bool {
        for _ in 0..tries {
            attempts.wait().await;
            let start = attempts.stage.start(&self.peers, &self.seed);
            let problem = match tokio::time::timeout(self.pace.stage, start).await {
                Ok(Ok(reply)) => {
                    for warning in &reply.warnings {
                        self.operator.say(Level::Warn, warning, &[]).await;
                    }
                    return true;
                }
                Ok(Err(status)) => call_error(attempts.stage.identity(), &status),
                Err(_) => format!("no answer within {} s", self.pace.stage.as_secs()),
            };
            if attempts.is_news(&problem) {
                let message = format!("The {} service did not start, trying again", attempts.stage.identity());
                self.operator.say(Level::Warn, &message, &[("error", &problem)]).await;
            }
        }
        false
    }
}

/// The services that bring a part of the machine up, in this order.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Security,
    Network,
    Storage,
    Update,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Security, Self::Network, Self::Storage, Self::Update];

    fn identity(self) -> Identity {
        match self {
            Self::Security => Identity::Security,
            Self::Network => Identity::Network,
            Self::Storage => Identity::Storage,
            Self::Update => Identity::Update,
        }
    }

    /// The operator line before the stage.
    fn announcement(self) -> Option<&'static str> {
        match self {
            Self::Network => Some("Bringing up the network"),
            Self::Security | Self::Storage | Self::Update => None,
        }
    }

    async fn start(self, peers: &Peers, seed: &Sections) -> Result<StartReply, Status> {
        let reply = match self {
            Self::Security => peers.security().start(SecurityStart { seed: seed.security.clone() }).await,
            Self::Network => peers.network().start(NetworkStart { seed: seed.network.clone() }).await,
            Self::Storage => peers.storage().start(StartRequest {}).await,
            Self::Update => {
                let request = UpdateStart { seed: seed.update.clone(), provider_seed: seed.provider.clone() };
                peers.update().start(request).await
            }
        };
        reply.map(tonic::Response::into_inner)
    }
}

/// How often a stage was tried, and what is known of its failure.
#[derive(Debug)]
struct Attempts {
    stage: Stage,
    next_wait: Duration,
    following_wait: Duration,
    longest_wait: Duration,
    problem: Option<String>,
}

impl Attempts {
    fn new(stage: Stage, pace: Pace) -> Self {
        Self {
            stage,
            next_wait: Duration::ZERO,
            following_wait: pace.first_retry,
            longest_wait: pace.longest_retry,
            problem: None,
        }
    }

    async fn wait(&mut self) {
        if !self.next_wait.is_zero() {
            tokio::time::sleep(self.next_wait).await;
        }
        self.next_wait = self.following_wait;
        self.following_wait = (self.following_wait * 2).min(self.longest_wait);
    }

    fn is_news(&mut self, problem: &str) -> bool {
        self.problem.replace(problem.to_owned()).as_deref() != Some(problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_the_limit() {
        let pace =
            Pace { first_retry: Duration::from_secs(1), longest_retry: Duration::from_secs(5), ..Pace::default() };
        let mut attempts = Attempts::new(Stage::Network, pace);
        let mut waits = Vec::new();
        for _ in 0..6 {
            let before = tokio::time::Instant::now();
            attempts.wait().await;
            waits.push(before.elapsed().as_secs());
        }
        assert_eq!(waits, [0, 1, 2, 4, 5, 5]);
    }

    #[test]
    fn problem_is_news_once() {
        let mut attempts = Attempts::new(Stage::Network, Pace::default());
        assert!(attempts.is_news("a"));
        assert!(!attempts.is_news("a"));
        assert!(attempts.is_news("b"));
    }
}
