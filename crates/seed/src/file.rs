use std::fmt;

use crate::decode::Syntax;

/// One file of a seed, as it lies in the root of the archive or of a file system.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// Its name, such as `install.yaml`.
    pub name: String,
    /// What it says.
    pub content: Vec<u8>,
}

impl fmt::Debug for File {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The content may be a password.
        write!(out, "`{}` ({} bytes)", self.name, self.content.len())
    }
}

/// A part of a seed. Each is one file, in JSON or YAML.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is explained with its type in `Contents`")]
pub enum Section {
    Install,
    Applications,
    Incus,
    Kernel,
    Network,
    MigrationManager,
    OperationsCenter,
    Provider,
    Security,
    Services,
    Storage,
    Update,
}

impl Section {
    /// Every section, in the order in which it is checked.
    pub const ALL: [Self; 12] = [
        Self::Install,
        Self::Applications,
        Self::Incus,
        Self::Kernel,
        Self::Network,
        Self::MigrationManager,
        Self::OperationsCenter,
        Self::Provider,
        Self::Security,
        Self::Services,
        Self::Storage,
        Self::Update,
    ];

    /// Name of its file, without the extension.
    pub fn name(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::Applications => "applications",
            Self::Incus => "incus",
            Self::Kernel => "kernel",
            Self::Network => "network",
            Self::MigrationManager => "migration-manager",
            Self::OperationsCenter => "operations-center",
            Self::Provider => "provider",
            Self::Security => "security",
            Self::Services => "services",
            Self::Storage => "storage",
            Self::Update => "update",
        }
    }

    /// The section that a file of this name holds.
    pub fn of_file(name: &str) -> Option<Self> {
        split(name).map(|(section, _)| section)
    }
}

/// The section that a file holds, and how it is written.
pub(crate) fn split(name: &str) -> Option<(Section, Syntax)> {
    let (stem, extension) = name.rsplit_once('.')?;
    let syntax = match extension {
        "json" => Syntax::Json,
        "yaml" | "yml" => Syntax::Yaml,
        _ => return None,
    };
    Section::ALL.into_iter().find(|section| section.name() == stem).map(|section| (section, syntax))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_a_whole() {
        for section in Section::ALL {
            for extension in ["json", "yaml", "yml"] {
                assert_eq!(Section::of_file(&format!("{}.{extension}", section.name())), Some(section));
            }
        }
        for other in ["", "install", "install.", "install.yaml.bak", "INSTALL.yaml", "xinstall.yaml", "a/install.yaml"]
        {
            assert_eq!(Section::of_file(other), None, "{other}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let file = File { name: "a.yaml".into(), content: b"hunter2".to_vec() };
        assert_eq!(format!("{file:?}"), "`a.yaml` (7 bytes)");
    }
}
