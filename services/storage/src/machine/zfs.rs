//! Calls of zpool, zfs and smartctl.

use std::time::Duration;

use runner::{Call, Output, RunError, Tool};
use tokio::time::timeout;

use crate::{
    engine::{
        bring_up::{Step, Target},
        datasets::{self, Datasets, DatasetsError},
        document::PoolReading,
        pools::{self, PoolStatus, StatusError},
        smart::SmartReport,
    },
    machine::{Machine, keys::key_location},
};

/// Longest time that asking ZFS for something may take.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// Longest time that importing or creating a pool may take: an import replays
/// what was not committed, on drives that may have to spin up first.
const CHANGE_DEADLINE: Duration = Duration::from_secs(180);

/// Longest time that a drive may take to tell its health.
const SMART_DEADLINE: Duration = Duration::from_secs(20);

/// How much longer than its deadline a call is waited for. A program that is
/// stuck in the kernel cannot be killed, and must not take us with it.
const GRACE: Duration = Duration::from_secs(2);

/// Where pools look for their members, best names first: an unlocked drive by
/// its mapping, others by what identifies the drive, then by where it is
/// attached. Never by a name that depends on the order of detection.
const MEMBER_FOLDERS: [&str; 4] = ["/dev/mapper", "/dev/disk/by-id", "/dev/disk/by-path", "/dev/disk/by-partlabel"];

/// Why pools could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ReadError {
    #[error("cannot ask for the state of storage pools")]
    Status(#[source] RunError),
    #[error("cannot understand the state of storage pools")]
    StatusText(#[source] StatusError),
    #[error("cannot ask for the volumes of storage pool `{pool}`")]
    List {
        pool: String,
        #[source]
        source: RunError,
    },
    #[error("cannot understand the volumes of storage pool `{pool}`")]
    ListText {
        pool: String,
        #[source]
        source: DatasetsError,
    },
}

impl Machine {
    /// All imported pools, sorted by name. What one pool does not tell does not
    /// hide the others.
    pub(crate) async fn pools(&self) -> Result<Vec<PoolReading>, ReadError> {
        if !self.has_zfs() {
            return Ok(Vec::new());
        }
        let call = Call::new(Tool::Zpool, ["status", "-t", "-j", "-p", "--json-int"]);
        let output = self.run(call, READ_DEADLINE).await.and_then(Output::success).map_err(ReadError::Status)?;
        let statuses = pools::parse(&output).map_err(ReadError::StatusText)?;
        let mut readings = Vec::with_capacity(statuses.len());
        for status in statuses {
            let datasets = match self.datasets(&status).await {
                Ok(datasets) => datasets,
                Err(error) => {
                    tracing::warn!("{}", causes::chain(&error));
                    None
                }
            };
            readings.push(PoolReading { status, datasets });
        }
        Ok(readings)
    }

    async fn datasets(&self, status: &PoolStatus) -> Result<Option<Datasets>, ReadError> {
        let pool = status.name.as_str();
        if status.is_suspended() {
            return Ok(None);
        }
        let args = ["list", "-r", "-d", "1", "-t", "filesystem,volume", "-j", "-p", "--json-int", "-o"];
        let call = Call::new(Tool::Zfs, args.into_iter().chain([datasets::COLUMNS, pool]));
        let output = self
            .run(call, READ_DEADLINE)
            .await
            .and_then(Output::success)
            .map_err(|source| ReadError::List { pool: pool.to_owned(), source })?;
        datasets::parse(pool, &output).map(Some).map_err(|source| ReadError::ListText { pool: pool.to_owned(), source })
    }

    /// Does one step of bringing up pools.
    pub(crate) async fn apply(&self, step: &Step) -> Result<(), ApplyError> {
        let call = match step {
            Step::CreateKey { pool } => {
                let (machine, pool) = (self.clone(), pool.clone());
                return tokio::task::spawn_blocking(move || machine.create_pool_key(&pool))
                    .await
                    .map_err(|_| ApplyError::Aborted)?
                    .map_err(ApplyError::Key);
            }
            Step::Import { pool, target } => {
                // Nothing is mounted, and no list of pools is kept that could bring a
                // pool up behind our back.
                let mut args = vec!["import", "-N", "-o", "cachefile=none"];
                args.extend(MEMBER_FOLDERS.iter().flat_map(|folder| ["-d", folder]));
                let guid;
                args.push(match target {
                    Target::Name => pool,
                    Target::Guid(number) => {
                        guid = number.to_string();
                        &guid
                    }
                });
                Call::new(Tool::Zpool, args)
            }
            Step::LoadKey { pool } => Call::new(Tool::Zfs, ["load-key", "-L", &key_location(pool), pool]),
            Step::ClearLabels { device, .. } => Call::new(Tool::Zpool, ["labelclear", "-f", device]),
            Step::Create { pool, device } => Call::new(
                Tool::Zpool,
                [
                    "create",
                    "-o",
                    "ashift=12",
                    "-o",
                    "cachefile=none",
                    "-O",
                    "mountpoint=none",
                    "-O",
                    "encryption=aes-256-gcm",
                    "-O",
                    "keyformat=raw",
                    "-O",
                    &format!("keylocation={}", key_location(pool)),
                    pool,
                    device,
                ],
            ),
            Step::HideRoot { pool } => Call::new(Tool::Zfs, ["set", "mountpoint=none", pool]),
        };
        self.run(call, CHANGE_DEADLINE).await.and_then(Output::success).map(drop).map_err(ApplyError::Run)
    }

    /// The health of a drive. `None` if it told nothing: it sleeps, or there is
    /// no smartctl.
    pub(crate) async fn smart(&self, node: &str) -> Option<SmartReport> {
        let device = format!("/dev/{node}");
        let call = Call::new(Tool::Smartctl, ["-n", "standby", "-aj", &device]);
        match self.run(call, SMART_DEADLINE).await {
            // The exit status is a set of flags about the drive.
            Ok(output) => SmartReport::parse(&output.stdout),
            Err(error) => {
                tracing::debug!("no health of `{device}`: {}", causes::chain(&error));
                None
            }
        }
    }

    async fn run(&self, call: Call, deadline: Duration) -> Result<Output, RunError> {
        let call = call.deadline(deadline);
        match timeout(deadline + GRACE, self.runner.run(&call)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(RunError::Deadline { command_line: call.command_line(), deadline }),
        }
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ApplyError {
    #[error(transparent)]
    Run(RunError),
    #[error(transparent)]
    Key(crate::machine::KeyError),
    #[error("the step was aborted")]
    Aborted,
}
