//! Noticing changes of devices.

use std::{io, mem::MaybeUninit, os::fd::OwnedFd, path::Path};

use rustix::{fs::inotify, io::Errno};
use tokio::io::{Interest, unix::AsyncFd};

/// Tells when udev has changed its database.
///
/// udev replaces or removes a device's record as the last act of handling its
/// event, so watching the folder with inotify tells the same as its netlink
/// group, needs no network access and loses nothing: the kernel has queued the
/// event before the file's new content can be seen.
#[derive(Debug)]
pub(crate) struct UdevWatch {
    queue: AsyncFd<OwnedFd>,
}

impl UdevWatch {
    pub(super) fn new(database: &Path) -> io::Result<Self> {
        let queue = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let changes = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::DELETE;
        inotify::add_watch(&queue, database, changes)?;
        #[expect(unsafe_code, reason = "tokio has no safe way to wait for a descriptor of a kind it does not know")]
        // SAFETY: an `OwnedFd` stays open and the same descriptor until it is dropped.
        let queue = unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) };
        Ok(Self { queue: queue.map_err(io::Error::from)? })
    }

    /// Whether a block device has changed since the last call.
    pub(crate) fn take_changes(&mut self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.queue, &mut buffer);
        let mut changed = false;
        loop {
            match events.next() {
                // Records are named by type: `b` block, `c` character, `n` network, `+` others.
                Ok(event) => {
                    changed |= event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW)
                        || event.file_name().is_some_and(|name| name.to_bytes().starts_with(b"b"));
                }
                Err(Errno::INTR) => {}
                Err(_) => return changed,
            }
        }
    }

    /// Waits until a block device changes.
    pub(crate) async fn changed(&mut self) {
        loop {
            match self.queue.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                // Only when the runtime shuts down.
                Err(_) => std::future::pending().await,
            }
            if self.take_changes() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn only_block_devices_count() {
        let folder = tempfile::tempdir().unwrap();
        let draft = folder.path().join(".#draft");
        let write = |name: &str| {
            fs::write(&draft, "I:1").unwrap();
            fs::rename(&draft, folder.path().join(name)).unwrap();
        };
        let mut watch = UdevWatch::new(folder.path()).unwrap();
        assert!(!watch.take_changes());
        write("n2");
        write("c1:3");
        assert!(!watch.take_changes());
        write("b254:0");
        assert!(watch.take_changes());
        assert!(!watch.take_changes());
        fs::remove_file(folder.path().join("b254:0")).unwrap();
        watch.changed().await;
    }
}
