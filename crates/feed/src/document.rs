//! The documents of a feed. What is not known is passed over, because feeds grow.

use std::{cmp::Ordering, fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use crate::{FeedError, Signed, Trust};

/// `index.json`: every release, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Index {
    /// `1.0`.
    #[serde(deserialize_with = "null_is_zero")]
    pub format: String,
    /// The releases.
    #[serde(deserialize_with = "null_is_zero")]
    pub updates: Vec<Update>,
    /// Grows with every index that is published, so that an old one that is sent again can be
    /// recognised. Feeds of others do not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<u64>,
    /// Until when a mirror may serve this index. Feeds of others do not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// `update.json`: one release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Update {
    /// `1.0`.
    #[serde(deserialize_with = "null_is_zero")]
    pub format: String,
    /// Labels under which the release is offered.
    #[serde(deserialize_with = "null_is_zero")]
    pub channels: Vec<String>,
    /// Its files.
    #[serde(deserialize_with = "null_is_zero")]
    pub files: Vec<File>,
    /// Who published it.
    #[serde(deserialize_with = "null_is_zero")]
    pub origin: String,
    /// When, RFC 3339.
    #[serde(deserialize_with = "null_is_zero")]
    pub published_at: String,
    /// `none`, `low`, `medium`, `high` or `critical`.
    #[serde(deserialize_with = "null_is_zero")]
    pub severity: String,
    /// Its name.
    #[serde(deserialize_with = "null_is_zero")]
    pub version: Version,
    /// In an index: where its folder is, from the feed's address on.
    #[serde(deserialize_with = "null_is_zero", skip_serializing_if = "String::is_empty")]
    pub url: String,
}

/// One file of a release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct File {
    /// `x86_64`, `aarch64`, or empty for all.
    #[serde(deserialize_with = "null_is_zero")]
    pub architecture: String,
    /// What it is a part of: `os`, or an application.
    #[serde(deserialize_with = "null_is_zero")]
    pub component: String,
    /// Its path in the folder of the release.
    #[serde(deserialize_with = "null_is_zero")]
    pub filename: String,
    /// Of the bytes as they are served, lower-case hexadecimal.
    #[serde(deserialize_with = "null_is_zero")]
    pub sha256: String,
    /// Bytes as they are served.
    #[serde(deserialize_with = "null_is_zero")]
    pub size: u64,
    /// What it is for.
    #[serde(rename = "type", deserialize_with = "null_is_zero")]
    pub kind: Kind,
}

/// What a file is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A raw disk image to install from or to run.
    ImageRaw,
    /// The same with the sectors of a CD-ROM.
    ImageIso,
    /// What an image was made of.
    ImageManifest,
    /// What changed since the release before.
    Changelog,
    /// The kernel image.
    UpdateEfi,
    /// `/usr`.
    UpdateUsr,
    /// Hash tree of `/usr`.
    UpdateUsrVerity,
    /// Signature of the root hash.
    UpdateUsrVeritySignature,
    /// Keys of Secure Boot.
    UpdateSecureboot,
    /// An application.
    Application,
    /// Something that came later; nobody's business here.
    #[serde(untagged)]
    Other(String),
}

impl Default for Kind {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

/// Architectures that there are releases for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "their usual names")]
pub enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    /// The one that this program runs on, if there are releases for it.
    #[must_use]
    pub fn of_this_machine() -> Option<Self> {
        std::env::consts::ARCH.parse().ok()
    }

    /// As a feed writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Arch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            _ => Err(format!("unknown architecture '{text}': there are x86_64 and aarch64")),
        }
    }
}

/// Name of a release: twelve digits, `YYYYMMDDhhmm`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(String);

impl Version {
    /// Any text; see [`Version::is_newer_than`].
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether both are numbers and this is the greater one. What is no number is newer than
    /// nothing.
    #[must_use]
    pub fn is_newer_than(&self, other: &Self) -> bool {
        matches!((self.number(), other.number()), (Some(one), Some(other)) if one > other)
    }

    /// The order in which releases were made; what is no number comes before everything else.
    #[must_use]
    pub fn order(&self, other: &Self) -> Ordering {
        self.number().cmp(&other.number()).then_with(|| self.0.cmp(&other.0))
    }

    fn number(&self) -> Option<u64> {
        // `parse` takes a sign too.
        self.0.bytes().all(|byte| byte.is_ascii_digit()).then(|| self.0.parse().ok())?
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Index {
    /// The index in a signed message.
    ///
    /// # Errors
    ///
    /// When the message cannot be trusted, or is no index.
    pub fn verified(message: &[u8], trust: &Trust) -> Result<(Self, Signed), FeedError> {
        verified("index", message, trust)
    }

    /// The index in an unsigned document. For a tree on one's own disk only.
    ///
    /// # Errors
    ///
    /// When it is no index.
    pub fn unsigned(document: &[u8]) -> Result<Self, FeedError> {
        serde_json::from_slice(document).map_err(|source| FeedError::Parse { document: "index", source })
    }
}

impl Update {
    /// The update in a signed message.
    ///
    /// # Errors
    ///
    /// When the message cannot be trusted, or is no update.
    pub fn verified(message: &[u8], trust: &Trust) -> Result<(Self, Signed), FeedError> {
        verified("update", message, trust)
    }

    /// The path of a file from the feed's address on, with the folder of the release in front.
    ///
    /// # Errors
    ///
    /// When it is no plain path: signed or not, no document names files elsewhere.
    pub fn path_of(&self, file: &File) -> Result<String, FeedError> {
        if !is_plain(self.version.as_str()) || !file.filename.split('/').all(is_plain) {
            return Err(FeedError::FileName { version: self.version.to_string() });
        }
        Ok(format!("{}/{}", self.version, file.filename))
    }
}

impl File {
    /// Its name without the folder.
    #[must_use]
    pub fn base_name(&self) -> &str {
        self.filename.rsplit('/').next().unwrap_or_default()
    }

    /// Whether it is of use on this architecture.
    #[must_use]
    pub fn fits(&self, arch: Arch) -> bool {
        self.architecture.is_empty() || self.architecture == arch.name()
    }

    /// The SHA-256 that the served bytes must have.
    ///
    /// # Errors
    ///
    /// When the document has none, or no size: such a file could be anything.
    pub fn digest(&self, of: &Update) -> Result<[u8; 32], FeedError> {
        let text = self.sha256.as_bytes();
        let mut digest = [0; 32];
        let nibble = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let is_whole = text.len() == 64
            && self.size > 0
            && text.chunks(2).zip(&mut digest).all(|(pair, byte)| match (nibble(pair[0]), nibble(pair[1])) {
                (Some(high), Some(low)) => {
                    *byte = high << 4 | low;
                    true
                }
                _ => false,
            });
        if is_whole {
            Ok(digest)
        } else {
            Err(FeedError::Hash { version: of.version.to_string(), file: self.base_name().to_owned() })
        }
    }
}

fn verified<T: DeserializeOwned>(
    document: &'static str,
    message: &[u8],
    trust: &Trust,
) -> Result<(T, Signed), FeedError> {
    let signed = trust.verify(message).map_err(|source| FeedError::Verify { document, source })?;
    let value = serde_json::from_slice(&signed.content).map_err(|source| FeedError::Parse { document, source })?;
    Ok((value, signed))
}

/// One component of a path that means the same everywhere.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    (1..=255).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(plain)
}

fn null_is_zero<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(version: &str, filename: &str) -> (Update, File) {
        let file = File { filename: filename.into(), ..File::default() };
        (Update { version: Version::new(version), ..Update::default() }, file)
    }

    #[test]
    fn newer_means_a_greater_number() {
        let newer = |one: &str, other: &str| Version::new(one).is_newer_than(&Version::new(other));
        assert!(newer("202501010000", "202412312359"));
        for (one, other) in [("202412312359", "202412312359"), ("abc", "1"), ("1", "abc"), ("", ""), ("+2", "1")] {
            assert!(!newer(one, other), "{one} {other}");
        }
        assert_eq!(Version::new("abc").order(&Version::new("0")), Ordering::Less);
    }

    #[test]
    fn documents_grow_and_are_read_all_the_same() {
        let text = r#"{"format":"1.0","news":1,"updates":[{"channels":null,"version":"203001020304","new":{},
            "files":[{"type":"update-efi","component":"os","size":5},{"type":"a new one"},{"type":""},{}],
            "url":"/203001020304"}]}"#;
        let index = Index::unsigned(text.as_bytes()).unwrap();
        let kinds: Vec<_> = index.updates[0].files.iter().map(|file| file.kind.clone()).collect();
        assert_eq!(kinds[..2], [Kind::UpdateEfi, Kind::Other("a new one".into())]);
        assert_eq!(index.updates[0].url, "/203001020304");
        let again = serde_json::to_string(&index).unwrap();
        assert!(again.contains(r#""type":"update-efi""#) && again.contains(r#""type":"a new one""#), "{again}");
        assert!(!again.contains("serial"));
        assert_eq!(Index::unsigned(again.as_bytes()).unwrap(), index);
    }

    #[test]
    fn names_that_leave_the_release_are_refused() {
        let (release, file) = update("203001020304", "x86_64/IncusOS_1.efi.gz");
        assert_eq!(release.path_of(&file).unwrap(), "203001020304/x86_64/IncusOS_1.efi.gz");
        for (version, name) in [
            ("1", "../a"),
            ("1", "/a"),
            ("1", "a//b"),
            ("1", "a/./b"),
            ("1", ""),
            ("1", "a?b"),
            ("1", "a%2fb"),
            ("1", "a\\b"),
            ("1", "a b"),
            ("..", "a"),
            ("", "a"),
            ("a/b", "a"),
            ("1", "a\nb"),
        ] {
            let (release, file) = update(version, name);
            assert!(release.path_of(&file).is_err(), "{version} {name}");
        }
    }

    #[test]
    fn files_without_a_hash_or_a_size_are_refused() {
        let (release, _) = update("1", "a");
        let digest = |sha256: &str, size| File { sha256: sha256.into(), size, ..File::default() }.digest(&release);
        assert_eq!(digest(&"0f".repeat(32), 1).unwrap(), [15; 32]);
        for (text, size) in [(String::new(), 1), ("0f".repeat(32), 0), ("0g".repeat(32), 1), ("0".repeat(63), 1)] {
            assert!(digest(&text, size).is_err(), "{text} {size}");
        }
    }
}
