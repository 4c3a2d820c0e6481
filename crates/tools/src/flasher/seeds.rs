//! Seeds that were prepared elsewhere, and the check that every seed passes.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use seed::{File, Report, Section, SeedError};

/// A seed cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SeedsError {
    #[error("cannot read the seed `{path}`", path = path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("the seed `{path}` cannot be used", path = path.display())]
    Archive { path: PathBuf, source: SeedError },
    #[error("the seed `{path}` is no tar archive", path = path.display())]
    NoArchive { path: PathBuf },
    #[error("the seed has {size} bytes, more than the {} of its partition", media::SEED_SIZE)]
    TooLarge { size: u64 },
    #[error("the seed has mistakes:{0}")]
    Mistakes(String),
    #[error(
        "a machine would pass over parts of the seed; mend them, or use it all the same with --accept-warnings:{0}"
    )]
    Ignored(String),
}

/// A seed that may be written.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The archive.
    pub(super) archive: Vec<u8>,
    /// Whether it makes the medium install.
    pub(super) installs: bool,
}

/// Reads an archive, which is used as it is.
pub(super) fn read(path: &Path, accept_warnings: bool) -> Result<Prepared, SeedsError> {
    let open = |source| SeedsError::Open { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(open)?;
    let size = file.metadata().map_err(open)?.len();
    if size > media::SEED_SIZE {
        return Err(SeedsError::TooLarge { size });
    }
    let files = seed::read(&file).map_err(|source| SeedsError::Archive { path: path.to_owned(), source })?;
    let files = files.ok_or_else(|| SeedsError::NoArchive { path: path.to_owned() })?;
    let report = seed::check(&files);
    refuse(&report, accept_warnings)?;
    let archive = fs::read(path).map_err(open)?;
    Ok(Prepared { archive, installs: report.contents.install.is_some() })
}

/// An archive of these files.
pub(super) fn prepare(files: &[File]) -> Result<Prepared, SeedsError> {
    let report = seed::check(files);
    refuse(&report, false)?;
    let archive = seed::write(files);
    let size = archive.len() as u64;
    if size > media::SEED_SIZE {
        return Err(SeedsError::TooLarge { size });
    }
    Ok(Prepared { archive, installs: report.contents.install.is_some() })
}

/// What is wrong with one section on its own.
pub(super) fn check_one(section: Section, text: &str) -> Result<(), SeedsError> {
    let file = File { name: format!("{}.yaml", section.name()), content: text.as_bytes().to_vec() };
    refuse(&seed::check(&[file]), false)
}

fn refuse(report: &Report, accept_warnings: bool) -> Result<(), SeedsError> {
    let lines =
        |findings: &[seed::Finding]| findings.iter().map(|finding| format!("\n  {finding}")).collect::<String>();
    if !report.errors.is_empty() {
        return Err(SeedsError::Mistakes(lines(&report.errors)));
    }
    match report.warnings.is_empty() {
        true => Ok(()),
        false if accept_warnings => {
            tracing::warn!("a machine will pass over parts of the seed:{}", lines(&report.warnings));
            Ok(())
        }
        false => Err(SeedsError::Ignored(lines(&report.warnings))),
    }
}
