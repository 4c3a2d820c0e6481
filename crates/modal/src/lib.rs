//! A message over the status screen: what it may say, and the file in which it
//! reaches the console when there is no service that could be asked.
//!
//! The wire form is [`api::v1::Modal`], in gRPC and in the file alike. The crate
//! knows neither who writes a message nor how it is drawn; whoever draws it has
//! to expect any character in title and text.

use std::{
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// The file through which the installer speaks, on the running system.
pub const STATUS_FILE: &str = "/run/incus-os/console/status.json";

/// Largest file that is read.
const SIZE_LIMIT: u64 = 64 << 10;

/// What a message is about. There is one message of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// Installing to a disk.
    Install,
    /// Fetching and applying an update.
    Update,
    /// Changing the firmware's keys.
    SecureBootUpdate,
    /// The machine does not meet the requirements.
    SystemCheck,
    /// The machine is going down.
    Shutdown,
    /// The machine runs with less security than it is designed for.
    DegradedSecurity,
}

/// Each category and its name on the wire.
const CATEGORIES: [(Category, &str); 6] = [
    (Category::Install, "install"),
    (Category::Update, "update"),
    (Category::SecureBootUpdate, "secureboot-update"),
    (Category::SystemCheck, "system-check"),
    (Category::Shutdown, "shutdown"),
    (Category::DegradedSecurity, "degraded-security-warning"),
];

impl Category {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        CATEGORIES.iter().find(|(category, _)| *category == self).expect("every category has a name").1
    }

    /// The category of this name.
    pub fn from_name(name: &str) -> Result<Self, ModalError> {
        let known = CATEGORIES.iter().find(|(_, known)| *known == name);
        known.map(|(category, _)| *category).ok_or_else(|| ModalError::Category(name.to_owned()))
    }
}

impl fmt::Display for Category {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// How a message is coloured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing to do.
    #[default]
    Info,
    /// Something to look at.
    Warning,
    /// Something failed.
    Error,
}

/// Each severity and its name on the wire.
const SEVERITIES: [(Severity, &str); 3] =
    [(Severity::Info, "info"), (Severity::Warning, "warning"), (Severity::Error, "error")];

impl Severity {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        SEVERITIES.iter().find(|(severity, _)| *severity == self).expect("every severity has a name").1
    }

    fn from_name(name: &str) -> Result<Self, ModalError> {
        let known = SEVERITIES.iter().find(|(_, known)| *known == name || name.is_empty());
        known.map(|(severity, _)| *severity).ok_or_else(|| ModalError::Severity(name.to_owned()))
    }
}

/// How much of long work is done, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// `done` of `total`, of whatever is counted; nothing to do is all done.
    pub fn of(done: u64, total: u64) -> Self {
        let percent = u128::from(done.min(total)) * 100 / u128::from(total.max(1));
        Self(if total == 0 { 100 } else { u8::try_from(percent).expect("at most a hundred") })
    }

    /// 0 to 100.
    pub fn get(self) -> u8 {
        self.0
    }
}

/// A message over the status screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modal {
    /// What it is about; it takes the place of the earlier one.
    pub category: Category,
    /// One line.
    pub title: String,
    /// One or several lines.
    pub text: String,
    /// How it is coloured.
    pub severity: Severity,
    /// Shown as a bar from 1 percent on.
    pub progress: Option<Percent>,
}

/// Why a message was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModalError {
    /// There is no such category.
    #[error("unknown message category {0:?}")]
    Category(String),
    /// There is no such severity.
    #[error("unknown message severity {0:?}")]
    Severity(String),
    /// Work cannot be done to this part.
    #[error("a progress of {0} is not between 0 and 100 percent")]
    Progress(i64),
}

impl From<Modal> for api::v1::Modal {
    fn from(modal: Modal) -> Self {
        Self {
            category: modal.category.as_str().to_owned(),
            title: modal.title,
            text: modal.text,
            severity: modal.severity.as_str().to_owned(),
            progress: modal.progress.map_or(0, |percent| percent.0.into()),
        }
    }
}

impl TryFrom<api::v1::Modal> for Modal {
    type Error = ModalError;

    fn try_from(modal: api::v1::Modal) -> Result<Self, ModalError> {
        let progress = match modal.progress {
            0 => None,
            percent => {
                let whole = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
                Some(Percent(whole.ok_or(ModalError::Progress(percent))?))
            }
        };
        Ok(Self {
            category: Category::from_name(&modal.category)?,
            title: modal.title,
            text: modal.text,
            severity: Severity::from_name(&modal.severity)?,
            progress,
        })
    }
}

/// Why the file was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file could not be read.
    #[error("cannot read the message in `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file could not be replaced.
    #[error("cannot leave a message in `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file holds something else.
    #[error("`{}` holds no message", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The file holds a message that cannot be shown.
    #[error("the message in `{}` cannot be shown", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ModalError,
    },
}

impl Modal {
    /// Replaces the message in the file. A reader sees the old one or the new
    /// one, never a part. Nothing is synced: the file lies in memory.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let write = || {
            let text = serde_json::to_vec(&api::v1::Modal::from(self.clone())).map_err(io::Error::other)?;
            let new = path.with_extension("new");
            fs::write(&new, text)?;
            // The console is another user, whatever mask the writer has.
            fs::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
            fs::rename(&new, path)
        };
        write().map_err(|source| FileError::Write { path: path.to_owned(), source })
    }

    /// The message in the file; `None` when there is no file.
    pub fn read(path: &Path) -> Result<Option<Self>, FileError> {
        let read = || {
            let mut text = Vec::new();
            fs::File::open(path)?.take(SIZE_LIMIT + 1).read_to_end(&mut text)?;
            if text.len() as u64 > SIZE_LIMIT {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than a message may be"));
            }
            Ok(text)
        };
        let text = match read() {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FileError::Read { path: path.to_owned(), source }),
        };
        let modal: api::v1::Modal =
            serde_json::from_slice(&text).map_err(|source| FileError::Form { path: path.to_owned(), source })?;
        let modal = modal.try_into().map_err(|source| FileError::Content { path: path.to_owned(), source })?;
        Ok(Some(modal))
    }

    /// Takes the message in the file away, if there is one.
    pub fn clear(path: &Path) -> Result<(), FileError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(FileError::Write { path: path.to_owned(), source: error })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copying() -> Modal {
        Modal {
            category: Category::Install,
            title: "Installing IncusOS".into(),
            text: "Copying partition 3 of 5 (2 GiB)".into(),
            severity: Severity::Info,
            progress: Some(Percent::of(42, 100)),
        }
    }

    #[test]
    fn file_is_the_message_of_the_schema() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        assert_eq!(Modal::read(&path).unwrap(), None);
        copying().write(&path).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            r#"{"category":"install","title":"Installing IncusOS","text":"Copying partition 3 of 5 (2 GiB)","severity":"info","progress":42}"#
        );
        assert_eq!(Modal::read(&path).unwrap(), Some(copying()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing stays beside it");
        Modal::clear(&path).unwrap();
        Modal::clear(&path).unwrap();
        assert_eq!(Modal::read(&path).unwrap(), None);
    }

    #[test]
    fn files_that_hold_no_message_are_named_by_their_defect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        let table = [
            ("", "holds no message"),
            ("7", "holds no message"),
            (r#"{"category":"install","progress":"x"}"#, "holds no message"),
            (r#"{"category":"gossip"}"#, "cannot be shown"),
            (r#"{"category":"install","severity":"loud"}"#, "cannot be shown"),
            (r#"{"category":"install","progress":101}"#, "cannot be shown"),
            (r#"{"category":"install","progress":-1}"#, "cannot be shown"),
        ];
        for (text, defect) in table {
            fs::write(&path, text).unwrap();
            let error = Modal::read(&path).unwrap_err().to_string();
            assert!(error.contains(defect), "{text}: {error}");
        }
        fs::write(&path, vec![b' '; 70 << 10]).unwrap();
        assert!(matches!(Modal::read(&path), Err(FileError::Read { .. })));
    }

    #[test]
    fn left_out_keys_are_the_quiet_ones() {
        let modal = api::v1::Modal { category: "update".into(), ..api::v1::Modal::default() };
        let modal = Modal::try_from(modal).unwrap();
        assert_eq!((modal.severity, modal.progress), (Severity::Info, None));
    }

    #[test]
    fn percentages_are_rounded_down_and_end_at_a_hundred() {
        let table = [((0, 3), 0), ((1, 3), 33), ((2, 3), 66), ((3, 3), 100), ((4, 3), 100), ((0, 0), 100)];
        for ((done, total), percent) in table {
            assert_eq!(Percent::of(done, total).get(), percent, "{done} of {total}");
        }
        assert_eq!(Percent::of(u64::MAX - 1, u64::MAX).get(), 99);
    }

    #[test]
    fn names_lead_back_to_their_values() {
        for (category, name) in CATEGORIES {
            assert_eq!((Category::from_name(name), category.as_str()), (Ok(category), name));
        }
        for (severity, name) in SEVERITIES {
            assert_eq!((Severity::from_name(name), severity.as_str()), (Ok(severity), name));
        }
    }
}
