//! Whether the system is, and always was, in the state that it is designed for.

use std::{fs, io, path::Path};

use crate::measurements::TpmKind;

/// A reason to trust the system less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weakness {
    SoftwareTpm,
    NoSecureBoot,
    /// Something was added to what was signed. It is over with the next boot.
    ForeignInput,
}

impl Weakness {
    /// The words of the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::SoftwareTpm => "using swtpm",
            Self::NoSecureBoot => "Secure Boot is disabled",
            Self::ForeignInput => "foreign command line or credentials were added to this boot",
        }
    }

    /// Whether the system is never fully trusted again. What only this boot was
    /// given is told, and keeps the volumes closed at the next such boot.
    pub(crate) fn lasts(self) -> bool {
        !matches!(self, Self::ForeignInput)
    }
}

/// What is weak now, in the order in which it is shown.
pub(crate) fn weaknesses(secure_boot: bool, tpm: TpmKind, foreign_input: bool) -> Vec<Weakness> {
    let mut found = Vec::new();
    if tpm == TpmKind::Software {
        found.push(Weakness::SoftwareTpm);
    }
    if !secure_boot {
        found.push(Weakness::NoSecureBoot);
    }
    if foreign_input {
        found.push(Weakness::ForeignInput);
    }
    found
}

/// `system_state_status`.
pub(crate) fn status(is_trusted: bool, weaknesses: &[Weakness]) -> String {
    if is_trusted {
        return "system state is fully trusted".to_owned();
    }
    if weaknesses.is_empty() {
        return "no current issues, but system was previously in an untrusted state".to_owned();
    }
    weaknesses.iter().map(|weakness| weakness.as_str()).collect::<Vec<_>>().join(", ")
}

/// Marks the system as no longer trusted. Returns whether it was not before.
pub(crate) fn blow(fuse: &Path) -> io::Result<bool> {
    match fs::OpenOptions::new().write(true).create_new(true).open(fuse) {
        Ok(file) => file.sync_all().map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_told_in_the_words_of_the_api() {
        let both = weaknesses(false, TpmKind::Software, false);
        let table = [
            (true, &[][..], "system state is fully trusted"),
            (true, &both[..], "system state is fully trusted"),
            (false, &both[..], "using swtpm, Secure Boot is disabled"),
            (false, &both[1..], "Secure Boot is disabled"),
            (false, &[], "no current issues, but system was previously in an untrusted state"),
        ];
        for (is_trusted, weaknesses, words) in table {
            assert_eq!(status(is_trusted, weaknesses), words);
        }
        assert_eq!(weaknesses(true, TpmKind::Hardware, false), []);
        let foreign = weaknesses(true, TpmKind::Hardware, true);
        assert_eq!(status(false, &foreign), "foreign command line or credentials were added to this boot");
        assert!(!foreign[0].lasts() && both.iter().all(|weakness| weakness.lasts()));
    }

    #[test]
    fn the_fuse_blows_once() {
        let dir = tempfile::tempdir().unwrap();
        let fuse = dir.path().join("fuse");
        assert!(blow(&fuse).unwrap());
        assert!(!blow(&fuse).unwrap());
        assert!(blow(Path::new("/nonexistent/fuse")).is_err());
    }
}
