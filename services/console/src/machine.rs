//! What the console reads of the machine. Paths of the machine appear here and
//! nowhere else; all of them lie below a root, so that tests bring their own.

use std::{fs, path::PathBuf};

use api::v1::KernelConsole;
use jiff::{Timestamp, tz::TimeZone};

/// The machine as the console sees it.
#[derive(Debug, Clone)]
pub struct Machine {
    /// `/`, or a folder that stands for it.
    pub root: PathBuf,
}

/// A terminal that is to show the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// As it was named.
    pub(crate) name: String,
    /// Below the root.
    pub(crate) path: PathBuf,
    /// Bits per second; `None` leaves the line as it is.
    pub(crate) baud_rate: Option<u32>,
    /// Whether an operator named it, who is told when it does not exist.
    pub(crate) is_configured: bool,
}

impl Machine {
    /// The terminals on which the screen is shown: those that the kernel writes
    /// to, the first virtual one, the serial one of virtual machines of Incus, and
    /// those of the kernel settings.
    pub(crate) fn terminals(&self, configured: &[KernelConsole]) -> Vec<Wanted> {
        let active = fs::read_to_string(self.root.join("sys/class/tty/console/active")).unwrap_or_default();
        let mut names: Vec<String> = active.split_ascii_whitespace().map(str::to_owned).collect();
        names.push("tty1".to_owned());
        if self.is_incus_guest() {
            names.push("ttyS0".to_owned());
        }
        let standard = names.iter().map(|name| self.wanted(name, None, false));
        let named = configured.iter().filter_map(|console| {
            let name = console.device.strip_prefix("/dev/").filter(|name| !name.contains(".."))?;
            let baud_rate = u32::try_from(console.baud_rate).ok().filter(|rate| *rate > 0);
            // `/dev/console` is the last of those that the kernel writes to.
            let name = if name == "console" { active.split_ascii_whitespace().last()? } else { name };
            Some(self.wanted(name, baud_rate, true))
        });
        // The named ones first: of two names of one terminal, the one with a rate counts.
        named.chain(standard).collect()
    }

    fn wanted(&self, name: &str, baud_rate: Option<u32>, is_configured: bool) -> Wanted {
        // `tty0` is whichever virtual terminal is in front.
        let name = if name == "tty0" { "tty1" } else { name };
        Wanted { name: name.to_owned(), path: self.root.join("dev").join(name), baud_rate, is_configured }
    }

    /// Whether this is a virtual machine of Incus, whose console is a serial line.
    fn is_incus_guest(&self) -> bool {
        let Ok(ports) = fs::read_dir(self.root.join("sys/class/virtio-ports")) else {
            return false;
        };
        let names = ports.flatten().filter_map(|port| fs::read_to_string(port.path().join("name")).ok());
        names
            .map(|name| name.trim().to_owned())
            .any(|name| ["org.linuxcontainers.incus", "org.linuxcontainers.lxd"].contains(&name.as_str()))
    }

    /// Name and version of the system.
    pub(crate) fn system(&self) -> String {
        let text = fs::read_to_string(self.root.join("usr/lib/os-release")).unwrap_or_default();
        let value = |key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            value.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
        };
        format!("{} {}", value("NAME"), value("IMAGE_VERSION")).trim().to_owned()
    }

    /// The kernel's name for this machine.
    pub(crate) fn hostname(&self) -> String {
        let name = fs::read_to_string(self.root.join("proc/sys/kernel/hostname")).unwrap_or_default();
        name.trim().to_owned()
    }

    /// Whether this boot installs the system, and so has no other services.
    pub(crate) fn is_installing(&self) -> bool {
        self.root.join("run/incus-os/install").exists()
    }

    /// The file through which the installer speaks.
    pub(crate) fn status_file(&self) -> PathBuf {
        self.root.join(modal::STATUS_FILE.trim_start_matches('/'))
    }

    /// Local time, to the minute.
    pub(crate) fn clock(&self) -> String {
        // The zone is read each time, as it may change at any time.
        let zone = fs::read(self.root.join("etc/localtime")).ok();
        let zone = zone.and_then(|data| TimeZone::tzif("local", &data).ok()).unwrap_or(TimeZone::UTC);
        Timestamp::now().to_zoned(zone).strftime("%Y-%m-%d %H:%M %Z").to_string()
    }

    /// Kernel messages of a lower priority number are written to the consoles, over
    /// whatever is there.
    pub(crate) fn kernel_loglevel(&self) -> u8 {
        let levels = fs::read_to_string(self.root.join("proc/sys/kernel/printk")).unwrap_or_default();
        levels.split_ascii_whitespace().next().and_then(|level| level.parse().ok()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let machine = Machine { root: dir.path().to_owned() };
        (dir, machine)
    }

    fn names(wanted: &[Wanted]) -> Vec<(&str, Option<u32>, bool)> {
        wanted.iter().map(|wanted| (wanted.name.as_str(), wanted.baud_rate, wanted.is_configured)).collect()
    }

    fn console(device: &str, baud_rate: i64) -> KernelConsole {
        KernelConsole { device: device.into(), baud_rate }
    }

    #[test]
    fn every_console_of_the_kernel_is_one_of_ours() {
        let (_dir, machine) = machine(&[("sys/class/tty/console/active", "tty0 ttyS1\n")]);
        assert_eq!(
            names(&machine.terminals(&[])),
            [("tty1", None, false), ("ttyS1", None, false), ("tty1", None, false)]
        );
    }

    #[test]
    fn guests_of_incus_have_a_serial_one() {
        let (_dir, machine) = machine(&[("sys/class/virtio-ports/vport0p1/name", "org.linuxcontainers.incus\n")]);
        assert_eq!(names(&machine.terminals(&[])), [("tty1", None, false), ("ttyS0", None, false)]);
    }

    #[test]
    fn named_terminals_come_first_and_stay_in_dev() {
        let (_dir, machine) = machine(&[("sys/class/tty/console/active", "ttyS1")]);
        let configured = [
            console("/dev/ttyS0", 115_200),
            console("/dev/console", 9600),
            console("/dev/../etc/passwd", 0),
            console("ttyS3", 0),
            console("/dev/ttyS4", -1),
        ];
        assert_eq!(
            names(&machine.terminals(&configured))[..3],
            [("ttyS0", Some(115_200), true), ("ttyS1", Some(9600), true), ("ttyS4", None, true)]
        );
    }

    #[test]
    fn machine_without_files_has_plain_answers() {
        let (_dir, machine) = machine(&[]);
        assert_eq!((machine.system().as_str(), machine.hostname().as_str()), ("", ""));
        assert_eq!((machine.kernel_loglevel(), machine.is_installing()), (0, false));
        assert!(machine.clock().ends_with(" UTC"), "{}", machine.clock());
    }

    #[test]
    fn system_and_kernel_are_named() {
        let (_dir, machine) = machine(&[
            ("usr/lib/os-release", "NAME=\"IncusOS\"\nIMAGE_VERSION=\"202611220101\"\n"),
            ("proc/sys/kernel/hostname", "node1\n"),
            ("proc/sys/kernel/printk", "4\t4\t1\t7\n"),
            ("run/incus-os/install", ""),
        ]);
        assert_eq!((machine.system().as_str(), machine.hostname().as_str()), ("IncusOS 202611220101", "node1"));
        assert_eq!((machine.kernel_loglevel(), machine.is_installing()), (4, true));
    }
}
