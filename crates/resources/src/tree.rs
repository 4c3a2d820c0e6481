//! Reading small files of virtual file systems.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

/// Largest file that is read. An attribute of sysfs has at most one page;
/// `/proc/cpuinfo` of a machine with a thousand processors has two megabytes.
const SIZE_LIMIT: u64 = 4 << 20;

/// The file systems below a root. Paths are written without a leading slash.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(crate) fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Whether this is the machine that the program runs on, which can be asked
    /// by other ways than files.
    pub(crate) fn is_this_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    pub(crate) fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.root.join(inside)
    }

    /// Text of a file, without surrounding white space.
    pub(crate) fn text(&self, inside: impl AsRef<Path>) -> Option<String> {
        text(&self.path(inside))
    }

    /// Names in a folder, in the order of the numbers in them.
    pub(crate) fn names(&self, inside: impl AsRef<Path>) -> Vec<String> {
        names(&self.path(inside))
    }
}

/// Text of a file, without surrounding white space; `None` when it is missing
/// or empty, or when the device does not answer.
pub(crate) fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(SIZE_LIMIT).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// A decimal number.
pub(crate) fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

/// A hexadecimal number, with or without `0x`.
pub(crate) fn hex(path: &Path) -> Option<u64> {
    let text = text(path)?;
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(&text), 16).ok()
}

/// Last component of what a link points to.
pub(crate) fn link_name(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_str()?.to_owned())
}

/// Names in a folder, in the order of the numbers in them: `cpu2` comes before `cpu10`.
pub(crate) fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_by(|a, b| natural(a).cmp(&natural(b)).then_with(|| a.cmp(b)));
    names
}

/// The number after a prefix: 10 of `cpu10`.
pub(crate) fn numbered(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Numbers of a list such as `0-3,8`.
pub(crate) fn list(text: &str) -> Vec<u64> {
    /// More processors than any kernel is built for.
    const LIMIT: u64 = 1 << 16;
    let ranges = text.split(',').filter_map(|range| {
        let range = range.trim();
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?))
    });
    ranges.filter(|(_, last)| *last < LIMIT).flat_map(|(first, last)| first..=last).collect()
}

/// Text and numbers of a name, alternating.
fn natural(name: &str) -> Vec<(&str, Option<u64>)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, after) = rest.split_at(text_end);
        let number_end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let (number, after) = after.split_at(number_end);
        parts.push((text, number.parse().ok()));
        rest = after;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers_are_read() {
        assert_eq!(list("0-3,8,10-11"), [0, 1, 2, 3, 8, 10, 11]);
        assert!(list("").is_empty());
        assert_eq!(list("x,1-,-2,5-3,0-99999999999,7"), [7]);
    }

    #[test]
    fn names_are_in_the_order_of_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cpu10", "cpu2", "cpu1", "cpufreq", "cpu"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(names(dir.path()), ["cpu", "cpu1", "cpu2", "cpu10", "cpufreq"]);
        assert_eq!(numbered("cpu10", "cpu"), Some(10));
        assert_eq!((numbered("cpufreq", "cpu"), numbered("cpu", "cpu"), numbered("cpu+1", "cpu")), (None, None, None));
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("text"), "text\0\n").unwrap();
        fs::write(dir.path().join("binary"), [0xff, 0xfe]).unwrap();
        assert_eq!(text(&dir.path().join("text")).as_deref(), Some("text"));
        assert_eq!(number(&dir.path().join("text")), None);
        assert!(text(&dir.path().join("binary")).is_some());
        assert_eq!((text(&dir.path().join("missing")), text(dir.path())), (None, None));
        assert_eq!(names(&dir.path().join("missing")), Vec::<String>::new());
    }
}
