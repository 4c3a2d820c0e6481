//! The tree of a feed on disk: which releases there are, and their files.

use std::{
    fs,
    io::{self, Read as _},
    path::PathBuf,
};

use feed::{Arch, FeedError, File, Index, Kind, MESSAGE_LIMIT, MissingFile, Update};

use super::request::{Medium, UpdateRequest};

/// What was asked for is not in the tree, or the tree is damaged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    #[error("cannot read `{path}`", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{path}` is too large", path = path.display())]
    TooLarge { path: PathBuf },
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error("version not found: channel '{channel}' has no release{}", of(version))]
    Version { channel: String, version: String },
    #[error(transparent)]
    File(#[from] MissingFile),
    #[error("offline: the seed names no application to bring along")]
    NoApplications,
    #[error("release {version} has no image of application '{application}' for {arch}")]
    Application { version: String, application: String, arch: Arch },
}

fn of(version: &str) -> String {
    if version.is_empty() { String::new() } else { format!(" '{version}'") }
}

/// The tree.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    root: PathBuf,
}

/// A file that is there.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its path in the folder of the release, without `.gz`.
    pub(crate) name: String,
}

impl Stored {
    /// Its name without the folder.
    pub(crate) fn base_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or_default()
    }
}

impl Tree {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The index. Read each time: a publisher may have replaced it.
    pub(crate) fn index(&self) -> Result<Index, TreeError> {
        Ok(Index::unsigned(&self.document("index.json")?)?)
    }

    /// The release with this version, or the newest in the channel.
    pub(crate) fn release(&self, channel: &str, version: &str) -> Result<Update, TreeError> {
        let in_channel = |update: &Update| update.channels.iter().any(|name| name == channel);
        let wanted = |update: &Update| version.is_empty() || update.version.as_str() == version;
        self.index()?
            .updates
            .into_iter()
            .filter(|update| in_channel(update) && wanted(update))
            .max_by(|one, other| one.version.order(&other.version))
            .ok_or_else(|| TreeError::Version { channel: channel.to_owned(), version: version.to_owned() })
    }

    /// The image of a release.
    pub(crate) fn image(&self, release: &Update, medium: Medium, arch: Arch) -> Result<Stored, TreeError> {
        let kind = match medium {
            Medium::Iso => Kind::ImageIso,
            Medium::Raw => Kind::ImageRaw,
        };
        self.stored(release, release.file("os", &kind, arch)?)
    }

    /// An application of a release.
    pub(crate) fn application(&self, release: &Update, name: &str, arch: Arch) -> Result<Stored, TreeError> {
        let file = release.application(name, arch).ok_or_else(|| TreeError::Application {
            version: release.version.to_string(),
            application: name.to_owned(),
            arch,
        })?;
        self.stored(release, file)
    }

    /// The files of a release that an update is to hold; an empty list is no restriction.
    pub(crate) fn selected(&self, release: &Update, request: &UpdateRequest) -> Result<Vec<Stored>, TreeError> {
        let allows = |list: &[String], value: &str| list.is_empty() || list.iter().any(|entry| entry == value);
        let kind_of = |file: &File| serde_json::to_value(&file.kind).ok()?.as_str().map(str::to_owned);
        release
            .files
            .iter()
            .filter(|file| allows(&request.components, &file.component))
            .filter(|file| allows(&request.types, &kind_of(file).unwrap_or_default()))
            .filter(|file| file.architecture.is_empty() || allows(&request.architectures, &file.architecture))
            .map(|file| self.stored(release, file))
            .collect()
    }

    /// A document in the folder of a release.
    pub(crate) fn release_document(&self, release: &Update, name: &str) -> Result<Vec<u8>, TreeError> {
        let document = File { filename: name.to_owned(), ..File::default() };
        self.document(&release.path_of(&document)?)
    }

    fn stored(&self, release: &Update, file: &File) -> Result<Stored, TreeError> {
        let path = self.root.join(release.path_of(file)?);
        // A missing file is told now, not in the middle of a download.
        fs::metadata(&path).map_err(|source| TreeError::Read { path: path.clone(), source })?;
        let name = file.filename.strip_suffix(".gz").unwrap_or(&file.filename).to_owned();
        Ok(Stored { path, name })
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, TreeError> {
        let path = self.root.join(name);
        let limit = MESSAGE_LIMIT as u64;
        let mut bytes = Vec::new();
        let read = fs::File::open(&path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
        read.map_err(|source| TreeError::Read { path: path.clone(), source })?;
        if bytes.len() > MESSAGE_LIMIT {
            return Err(TreeError::TooLarge { path });
        }
        Ok(bytes)
    }
}
