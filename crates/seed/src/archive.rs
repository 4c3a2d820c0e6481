//! The raw tar archive at the start of a partition: reading and writing it.

use std::{
    fs,
    io::{self, Seek as _, SeekFrom, Write},
    os::unix::fs::FileExt,
};

use crate::file::File;

const BLOCK: u64 = 512;

/// Largest file that is read. Real ones are a few KiB of certificates and settings.
pub(crate) const FILE_LIMIT: u64 = 4 << 20;

/// Most members that are walked over. Real seeds have about ten.
const MEMBER_LIMIT: usize = 4096;

/// Bytes that a header has for a name.
const NAME_LIMIT: usize = 100;

/// Why an archive cannot be read. A missing one is no error.
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
    /// The archive is damaged.
    #[error("the seed archive is damaged at byte {offset}: {reason}")]
    Archive {
        /// Start of the bad header.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A file is too large to be part of a seed.
    #[error("seed file `{file}` has {size} bytes, more than the limit of {FILE_LIMIT}")]
    TooLarge {
        /// Name of the member.
        file: String,
        /// Its size.
        size: u64,
    },
}

/// The files in the root of the archive at the start of `device`, in the
/// archive's order. `None` when there is no archive, as on a disk that was
/// written without a seed.
///
/// # Errors
///
/// When the device fails, or the archive is damaged or too large.
pub fn read(device: &fs::File) -> Result<Option<Vec<File>>, SeedError> {
    // A block device has no length of its own; its end can be sought.
    let end = (&mut &*device).seek(SeekFrom::End(0));
    let size = end.map_err(|source| SeedError::Read { offset: 0, source })?;
    let walk = Walk { device, size };
    if size < BLOCK || &walk.block(0)?[257..262] != b"ustar" {
        return Ok(None);
    }
    walk.files().map(Some)
}

/// An archive of these files, readable by nobody but root, in their order.
pub fn write(files: &[File]) -> Vec<u8> {
    let mut archive = Vec::new();
    for file in files {
        archive.extend_from_slice(&header(file));
        archive.extend_from_slice(&file.content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    // Two empty blocks are the end.
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// The header of a regular file, ustar(5).
fn header(file: &File) -> [u8; 512] {
    let mut block = [0; 512];
    let mut field = |at: usize, width: usize, value: &[u8]| {
        let length = value.len().min(width);
        block[at..at + length].copy_from_slice(&value[..length]);
    };
    field(0, NAME_LIMIT, file.name.as_bytes());
    field(100, 8, b"0000600\0");
    field(108, 8, b"0000000\0");
    field(116, 8, b"0000000\0");
    field(124, 12, format!("{:011o}\0", file.content.len()).as_bytes());
    field(136, 12, b"00000000000\0");
    field(148, 8, b"        ");
    field(156, 1, b"0");
    field(257, 8, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let mut checksum = &mut block[148..156];
    write!(checksum, "{sum:06o}\0 ").expect("six digits, a zero and a space are eight bytes");
    block
}

/// A walk over the members of an archive.
struct Walk<'a> {
    device: &'a fs::File,
    size: u64,
}

impl Walk<'_> {
    fn files(&self) -> Result<Vec<File>, SeedError> {
        let mut files = Vec::new();
        let mut offset = 0;
        let mut long_name = None;
        for _ in 0..MEMBER_LIMIT {
            if self.size - offset < BLOCK {
                return Ok(files);
            }
            let block = self.block(offset)?;
            if block.iter().all(|byte| *byte == 0) {
                return Ok(files);
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
                    let name = long_name.take().flatten().unwrap_or(header.name);
                    let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
                    // No seed file has a name that does not fit its header.
                    if (1..=NAME_LIMIT).contains(&name.len()) && !name.contains('/') {
                        files.push(self.file(name, content, header.size)?);
                    }
                }
                _ => long_name = None,
            }
            offset = next;
        }
        Err(SeedError::Archive { offset, reason: format!("more than {MEMBER_LIMIT} members") })
    }

    fn long_name(&self, header: &Header, content: u64) -> Result<Option<String>, SeedError> {
        // No seed file has a long name, so a longer one need not be known.
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

    fn file(&self, name: String, content: u64, size: u64) -> Result<File, SeedError> {
        if size > FILE_LIMIT {
            return Err(SeedError::TooLarge { file: name, size });
        }
        Ok(File { name, content: self.bytes(content, size)? })
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
        let name = text_until_nul(&block[..NAME_LIMIT]);
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

    use super::*;

    fn open(bytes: &[u8]) -> Result<Option<Vec<File>>, SeedError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        read(&file)
    }

    fn files(bytes: &[u8]) -> Vec<(String, String)> {
        let text = |file: File| (file.name, String::from_utf8(file.content).unwrap());
        open(bytes).unwrap().unwrap().into_iter().map(text).collect()
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

    fn of(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn disk_without_an_archive_is_no_seed() {
        for bytes in [&[][..], &[0; 100], &[0; 4096], &[0xff; 4096]] {
            assert!(open(bytes).unwrap().is_none());
        }
    }

    #[test]
    fn files_of_the_root_are_found_in_their_order() {
        let found = files(&archive(&[
            ("README", "a"),
            ("./install.yaml", "b"),
            ("dir/incus.yaml", "c"),
            ("../incus.yaml", "d"),
            ("/incus.yaml", "e"),
            ("install.json", "f"),
        ]));
        assert_eq!(found, of(&[("README", "a"), ("install.yaml", "b"), ("install.json", "f")]));
    }

    #[test]
    fn links_and_devices_are_no_files() {
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Block, tar::EntryType::Directory] {
            let mut archive = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_size(0);
            archive.append_data(&mut header, "incus.yaml", &[][..]).unwrap();
            assert_eq!(files(&archive.into_inner().unwrap()), []);
        }
    }

    #[test]
    fn names_of_gnu_and_pax_archives_are_read() {
        let long = format!("{}/incus.yaml", "d".repeat(200));
        let mut gnu = tar::Builder::new(Vec::new());
        for (name, text) in [(long.as_str(), "long"), ("incus.yaml", "right")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            gnu.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        assert_eq!(files(&gnu.into_inner().unwrap()), of(&[("incus.yaml", "right")]));

        let mut pax = tar::Builder::new(Vec::new());
        pax.append_pax_extensions([("path", b"incus.yaml".as_slice())]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(3);
        pax.append_data(&mut header, "short", &b"pax"[..]).unwrap();
        assert_eq!(files(&pax.into_inner().unwrap()), of(&[("incus.yaml", "pax")]));
    }

    #[test]
    fn what_is_written_is_read_by_us_and_by_tar() {
        let written = [("install.yaml", ""), ("incus.json", "{}"), ("network.yaml", &*"x".repeat(513))];
        let bytes = write(&written.map(|(name, text)| File { name: name.into(), content: text.into() }));
        assert_eq!(files(&bytes), of(&written));
        let mut archive = tar::Archive::new(bytes.as_slice());
        let members: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let header = entry.unwrap();
                assert_eq!(
                    (header.header().mode().unwrap(), header.header().entry_type()),
                    (0o600, tar::EntryType::Regular)
                );
                header.path().unwrap().to_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(members, ["install.yaml", "incus.json", "network.yaml"]);
        assert_eq!(bytes.len() % 512, 0);
        assert!(bytes[bytes.len() - 1024..].iter().all(|byte| *byte == 0));
    }

    /// Found by fuzzing: as text, such a name is longer than a header can hold.
    #[test]
    fn member_whose_name_is_no_text_and_would_not_fit_is_passed_over() {
        let file = |name: &str| File { name: name.to_owned(), content: b"{}".to_vec() };
        let mut archive = write(&[file(&"x".repeat(60)), file("install.json")]);
        archive[..60].fill(0xff);
        let sum: u32 = archive[..512]
            .iter()
            .enumerate()
            .map(|(at, byte)| match at {
                148..156 => 32,
                _ => u32::from(*byte),
            })
            .sum();
        archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let read = open(&archive).unwrap().unwrap();
        assert_eq!(open(&write(&read)).unwrap().unwrap(), read);
        assert_eq!(read.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), ["install.json"]);
    }

    #[test]
    fn damaged_archives_are_refused_with_their_place() {
        let good = archive(&[("a.yaml", "version: a"), ("b.yaml", "version: b")]);
        let refused = |bytes: &[u8]| open(bytes).unwrap_err().to_string();
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
    fn archive_cut_between_members_ends_there() {
        let good = archive(&[("a.yaml", "a"), ("b.yaml", "b")]);
        assert_eq!(files(&good[..1024]), of(&[("a.yaml", "a")]));
        assert!(open(&good[..1536]).is_err());
    }

    #[test]
    fn oversized_file_is_refused_before_it_is_read() {
        let text = " ".repeat(usize::try_from(FILE_LIMIT).unwrap() + 1);
        let error = open(&archive(&[("a.yaml", &text)])).unwrap_err();
        assert!(matches!(error, SeedError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn endless_archive_ends() {
        let bytes = archive(&[("x", "")])[..512].repeat(MEMBER_LIMIT + 1);
        assert!(open(&bytes).unwrap_err().to_string().contains("members"));
    }

    proptest::proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..4096)) {
            let mut bytes = bytes;
            if bytes.len() > 262 {
                bytes[257..262].copy_from_slice(b"ustar");
            }
            let _ = open(&bytes);
        }
    }
}
