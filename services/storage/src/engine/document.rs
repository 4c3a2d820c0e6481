//! The document that clients read, made of what is known.

use std::collections::{BTreeMap, BTreeSet};

use api::v1::{Pool, PoolSpecial, StorageState};

use crate::engine::{
    block::BlockDevices,
    datasets::Datasets,
    drives::{self, Knowledge},
    pools::{Layout, Member, Members, PoolStatus},
    smart::SmartReport,
};

/// One imported pool.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PoolReading {
    pub(crate) status: PoolStatus,
    /// `None` if the pool did not tell.
    pub(crate) datasets: Option<Datasets>,
}

/// Everything that the document is made of.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    pub(crate) devices: &'a BlockDevices,
    /// `major:minor` of the running system's own file system.
    pub(crate) system: Option<&'a str>,
    pub(crate) pools: &'a [PoolReading],
    /// Pools that there is a key file of.
    pub(crate) pool_keys: &'a BTreeSet<String>,
    /// Drives that there is a key file of.
    pub(crate) drive_keys: BTreeSet<String>,
    pub(crate) smart: &'a BTreeMap<String, SmartReport>,
}

/// Drives and pools; the root partition is left to the caller.
pub(crate) fn state(known: Known<'_>) -> StorageState {
    let devices = known.devices;
    let mut pools: Vec<_> = known.pools.iter().map(|reading| pool(devices, reading, known.pool_keys)).collect();
    let is_imported = |name: &String| known.pools.iter().any(|reading| reading.status.name == *name);
    pools.extend(known.pool_keys.iter().filter(|name| !is_imported(name)).map(|name| missing_pool(name)));
    pools.sort_by(|a, b| a.name.cmp(&b.name));

    let knowledge = Knowledge {
        boot: known.system.map(|number| devices.boot_drives(number)).unwrap_or_default(),
        member_of: member_of(devices, known.pools),
        keys: known.drive_keys,
        smart: Some(known.smart),
    };
    StorageState { drives: drives::drives(devices, &knowledge), pools, root_partition: None }
}

/// A pool that we have a key of, but that is not imported: its drives are away,
/// or are not readable.
fn missing_pool(name: &str) -> Pool {
    Pool { name: name.to_owned(), managed: true, state: "UNAVAIL".to_owned(), ..Pool::default() }
}

fn pool(devices: &BlockDevices, reading: &PoolReading, keys: &BTreeSet<String>) -> Pool {
    let PoolReading { status, datasets } = reading;
    let online = |members: &Members| paths(devices, &members.online);
    let degraded = |members: &Members| paths(devices, &members.degraded);
    let small_blocks = datasets.as_ref().map_or(0, |datasets| datasets.special_small_blocks);
    Pool {
        name: status.name.clone(),
        r#type: status.layout.name(),
        devices: online(&status.data),
        cache: online(&status.cache),
        log: online(&status.log),
        special: (status.special_layout != Layout::None).then(|| PoolSpecial {
            r#type: status.special_layout.name(),
            special_small_blocks_size_in_kb: small_blocks / 1024,
            devices: online(&status.special),
        }),
        managed: keys.contains(&status.name),
        state: status.state.clone(),
        last_scrub: status.scrub.clone(),
        last_trim: status.trim.clone(),
        encryption_key_status: datasets.as_ref().map(|datasets| datasets.key.name().to_owned()).unwrap_or_default(),
        devices_degraded: degraded(&status.data),
        cache_degraded: degraded(&status.cache),
        log_degraded: degraded(&status.log),
        special_degraded: degraded(&status.special),
        raw_pool_size_in_bytes: status.raw_size,
        usable_pool_size_in_bytes: status.usable_size,
        pool_allocated_space_in_bytes: status.allocated,
        volumes: datasets.as_ref().map(|datasets| datasets.volumes.clone()).unwrap_or_default(),
        ..Pool::default()
    }
}

/// Paths of members, sorted: the ones they were added by, unless these depend on
/// the order of detection.
fn paths(devices: &BlockDevices, members: &[Member]) -> Vec<String> {
    let mut paths: Vec<_> = members
        .iter()
        .map(|member| {
            if member.path.starts_with("/dev/disk/") || member.path.starts_with("/dev/mapper/") {
                return member.path.clone();
            }
            devices.by_path(&member.path).and_then(|device| device.stable_path()).unwrap_or_else(|| member.path.clone())
        })
        .collect();
    paths.sort();
    paths
}

/// Which pool uses a drive, or a part of it, directly or through a mapping.
fn member_of<'a>(devices: &'a BlockDevices, pools: &'a [PoolReading]) -> BTreeMap<&'a str, &'a str> {
    let mut member_of = BTreeMap::new();
    for PoolReading { status, .. } in pools {
        for member in status.members() {
            for drive in drives_of(devices, member) {
                member_of.entry(drive).or_insert(status.name.as_str());
            }
        }
        // What a label says of a drive that the pool has lost counts as well, so
        // that nobody takes it for free.
        let lost = devices.iter().filter(|device| device.property("ID_FS_LABEL") == status.name);
        for device in lost.filter(|device| device.property("ID_FS_TYPE") == "zfs_member") {
            if status.members().any(|member| member.guid.to_string() == device.property("ID_FS_UUID_SUB")) {
                for drive in devices.drives_below(&device.name) {
                    member_of.entry(drive).or_insert(status.name.as_str());
                }
            }
        }
    }
    member_of
}

fn drives_of<'a>(devices: &'a BlockDevices, member: &Member) -> BTreeSet<&'a str> {
    // The name of a missing member may lead to another drive by now.
    if member.missing {
        return BTreeSet::new();
    }
    devices.by_path(&member.path).map(|device| devices.drives_below(&device.name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{block::BlockDevice, datasets::Datasets, pools};

    fn disk(name: &str, id: &str) -> BlockDevice {
        BlockDevice {
            name: name.into(),
            node: name.into(),
            sysfs: format!("/devices/pci0000:00/{name}"),
            size: 10 << 30,
            links: vec![format!("disk/by-id/{id}")],
            ..BlockDevice::default()
        }
    }

    fn partition(disk: &str, name: &str, id: &str) -> BlockDevice {
        BlockDevice { disk: Some(disk.into()), ..self::disk(name, id) }
    }

    fn readings(text: &str) -> Vec<PoolReading> {
        let statuses = pools::parse(text.as_bytes()).unwrap();
        statuses.into_iter().map(|status| PoolReading { status, datasets: Some(Datasets::default()) }).collect()
    }

    fn document(devices: &BlockDevices, pools: &[PoolReading], keys: &[&str]) -> StorageState {
        state(Known {
            devices,
            system: None,
            pools,
            pool_keys: &keys.iter().map(|&key| key.into()).collect(),
            drive_keys: BTreeSet::new(),
            smart: &BTreeMap::new(),
        })
    }

    fn member_pools(state: &StorageState) -> Vec<(&str, &str)> {
        state.drives.iter().map(|drive| (drive.id.rsplit('/').next().unwrap(), drive.member_pool.as_str())).collect()
    }

    #[test]
    fn a_partition_makes_its_drive_a_member() {
        let devices = BlockDevices::from_iter([
            disk("sda", "scsi-0QEMU_QEMU_HARDDISK_incus_root"),
            partition("sda", "sda11", "scsi-0QEMU_QEMU_HARDDISK_incus_root-part11"),
            disk("sdb", "scsi-b"),
        ]);
        let pools = readings(include_str!("../../tests/fixtures/zpool-status-local.json"));
        let state = document(&devices, &pools, &["local"]);
        assert_eq!(member_pools(&state), [("scsi-0QEMU_QEMU_HARDDISK_incus_root", "local"), ("scsi-b", "")]);
        assert!(state.pools[0].managed);
        assert_eq!(state.pools[0].devices, ["/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_incus_root-part11"]);
    }

    #[test]
    fn members_are_found_through_mappings_and_unstable_names() {
        let mapped = BlockDevice {
            links: vec!["mapper/luks-scsi-b".into()],
            slaves: vec!["sdb".into()],
            sysfs: "/devices/virtual/block/dm-3".into(),
            ..disk("dm-3", "dm-name-luks-scsi-b")
        };
        let mapped = BlockDevice {
            links: [mapped.links.clone(), vec!["disk/by-id/dm-name-luks-scsi-b".into()]].concat(),
            ..mapped
        };
        let devices =
            BlockDevices::from_iter([disk("sdb", "scsi-b"), mapped, disk("sdc", "scsi-c"), disk("sdd", "scsi-d")]);
        let pools = readings(
            r#"{"pools":{"p":{"state":"ONLINE","vdevs":{"p":{"vdevs":{
                "luks-scsi-b":{"vdev_type":"disk","state":"ONLINE","path":"/dev/mapper/luks-scsi-b"},
                "sdc":{"vdev_type":"disk","state":"ONLINE","path":"/dev/sdc"}}}},
                "spares":{"scsi-d":{"vdev_type":"disk","state":"AVAIL","path":"/dev/disk/by-id/scsi-d"}}}}}"#,
        );
        let state = document(&devices, &pools, &[]);
        assert_eq!(member_pools(&state), [("scsi-b", "p"), ("scsi-c", "p"), ("scsi-d", "p")]);
        assert_eq!(state.pools[0].devices, ["/dev/disk/by-id/scsi-c", "/dev/mapper/luks-scsi-b"]);
        assert!(!state.pools[0].managed);
    }

    #[test]
    fn a_lost_member_is_known_by_its_label_and_not_by_its_old_name() {
        let pools = readings(include_str!("../../tests/fixtures/zpool-status-degraded-all-classes.json"));
        // Another drive took the name, the member has another name now.
        let mut lost = disk("sdx", "scsi-x");
        let label = [("ID_FS_TYPE", "zfs_member"), ("ID_FS_LABEL", "tank"), ("ID_FS_UUID_SUB", "12841765308123764671")];
        lost.properties = label.into_iter().map(|(key, value)| (key, value.to_owned())).collect();
        let devices = BlockDevices::from_iter([disk("sdy", "scsi-d2"), lost]);
        let state = document(&devices, &pools, &[]);
        assert_eq!(member_pools(&state), [("scsi-d2", ""), ("scsi-x", "tank")]);
        assert_eq!(state.pools[0].devices_degraded, ["/dev/disk/by-id/scsi-d2"]);
        assert_eq!(state.pools[0].special.as_ref().unwrap().r#type, "zfs-raid1");
    }

    #[test]
    fn a_pool_with_a_key_that_is_away_is_shown_as_such() {
        let state = document(&BlockDevices::default(), &[], &["tank"]);
        let [pool] = &state.pools[..] else { panic!("one pool") };
        assert_eq!((pool.name.as_str(), pool.state.as_str(), pool.managed), ("tank", "UNAVAIL", true));
    }
}
