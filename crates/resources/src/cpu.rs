use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use api::v1::{CpuAddressSizes, CpuCache, CpuCore, CpuSocket, CpuThread, ResourcesCpu};

use crate::tree::{self, Tree};

/// Threads, cores and sockets.
pub(crate) fn read(tree: &Tree) -> ResourcesCpu {
    let info = ProcessorInfo::parse(&tree.text("proc/cpuinfo").unwrap_or_default());
    let isolated: BTreeSet<_> =
        tree.text("sys/devices/system/cpu/isolated").map(|text| tree::list(&text)).into_iter().flatten().collect();
    let nodes = numa_nodes(tree);
    let mut sockets = BTreeMap::<u64, Socket>::new();
    let mut total = 0;
    for name in tree.names("sys/devices/system/cpu") {
        let Some(id) = tree::numbered(&name, "cpu") else {
            continue;
        };
        total += 1;
        let folder = tree.path("sys/devices/system/cpu").join(name);
        let topology = |file: &str| tree::number(&folder.join("topology").join(file));
        // An offline thread has no topology; it is counted to the first socket.
        let socket = sockets.entry(topology("physical_package_id").unwrap_or_default()).or_default();
        if socket.message.cache.is_empty() {
            socket.message.cache = caches(&folder);
        }
        let info = info.get(&id);
        socket.describe(&folder, info);
        let siblings = tree::text(&folder.join("topology/thread_siblings_list")).unwrap_or_else(|| id.to_string());
        let core = socket.cores.entry(tree::list(&siblings)).or_insert_with(|| CpuCore {
            core: topology("core_id").unwrap_or_default(),
            // The kernel's word for "there are no clusters".
            cluster: topology("cluster_id").filter(|id| *id != 65535).unwrap_or_default(),
            die: topology("die_id").unwrap_or_default(),
            threads: Vec::new(),
            frequency: frequency(&folder, "scaling_cur_freq").or_else(|| info?.megahertz).unwrap_or_default(),
            flags: info.map(|info| info.flags.clone()).unwrap_or_default(),
        });
        core.threads.push(CpuThread {
            id: i64::try_from(id).unwrap_or_default(),
            numa_node: nodes.get(&id).copied().unwrap_or_default(),
            thread: core.threads.len() as u64,
            online: tree::number(&folder.join("online")).is_none_or(|online| online == 1),
            isolated: isolated.contains(&id),
        });
    }
    ResourcesCpu {
        architecture: rustix::system::uname().machine().to_string_lossy().into_owned(),
        sockets: sockets.into_iter().map(|(id, socket)| socket.finish(id)).collect(),
        total,
    }
}

#[derive(Debug, Default)]
struct Socket {
    message: CpuSocket,
    /// By the threads that share the core.
    cores: BTreeMap<Vec<u64>, CpuCore>,
}

impl Socket {
    /// Takes over what one of its threads says of the socket.
    fn describe(&mut self, folder: &Path, info: Option<&Processor>) {
        let socket = &mut self.message;
        if let Some(info) = info {
            if socket.name.is_empty() {
                socket.name.clone_from(&info.name);
            }
            if socket.vendor.is_empty() {
                socket.vendor.clone_from(&info.vendor);
            }
            socket.address_sizes = socket.address_sizes.or(info.address_sizes);
        }
        if socket.frequency_minimum == 0 {
            socket.frequency_minimum = frequency(folder, "cpuinfo_min_freq").unwrap_or_default();
        }
        if socket.frequency_turbo == 0 {
            socket.frequency_turbo = frequency(folder, "cpuinfo_max_freq").unwrap_or_default();
        }
    }

    fn finish(self, id: u64) -> CpuSocket {
        let frequencies: Vec<_> = self.cores.values().map(|core| core.frequency).filter(|mhz| *mhz > 0).collect();
        let mean = frequencies.iter().sum::<u64>().checked_div(frequencies.len() as u64).unwrap_or_default();
        CpuSocket { socket: id, cores: self.cores.into_values().collect(), frequency: mean, ..self.message }
    }
}

/// MHz.
fn frequency(folder: &Path, file: &str) -> Option<u64> {
    tree::number(&folder.join("cpufreq").join(file)).map(|kilohertz| kilohertz / 1000)
}

fn caches(folder: &Path) -> Vec<CpuCache> {
    let folder = folder.join("cache");
    let indices = tree::names(&folder).into_iter().filter(|name| tree::numbered(name, "index").is_some());
    indices
        .filter_map(|index| {
            let folder = folder.join(index);
            Some(CpuCache {
                level: tree::number(&folder.join("level"))?,
                r#type: tree::text(&folder.join("type"))?,
                size: cache_size(&tree::text(&folder.join("size"))?)?,
            })
        })
        .collect()
}

/// `32K`, `16M` or bytes.
fn cache_size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 1 << 10),
        b'M' => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Node of each thread.
fn numa_nodes(tree: &Tree) -> BTreeMap<u64, u64> {
    let folder = tree.path("sys/devices/system/node");
    let nodes = tree::names(&folder).into_iter().filter_map(|name| Some((tree::numbered(&name, "node")?, name)));
    nodes
        .flat_map(|(node, name)| {
            let cpus = tree::text(&folder.join(name).join("cpulist")).unwrap_or_default();
            tree::list(&cpus).into_iter().map(move |cpu| (cpu, node))
        })
        .collect()
}

/// `/proc/cpuinfo`.
struct ProcessorInfo(BTreeMap<u64, Processor>);

#[derive(Debug, Default, PartialEq)]
struct Processor {
    name: String,
    vendor: String,
    flags: Vec<String>,
    megahertz: Option<u64>,
    address_sizes: Option<CpuAddressSizes>,
}

impl ProcessorInfo {
    fn parse(text: &str) -> Self {
        let mut processors = BTreeMap::new();
        let mut current = None;
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':').map(|(key, value)| (key.trim(), value.trim())) else {
                continue;
            };
            if key == "processor" {
                current = value.parse().ok();
            }
            let Some(id) = current else {
                continue;
            };
            let processor: &mut Processor = processors.entry(id).or_default();
            match key {
                "model name" | "cpu" => value.clone_into(&mut processor.name),
                "vendor_id" => value.clone_into(&mut processor.vendor),
                "flags" | "Features" => processor.flags = value.split_whitespace().map(str::to_owned).collect(),
                "cpu MHz" => processor.megahertz = value.split('.').next().and_then(|whole| whole.parse().ok()),
                "address sizes" => processor.address_sizes = address_sizes(value),
                _ => {}
            }
        }
        Self(processors)
    }

    fn get(&self, id: &u64) -> Option<&Processor> {
        self.0.get(id)
    }
}

/// `40 bits physical, 48 bits virtual`.
fn address_sizes(text: &str) -> Option<CpuAddressSizes> {
    let bits = |kind: &str| {
        let part = text.split(',').find(|part| part.ends_with(kind))?;
        part.split_whitespace().next()?.parse().ok()
    };
    Some(CpuAddressSizes { physical_bits: bits("physical")?, virtual_bits: bits("virtual")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_of_both_architectures_is_read() {
        let info = ProcessorInfo::parse(
            "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: A: B\ncpu MHz\t\t: 2400.123\nflags\t\t: fpu vme\naddress sizes\t: 46 bits physical, 48 bits virtual\n\nprocessor\t: 1\nbogus\n",
        );
        let first = info.get(&0).unwrap();
        assert_eq!((first.name.as_str(), first.vendor.as_str(), first.megahertz), ("A: B", "GenuineIntel", Some(2400)));
        assert_eq!(first.flags, ["fpu", "vme"]);
        assert_eq!(first.address_sizes, Some(CpuAddressSizes { physical_bits: 46, virtual_bits: 48 }));
        assert_eq!(info.get(&1), Some(&Processor::default()));
        let arm = ProcessorInfo::parse("processor : 3\nFeatures : fp asimd\nCPU implementer : 0x41\n");
        assert_eq!(arm.get(&3).unwrap().flags, ["fp", "asimd"]);
        assert!(ProcessorInfo::parse("processor : x\nflags : a\nflags\n:\n").0.is_empty());
    }

    #[test]
    fn odd_sizes_are_left_out() {
        assert_eq!(cache_size("32K"), Some(32768));
        assert_eq!(cache_size("2M"), Some(2 << 20));
        assert_eq!(cache_size("64"), Some(64));
        for text in ["", "K", "x", "-1K", "99999999999999999999", "18446744073709551615M"] {
            assert_eq!(cache_size(text), None, "{text}");
        }
        assert_eq!(address_sizes("40 bits physical"), None);
    }
}
