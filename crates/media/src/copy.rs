//! Copying a medium to a drive, or to a medium with other sectors.

use std::{fs::File, os::fd::AsFd as _};

use rustix::fs::{Advice, fadvise, fdatasync};

use crate::{
    EMPTY_LABEL, ESP_OFFSET, MediaError, esp,
    region::Region,
    table::{Guid, Kind, Partition, Table, size_of},
};

const MIB: u64 = 1 << 20;
/// How much is copied at once.
const CHUNK: usize = 4 << 20;
/// Partitions of a medium, and of a drive that can take an update.
const MEDIUM_PARTITIONS: u32 = 5;
const DRIVE_PARTITIONS: u32 = 8;

/// What the copy is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A medium like the source, with sectors of this size.
    Medium,
    /// A drive that the system is installed on: with room for the next version.
    Drive,
}

/// One copy.
#[derive(Debug)]
pub struct Copy<'a> {
    /// The medium.
    pub source: &'a File,
    /// What is overwritten, from its start.
    pub target: &'a File,
    /// What it becomes.
    pub becomes: Target,
    /// Bytes per sector of the target.
    pub sector_size: u64,
    /// The archive for the seed partition, instead of the source's.
    pub seed: Option<&'a [u8]>,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// What is being done.
    pub step: Step,
    /// Number of the partition, and of the last one that is copied.
    pub partition: u32,
    /// See `partition`.
    pub last: u32,
    /// Its label.
    pub label: &'a str,
    /// Bytes done of it.
    pub done: u64,
    /// Bytes in all.
    pub size: u64,
}

/// What is being done to a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "plain words")]
pub enum Step {
    Copying,
    Verifying,
}

/// Makes the copy, reads it back, and writes the partition table as the last act.
/// Returns the table.
///
/// # Errors
///
/// When the source is no medium, or a device fails. Unless the error came before
/// the first byte was written, the target has no partition table then.
pub fn copy(job: &Copy<'_>, report: &mut dyn FnMut(Progress<'_>)) -> Result<Table, MediaError> {
    let source = Table::read(job.source)?;
    let table = plan(&source, job.becomes, job.sector_size)?;
    let size = size_of(job.target)?;
    let needed = table.partitions.iter().map(|partition| partition.start + partition.size).max().unwrap_or(0) + MIB;
    if size < needed {
        return Err(MediaError::TooSmall { size, needed });
    }
    if let (Some(seed), Some(partition)) = (job.seed, table.partition(2))
        && seed.len() as u64 > partition.size
    {
        return Err(MediaError::SeedTooLarge { size: seed.len() as u64, capacity: partition.size });
    }

    // From here on the old content is gone: both tables first, so that no half of it is ever taken for a whole.
    let whole = Region::new(job.target, 0, size);
    whole.zero(0, MIB)?;
    whole.zero(size - MIB, MIB)?;
    sync(job.target)?;
    let last = source.partitions.iter().filter(|from| table.partition(from.number).is_some()).count();
    let last = u32::try_from(last).expect("a table has at most 128 partitions");
    for to in &table.partitions {
        let target = Region::new(job.target, to.start, to.size);
        let Some(from) = source.partition(to.number) else { continue };
        let source = Region::new(job.source, from.start, from.size);
        let mut step = |step, done, size| {
            report(Progress { step, partition: to.number, last, label: &to.label, done, size });
        };
        match (to.kind, job.seed) {
            (Kind::Esp, _) => {
                let used = esp::used(source)?;
                esp::copy(source, target, job.sector_size, &mut |done| step(Step::Copying, done.min(used), used))?;
            }
            (Kind::Generic, Some(seed)) => {
                target.zero(0, target.size())?;
                target.write_at(seed, 0)?;
            }
            _ => {
                let length = content(source)?;
                copy_bytes(source, target, length, &mut |done| step(Step::Copying, done, length))?;
                sync(job.target)?;
                verify(source, target, length, job.target, to, &mut |done| step(Step::Verifying, done, length))?;
            }
        }
    }
    sync(job.target)?;
    table.write(job.target)?;
    sync(job.target)?;
    Ok(table)
}

/// The table of the copy. Sizes are those of the source; places follow from the
/// order, because sectors may differ.
fn plan(source: &Table, becomes: Target, sector_size: u64) -> Result<Table, MediaError> {
    let arch = source.medium()?;
    let has_slots = source.partition(DRIVE_PARTITIONS).is_some();
    let count = if has_slots { DRIVE_PARTITIONS } else { MEDIUM_PARTITIONS };
    let mut parts: Vec<(Kind, Guid, String, u64)> = source
        .partitions
        .iter()
        .filter(|partition| partition.number <= count)
        .map(|partition| (partition.kind, partition.guid, partition.label.clone(), partition.size))
        .collect();
    if becomes == Target::Drive {
        parts[0].1 = Guid::random();
        if !has_slots {
            let empty = |kind, size| (kind, Guid::random(), EMPTY_LABEL.to_owned(), size);
            parts.push(empty(Kind::UsrVeritySignature(arch), 16 << 10));
            parts.push(empty(Kind::UsrVerity(arch), 100 * MIB));
            parts.push(empty(Kind::Usr(arch), 1 << 30));
        }
    }
    let mut start = ESP_OFFSET;
    let mut partitions = Vec::new();
    for (number, (kind, guid, label, size)) in (1..).zip(parts) {
        let size = size.next_multiple_of(sector_size);
        partitions.push(Partition { number, kind, guid, label, start, size });
        start = (start + size).next_multiple_of(MIB);
    }
    Ok(Table { sector_size, partitions })
}

/// How much of a partition holds something: of an EROFS its own length, which is
/// in its superblock, of everything else all.
fn content(source: Region<'_>) -> Result<u64, MediaError> {
    const MAGIC: [u8; 4] = 0xe0f5_e1e2_u32.to_le_bytes();
    if source.size() < 2048 {
        return Ok(source.size());
    }
    let mut superblock = [0; 128];
    source.read_at(&mut superblock, 1024)?;
    if superblock[..4] != MAGIC {
        return Ok(source.size());
    }
    let block_bits = u32::from(superblock[12]);
    let blocks = u32::from_le_bytes([superblock[36], superblock[37], superblock[38], superblock[39]]);
    let length = 1_u64.checked_shl(block_bits).and_then(|block| block.checked_mul(u64::from(blocks)));
    Ok(length.map_or_else(|| source.size(), |length| length.next_multiple_of(MIB)).min(source.size()))
}

/// Calls `work` with the offset and a buffer of the right length for each chunk.
fn chunks(length: u64, mut work: impl FnMut(u64, usize) -> Result<(), MediaError>) -> Result<(), MediaError> {
    let mut at = 0;
    while at < length {
        let step = usize::try_from(length - at).unwrap_or(CHUNK).min(CHUNK);
        work(at, step)?;
        at += step as u64;
    }
    Ok(())
}

fn copy_bytes(
    source: Region<'_>,
    target: Region<'_>,
    length: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<(), MediaError> {
    let zeros = vec![0; CHUNK];
    let mut buffer = vec![0; CHUNK];
    chunks(length, |at, step| {
        let part = &mut buffer[..step];
        source.read_at(part, at)?;
        if *part == zeros[..step] {
            target.zero(at, step as u64)?;
        } else {
            target.write_at(part, at)?;
        }
        progress(at + step as u64);
        Ok(())
    })
}

fn verify(
    source: Region<'_>,
    target: Region<'_>,
    length: u64,
    file: &File,
    partition: &Partition,
    progress: &mut dyn FnMut(u64),
) -> Result<(), MediaError> {
    // Out of memory with it, so that what is read comes from the drive. An advice: nothing depends on it.
    let _ = fadvise(file, partition.start, std::num::NonZero::new(partition.size), Advice::DontNeed);
    let (mut expected, mut found) = (vec![0; CHUNK], vec![0; CHUNK]);
    chunks(length, |at, step| {
        source.read_at(&mut expected[..step], at)?;
        target.read_at(&mut found[..step], at)?;
        if expected[..step] != found[..step] {
            let within = expected.iter().zip(&found).position(|(a, b)| a != b).unwrap_or_default();
            return Err(MediaError::Verify { label: partition.label.clone(), offset: at + within as u64 });
        }
        progress(at + step as u64);
        Ok(())
    })
}

fn sync(file: &File) -> Result<(), MediaError> {
    fdatasync(file.as_fd()).map_err(|error| MediaError::io("finish writing", 0)(error.into()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};

    use super::*;
    use crate::{Arch, ESP_SIZE, SEED_OFFSET, SEED_SIZE};

    const USR: u64 = 4 * MIB;

    /// A small medium: everything where it belongs, `/usr` with a superblock that
    /// says that two MiB are used.
    fn medium(sector_size: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(ESP_OFFSET + ESP_SIZE + SEED_SIZE + 16 * MIB).unwrap();
        let mut start = ESP_OFFSET;
        let mut partition = |number, kind, label: &str, size: u64| {
            let partition = Partition { number, kind, guid: Guid::random(), label: label.to_owned(), start, size };
            start = (start + size).next_multiple_of(MIB);
            partition
        };
        let partitions = vec![
            partition(1, Kind::Esp, "esp", ESP_SIZE),
            partition(2, Kind::Generic, "seed-data", SEED_SIZE),
            partition(3, Kind::UsrVeritySignature(Arch::X86_64), "IncusOS_1_verity_sig", 16 << 10),
            partition(4, Kind::UsrVerity(Arch::X86_64), "IncusOS_1_verity", MIB),
            partition(5, Kind::Usr(Arch::X86_64), "IncusOS_1", USR),
        ];
        let table = Table { sector_size, partitions };
        table.write(&file).unwrap();
        let options = FormatVolumeOptions::new().fat_type(fatfs::FatType::Fat32).bytes_per_cluster(16 << 10);
        let esp = Region::new(&file, ESP_OFFSET, ESP_SIZE);
        fatfs::format_volume(esp, options.total_sectors(u32::try_from(ESP_SIZE / 512).unwrap())).unwrap();
        let files = FileSystem::new(esp, FsOptions::new()).unwrap();
        files.root_dir().create_dir("EFI").unwrap().create_dir("Linux").unwrap();
        files.root_dir().create_file("EFI/Linux/IncusOS_202601010000+3.efi").unwrap().write_all(&[7; 300_000]).unwrap();
        files.root_dir().create_file("loader.conf").unwrap().write_all(b"timeout 3\n").unwrap();
        files.unmount().unwrap();
        for number in 2..=5 {
            let partition = table.partition(number).unwrap();
            let region = Region::new(&file, partition.start, partition.size);
            let byte = u8::try_from(number).unwrap();
            region.write_at(&vec![byte; usize::try_from(partition.size.min(MIB)).unwrap()], 0).unwrap();
        }
        let usr = Region::new(&file, table.partition(5).unwrap().start, USR);
        let mut superblock = [0; 128];
        superblock[..4].copy_from_slice(&0xe0f5_e1e2_u32.to_le_bytes());
        superblock[12] = 12;
        superblock[36..40].copy_from_slice(&512_u32.to_le_bytes());
        usr.write_at(&superblock, 1024).unwrap();
        usr.write_at(&[9; 512], USR - 512).unwrap();
        file
    }

    fn drive(size: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        // What was there before.
        Region::new(&file, 0, size).write_at(&vec![0xaa; 4 << 20], 0).unwrap();
        Region::new(&file, 0, size).write_at(&vec![0xaa; 4 << 20], size - (4 << 20)).unwrap();
        file
    }

    fn job<'a>(source: &'a File, target: &'a File, becomes: Target, sector_size: u64) -> Copy<'a> {
        Copy { source, target, becomes, sector_size, seed: None }
    }

    fn bytes(file: &File, table: &Table, number: u32, at: u64, length: usize) -> Vec<u8> {
        let partition = table.partition(number).unwrap();
        let mut found = vec![0; length];
        Region::new(file, partition.start, partition.size).read_at(&mut found, at).unwrap();
        found
    }

    #[test]
    fn drive_gets_the_partitions_of_the_medium_and_room_for_an_update() {
        for sector_size in [512, 4096] {
            let (source, target) = (medium(512), drive(8 << 30));
            let mut job = job(&source, &target, Target::Drive, sector_size);
            let archive = [b's'; 3072];
            job.seed = Some(&archive);
            let mut seen = Vec::new();
            let made = copy(&job, &mut |progress| {
                assert!(progress.done <= progress.size && progress.last == 5, "{progress:?}");
                seen.push((progress.partition, progress.step));
            })
            .unwrap();
            seen.dedup();
            let steps = |number| [(number, Step::Copying), (number, Step::Verifying)];
            assert_eq!(seen, [&[(1, Step::Copying)][..], &steps(3), &steps(4), &steps(5)].concat());

            let (from, to) = (Table::read(&source).unwrap(), Table::read(&target).unwrap());
            assert_eq!(to, made);
            assert_eq!(to.sector_size, sector_size);
            assert_eq!((to.partition(1).unwrap().start, to.partition(2).unwrap().start), (ESP_OFFSET, SEED_OFFSET));
            for number in 2..=5 {
                let (from, to) = (from.partition(number).unwrap(), to.partition(number).unwrap());
                assert_eq!((from.guid, from.kind, &from.label), (to.guid, to.kind, &to.label));
            }
            assert_ne!(from.partition(1).unwrap().guid, to.partition(1).unwrap().guid);
            let empty: Vec<_> = to.partitions[5..].iter().map(|partition| (partition.kind, partition.size)).collect();
            let arch = Arch::X86_64;
            assert_eq!(
                empty,
                [
                    (Kind::UsrVeritySignature(arch), 16 << 10),
                    (Kind::UsrVerity(arch), 100 << 20),
                    (Kind::Usr(arch), 1 << 30)
                ]
            );
            assert!(to.partitions[5..].iter().all(|partition| partition.label == "_empty"));

            for (number, at) in [(3, 0), (4, MIB - 512), (5, MIB - 512)] {
                assert_eq!(bytes(&target, &to, number, at, 512), bytes(&source, &from, number, at, 512), "{number}");
            }
            // Past the end of the file system nothing is copied.
            assert_ne!(bytes(&target, &to, 5, USR - 512, 512), [9; 512]);
            assert_eq!(bytes(&target, &to, 2, 0, archive.len()), archive);
            assert_eq!(bytes(&target, &to, 2, archive.len() as u64, 512), [0; 512]);

            let esp = to.partition(1).unwrap();
            let files = FileSystem::new(Region::new(&target, esp.start, esp.size), FsOptions::new()).unwrap();
            let mut kernel = Vec::new();
            files
                .root_dir()
                .open_file("EFI/Linux/IncusOS_202601010000+3.efi")
                .unwrap()
                .read_to_end(&mut kernel)
                .unwrap();
            assert_eq!(kernel, [7; 300_000]);
            let mut boot = [0; 512];
            Region::new(&target, esp.start, 512).read_at(&mut boot, 0).unwrap();
            assert_eq!(u64::from(u16::from_le_bytes([boot[11], boot[12]])), sector_size);
        }
    }

    #[test]
    fn medium_for_cd_rom_keeps_all_guids_and_the_seed() {
        let (source, target) = (medium(512), drive(3 << 30));
        let to = copy(&job(&source, &target, Target::Medium, 2048), &mut |_| ()).unwrap();
        let from = Table::read(&source).unwrap();
        assert_eq!((to.sector_size, to.partitions.len()), (2048, 5));
        for (from, to) in from.partitions.iter().zip(&to.partitions) {
            assert_eq!((from.guid, from.kind, &from.label, from.start), (to.guid, to.kind, &to.label, to.start));
        }
        assert_eq!(bytes(&target, &to, 2, 0, 512), [2; 512]);
        // A CD-ROM installs like a disk image.
        let (cd_rom, drive) = (target, drive(8 << 30));
        assert_eq!(copy(&job(&cd_rom, &drive, Target::Drive, 512), &mut |_| ()).unwrap().partitions.len(), 8);
    }

    #[test]
    fn what_is_no_medium_is_refused_before_anything_is_written() {
        let target = drive(8 << 30);
        let mut before = vec![0; 1 << 20];
        Region::new(&target, 0, 1 << 20).read_at(&mut before, 0).unwrap();
        let refused = |source: &File, expected: &str| {
            let error = copy(&job(source, &target, Target::Drive, 512), &mut |_| ()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        };
        refused(&tempfile::tempfile().unwrap(), "no partition table");
        let change = |change: &dyn Fn(&mut Table)| {
            let source = medium(512);
            let mut table = Table::read(&source).unwrap();
            change(&mut table);
            table.write(&source).unwrap();
            source
        };
        refused(&change(&|table| table.partitions.truncate(4)), "fewer than five");
        refused(&change(&|table| table.partitions[0].label = "EFI".into()), "first partition");
        let later = |table: &mut Table| {
            table.partitions[1].start += MIB;
            table.partitions[1].size -= MIB;
        };
        refused(&change(&later), "second partition");
        refused(&change(&|table| table.partitions[3].kind = Kind::Generic), "hash tree");
        refused(&change(&|table| table.partitions[4].kind = Kind::Root(Arch::X86_64)), "fifth partition");
        let mut after = vec![0; 1 << 20];
        Region::new(&target, 0, 1 << 20).read_at(&mut after, 0).unwrap();
        assert!(before == after);
    }

    #[test]
    fn target_that_is_too_small_is_left_alone() {
        let (source, target) = (medium(512), drive(3 << 30));
        let error = copy(&job(&source, &target, Target::Drive, 512), &mut |_| ()).unwrap_err();
        assert!(matches!(error, MediaError::TooSmall { .. }), "{error}");
        let large = vec![0; usize::try_from(SEED_SIZE).unwrap() + 1];
        let target = drive(8 << 30);
        let job = Copy { seed: Some(&large), ..job(&source, &target, Target::Drive, 512) };
        assert!(matches!(copy(&job, &mut |_| ()), Err(MediaError::SeedTooLarge { .. })));
        assert_eq!(
            bytes(&target, &plan(&Table::read(&source).unwrap(), Target::Drive, 512).unwrap(), 1, 0, 512),
            [0xaa; 512]
        );
    }

    #[test]
    fn copy_that_is_cut_short_leaves_no_table() {
        let (source, target) = (medium(512), drive(8 << 30));
        let cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            copy(&job(&source, &target, Target::Drive, 512), &mut |progress| assert_ne!(progress.partition, 5))
        }));
        assert!(cut.is_err());
        assert!(matches!(Table::read(&target), Err(MediaError::NoTable)));
        copy(&job(&source, &target, Target::Drive, 512), &mut |_| ()).unwrap();
        Table::read(&target).unwrap();
    }
}
