//! Which release, and which of its files.

use crate::{Arch, File, Index, Kind, Update, Version};

/// What came of looking for a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice<'a> {
    /// The newest release that fits.
    pub update: Option<&'a Update>,
    /// Whether any release is in the channel. If not, its name is probably wrong.
    pub channel_exists: bool,
}

/// The newest release of `channel` with files for `arch`; an empty channel is all
/// of them. The release that is running is always among those to choose from, so
/// that a machine that is ahead of its channel finds what belongs to its release.
#[must_use]
pub fn choose<'a>(index: &'a Index, channel: &str, arch: Arch, running: Option<&Version>) -> Choice<'a> {
    let in_channel = |update: &&Update| channel.is_empty() || update.channels.iter().any(|name| name == channel);
    let update = index
        .updates
        .iter()
        .filter(|update| in_channel(update) || Some(&update.version) == running)
        .filter(|update| update.files.iter().any(|file| file.fits(arch)))
        // The order of an index is not relied on.
        .max_by(|one, other| one.version.order(&other.version));
    Choice { update, channel_exists: index.updates.iter().any(|update| in_channel(&update)) }
}

/// A release has no such file, or several.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("release {version} has {count} files of type {kind:?} of component '{component}' for {arch} instead of one")]
pub struct MissingFile {
    /// The release.
    pub version: Version,
    /// What was looked for.
    pub kind: Kind,
    /// Of which component.
    pub component: String,
    /// For which architecture.
    pub arch: Arch,
    /// How many there are.
    pub count: usize,
}

impl Update {
    /// The one file of this kind.
    ///
    /// # Errors
    ///
    /// When there is none, or more than one.
    pub fn file(&self, component: &str, kind: &Kind, arch: Arch) -> Result<&File, MissingFile> {
        let found: Vec<_> = self
            .files
            .iter()
            .filter(|file| file.component == component && file.kind == *kind && file.fits(arch))
            .collect();
        match found[..] {
            [file] => Ok(file),
            _ => Err(MissingFile {
                version: self.version.clone(),
                kind: kind.clone(),
                component: component.to_owned(),
                arch,
                count: found.len(),
            }),
        }
    }

    /// The file of an application: found by its name, because two applications may be published as
    /// one component.
    #[must_use]
    pub fn application(&self, name: &str, arch: Arch) -> Option<&File> {
        let wanted = |file: &&File| {
            file.kind == Kind::Application
                && file.fits(arch)
                && file.base_name().strip_suffix(".raw.gz").is_some_and(|stem| stem == name)
        };
        self.files.iter().find(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(version: &str, channels: &[&str], arch: &str) -> Update {
        let file = File {
            architecture: arch.into(),
            component: "os".into(),
            filename: format!("{arch}/incus.raw.gz"),
            kind: Kind::Application,
            ..File::default()
        };
        Update {
            version: Version::new(version),
            channels: channels.iter().map(|&name| name.to_owned()).collect(),
            files: vec![file],
            ..Update::default()
        }
    }

    fn chosen(index: &Index, channel: &str, running: &str) -> (String, bool) {
        let running = Version::new(running);
        let choice = choose(index, channel, Arch::X86_64, Some(&running));
        (choice.update.map(|update| update.version.to_string()).unwrap_or_default(), choice.channel_exists)
    }

    #[test]
    fn newest_release_of_the_channel_is_chosen() {
        let mut index = Index {
            // Out of order on purpose.
            updates: vec![
                release("1", &["stable"], "x86_64"),
                release("3", &["testing"], "x86_64"),
                release("2", &["testing", "stable"], "x86_64"),
            ],
            ..Index::default()
        };
        assert_eq!(chosen(&index, "stable", "1"), ("2".into(), true));
        assert_eq!(chosen(&index, "stable", "3"), ("3".into(), true));
        assert_eq!(chosen(&index, "", "1"), ("3".into(), true));
        assert_eq!(chosen(&index, "foo", "1"), ("1".into(), false));
        assert_eq!(chosen(&index, "foo", "9"), (String::new(), false));
        index.updates[2] = release("2", &["testing", "stable"], "aarch64");
        assert_eq!(chosen(&index, "stable", "1"), ("1".into(), true));
    }

    #[test]
    fn files_are_found_by_what_they_are() {
        let update = release("1", &[], "x86_64");
        assert!(update.application("incus", Arch::X86_64).is_some());
        for (name, arch) in [("incus", Arch::Aarch64), ("ncus", Arch::X86_64), ("", Arch::X86_64)] {
            assert_eq!(update.application(name, arch), None);
        }
        assert!(update.file("os", &Kind::Application, Arch::X86_64).is_ok());
        assert_eq!(update.file("os", &Kind::ImageRaw, Arch::X86_64).unwrap_err().count, 0);
    }
}
