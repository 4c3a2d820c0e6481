//! The file system of the EFI system partition, copied file by file: its sectors
//! have the size of the drive's, which differs between a medium and a target, and
//! most of it is empty.

use std::io::{self, Read, Write};

use fatfs::{Dir, FatType, FileSystem, FormatVolumeOptions, FsOptions, ReadWriteSeek};

use crate::{MediaError, region::Region};

/// FAT32 from 2 GiB on needs at least 65525 clusters.
const CLUSTER: u32 = 16 << 10;

/// Makes a file system on `target` with everything that is on `source`.
pub(crate) fn copy(
    source: Region<'_>,
    target: Region<'_>,
    sector_size: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<(), MediaError> {
    let failed = |action| move |source| MediaError::Esp { action, source };
    // What is left of an older file system would look like damage.
    target.zero(0, 1 << 20)?;
    let sectors = u32::try_from(target.size() / sector_size).expect("the partition is small");
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(CLUSTER)
        .bytes_per_sector(u16::try_from(sector_size).expect("a sector is at most 4096 bytes"))
        .total_sectors(sectors)
        .volume_label(*b"ESP        ");
    fatfs::format_volume(target, options).map_err(failed("format"))?;
    let from = FileSystem::new(source, FsOptions::new()).map_err(failed("read"))?;
    let to = FileSystem::new(target, FsOptions::new()).map_err(failed("read back"))?;
    let mut copied = 0;
    copy_dir(&from.root_dir(), &to.root_dir(), &mut |bytes| {
        copied += bytes;
        progress(copied);
    })
    .map_err(failed("copy"))?;
    to.unmount().map_err(failed("finish"))
}

/// Bytes in use on a file system: what copying it will take at most.
pub(crate) fn used(source: Region<'_>) -> Result<u64, MediaError> {
    let failed = |source| MediaError::Esp { action: "read", source };
    let from = FileSystem::new(source, FsOptions::new()).map_err(failed)?;
    let stats = from.stats().map_err(failed)?;
    Ok(u64::from(stats.total_clusters() - stats.free_clusters()) * u64::from(stats.cluster_size()))
}

fn copy_dir<S: ReadWriteSeek, T: ReadWriteSeek>(
    from: &Dir<'_, S>,
    to: &Dir<'_, T>,
    progress: &mut dyn FnMut(u64),
) -> io::Result<()> {
    for entry in from.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == "." || name == ".." {
            continue;
        }
        if entry.is_dir() {
            copy_dir(&entry.to_dir(), &to.create_dir(&name)?, progress)?;
            continue;
        }
        let mut reader = entry.to_file();
        let mut writer = to.create_file(&name)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = reader.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            writer.write_all(&buffer[..read])?;
            progress(read as u64);
        }
        writer.flush()?;
    }
    Ok(())
}
