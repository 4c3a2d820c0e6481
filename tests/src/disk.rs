//! Raw disk images: where their partitions are, and copies of them to damage.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use media::{Partition, Table};
use testkit::image::Image;
use testkit::process;

/// The partitions of a raw disk image, in the order of the table.
///
/// # Errors
///
/// When there is no partition table.
pub fn partitions(disk: &Path) -> Result<Vec<Partition>> {
    let file = File::open(disk).with_context(|| format!("cannot open {}", disk.display()))?;
    let table = Table::read(&file).with_context(|| format!("{} has no partition table", disk.display()))?;
    Ok(table.partitions)
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

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", PathBuf::from(path).display()))
}
