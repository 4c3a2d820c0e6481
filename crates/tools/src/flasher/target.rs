//! Images and disks: what they are, and writing to them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use feed::Arch;
use flate2::bufread::MultiGzDecoder;
use media::{Copy, MediaError, SEED_OFFSET, SEED_SIZE, SMALLEST_DRIVE, Table, Target};
use rustix::{
    fs::{FallocateFlags, OFlags, fallocate, ioctl_blksszget},
    io::Errno,
};

use super::{
    progress::{Watched, bar},
    seeds::Prepared,
};

/// Bytes that are moved at once.
const PIECE: usize = 1 << 20;

/// More than any image has, unpacked.
const UNPACKED_LIMIT: u64 = 32 << 30;

/// Bytes per sector of a CD-ROM.
const ISO_SECTOR: u64 = 2048;

/// An image or a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum TargetError {
    #[error("cannot {action} `{path}`", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("the disk `{path}` is in use: unmount what is on it first", path = path.display())]
    InUse { path: PathBuf },
    #[error("`{path}` is neither a file nor a disk", path = path.display())]
    NeitherFileNorDisk { path: PathBuf },
    #[error("`{path}` is not an image of this system: {reason}", path = path.display())]
    NotOurs { path: PathBuf, reason: String },
    #[error("`{path}` is an image for {found}, not for {wanted}", path = path.display())]
    Arch { path: PathBuf, found: Arch, wanted: Arch },
    #[error("`{path}` is damaged: what was downloaded is no image that can be unpacked", path = path.display())]
    Unpack { path: PathBuf, source: io::Error },
    #[error("nothing can run from an ISO image: its seed must have a section `install`")]
    IsoWithoutInstall,
    #[error("an ISO image cannot be written to a disk: use the image of format img")]
    IsoOnDisk,
    #[error("cannot write the image to `{path}`", path = path.display())]
    Media { path: PathBuf, source: MediaError },
    #[error("what was written to `{path}` is not what is read from it", path = path.display())]
    Verify { path: PathBuf },
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> TargetError + use<> {
    let path = path.to_owned();
    move |source| TargetError::Io { action, path: path.clone(), source }
}

/// An image that was looked at.
#[derive(Debug)]
pub(super) struct Image {
    path: PathBuf,
    arch: Arch,
    is_iso: bool,
}

impl Image {
    /// Looks at an image, or at a disk that one was written to.
    pub(super) fn open(path: &Path) -> Result<Self, TargetError> {
        let file = File::open(path).map_err(failed("open", path))?;
        Self::of(path, &file)
    }

    fn of(path: &Path, file: &File) -> Result<Self, TargetError> {
        let not_ours = |reason: String| TargetError::NotOurs { path: path.to_owned(), reason };
        let table = match Table::read(file) {
            Ok(table) => table,
            Err(MediaError::Io { action, source, .. }) => return Err(failed(action, path)(source)),
            Err(error) => return Err(not_ours(error.to_string())),
        };
        let arch = match table.medium() {
            Ok(media::Arch::X86_64) => Arch::X86_64,
            Ok(media::Arch::Aarch64) => Arch::Aarch64,
            Err(MediaError::NoMedium(reason)) => return Err(not_ours(reason)),
            Err(error) => return Err(not_ours(error.to_string())),
        };
        Ok(Self { path: path.to_owned(), arch, is_iso: table.sector_size == ISO_SECTOR })
    }

    pub(super) fn arch(&self) -> Arch {
        self.arch
    }

    pub(super) fn is_iso(&self) -> bool {
        self.is_iso
    }

    /// Refuses a seed with which the image would do nothing.
    pub(super) fn refuse_seed(&self, seed: &Prepared) -> Result<(), TargetError> {
        if self.is_iso && !seed.installs { Err(TargetError::IsoWithoutInstall) } else { Ok(()) }
    }

    /// Writes the image with the seed in it to a file or disk, or the seed alone when that is the
    /// image itself.
    pub(super) fn write_to(&self, output: &Path, seed: &Prepared) -> Result<(), TargetError> {
        if self.is_same_as(output) {
            let file = open_for_writing(output)?;
            return inject(output, &file, seed, self.is_iso);
        }
        if is_disk(output)? {
            return self.write_to_disk(output, seed);
        }
        // A half-written image must not look like one.
        let unfinished = beside(output);
        let outcome = self.copy_to_file(&unfinished, seed);
        if outcome.is_err() {
            // The first error is the one to tell.
            drop(fs::remove_file(&unfinished));
        }
        outcome?;
        fs::rename(&unfinished, output).map_err(failed("rename", &unfinished))
    }

    fn copy_to_file(&self, path: &Path, seed: &Prepared) -> Result<(), TargetError> {
        let mut from = File::open(&self.path).map_err(failed("open", &self.path))?;
        let size = from.seek(SeekFrom::End(0)).map_err(failed("read", &self.path))?;
        from.rewind().map_err(failed("read", &self.path))?;
        let file = create(path)?;
        let bar = bar("copying", size);
        copy_sparse(Watched::new(from, bar.clone()), &file, u64::MAX).map_err(failed("write", path))?;
        bar.finish_and_clear();
        inject(path, &file, seed, self.is_iso)
    }

    fn write_to_disk(&self, path: &Path, seed: &Prepared) -> Result<(), TargetError> {
        if self.is_iso {
            return Err(TargetError::IsoOnDisk);
        }
        let source = File::open(&self.path).map_err(failed("open", &self.path))?;
        let target = open_for_writing(path)?;
        let sector = ioctl_blksszget(&target).map_err(|error| failed("ask for the sectors of", path)(error.into()))?;
        let job = Copy {
            source: &source,
            target: &target,
            becomes: Target::Medium,
            sector_size: sector.into(),
            seed: Some(&seed.archive),
        };
        let bar = bar("writing", 0);
        let outcome = media::copy(&job, &mut |progress| {
            bar.set_length(progress.size);
            bar.set_position(progress.done);
        });
        bar.finish_and_clear();
        outcome.map(drop).map_err(|source| TargetError::Media { path: path.to_owned(), source })
    }

    fn is_same_as(&self, other: &Path) -> bool {
        match (fs::canonicalize(&self.path), fs::canonicalize(other)) {
            (Ok(one), Ok(other)) => one == other,
            _ => false,
        }
    }
}

/// Says early that a file or disk will not be written to.
pub(super) fn check_output(path: &Path) -> Result<(), TargetError> {
    if is_disk(path)? { open_for_writing(path).map(drop) } else { Ok(()) }
}

/// Unpacks a download that was verified, checks what came out, and only then gives it its name.
pub(super) fn unpack(packed: &Path, path: &Path, wanted: Arch) -> Result<(), TargetError> {
    let from = File::open(packed).map_err(failed("open", packed))?;
    let size = from.metadata().map_err(failed("read", packed))?.len();
    let bar = bar("unpacking", size);
    let reader = MultiGzDecoder::new(BufReader::with_capacity(PIECE, Watched::new(from, bar.clone())));
    let unfinished = beside(path);
    let file = create(&unfinished)?;
    let outcome = copy_sparse(reader, &file, UNPACKED_LIMIT)
        .map_err(|source| TargetError::Unpack { path: packed.to_owned(), source })
        .and_then(|()| Image::of(path, &file))
        .and_then(|image| {
            let (path, found) = (path.to_owned(), image.arch);
            if found == wanted { Ok(()) } else { Err(TargetError::Arch { path, found, wanted }) }
        });
    bar.finish_and_clear();
    if outcome.is_err() {
        drop(fs::remove_file(&unfinished));
    }
    outcome?;
    fs::rename(&unfinished, path).map_err(failed("rename", &unfinished))
}

/// The name under which a file is written.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

fn create(path: &Path) -> Result<File, TargetError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).open(path).map_err(failed("create", path))
}

fn is_disk(path: &Path) -> Result<bool, TargetError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_block_device() => Ok(true),
        Ok(metadata) if metadata.is_file() => Ok(false),
        Ok(_) => Err(TargetError::NeitherFileNorDisk { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

/// Opens an existing file or disk. The kernel gives a disk to one owner at a time: a mounted file
/// system, swap, RAID or volume group on it, or on one of its partitions, is one.
fn open_for_writing(path: &Path) -> Result<File, TargetError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if is_disk(path)? {
        options.custom_flags(OFlags::EXCL.bits().cast_signed());
    }
    options.open(path).map_err(|error| {
        if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) {
            TargetError::InUse { path: path.to_owned() }
        } else {
            failed("open for writing", path)(error)
        }
    })
}

/// Puts the seed into an image, in the place of the one that was there.
fn inject(path: &Path, file: &File, seed: &Prepared, is_iso: bool) -> Result<(), TargetError> {
    // Once more on the very file that is written to.
    Image::of(path, file)?;
    let write = failed("write the seed to", path);
    clear(file, SEED_OFFSET, SEED_SIZE).map_err(&write)?;
    file.write_all_at(&seed.archive, SEED_OFFSET).map_err(&write)?;
    let is_file = file.metadata().map_err(&write)?.is_file();
    // To run from a copy of this file, the system needs as much as it needs of a drive.
    if is_file && !is_iso && !seed.installs && file.metadata().map_err(&write)?.len() < SMALLEST_DRIVE {
        file.set_len(SMALLEST_DRIVE).map_err(&write)?;
    }
    file.sync_all().map_err(&write)?;
    let mut written = vec![0; seed.archive.len()];
    file.read_exact_at(&mut written, SEED_OFFSET).map_err(failed("read the seed from", path))?;
    if written == seed.archive { Ok(()) } else { Err(TargetError::Verify { path: path.to_owned() }) }
}

/// Makes a range zero, so that nothing of an earlier seed remains.
fn clear(file: &File, start: u64, length: u64) -> io::Result<()> {
    if fallocate(file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, start, length).is_ok() {
        return Ok(());
    }
    let zeros = vec![0; PIECE];
    let mut done = 0;
    while done < length {
        let step = usize::try_from(length - done).unwrap_or(PIECE).min(PIECE);
        file.write_all_at(&zeros[..step], start + done)?;
        done += step as u64;
    }
    Ok(())
}

/// Copies into a new file, leaving holes where there are only zeros.
fn copy_sparse(mut from: impl Read, mut to: &File, limit: u64) -> io::Result<()> {
    let (mut buffer, zeros) = (vec![0; PIECE], vec![0; PIECE]);
    let mut done: u64 = 0;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            break;
        }
        done += filled as u64;
        if done > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than any image"));
        }
        let piece = &buffer[..filled];
        if piece == &zeros[..filled] {
            to.seek_relative(i64::try_from(filled).unwrap_or(i64::MAX))?;
        } else {
            to.write_all(piece)?;
        }
    }
    to.set_len(done)?;
    to.sync_all()
}
