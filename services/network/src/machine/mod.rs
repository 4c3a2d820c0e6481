//! What the service needs from the machine, and the real implementations.

mod bus;
mod files;
mod kernel;
mod lldp;
mod netlink;
mod networkd;

use std::path::{Path, PathBuf};

use async_trait::async_trait;

pub(crate) use bus::SystemBus;
pub(crate) use files::{Synced, sync, write_file};
#[cfg(test)]
pub(crate) use kernel::{Address, RouteEntry};
pub(crate) use kernel::{Kernel, KernelError, Link, Snapshot};
pub(crate) use lldp::neighbours;
pub(crate) use netlink::Netlink;

pub(crate) use networkd::{CounterTable, Counters, link_state};

/// Folders of the machine; tests have their own.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/sys`
    pub sys: PathBuf,
    /// `/proc`
    pub proc: PathBuf,
    /// `/run`
    pub run: PathBuf,
    /// `/etc`
    pub etc: PathBuf,
    /// `/usr/share/zoneinfo`
    pub zoneinfo: PathBuf,
}

impl Roots {
    /// The running system's.
    pub fn system() -> Self {
        Self {
            sys: "/sys".into(),
            proc: "/proc".into(),
            run: "/run".into(),
            etc: "/etc".into(),
            zoneinfo: "/usr/share/zoneinfo".into(),
        }
    }

    /// Folders of the same names below `dir`.
    pub fn below(dir: &Path) -> Self {
        Self {
            sys: dir.join("sys"),
            proc: dir.join("proc"),
            run: dir.join("run"),
            etc: dir.join("etc"),
            zoneinfo: dir.join("zoneinfo"),
        }
    }

    /// Where networkd and udev look for files that are made at run time.
    pub(crate) fn network_files(&self) -> PathBuf {
        self.run.join("systemd/network")
    }

    /// The file that `/etc/hosts` is a link to.
    pub(crate) fn hosts(&self) -> PathBuf {
        self.run.join("incus-osd-network/hosts")
    }

    /// Servers for timesyncd.
    pub(crate) fn time_servers(&self) -> PathBuf {
        self.run.join("systemd/timesyncd.conf.d/50-incus-os.conf")
    }
}

/// A daemon of the base system did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The bus or the daemon refused.
    #[error("cannot {action}: {reason}")]
    Refused {
        /// What was asked, as a verb phrase.
        action: &'static str,
        /// What the daemon said.
        reason: String,
    },
    /// No answer came.
    #[error("cannot {action}: no answer within {seconds} seconds")]
    Silent {
        /// What was asked, as a verb phrase.
        action: &'static str,
        /// How long was waited.
        seconds: u64,
    },
}

/// The daemons of the base system that hold settings for us.
#[async_trait]
pub trait Daemons: Send + Sync {
    /// Makes networkd read its files again and act on what changed.
    async fn reload_networkd(&self) -> Result<(), DaemonError>;
    /// Sets the host name unless it is set already.
    async fn set_hostname(&self, name: &str) -> Result<(), DaemonError>;
    /// The firmware's product UUID in lower case.
    async fn product_uuid(&self) -> Result<String, DaemonError>;
    /// Sets the time zone unless it is set already.
    async fn set_timezone(&self, zone: &str) -> Result<(), DaemonError>;
    /// Starts timesyncd, and restarts it when its servers changed.
    async fn start_time_sync(&self, servers_changed: bool) -> Result<(), DaemonError>;
    /// Empties the resolver's cache.
    async fn flush_dns(&self) -> Result<(), DaemonError>;
}
