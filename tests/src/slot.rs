//! How many machines run at once, over all test processes.

use std::fs::{self, File};
use std::thread;
use std::time::Duration;

/// The right to run a machine; given back when dropped, or when the process ends.
#[derive(Debug)]
pub(crate) struct Slot {
    _lock: File,
}

impl Slot {
    /// Waits for a slot. There are as many as processors: a machine that was made ready before is
    /// idle most of the time, one that boots uses two.
    pub(crate) fn take() -> Self {
        let count = thread::available_parallelism().map_or(1, |count| count.get());
        let folder = super::cache().join("slots");
        fs::create_dir_all(&folder).expect("the cache folder can be written");
        loop {
            for number in 0..count {
                let lock = File::create(folder.join(number.to_string())).expect("the cache folder can be written");
                if lock.try_lock().is_ok() {
                    return Self { _lock: lock };
                }
            }
            // No limit: the other tests have theirs.
            thread::sleep(Duration::from_millis(200));
        }
    }
}
