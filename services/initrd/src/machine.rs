//! The edges of the machine that the initrd's program touches.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use efi::Variables;
use runner::Runner;
use sys::Roots;

/// Where things are, injected for tests.
#[derive(Clone)]
pub struct Machine {
    pub(crate) roots: Roots,
    pub(crate) run: PathBuf,
    pub(crate) variables: Variables,
    pub(crate) runner: Arc<dyn Runner>,
    /// How long drives may take to show up.
    pub(crate) patience: Duration,
}

impl fmt::Debug for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Machine").field("roots", &self.roots).field("run", &self.run).finish_non_exhaustive()
    }
}

impl Machine {
    /// The machine that this program runs on.
    pub fn real(runner: Arc<dyn Runner>) -> Self {
        Self {
            roots: Roots::default(),
            run: "/run".into(),
            variables: Variables::in_dir("/sys/firmware/efi/efivars"),
            runner,
            // Host bus adapters and USB hubs take minutes on some machines.
            patience: Duration::from_secs(600),
        }
    }

    /// Says it in the journal, on every console of the kernel, on the screen and on the first serial
    /// port. One that does not work is no reason to keep quiet on the others.
    pub fn tell(&self, what: &dyn fmt::Display) {
        eprintln!("{what}");
        let active = fs::read_to_string(self.roots.sys.join("class/tty/console/active")).unwrap_or_default();
        let consoles: BTreeSet<_> = active.split_whitespace().chain(["tty1", "ttyS0"]).collect();
        for console in consoles {
            let opened = File::options().write(true).open(self.roots.dev.join(console));
            let _ = opened.and_then(|mut console| write!(console, "\r\n{what}\r\n"));
        }
    }

    pub(crate) fn ours(&self, name: &str) -> PathBuf {
        self.run.join("incus-os").join(name)
    }

    /// Puts a file below `/run` that only root may read.
    pub(crate) fn put_secret(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.put(path, content, 0o600)
    }

    /// Puts a unit below `/run`.
    pub(crate) fn put_unit(&self, name: &str, content: &str) -> io::Result<()> {
        self.put(&self.run.join("systemd/system").join(name), content.as_bytes(), 0o644)
    }

    fn put(&self, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(path)?;
        file.write_all(content)
    }
}
