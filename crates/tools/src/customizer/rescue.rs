//! A medium with the applications of a release, for machines without a network:
//! one FAT file system, found by the name of its partition.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt as _,
};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use flate2::{Compression, write::GzEncoder};
use gptman::{GPT, GPTPartitionEntry};

use super::tree::Stored;

/// By which the system finds the medium, whatever it is on.
const NAME: &str = "RESCUE_DATA";

/// Basic data, in the order in which it is written to disk.
const KIND: [u8; 16] = [0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7];

const SECTOR: u64 = 512;
const START: u64 = 2048 * SECTOR;
const MIB: u64 = 1 << 20;

/// Writes the medium, compressed. It is put together in a file without a name: a FAT is at the
/// start of a file system and only known at its end.
pub(crate) fn write<W: Write>(documents: &[(&str, Vec<u8>)], files: &[Stored], out: W) -> io::Result<W> {
    let mut out = GzEncoder::new(out, Compression::fast());
    // The client sees that something comes.
    out.flush()?;
    let mut medium = tempfile::tempfile()?;
    let mut length = documents.iter().map(|(_, document)| document.len() as u64).sum::<u64>();
    for file in files {
        length += file.path.metadata()?.len();
    }
    // Clusters that are not filled, and both tables.
    let size = (length + length / 64 + 64 * MIB).next_multiple_of(MIB);
    medium.set_len(START + size + MIB)?;
    write_table(&mut medium, size)?;
    fill(Region { file: &medium, size, at: 0 }, documents, files)?;
    medium.seek(SeekFrom::Start(0))?;
    io::copy(&mut BufReader::with_capacity(128 << 10, medium), &mut out)?;
    let mut out = out.finish()?;
    out.flush()?;
    Ok(out)
}

fn write_table(medium: &mut File, size: u64) -> io::Result<()> {
    let failed = |error: gptman::Error| io::Error::other(error.to_string());
    let mut table = GPT::new_from(medium, SECTOR, media::Guid::random().0).map_err(failed)?;
    table[1] = GPTPartitionEntry {
        partition_type_guid: KIND,
        unique_partition_guid: media::Guid::random().0,
        starting_lba: START / SECTOR,
        ending_lba: (START + size) / SECTOR - 1,
        attribute_bits: 0,
        partition_name: NAME.into(),
    };
    table.write_into(medium).map_err(failed)?;
    GPT::write_protective_mbr_into(medium, SECTOR).map_err(failed)
}

fn fill(mut region: Region<'_>, documents: &[(&str, Vec<u8>)], files: &[Stored]) -> io::Result<()> {
    let mut label = [b' '; 11];
    label.copy_from_slice(NAME.as_bytes());
    fatfs::format_volume(&mut region, FormatVolumeOptions::new().volume_label(label))?;
    region.at = 0;
    let system = FileSystem::new(region, FsOptions::new())?;
    {
        let update = system.root_dir().create_dir("update")?;
        for (name, content) in documents {
            let mut file = update.create_file(name)?;
            file.truncate()?;
            file.write_all(content)?;
            file.flush()?;
        }
        for stored in files {
            // As it is served: the signed hash is the one of the compressed file.
            let name = format!("{}.gz", stored.name);
            if let Some((folder, _)) = name.rsplit_once('/') {
                update.create_dir(folder)?;
            }
            let mut file = update.create_file(&name)?;
            file.truncate()?;
            io::copy(&mut BufReader::with_capacity(128 << 10, File::open(&stored.path)?), &mut file)?;
            file.flush()?;
        }
    }
    system.unmount()
}

/// The partition as a file of its own.
struct Region<'a> {
    file: &'a File,
    size: u64,
    at: u64,
}

impl Region<'_> {
    fn part(&self, wanted: usize) -> usize {
        wanted.min(usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX))
    }
}

impl Read for Region<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let length = self.part(bytes.len());
        let count = self.file.read_at(&mut bytes[..length], START + self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for Region<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.part(bytes.len());
        let count = self.file.write_at(&bytes[..length], START + self.at)?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Region<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "the position is outside of the partition");
        self.at = at.filter(|at| *at <= self.size).ok_or_else(outside)?;
        Ok(self.at)
    }
}
