use std::fmt;

/// One of the system's daemons. Its unit, user, socket and journal identifier
/// all carry the same name, and that name is stated here only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Every REST listener.
    Gateway,
    /// Start-up order, operator log, power.
    Supervisor,
    /// Links, addresses, names, time.
    Network,
    /// Drives, pools, volumes.
    Storage,
    /// TPM, Secure Boot, disk encryption.
    Security,
    /// Versions and updates.
    Update,
    /// The status screen.
    Console,
}

impl Identity {
    /// Every daemon, in the order in which they are started.
    pub const ALL: [Self; 7] =
        [Self::Supervisor, Self::Gateway, Self::Security, Self::Network, Self::Storage, Self::Update, Self::Console];

    /// Name of the folder, of the gRPC socket and of the state directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Supervisor => "supervisor",
            Self::Network => "network",
            Self::Storage => "storage",
            Self::Security => "security",
            Self::Update => "update",
            Self::Console => "console",
        }
    }

    /// Name of the unit (without `.service`), of the program and the identifier
    /// in the journal. The supervisor has the name that clients read logs of.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Gateway => "incus-osd-gateway",
            Self::Supervisor => "incus-osd",
            Self::Network => "incus-osd-network",
            Self::Storage => "incus-osd-storage",
            Self::Security => "incus-osd-security",
            Self::Update => "incus-osd-update",
            Self::Console => "incus-osd-console",
        }
    }

    /// The account it runs as; `None` for the ones that need to be root.
    pub fn user(self) -> Option<&'static str> {
        match self {
            Self::Storage | Self::Security => None,
            _ => Some(self.unit()),
        }
    }

    /// The service that is started under the name of this program.
    pub fn from_program(program: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|identity| identity.unit() == program)
    }

    /// Which daemons may open a connection to this one.
    pub(crate) fn callers(self) -> &'static [Self] {
        match self {
            // The console only calls others; it has no socket.
            Self::Gateway | Self::Console => &[],
            Self::Supervisor => &Self::ALL,
            Self::Security => &[Self::Gateway, Self::Supervisor, Self::Console],
            _ => &[Self::Gateway, Self::Supervisor],
        }
    }

    /// Whether `caller` may use this method of this daemon; it may call it at all.
    pub(crate) fn allows(self, caller: Self, method: &str) -> bool {
        match (self, caller) {
            // Whoever sits at a terminal may try a recovery key, and see none.
            (Self::Security, Self::Console) => method == "CheckRecoveryKey",
            _ => true,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_can_try_a_recovery_key_and_read_none() {
        assert!(Identity::Security.allows(Identity::Console, "CheckRecoveryKey"));
        for method in ["Get", "Put", "RebindTpm", "MarkRecoveryKeysRetrieved", "Start", ""] {
            assert!(!Identity::Security.allows(Identity::Console, method), "{method}");
            assert!(Identity::Security.allows(Identity::Supervisor, method), "{method}");
        }
        for closed in [Identity::Network, Identity::Storage, Identity::Update, Identity::Gateway] {
            assert!(!closed.callers().contains(&Identity::Console), "{closed}");
        }
    }
}
