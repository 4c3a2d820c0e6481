//! What comes over the network, and what of it is kept.

use std::{
    fs::{self, File as FsFile, OpenOptions},
    io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use feed::{Arch, FeedError, File, Index, MESSAGE_LIMIT, MissingFile, Trust, Update, choose};
use sha2::{Digest as _, Sha256};
use ureq::{
    Agent, Body,
    http::{Response, StatusCode, header},
    tls::{RootCerts, TlsConfig},
};

use super::progress::bar;

/// How often an address is tried while nobody answers there.
const TRIES: u32 = 5;
/// Time between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// An image could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum DownloadError {
    #[error("cannot fetch {url}")]
    Fetch { url: String, source: ureq::Error },
    #[error("cannot fetch {url}: the server answered {status}")]
    Status { url: String, status: StatusCode },
    #[error("the download of {url} broke off; run the same command again to go on with it")]
    Broken { url: String, source: io::Error },
    #[error("{url} is not the file that was published: it has {found} bytes instead of {expected}")]
    Size { url: String, found: u64, expected: u64 },
    #[error("{url} is not the file that was published: its hash is another")]
    Hash { url: String },
    #[error("the feed at {server} cannot be used")]
    Feed { server: String, source: FeedError },
    #[error("no release for {arch} is in channel '{channel}'{}", if *exists { "" } else { "; there is no such channel" })]
    NoRelease { arch: Arch, channel: String, exists: bool },
    #[error(transparent)]
    File(#[from] MissingFile),
    #[error("cannot use `{path}` in the cache of downloads", path = path.display())]
    Cache { path: PathBuf, source: io::Error },
}

/// A feed, and the folder that keeps what was downloaded.
pub(super) struct Feed {
    server: String,
    trust: Trust,
    cache: PathBuf,
    agent: Agent,
}

impl Feed {
    pub(super) fn new(server: &str, trust: Trust, cache: PathBuf) -> Self {
        // The machine's own authorities, so that a company's feed and proxy work.
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .user_agent(format!("flasher-tool/{}", super::VERSION))
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_mins(1)))
            .timeout_per_read(Some(Duration::from_mins(1)))
            .build();
        Self { server: server.trim_end_matches('/').to_owned(), trust, cache, agent: config.new_agent() }
    }

    /// The newest release of the channel.
    pub(super) fn release(&self, channel: &str, arch: Arch) -> Result<Update, DownloadError> {
        let url = format!("{}/index.sjson", self.server);
        let mut response = self.get(&url, 0)?;
        if response.status() != StatusCode::OK {
            return Err(DownloadError::Status { url, status: response.status() });
        }
        let mut message = Vec::new();
        let mut body = response.body_mut().as_reader().take(MESSAGE_LIMIT as u64 + 1);
        body.read_to_end(&mut message).map_err(|source| DownloadError::Broken { url, source })?;
        let failed = |source| DownloadError::Feed { server: self.server.clone(), source };
        let (index, signed) = Index::verified(&message, &self.trust).map_err(failed)?;
        tracing::info!("the index is signed by {}", signed.signer);
        let choice = choose(&index, channel, arch, None);
        choice.update.cloned().ok_or_else(|| DownloadError::NoRelease {
            arch,
            channel: channel.to_owned(),
            exists: choice.channel_exists,
        })
    }

    /// Where the file is, as it was published: from the cache, or downloaded into it.
    pub(super) fn file(&self, release: &Update, file: &File) -> Result<PathBuf, DownloadError> {
        let failed = |source| DownloadError::Feed { server: self.server.clone(), source };
        let digest = file.digest(release).map_err(failed)?;
        let url = format!("{}/{}", self.server, release.path_of(file).map_err(failed)?);
        let place = |path: &Path| {
            let path = path.to_owned();
            move |source| DownloadError::Cache { path, source }
        };
        fs::create_dir_all(&self.cache).map_err(place(&self.cache))?;
        let whole = self.cache.join(format!("{}.gz", file.sha256));
        if let Ok(kept) = FsFile::open(&whole) {
            let (kept, _) = hash(kept).map_err(place(&whole))?;
            if kept.finalize()[..] == digest {
                tracing::info!("{} was downloaded before", file.base_name());
                return Ok(whole);
            }
            fs::remove_file(&whole).map_err(place(&whole))?;
        }
        let part = self.cache.join(format!("{}.part", file.sha256));
        let mut options = OpenOptions::new();
        let mut kept = options.read(true).write(true).create(true).truncate(false).open(&part).map_err(place(&part))?;
        let (mut sum, have) = hash(&kept).map_err(place(&part))?;
        if have < file.size {
            self.append(&url, file.size, &mut kept, &mut sum, have)?;
        }
        let found = kept.seek(SeekFrom::End(0)).map_err(place(&part))?;
        let expected = file.size;
        if found != expected || sum.finalize()[..] != digest {
            // Going on with it would not help.
            fs::remove_file(&part).map_err(place(&part))?;
            return Err(match found == expected {
                true => DownloadError::Hash { url },
                false => DownloadError::Size { url, found, expected },
            });
        }
        kept.sync_all().map_err(place(&part))?;
        fs::rename(&part, &whole).map_err(place(&whole))?;
        Ok(whole)
    }

    /// Downloads what is missing behind the first `have` bytes.
    fn append(
        &self,
        url: &str,
        size: u64,
        kept: &mut FsFile,
        sum: &mut Sha256,
        have: u64,
    ) -> Result<(), DownloadError> {
        let broken = |source| DownloadError::Broken { url: url.to_owned(), source };
        let mut response = self.get(url, have)?;
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT if have > 0 => have,
            // The server does not know how to go on.
            StatusCode::OK => {
                *sum = Sha256::new();
                kept.set_len(0).map_err(broken)?;
                0
            }
            status => return Err(DownloadError::Status { url: url.to_owned(), status }),
        };
        kept.seek(SeekFrom::Start(start)).map_err(broken)?;
        let bar = bar("downloading", size);
        bar.set_position(start);
        // One byte more than there should be is enough to know.
        let mut body = response.body_mut().with_config().limit(u64::MAX).reader().take(size - start + 1);
        let mut buffer = vec![0; 128 << 10];
        let mut done = start;
        loop {
            let count = body.read(&mut buffer).map_err(broken)?;
            if count == 0 {
                break;
            }
            kept.write_all(&buffer[..count]).map_err(broken)?;
            sum.update(&buffer[..count]);
            done += count as u64;
            bar.set_position(done.min(size));
        }
        bar.finish_and_clear();
        if done < size {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    fn get(&self, url: &str, from: u64) -> Result<Response<Body>, DownloadError> {
        let mut tries = 1;
        loop {
            let request = self.agent.get(url);
            let request = if from > 0 { request.header(header::RANGE, format!("bytes={from}-")) } else { request };
            match request.call() {
                Ok(response) => return Ok(response),
                Err(error) if tries < TRIES && is_passing(&error) => {
                    tracing::warn!("cannot fetch {url}, trying again: {error}");
                    tries += 1;
                    thread::sleep(PAUSE);
                }
                Err(source) => return Err(DownloadError::Fetch { url: url.to_owned(), source }),
            }
        }
    }
}

/// Whether another try may help.
fn is_passing(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed)
}

fn hash(file: impl Read) -> io::Result<(Sha256, u64)> {
    let mut sum = Sha256::new();
    let length = io::copy(&mut BufReader::with_capacity(128 << 10, file), &mut sum)?;
    Ok((sum, length))
}
