//! The flasher: fetches an image of the feed, puts a seed into it, and writes it
//! to a file or straight to a disk.
//!
//! Invariants:
//!
//! * The index is verified before it is read, and a download before it is
//!   unpacked. What failed to verify is never at a place where it could be taken
//!   for an image.
//! * Nothing is written to a file or disk that is not, or does not become, an
//!   image of ours, nor to a disk that is in use.
//! * A seed that a machine would refuse, or parts of which it would pass over,
//!   is refused here, where somebody can still mend it.

mod download;
mod menu;
mod progress;
mod seeds;
mod target;

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use feed::{Arch, Trust, VerifyError};

use download::{DownloadError, Feed};
use menu::{Menu, MenuError};
use seeds::SeedsError;
use target::{Image, TargetError};

/// The public feed.
const SERVER: &str = "https://images.linuxcontainers.org/os";

/// Who signs the feed, as PEM; the build for a release sets both.
const ROOT_CA: Option<&str> = option_env!("INCUS_OS_FEED_ROOT_CA");
const UPDATE_CA: Option<&str> = option_env!("INCUS_OS_FEED_UPDATE_CA");

const VERSION: &str = match option_env!("INCUS_OS_TOOLS_VERSION") {
    Some(version) => version,
    None => "dev",
};

/// Prepare install media.
///
/// Downloads the newest image, lets you choose what the machine shall be, and writes that into the
/// image. Asks nothing when --seed is given together with --image or --format.
#[derive(Debug, Parser)]
#[command(name = "flasher-tool", disable_version_flag = true)]
struct Cli {
    /// Use this image, or a disk that an image was written to, instead of downloading one
    #[arg(short, long, value_name = "PATH")]
    image: Option<PathBuf>,
    /// Form of the image to download: `iso` for CD-ROM drives, `img` for everything else
    #[arg(short, long, value_name = "iso|img")]
    format: Option<String>,
    /// Put this ready-made seed (a tar archive) into the image instead of asking
    #[arg(short, long, value_name = "PATH")]
    seed: Option<PathBuf>,
    /// Update channel to download from
    #[arg(short, long, value_name = "NAME", default_value = "stable")]
    channel: String,
    /// Architecture to download for, instead of this machine's
    #[arg(long, value_name = "x86_64|aarch64")]
    arch: Option<Arch>,
    /// Write to this file or disk; everything on a disk is lost
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Use a seed of which a machine would pass over parts
    #[arg(long)]
    accept_warnings: bool,
    /// Address of the feed
    #[arg(long, value_name = "URL", default_value = SERVER)]
    server: String,
    /// PEM certificate of the feed's root authority
    #[arg(long, value_name = "PATH", requires = "update_ca")]
    root_ca: Option<PathBuf>,
    /// PEM certificate of the authority that its signers must come from
    #[arg(long, value_name = "PATH", requires = "root_ca")]
    update_ca: Option<PathBuf>,
    /// Folder that keeps downloads, so that the next one need not be made, or goes on where this one stopped
    #[arg(long, value_name = "PATH")]
    cache: Option<PathBuf>,
    /// Print the version
    #[arg(short, long)]
    version: bool,
}

/// What the flasher cannot do, and why.
#[derive(Debug, thiserror::Error)]
enum FlashError {
    #[error("unknown image format '{0}': there are iso and img")]
    Format(String),
    #[error("there is no image for this machine's architecture; choose one with --arch")]
    Arch,
    #[error("this build knows no feed's certificates; give them with --root-ca and --update-ca")]
    NoTrust,
    #[error("cannot read `{path}`", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the certificates of the feed cannot be used")]
    Trust(#[source] VerifyError),
    #[error("cannot find a folder for downloads; give one with --cache")]
    NoCache,
    #[error(transparent)]
    Download(#[from] DownloadError),
    #[error(transparent)]
    Seeds(#[from] SeedsError),
    #[error(transparent)]
    Menu(#[from] MenuError),
    #[error(transparent)]
    Target(#[from] TargetError),
}

/// Runs the tool with the arguments of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.version {
        println!("flasher-tool version {VERSION}");
        return ExitCode::SUCCESS;
    }
    let with_color = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(with_color).with_target(false).without_time().init();
    match flash(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", causes::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn flash(cli: &Cli) -> Result<(), FlashError> {
    // A bad seed is told before anything is downloaded.
    let given = cli.seed.as_deref().map(|path| seeds::read(path, cli.accept_warnings)).transpose()?;
    // Likewise a target that will not be written to.
    if let Some(output) = &cli.output {
        target::check_output(output)?;
    }
    let mut menu = Menu::new(io::stdin().lock(), io::stderr());
    let source = match &cli.image {
        Some(path) => path.clone(),
        None => fetch(cli, &mut menu)?,
    };
    let image = Image::open(&source)?;
    tracing::info!("{} is an image for {}", source.display(), image.arch());
    let (prepared, output) = match given {
        Some(seed) => (seed, cli.output.clone()),
        None => {
            let chosen = menu.run(image.is_iso(), cli.output.as_deref().unwrap_or(&source))?;
            (chosen.seed, Some(chosen.output))
        }
    };
    image.refuse_seed(&prepared)?;
    let output = output.unwrap_or_else(|| source.clone());
    image.write_to(&output, &prepared)?;
    tracing::info!("{} is ready", output.display());
    Ok(())
}

/// Downloads an image and returns where it is.
fn fetch(cli: &Cli, menu: &mut Menu<impl io::BufRead, impl io::Write>) -> Result<PathBuf, FlashError> {
    let format = match &cli.format {
        Some(format) => format.clone(),
        None => menu.format()?,
    };
    let kind = match format.as_str() {
        "iso" => feed::Kind::ImageIso,
        "img" => feed::Kind::ImageRaw,
        _ => return Err(FlashError::Format(format)),
    };
    let arch = cli.arch.or_else(Arch::of_this_machine).ok_or(FlashError::Arch)?;
    let cache = cli.cache.clone().or_else(default_cache).ok_or(FlashError::NoCache)?;
    let feed = Feed::new(&cli.server, trust(cli)?, cache);
    let release = feed.release(&cli.channel, arch)?;
    let file = release.file("os", &kind, arch).map_err(DownloadError::from)?;
    let name = file.base_name().strip_suffix(".gz").unwrap_or_else(|| file.base_name());
    tracing::info!("downloading {name} ({format}) version {}", release.version);
    let packed = feed.file(&release, file)?;
    let path = PathBuf::from(name);
    target::unpack(&packed, &path, arch)?;
    Ok(path)
}

fn trust(cli: &Cli) -> Result<Trust, FlashError> {
    let read = |path: &Path| fs::read_to_string(path).map_err(|source| FlashError::Read { path: path.into(), source });
    let (root, update) = match (&cli.root_ca, &cli.update_ca, ROOT_CA, UPDATE_CA) {
        (Some(root), Some(update), ..) => (read(root)?, read(update)?),
        (.., Some(root), Some(update)) => (root.to_owned(), update.to_owned()),
        _ => return Err(FlashError::NoTrust),
    };
    Trust::new(&root, &update).map_err(FlashError::Trust)
}

fn default_cache() -> Option<PathBuf> {
    let folder = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("incus-os").join("images"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn options_make_sense_together() {
        Cli::command().debug_assert();
    }
}
