//! The installer's message, from the file in which it leaves one.

use std::{
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::Path,
    time::Duration,
};

use modal::Modal;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::{io::Interest, sync::watch, time::sleep};

use crate::{readiness::watched, view::View};

/// Keeps the view in step with the file for as long as it is polled.
pub(crate) async fn follow(path: &Path, view: &watch::Sender<View>, retry: Duration) {
    loop {
        if let Err(error) = watch_file(path, view).await {
            tracing::debug!("cannot watch `{}`: {error}", path.display());
        }
        // Without the folder there is no installer, and it may appear later.
        sleep(retry).await;
    }
}

async fn watch_file(path: &Path, view: &watch::Sender<View>) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    let events = watched(inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?)?;
    // The file is replaced as a whole, so it is the folder that changes.
    let flags = WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE | WatchFlags::DELETE_SELF;
    inotify::add_watch(events.get_ref(), folder, flags)?;
    loop {
        // Looked at first, for what was there before the watch.
        take_over(path, view);
        if events.async_io(Interest::READABLE, |fd| drain(fd, path.file_name())).await? {
            return Err(io::Error::new(io::ErrorKind::NotFound, "its folder is gone"));
        }
    }
}

/// Reads all events. Returns whether the folder is gone; `WouldBlock` when
/// nothing concerned the file.
fn drain(fd: &OwnedFd, name: Option<&OsStr>) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); 4 << 10];
    let mut events = inotify::Reader::new(fd, &mut buffer);
    let mut concerns = false;
    loop {
        match events.next() {
            Ok(event) if event.file_name().is_none() => return Ok(true),
            Ok(event) => concerns |= event.file_name().map(|found| OsStr::from_bytes(found.to_bytes())) == name,
            Err(rustix::io::Errno::WOULDBLOCK) if concerns => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

fn take_over(path: &Path, view: &watch::Sender<View>) {
    match Modal::read(path) {
        Ok(modal) => {
            view.send_if_modified(|view| {
                let is_new = view.installer != modal;
                view.installer = modal;
                is_new
            });
        }
        Err(error) => tracing::warn!("{error}"),
    }
}
