use std::collections::BTreeMap;

use api::v1::{MemoryNode, ResourcesMemory};

use crate::tree::{self, Tree};

/// Memory of the machine and of its nodes.
pub(crate) fn read(tree: &Tree) -> ResourcesMemory {
    let text = tree.text("proc/meminfo").unwrap_or_default();
    let info = Table::parse(&text);
    let page = info.bytes("Hugepagesize");
    let free = info.bytes("MemFree") + info.bytes("Cached") + info.bytes("Buffers");
    let seen = info.bytes("MemTotal");
    ResourcesMemory {
        nodes: nodes(tree, page),
        hugepages_total: info.bytes("HugePages_Total") * page,
        hugepages_used: info.hugepages_used() * page,
        hugepages_size: page,
        used: seen.saturating_sub(free),
        // What the kernel manages is less than what is built in.
        total: built_in(tree).unwrap_or(seen),
    }
}

fn nodes(tree: &Tree, page: u64) -> Vec<MemoryNode> {
    let folder = tree.path("sys/devices/system/node");
    let nodes = tree::names(&folder).into_iter().filter_map(|name| Some((tree::numbered(&name, "node")?, name)));
    nodes
        .filter_map(|(numa_node, name)| {
            let text = tree::text(&folder.join(name).join("meminfo"))?;
            let info = Table::parse(&text);
            Some(MemoryNode {
                numa_node,
                hugepages_used: info.hugepages_used() * page,
                hugepages_total: info.bytes("HugePages_Total") * page,
                used: info.bytes("MemUsed"),
                total: info.bytes("MemTotal"),
            })
        })
        .collect()
}

/// Bytes in the memory blocks that are online.
fn built_in(tree: &Tree) -> Option<u64> {
    let folder = tree.path("sys/devices/system/memory");
    let block = tree::hex(&folder.join("block_size_bytes"))?;
    let is_online = |name: &String| {
        tree::numbered(name, "memory").is_some() && tree::number(&folder.join(name).join("online")) == Some(1)
    };
    let blocks = tree::names(&folder).iter().filter(|name| is_online(name)).count() as u64;
    blocks.checked_mul(block).filter(|bytes| *bytes > 0)
}

/// The lines of a meminfo file: of the machine, or of a node (`Node 0 MemTotal: 1 kB`).
struct Table<'t>(BTreeMap<&'t str, u64>);

impl<'t> Table<'t> {
    fn parse(text: &'t str) -> Self {
        let lines = text.lines().filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            let mut words = value.split_whitespace();
            let number: u64 = words.next()?.parse().ok()?;
            let unit = if words.next() == Some("kB") { 1024 } else { 1 };
            Some((key.rsplit(' ').next()?, number.checked_mul(unit)?))
        });
        Self(lines.collect())
    }

    fn bytes(&self, key: &str) -> u64 {
        self.0.get(key).copied().unwrap_or_default()
    }

    fn hugepages_used(&self) -> u64 {
        self.bytes("HugePages_Total").saturating_sub(self.bytes("HugePages_Free"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_machine_and_node_are_read_alike() {
        let table = Table::parse(
            "MemTotal:  2 kB\nNode 0 MemUsed:       3 kB\nHugePages_Total:       4\nbad\nx: y\nbig: 99999999999999999999 kB\n",
        );
        assert_eq!((table.bytes("MemTotal"), table.bytes("MemUsed"), table.bytes("HugePages_Total")), (2048, 3072, 4));
        assert_eq!((table.bytes("big"), table.bytes("missing"), table.hugepages_used()), (0, 0, 4));
    }
}
