//! The edges of the machine.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use efi::Variables;
use runner::Runner;
use sys::{Block, Roots};

/// Where things are, injected for tests.
pub(crate) struct Machine {
    pub(crate) roots: Roots,
    /// What the initrd left.
    pub(crate) handover: PathBuf,
    pub(crate) variables: Variables,
    pub(crate) runner: Arc<dyn Runner>,
    /// Name of the system.
    pub(crate) os: String,
}

impl Machine {
    pub(crate) fn real(runner: Arc<dyn Runner>) -> Self {
        let release = fs::read_to_string("/usr/lib/os-release").unwrap_or_default();
        let name = release.lines().find_map(|line| line.strip_prefix("NAME="));
        Self {
            roots: Roots::default(),
            handover: "/run/incus-os".into(),
            variables: Variables::in_dir("/sys/firmware/efi/efivars"),
            runner,
            os: name.map_or_else(|| "The system".to_owned(), |name| name.trim_matches('"').to_owned()),
        }
    }

    /// A value that the initrd found out.
    pub(crate) fn handed_over(&self, key: &str) -> Option<String> {
        let environment = fs::read_to_string(self.handover.join("boot.env")).ok()?;
        let value = environment.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.map(str::to_owned)
    }

    /// What is connected, and can be opened: the kernel lists a drive before it has made the node.
    /// Changes whenever a look at the machine may come to something else.
    pub(crate) fn devices(&self) -> Vec<(Block, bool)> {
        let with_node = |block: Block| {
            let can_be_opened = block.node.exists();
            (block, can_be_opened)
        };
        sys::blocks(&self.roots).into_iter().map(with_node).collect()
    }

    /// Whether the install medium is still there. A CD-ROM drive stays when its tray opens, and
    /// has no size then.
    pub(crate) fn medium_is_present(&self, node: &Path) -> bool {
        let name = node.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(block) = sys::block(&self.roots, name) else { return false };
        block.size > 0 && (!name.starts_with("sr") || fs::File::open(&block.node).is_ok())
    }
}
