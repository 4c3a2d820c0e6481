//! The labels that ZFS writes on its devices.
//!
//! A device has four labels of 256 KiB, two at each end. The part of interest
//! is a list of names and values (XDR) that says which pool the device is part
//! of, and a ring of "uberblocks", one per committed transaction group. The
//! format is stable: pools of any age have it.

use std::collections::BTreeMap;

/// Size of one label.
pub(crate) const LABEL_SIZE: usize = 256 << 10;

const LIST_START: usize = 16 << 10;
const RING_START: usize = 128 << 10;
const RING_STEP: usize = 1 << 10;
const UBERBLOCK_MAGIC: u64 = 0x00ba_b10c;

/// A pool without so many uberblocks has never been committed, or was wiped:
/// the first transaction group writes one into each label. libblkid counts the
/// same way.
const LEAST_UBERBLOCKS: usize = 4;

/// What the labels of a device say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Labels {
    /// There are none.
    None,
    /// There are some, but no pool can be imported from them: its creation was
    /// cut short, or it was wiped.
    Remnant,
    /// The device is part of a pool.
    Pool(PoolLabel),
}

/// The pool that a label names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolLabel {
    pub(crate) name: String,
    pub(crate) guid: u64,
}

/// Reads the labels of a device; a damaged one counts as missing.
pub(crate) fn read(labels: &[Vec<u8>]) -> Labels {
    let uberblocks: usize = labels.iter().map(|label| count_uberblocks(label)).sum();
    let lists: Vec<_> = labels.iter().filter_map(|label| list(label)).collect();
    let committed = lists.iter().find(|list| list.number("txg") > 0).filter(|_| uberblocks >= LEAST_UBERBLOCKS);
    match committed {
        Some(list) => Labels::Pool(PoolLabel { name: list.text("name").to_owned(), guid: list.number("pool_guid") }),
        // Uberblocks alone are a pool whose lists are damaged: it is not for us to overwrite.
        None if uberblocks >= LEAST_UBERBLOCKS => Labels::Pool(PoolLabel { name: String::new(), guid: 0 }),
        None if lists.is_empty() && uberblocks == 0 => Labels::None,
        None => Labels::Remnant,
    }
}

fn count_uberblocks(label: &[u8]) -> usize {
    let ring = label.get(RING_START..).unwrap_or_default();
    let is_uberblock = |slot: &&[u8]| {
        slot.first_chunk().is_some_and(|magic| {
            u64::from_le_bytes(*magic) == UBERBLOCK_MAGIC || u64::from_be_bytes(*magic) == UBERBLOCK_MAGIC
        })
    };
    ring.chunks(RING_STEP).filter(is_uberblock).count()
}

#[derive(Debug, Default)]
struct List {
    numbers: BTreeMap<String, u64>,
    texts: BTreeMap<String, String>,
}

impl List {
    fn number(&self, name: &str) -> u64 {
        self.numbers.get(name).copied().unwrap_or(0)
    }

    fn text(&self, name: &str) -> &str {
        self.texts.get(name).map_or("", String::as_str)
    }
}

/// Names and values of a label, as far as they are numbers and texts on the
/// first level. `None` unless it is a list that names a pool.
fn list(label: &[u8]) -> Option<List> {
    const XDR: u8 = 1;
    const NUMBER: u32 = 8;
    const TEXT: u32 = 9;
    let mut rest = label.get(LIST_START..RING_START.min(label.len()))?;
    // Encoding, byte order of the writer, two unused bytes; version and flags.
    if *rest.first()? != XDR {
        return None;
    }
    rest = rest.get(12..)?;
    let mut list = List::default();
    loop {
        let size = usize::try_from(word(rest, 0)?).ok()?;
        if size == 0 {
            break;
        }
        let pair = rest.get(..size)?;
        let name_size = usize::try_from(word(pair, 8)?).ok()?;
        let name = std::str::from_utf8(pair.get(12..12_usize.checked_add(name_size)?)?).ok()?;
        let value = pair.get(12 + name_size.next_multiple_of(4)..)?;
        match word(value, 0)? {
            NUMBER => {
                let number = u64::from_be_bytes(*value.get(8..)?.first_chunk()?);
                list.numbers.insert(name.to_owned(), number);
            }
            TEXT => {
                let size = usize::try_from(word(value, 8)?).ok()?;
                let text = std::str::from_utf8(value.get(12..12_usize.checked_add(size)?)?).ok()?;
                list.texts.insert(name.to_owned(), text.to_owned());
            }
            _ => {}
        }
        rest = &rest[size..];
    }
    (!list.text("name").is_empty() || list.number("pool_guid") != 0).then_some(list)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The list of a label that OpenZFS 2.4.4 wrote.
    const LIST: &[u8] = include_bytes!("../../tests/fixtures/zfs-label-local.nvlist");

    fn label(list: &[u8], uberblocks: usize) -> Vec<u8> {
        let mut label = vec![0; LABEL_SIZE];
        label[LIST_START..LIST_START + list.len()].copy_from_slice(list);
        for slot in 0..uberblocks {
            let at = RING_START + slot * 4096;
            label[at..at + 8].copy_from_slice(&UBERBLOCK_MAGIC.to_le_bytes());
        }
        label
    }

    /// The list with its transaction group set to zero: what is on the device
    /// while the pool is being created.
    fn uncommitted() -> Vec<u8> {
        let mut list = LIST.to_vec();
        let at = list.windows(4).position(|bytes| bytes == b"txg\0").unwrap();
        // After the name: type, count, value.
        list[at + 4 + 8..at + 4 + 16].fill(0);
        list
    }

    #[test]
    fn a_pool_is_recognised() {
        let expected = PoolLabel { name: "local".into(), guid: 4_854_611_665_401_592_477 };
        assert_eq!(
            read(&[label(LIST, 1), label(LIST, 1), label(LIST, 1), label(LIST, 1)]),
            Labels::Pool(expected.clone())
        );
        // Two ends of a device, one of them overwritten.
        let blank = vec![0; LABEL_SIZE];
        assert_eq!(read(&[blank.clone(), blank, label(LIST, 9), label(LIST, 9)]), Labels::Pool(expected));
    }

    #[test]
    fn a_pool_whose_creation_was_cut_short_is_a_remnant() {
        let labels = vec![label(&uncommitted(), 0); 4];
        assert_eq!(read(&labels), Labels::Remnant);
        assert_eq!(read(&[label(LIST, 1), label(LIST, 0), label(LIST, 0), label(LIST, 0)]), Labels::Remnant);
    }

    #[test]
    fn a_pool_with_damaged_lists_is_still_a_pool() {
        let unknown = PoolLabel { name: String::new(), guid: 0 };
        assert_eq!(read(&[label(&[], 4)]), Labels::Pool(unknown));
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(read(&vec![vec![0; LABEL_SIZE]; 4]), Labels::None);
        assert_eq!(read(&[]), Labels::None);
        assert_eq!(read(&[vec![0xff; LABEL_SIZE], vec![1; 10]]), Labels::None);
    }

    #[test]
    fn truncated_and_changed_lists_never_panic() {
        for end in 0..LIST.len() {
            let _ = list(&label(&LIST[..end], 0));
            let mut changed = LIST.to_vec();
            for byte in [0, 0x7f, 0xff] {
                changed[end] = byte;
                let _ = list(&label(&changed, 0));
            }
        }
    }
}
