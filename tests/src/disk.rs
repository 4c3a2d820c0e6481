//! Raw disk images: where their partitions are, and copies of them to damage.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use testkit::image::Image;
use testkit::process;

/// Bytes per sector of every image.
const SECTOR: u64 = 512;

/// One partition of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its label.
    pub label: String,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

/// The partitions of a raw disk image, in the order of the table.
///
/// # Errors
///
/// When there is no partition table.
pub fn partitions(disk: &Path) -> Result<Vec<Partition>> {
    let file = File::open(disk).with_context(|| format!("cannot open {}", disk.display()))?;
    let mut header = [0; 92];
    file.read_exact_at(&mut header, SECTOR)?;
    if &header[..8] != b"EFI PART" {
        bail!("{} has no partition table", disk.display());
    }
    let table = number(&header[72..80]) * SECTOR;
    let (count, length) = (number(&header[80..84]), number(&header[84..88]));
    let mut partitions = Vec::new();
    for index in 0..count {
        let mut entry = [0; 128];
        file.read_exact_at(&mut entry, table + index * length)?;
        if entry[..16] == [0; 16] {
            continue;
        }
        let (first, last) = (number(&entry[32..40]), number(&entry[40..48]));
        let units: Vec<u16> = entry[56..].chunks(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect();
        let label = String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned();
        partitions.push(Partition { label, start: first * SECTOR, size: (last - first + 1) * SECTOR });
    }
    Ok(partitions)
}

/// A copy of an image's disk in `folder`, to be damaged.
///
/// # Errors
///
/// When it cannot be copied.
pub fn copy(image: &Image, folder: &Path) -> Result<Image> {
    let disk_image = folder.join("disk.raw");
    let arguments = ["--sparse=always", "--reflink=auto", text(&image.disk_image)?, text(&disk_image)?];
    process::run("cp", &arguments, folder, Duration::from_secs(600))?;
    Ok(Image { disk_image, ..image.clone() })
}

/// Inverts the bits of `length` bytes at `offset`.
///
/// # Errors
///
/// When the file cannot be changed.
pub fn damage(file: &Path, offset: u64, length: usize) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(file)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)?;
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
    file.write_all_at(&bytes, offset)
}

/// Damages a file on the EFI system partition of a raw image: `length` bytes at `offset` of it.
///
/// # Errors
///
/// When there is no such file.
pub fn damage_esp_file(disk: &Path, name: &str, offset: u64, length: usize) -> Result<()> {
    let esp = partitions(disk)?.into_iter().find(|partition| partition.label == "esp").context("no ESP")?;
    let folder = disk.parent().context("a disk image lies in a folder")?;
    let volume = format!("{}@@{}", text(disk)?, esp.start);
    let (inside, outside) = (format!("::{name}"), folder.join("esp-file"));
    let limit = Duration::from_secs(600);
    process::run("mcopy", &["-o", "-i", &volume, &inside, text(&outside)?], folder, limit)?;
    damage(&outside, offset, length)?;
    process::run("mcopy", &["-o", "-i", &volume, text(&outside)?, &inside], folder, limit)?;
    Ok(fs::remove_file(&outside)?)
}

/// Names of the files in a folder of the EFI system partition.
///
/// # Errors
///
/// When there is no such folder.
pub fn esp_files(disk: &Path, folder: &str) -> Result<Vec<String>> {
    let esp = partitions(disk)?.into_iter().find(|partition| partition.label == "esp").context("no ESP")?;
    let volume = format!("{}@@{}", text(disk)?, esp.start);
    let arguments = ["-b", "-i", &volume, &format!("::{folder}")];
    let list = process::run("mdir", &arguments, Path::new("/"), Duration::from_secs(60))?;
    Ok(list.lines().filter_map(|line| Some(line.rsplit('/').next()?.to_owned())).collect())
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", PathBuf::from(path).display()))
}
