//! Finding sections in the raw tar archive.

use std::{
    fmt,
    fs::File,
    io::{self, Seek as _, SeekFrom},
    os::unix::fs::FileExt,
};

use serde::de::DeserializeOwned;

use crate::decode::{self, Syntax};

const BLOCK: u64 = 512;

/// Largest section that is read. Real ones are a few KiB of certificates and settings.
const SECTION_LIMIT: u64 = 4 << 20;

/// Most members that are walked over. Real seeds have about ten.
const MEMBER_LIMIT: usize = 4096;

/// Why a section cannot be used. A missing one is no error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeedError {
    /// The device failed.
    #[error("cannot read the seed at byte {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The archive is damaged before the section was found.
    #[error("the seed archive is damaged at byte {offset}: {reason}")]
    Archive {
        /// Start of the bad header.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The section is too large to be one.
    #[error("seed file `{file}` has {size} bytes, more than the limit of {SECTION_LIMIT}")]
    TooLarge {
        /// Name of the member.
        file: String,
        /// Its size.
        size: u64,
    },
    /// The section holds no document at all.
    #[error("seed file `{file}` is empty")]
    Empty {
        /// Name of the member.
        file: String,
    },
    /// The section does not say what it should.
    #[error("seed file `{file}`: {reason}")]
    Content {
        /// Name of the member.
        file: String,
        /// What is wrong, and where. Never quotes the file: it may hold secrets.
        reason: String,
    },
}

/// An opened seed partition, or an image of one.
pub struct Seed {
    device: File,
    size: u64,
}

impl Seed {
    /// Looks for a seed on `device`. `None` when there is no archive on it, as
    /// on a disk that was written without one.
    pub fn open(mut device: File) -> Result<Option<Self>, SeedError> {
        // A block device has no length of its own; its end can be sought.
        let size = device.seek(SeekFrom::End(0)).map_err(|source| SeedError::Read { offset: 0, source })?;
        let seed = Self { device, size };
        if size < BLOCK {
            return Ok(None);
        }
        let header = seed.block(0)?;
        Ok((&header[257..262] == b"ustar").then_some(seed))
    }

    /// Decodes the section `name` (without the extension of its file). The
    /// first member of the archive with that name and one of the three
    /// extensions counts; `None` when there is none.
    pub fn section<T: DeserializeOwned + Default>(&self, name: &str) -> Result<Option<T>, SeedError> {
        let Some(member) = self.find(name)? else {
            return Ok(None);
        };
        let text = self.read(&member)?;
        decode::decode(&text, member.syntax).map(Some).map_err(|error| match error {
            decode::Error::Empty => SeedError::Empty { file: member.file },
            decode::Error::Content(reason) => SeedError::Content { file: member.file, reason },
        })
    }

    /// Whether the archive has a section of this name, whatever it says.
    pub fn has(&self, name: &str) -> Result<bool, SeedError> {
        self.find(name).map(|member| member.is_some())
    }

    fn find(&self, name: &str) -> Result<Option<Member>, SeedError> {
        let mut offset = 0;
        let mut long_name = None;
        for _ in 0..MEMBER_LIMIT {
            if self.size - offset < BLOCK {
                return Ok(None);
            }
            let block = self.block(offset)?;
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let header = Header::parse(&block).map_err(|reason| SeedError::Archive { offset, reason })?;
            let content = offset + BLOCK;
            let next = header
                .size
                .checked_next_multiple_of(BLOCK)
                .and_then(|length| content.checked_add(length))
                .filter(|next| *next <= self.size)
                .ok_or_else(|| SeedError::Archive {
                    offset,
                    reason: "the member does not end inside the seed".into(),
                })?;
            match header.kind {
                // The name of the following member, where it does not fit its header (GNU and pax archives).
                b'L' | b'x' => long_name = Some(self.long_name(&header, content)?),
                b'0' | b'\0' => {
                    let file = long_name.take().flatten().unwrap_or(header.name);
                    if let Some(syntax) = Syntax::of_section(&file, name) {
                        return Ok(Some(Member { file, syntax, content, size: header.size }));
                    }
                }
                _ => long_name = None,
            }
            offset = next;
        }
        Err(SeedError::Archive { offset, reason: format!("more than {MEMBER_LIMIT} members") })
    }

    fn long_name(&self, header: &Header, content: u64) -> Result<Option<String>, SeedError> {
        // No section has a long name, so a longer one need not be known.
        if header.size > BLOCK {
            return Ok(Some(String::new()));
        }
        let text = self.bytes(content, header.size)?;
        if header.kind == b'L' {
            return Ok(Some(text_until_nul(&text)));
        }
        // pax: lines of `<length> path=<name>`.
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().find_map(|line| line.split_once(" path=").map(|(_, path)| path.to_owned())))
    }

    fn read(&self, member: &Member) -> Result<Vec<u8>, SeedError> {
        if member.size > SECTION_LIMIT {
            return Err(SeedError::TooLarge { file: member.file.clone(), size: member.size });
        }
        self.bytes(member.content, member.size)
    }

    fn block(&self, offset: u64) -> Result<[u8; 512], SeedError> {
        let mut block = [0; 512];
        self.device.read_exact_at(&mut block, offset).map_err(|source| SeedError::Read { offset, source })?;
        Ok(block)
    }

    fn bytes(&self, offset: u64, length: u64) -> Result<Vec<u8>, SeedError> {
        let length = usize::try_from(length).expect("callers check the length against a small limit");
        let mut bytes = vec![0; length];
        self.device.read_exact_at(&mut bytes, offset).map_err(|source| SeedError::Read { offset, source })?;
        Ok(bytes)
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Seed").field("size", &self.size).finish_non_exhaustive()
    }
}

/// A section that was found.
struct Member {
    file: String,
    syntax: Syntax,
    content: u64,
    size: u64,
}

/// What is read of a tar header, tar(5).
struct Header {
    name: String,
    size: u64,
    kind: u8,
}

impl Header {
    fn parse(block: &[u8; 512]) -> Result<Self, String> {
        let stated = octal(&block[148..156]).ok_or("its checksum is no number")?;
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { u64::from(b' ') } else { u64::from(*byte) })
            .sum();
        if sum != stated {
            return Err("its checksum does not match".into());
        }
        let size = octal(&block[124..136]).ok_or("its size is no number")?;
        let prefix = if &block[257..263] == b"ustar\0" { text_until_nul(&block[345..500]) } else { String::new() };
        let name = text_until_nul(&block[..100]);
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        Ok(Self { name, size, kind: block[156] })
    }
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() {
        Some(0)
    } else {
        text.bytes().all(|c| c.is_ascii_digit()).then(|| u64::from_str_radix(text, 8).ok())?
    }
}

fn text_until_nul(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Section {
        version: String,
    }

    fn seed(bytes: &[u8]) -> Seed {
        open(bytes).unwrap().unwrap()
    }

    fn open(bytes: &[u8]) -> Result<Option<Seed>, SeedError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Seed::open(file)
    }

    fn archive(members: &[(&str, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, text) in members {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            // `append_data` would refuse the names that hostile archives have.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            archive.append(&header, text.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn version(seed: &Seed, name: &str) -> Option<String> {
        seed.section::<Section>(name).unwrap().map(|section| section.version)
    }

    #[test]
    fn disk_without_an_archive_is_no_seed() {
        assert!(open(&[]).unwrap().is_none());
        assert!(open(&[0; 100]).unwrap().is_none());
        assert!(open(&[0; 4096]).unwrap().is_none());
        assert!(open(&[0xff; 4096]).unwrap().is_none());
    }

    #[test]
    fn first_member_of_any_extension_counts() {
        let seed = seed(&archive(&[
            ("README", "ignored"),
            ("./install.yaml", "version: yaml"),
            ("install.json", r#"{"version": "json"}"#),
            ("network.yml", "version: yml"),
            ("applications.json", r#"{"version": "json"}"#),
        ]));
        assert_eq!(version(&seed, "install").as_deref(), Some("yaml"));
        assert_eq!(version(&seed, "network").as_deref(), Some("yml"));
        assert_eq!(version(&seed, "applications").as_deref(), Some("json"));
        assert_eq!(version(&seed, "missing"), None);
        assert!(seed.has("install").unwrap() && !seed.has("instal").unwrap());
    }

    #[test]
    fn names_match_as_a_whole_and_in_the_root_only() {
        let seed = seed(&archive(&[
            ("dir/incus.yaml", "version: a"),
            ("../incus.yaml", "version: b"),
            ("/incus.yaml", "version: c"),
            ("incus.yaml.bak", "version: d"),
            ("incus", "version: e"),
            ("xincus.yaml", "version: f"),
            ("INCUS.yaml", "version: g"),
        ]));
        assert_eq!(version(&seed, "incus"), None);
    }

    #[test]
    fn links_and_devices_are_no_sections() {
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Block, tar::EntryType::Directory] {
            let mut archive = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_size(0);
            archive.append_data(&mut header, "incus.yaml", &[][..]).unwrap();
            assert_eq!(version(&seed(&archive.into_inner().unwrap()), "incus"), None);
        }
    }

    #[test]
    fn names_of_gnu_and_pax_archives_are_read() {
        let long = format!("{}/incus.yaml", "d".repeat(200));
        let mut gnu = tar::Builder::new(Vec::new());
        for (name, text) in [(long.as_str(), "version: long"), ("incus.yaml", "version: right")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            gnu.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        assert_eq!(version(&seed(&gnu.into_inner().unwrap()), "incus").as_deref(), Some("right"));

        let mut pax = tar::Builder::new(Vec::new());
        pax.append_pax_extensions([("path", b"incus.yaml".as_slice())]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(12);
        pax.append_data(&mut header, "short", &b"version: pax"[..]).unwrap();
        assert_eq!(version(&seed(&pax.into_inner().unwrap()), "incus").as_deref(), Some("pax"));
    }

    #[test]
    fn empty_section_is_an_error_of_its_own() {
        for text in ["", "  \n", "# only a comment\n"] {
            let error = seed(&archive(&[("network.yaml", text)])).section::<Section>("network").unwrap_err();
            assert!(matches!(error, SeedError::Empty { .. }), "{text:?}: {error}");
        }
        let error = seed(&archive(&[("network.json", " ")])).section::<Section>("network").unwrap_err();
        assert!(matches!(error, SeedError::Empty { .. }), "{error}");
    }

    #[test]
    fn damaged_archives_are_refused_with_their_place() {
        let good = archive(&[("a.yaml", "version: a"), ("b.yaml", "version: b")]);
        let refused = |bytes: &[u8]| match open(bytes) {
            Ok(Some(seed)) => seed.section::<Section>("b").unwrap_err().to_string(),
            other => panic!("{other:?}"),
        };
        let mut checksum = good.clone();
        checksum[1024] ^= 1;
        assert_eq!(refused(&checksum), "the seed archive is damaged at byte 1024: its checksum does not match");

        let resized = |size: &[u8; 12]| {
            let mut bytes = good.clone();
            bytes[124..136].copy_from_slice(size);
            let sum: u64 = bytes[..512].iter().map(|b| u64::from(*b)).sum::<u64>()
                - bytes[148..156].iter().map(|b| u64::from(*b)).sum::<u64>()
                + 8 * 32;
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            bytes
        };
        assert!(refused(&resized(b"77777777777\0")).contains("does not end inside"));
        assert!(refused(&resized(b"-0000000001\0")).contains("size is no number"));
        assert!(refused(&resized(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")).contains("size is no number"));
    }

    #[test]
    fn archive_cut_short_ends_the_search() {
        let good = archive(&[("a.yaml", "version: a"), ("b.yaml", "version: b")]);
        assert_eq!(version(&seed(&good[..1024]), "b"), None);
        assert!(seed(&good[..1536]).section::<Section>("b").is_err());
    }

    #[test]
    fn oversized_section_is_refused_before_it_is_read() {
        let text = " ".repeat(usize::try_from(SECTION_LIMIT).unwrap() + 1);
        let error = seed(&archive(&[("a.yaml", &text)])).section::<Section>("a").unwrap_err();
        assert!(matches!(error, SeedError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn endless_archive_ends() {
        let member = archive(&[("x", "")]);
        let bytes = member[..512].repeat(MEMBER_LIMIT + 1);
        assert!(seed(&bytes).section::<Section>("a").unwrap_err().to_string().contains("members"));
    }

    proptest::proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..4096)) {
            let mut bytes = bytes;
            if bytes.len() > 262 {
                bytes[257..262].copy_from_slice(b"ustar");
            }
            if let Ok(Some(seed)) = open(&bytes) {
                let _ = seed.section::<Section>("incus");
            }
        }
    }
}
