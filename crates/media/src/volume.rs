//! The file system of a medium that a person prepared, FAT or ISO 9660: its
//! label, and the seed files in its root folder.
//!
//! Such a medium is untrusted and read early, so the kernel does not mount it.
//! ISO 9660 is read here, because no library reads a folder of it within limits:
//! they walk the whole tree, or trust the lengths in it.

use std::fs::File;

use fatfs::{FileSystem, FsOptions};

use crate::{MediaError, region::Region, table::size_of};

/// Extensions of seed files; nothing else on the medium is looked at.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// Largest file that is read, and how many at most.
const FILE_LIMIT: u64 = 4 << 20;
const FILES: usize = 64;

/// Largest folder that is read.
const FOLDER_LIMIT: u64 = 1 << 20;

/// Where the descriptors of ISO 9660 start, how long they are, and how many are looked at.
const ISO_DESCRIPTORS: u64 = 32 << 10;
const ISO_SECTOR: usize = 2048;
const ISO_DESCRIPTOR_LIMIT: u64 = 32;

/// A file system that seeds are read from.
#[derive(Debug)]
pub struct Volume<'a> {
    medium: Region<'a>,
    label: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Fat,
    Iso(Folder),
}

/// A folder of ISO 9660.
#[derive(Debug, Clone, Copy)]
struct Folder {
    block: u64,
    start: u64,
    size: u64,
    /// The names are in UTF-16, as Joliet has them.
    is_joliet: bool,
}

impl<'a> Volume<'a> {
    /// The file system on this device or partition, if it is one of those two.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn find(device: &'a File) -> Result<Option<Self>, MediaError> {
        let medium = Region::new(device, 0, size_of(device)?);
        if let Some((label, folder)) = iso(medium)? {
            return Ok(Some(Self { medium, label, kind: Kind::Iso(folder) }));
        }
        if !is_fat_inside(medium)? {
            return Ok(None);
        }
        let Ok(fat) = FileSystem::new(medium, FsOptions::new()) else { return Ok(None) };
        let in_root = fat.read_volume_label_from_root_dir().ok().flatten();
        let label = in_root.unwrap_or_else(|| fat.volume_label()).trim().to_owned();
        Ok(Some(Self { medium, label, kind: Kind::Fat }))
    }

    /// Its label.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Name and content of the files in its root folder that a seed may consist of, sorted. Names are
    /// in lower case.
    ///
    /// # Errors
    ///
    /// When the file system is damaged, or a file is far too large for a seed.
    pub fn seed_files(&self) -> Result<Vec<(String, Vec<u8>)>, MediaError> {
        let mut files = match self.kind {
            Kind::Fat => fat_files(self.medium)?,
            Kind::Iso(folder) => iso_files(self.medium, folder)?,
        };
        files.sort();
        Ok(files)
    }
}

/// The name, if it is one of a seed file and there may be another.
fn wanted(name: &str, found: usize, size: u64) -> Result<Option<String>, MediaError> {
    let name = name.to_lowercase();
    let is_seed = name.rsplit_once('.').is_some_and(|(_, extension)| EXTENSIONS.contains(&extension));
    if !is_seed || name.starts_with('.') {
        return Ok(None);
    }
    if size > FILE_LIMIT {
        return Err(damaged(format!("`{name}` has {size} bytes, and a seed file at most {FILE_LIMIT}")));
    }
    if found == FILES {
        return Err(damaged(format!("it has more than {FILES} seed files")));
    }
    Ok(Some(name))
}

fn damaged(reason: impl Into<String>) -> MediaError {
    MediaError::Volume(reason.into())
}

/// Whether the areas that a FAT declares lie on the medium (Microsoft FAT specification, section 3).
/// The library counts with the numbers before it checks them, and they may overflow.
fn is_fat_inside(medium: Region<'_>) -> Result<bool, MediaError> {
    let mut sector = [0; 512];
    if medium.size() < sector.len() as u64 {
        return Ok(false);
    }
    medium.read_at(&mut sector, 0)?;
    let number16 = |at: usize| u64::from(u16::from_le_bytes([sector[at], sector[at + 1]]));
    // Each has an older field, which counts unless it is zero.
    let either = |short: usize, long: usize| match number16(short) {
        0 => number32(&sector, long),
        number => number,
    };
    let (sector_size, reserved, tables, root_entries) =
        (number16(11), number16(14), u64::from(sector[16]), number16(17));
    let (sectors, table_sectors) = (either(19, 32), either(22, 36));
    if !matches!(sector_size, 512 | 1024 | 2048 | 4096) {
        return Ok(false);
    }
    let used = reserved + tables * table_sectors + (root_entries * 32).div_ceil(sector_size);
    Ok(used <= sectors && sectors * sector_size <= medium.size())
}

fn fat_files(medium: Region<'_>) -> Result<Vec<(String, Vec<u8>)>, MediaError> {
    let failed = |error: std::io::Error| damaged(error.to_string());
    let fat = FileSystem::new(medium, FsOptions::new()).map_err(failed)?;
    let mut files = Vec::new();
    // A damaged folder can be a circle.
    for entry in fat.root_dir().iter().take(usize::try_from(FOLDER_LIMIT / 32).expect("is small")) {
        let entry = entry.map_err(failed)?;
        if entry.is_dir() {
            continue;
        }
        if let Some(name) = wanted(&entry.file_name(), files.len(), entry.len())? {
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry.to_file(), &mut content).map_err(failed)?;
            files.push((name, content));
        }
    }
    Ok(files)
}

/// Label and root folder, if it is ISO 9660 (ECMA-119, sections 8.4 and 8.5).
fn iso(medium: Region<'_>) -> Result<Option<(String, Folder)>, MediaError> {
    let mut primary = None;
    let mut joliet = None;
    for number in 0..ISO_DESCRIPTOR_LIMIT {
        let at = ISO_DESCRIPTORS + number * ISO_SECTOR as u64;
        if at + ISO_SECTOR as u64 > medium.size() {
            break;
        }
        let mut sector = [0; ISO_SECTOR];
        medium.read_at(&mut sector, at)?;
        if &sector[1..6] != b"CD001" {
            break;
        }
        let block = u64::from(u16::from_le_bytes([sector[128], sector[129]]));
        let folder = |is_joliet| Folder {
            block,
            start: number32(&sector, 156 + 2).saturating_mul(block),
            size: number32(&sector, 156 + 10),
            is_joliet,
        };
        match sector[0] {
            1 if primary.is_none() => {
                let label = String::from_utf8_lossy(&sector[40..72]).trim_end_matches([' ', '\0']).to_owned();
                primary = Some((label, folder(false)));
            }
            // The escape sequences of UCS-2, as Joliet uses them.
            2 if matches!(&sector[88..91], b"%/@" | b"%/C" | b"%/E") => joliet = Some(folder(true)),
            255 => break,
            _ => {}
        }
    }
    Ok(primary.map(|(label, folder)| (label, joliet.unwrap_or(folder))))
}

fn iso_files(medium: Region<'_>, folder: Folder) -> Result<Vec<(String, Vec<u8>)>, MediaError> {
    let inside = |start: u64, size: u64| start.checked_add(size).is_some_and(|end| end <= medium.size());
    if folder.size > FOLDER_LIMIT || !inside(folder.start, folder.size) {
        return Err(damaged("its root folder is nowhere on it"));
    }
    let mut records = vec![0; usize::try_from(folder.size).expect("was checked")];
    medium.read_at(&mut records, folder.start)?;
    let mut files = Vec::new();
    // A record does not cross a sector.
    for sector in records.chunks(ISO_SECTOR) {
        let mut rest = sector;
        while let [length @ 34..=u8::MAX, ..] = rest {
            let length = usize::from(*length);
            let Some((record, next)) = rest.split_at_checked(length) else {
                return Err(damaged("an entry of its root folder is cut off"));
            };
            rest = next;
            let flags = record[25];
            // Folders, and files in several pieces: those are larger than any seed.
            if flags & 0b1000_0010 != 0 {
                continue;
            }
            let Some(name) = iso_name(record, folder.is_joliet) else { continue };
            let (start, size) = (number32(record, 2).saturating_mul(folder.block), number32(record, 10));
            if let Some(name) = wanted(&name, files.len(), size)? {
                if !inside(start, size) {
                    return Err(damaged(format!("`{name}` is nowhere on it")));
                }
                let mut content = vec![0; usize::try_from(size).expect("is below the limit of a file")];
                medium.read_at(&mut content, start)?;
                files.push((name, content));
            }
        }
    }
    Ok(files)
}

/// The name in a directory record: that of Joliet, else of Rock Ridge, else the plain one.
fn iso_name(record: &[u8], is_joliet: bool) -> Option<String> {
    let length = usize::from(record[32]);
    let plain = record.get(33..33 + length)?;
    let name = if is_joliet {
        let units: Vec<u16> = plain.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]])).collect();
        String::from_utf16(&units).ok()?
    } else {
        // The name is padded to an even end.
        let system_use = record.get((33 + length).next_multiple_of(2)..).unwrap_or_default();
        rock_ridge(system_use).unwrap_or_else(|| String::from_utf8_lossy(plain).into_owned())
    };
    let name = name.split(';').next().unwrap_or_default();
    Some(name.trim_end_matches('.').to_owned())
}

/// The alternate name (`NM`) in a system use area, if it is whole.
fn rock_ridge(mut area: &[u8]) -> Option<String> {
    while let [first, second, length @ 4..=u8::MAX, _, ..] = *area {
        let (entry, next) = area.split_at_checked(usize::from(length))?;
        if [first, second] == *b"NM" {
            let (flags, name) = entry.get(4..)?.split_first()?;
            return (flags & 1 == 0).then(|| String::from_utf8_lossy(name).into_owned());
        }
        area = next;
    }
    None
}

fn number32(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use fatfs::FormatVolumeOptions;
    use proptest::prelude::*;

    use super::*;

    fn fat(label: [u8; 11], files: &[(&str, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 << 20).unwrap();
        let region = Region::new(&file, 0, 4 << 20);
        fatfs::format_volume(region, FormatVolumeOptions::new().volume_label(label)).unwrap();
        let volume = FileSystem::new(region, FsOptions::new()).unwrap();
        for (name, content) in files {
            if let Some(folder) = name.strip_suffix('/') {
                volume.root_dir().create_dir(folder).unwrap();
            } else {
                volume.root_dir().create_file(name).unwrap().write_all(content).unwrap();
            }
        }
        volume.unmount().unwrap();
        file
    }

    /// Found by fuzzing: the library multiplies such numbers without looking.
    #[test]
    fn tables_larger_than_the_medium_are_no_file_system() {
        let table: [(&str, u64, &[u8]); 3] =
            [("sectors of a table", 22, &[0xff, 0xff]), ("sectors", 19, &[0, 0]), ("bytes of a sector", 11, &[0, 0])];
        for (what, at, value) in table {
            let medium = fat(*b"SEED_DATA  ", &[]);
            assert!(Volume::find(&medium).unwrap().is_some());
            Region::new(&medium, 0, 4 << 20).write_at(value, at).unwrap();
            assert!(Volume::find(&medium).unwrap().is_none(), "{what}");
        }
    }

    /// How the names of a made ISO 9660 are written.
    #[derive(Clone, Copy)]
    enum Names {
        Plain,
        RockRidge,
        Joliet,
    }

    fn iso(label: &str, names: Names, files: &[(&str, &[u8])]) -> File {
        let sector = |number: u64| number * ISO_SECTOR as u64;
        let mut image = vec![0; usize::try_from(sector(64)).unwrap()];
        let mut put = |at: u64, bytes: &[u8]| {
            let at = usize::try_from(at).unwrap();
            image[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let record = |start: u32, size: u32, name: &[u8], system_use: &[u8]| {
            let mut record = vec![0; 33];
            record[2..6].copy_from_slice(&start.to_le_bytes());
            record[10..14].copy_from_slice(&size.to_le_bytes());
            record[32] = u8::try_from(name.len()).unwrap();
            record.extend_from_slice(name);
            record.resize(record.len().next_multiple_of(2), 0);
            record.extend_from_slice(system_use);
            record.resize(record.len().next_multiple_of(2), 0);
            record[0] = u8::try_from(record.len()).unwrap();
            record
        };
        let descriptor = |kind: u8, folder: u32| {
            let mut descriptor = vec![kind];
            descriptor.extend_from_slice(b"CD001\x01\0");
            descriptor.resize(ISO_SECTOR, 0);
            descriptor[40..72].fill(b' ');
            descriptor[40..40 + label.len()].copy_from_slice(label.as_bytes());
            descriptor[128..130].copy_from_slice(&2048_u16.to_le_bytes());
            descriptor[156..190].copy_from_slice(&record(folder, 2048, &[0], &[]));
            descriptor
        };
        put(sector(16), &descriptor(1, if matches!(names, Names::Joliet) { 30 } else { 20 }));
        let mut joliet = descriptor(2, 20);
        joliet[88..91].copy_from_slice(b"%/E");
        put(sector(17), if matches!(names, Names::Joliet) { &joliet } else { &[255] });
        let mut folder = Vec::new();
        for (number, (name, content)) in (40..).zip(files) {
            let size = u32::try_from(content.len()).unwrap();
            let plain = format!("{};1", name.to_uppercase());
            folder.extend(match names {
                Names::Plain => record(number, size, plain.as_bytes(), &[]),
                Names::RockRidge => {
                    let nm = [b"NM", &[u8::try_from(5 + name.len()).unwrap(), 1, 0][..], name.as_bytes()].concat();
                    record(number, size, b"A.;1", &[b"PX\x04\x01", &nm[..]].concat())
                }
                Names::Joliet => {
                    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_be_bytes).collect();
                    record(number, size, &units, &[])
                }
            });
            put(sector(u64::from(number)), content);
        }
        put(sector(20), &folder);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&image).unwrap();
        file
    }

    fn found(device: &File) -> Vec<(String, Vec<u8>)> {
        let volume = Volume::find(device).unwrap().unwrap();
        assert_eq!(volume.label(), "SEED_DATA");
        volume.seed_files().unwrap()
    }

    const FILES_ON_IT: [(&str, &[u8]); 3] =
        [("network.yaml", b"a: b"), ("readme.txt", b"no seed"), ("install.json", b"{}")];

    #[test]
    fn seed_files_of_every_kind_of_medium_are_read_in_the_order_of_their_names() {
        let expected: Vec<(String, Vec<u8>)> =
            vec![("install.json".into(), b"{}".into()), ("network.yaml".into(), b"a: b".into())];
        assert_eq!(found(&fat(*b"SEED_DATA  ", &[&FILES_ON_IT[..], &[("update.yaml/", b"")]].concat())), expected);
        for names in [Names::Plain, Names::RockRidge, Names::Joliet] {
            assert_eq!(found(&iso("SEED_DATA", names, &FILES_ON_IT)), expected);
        }
    }

    #[test]
    fn other_devices_have_no_volume() {
        let empty = tempfile::tempfile().unwrap();
        assert!(Volume::find(&empty).unwrap().is_none());
        empty.set_len(1 << 20).unwrap();
        assert!(Volume::find(&empty).unwrap().is_none());
    }

    #[test]
    fn file_that_is_too_large_for_a_seed_is_named() {
        let large = vec![b' '; usize::try_from(FILE_LIMIT).unwrap() - (2 << 20)];
        let error = |device: &File| Volume::find(device).unwrap().unwrap().seed_files().unwrap_err().to_string();
        // What the folder says counts, not what there is.
        let device = iso("SEED_DATA", Names::Plain, &[("update.yaml", b"")]);
        let size = u32::try_from(FILE_LIMIT + 1).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&device, &size.to_le_bytes(), 20 * 2048 + 10).unwrap();
        assert!(error(&device).contains("`update.yaml` has 4194305 bytes"), "{}", error(&device));
        let device = iso("SEED_DATA", Names::Plain, &[("update.yaml", b"")]);
        std::os::unix::fs::FileExt::write_all_at(&device, &u32::MAX.to_le_bytes(), 20 * 2048 + 2).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&device, &[1, 0], 20 * 2048 + 10).unwrap();
        assert!(error(&device).contains("is nowhere on it"), "{}", error(&device));
        assert_eq!(found(&fat(*b"SEED_DATA  ", &[("a.yaml", &large)])).len(), 1);
    }

    proptest! {
        #[test]
        fn no_damage_makes_reading_panic(
            damage in prop::collection::vec((0..64_u64 * 2048, any::<u8>()), 1..40),
            is_iso: bool,
        ) {
            let device = if is_iso {
                iso("SEED_DATA", Names::RockRidge, &FILES_ON_IT)
            } else {
                fat(*b"SEED_DATA  ", &FILES_ON_IT)
            };
            for (at, byte) in damage {
                // Where the structures are, most of the time.
                let at = if is_iso { 16 * 2048 + at % (8 * 2048) } else { at % 8192 };
                std::os::unix::fs::FileExt::write_all_at(&device, &[byte], at).unwrap();
            }
            if let Ok(Some(volume)) = Volume::find(&device) {
                let _ = volume.seed_files();
            }
        }
    }
}
