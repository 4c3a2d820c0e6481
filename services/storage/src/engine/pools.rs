//! Pools, from the JSON of `zpool status`.
//!
//! ZFS leaves out keys whose value is zero, prints numbers as text in some
//! places, and may describe layouts that this system never makes: everything is
//! read leniently, and one pool that cannot be read does not hide the others.

use std::collections::BTreeMap;

use api::v1::{PoolScrub, PoolTrim};
use jiff::Timestamp;
use serde_json::{Map, Value};

/// One pool, as `zpool status` describes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PoolStatus {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) layout: Layout,
    pub(crate) data: Members,
    pub(crate) cache: Members,
    pub(crate) log: Members,
    pub(crate) special: Members,
    pub(crate) special_layout: Layout,
    /// Members of classes that the API does not show: spares, deduplication tables.
    pub(crate) others: Members,
    pub(crate) raw_size: i64,
    pub(crate) usable_size: i64,
    pub(crate) allocated: i64,
    pub(crate) scrub: Option<PoolScrub>,
    pub(crate) trim: Option<PoolTrim>,
}

impl PoolStatus {
    /// All members, working or not.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        [&self.data, &self.log, &self.cache, &self.special, &self.others]
            .into_iter()
            .flat_map(|members| members.online.iter().chain(&members.degraded))
    }

    /// Whether ZFS waits for a drive to come back, and so lets every program that
    /// asks for the pool's content wait too.
    pub(crate) fn is_suspended(&self) -> bool {
        self.state == "SUSPENDED"
    }
}

/// Members of one class, each list sorted by path.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Members {
    pub(crate) online: Vec<Member>,
    pub(crate) degraded: Vec<Member>,
}

/// A device of a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    /// The path that it was added by: of the whole disk, if ZFS partitioned it.
    pub(crate) path: String,
    /// Names the device when its path does not.
    pub(crate) guid: u64,
    /// The device was not there when the pool was imported.
    pub(crate) missing: bool,
}

/// How the members of one class are arranged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Layout {
    #[default]
    None,
    Raid0,
    Raid1,
    Raid10,
    Raidz(u64),
    Unsupported,
}

impl Layout {
    /// The name in the API.
    pub(crate) fn name(self) -> String {
        match self {
            Self::None => String::new(),
            Self::Raid0 => "zfs-raid0".to_owned(),
            Self::Raid1 => "zfs-raid1".to_owned(),
            Self::Raid10 => "zfs-raid10".to_owned(),
            Self::Raidz(parity) => format!("zfs-raidz{parity}"),
            Self::Unsupported => "zfs-unsupported".to_owned(),
        }
    }

    /// From what the top-level vdevs are. Their numbers say nothing: they have
    /// gaps after a removal, and count all classes together.
    fn of(vdevs: &Map<String, Value>) -> Self {
        let kinds: Vec<_> = vdevs.iter().map(|(name, vdev)| Kind::of(name, vdev)).collect();
        match kinds.as_slice() {
            [] => Self::None,
            [Kind::Mirror] => Self::Raid1,
            kinds if kinds.iter().all(|kind| *kind == Kind::Leaf) => Self::Raid0,
            kinds if kinds.iter().all(|kind| *kind == Kind::Mirror) => Self::Raid10,
            [Kind::Raidz(parity), rest @ ..] if rest.iter().all(|kind| *kind == Kind::Raidz(*parity)) => {
                Self::Raidz(*parity)
            }
            _ => Self::Unsupported,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Leaf,
    Mirror,
    Raidz(u64),
    Other,
}

impl Kind {
    fn of(name: &str, vdev: &Value) -> Self {
        match text(vdev, "vdev_type") {
            // A device that is being replaced is still one device.
            "disk" | "file" | "missing" | "replacing" | "spare" => Self::Leaf,
            "mirror" => Self::Mirror,
            "raidz" => {
                let parity = name.strip_prefix("raidz").and_then(|rest| rest.split('-').next()?.parse().ok());
                parity.filter(|parity| (1..=3).contains(parity)).map_or(Self::Other, Self::Raidz)
            }
            _ => Self::Other,
        }
    }
}

/// Why a pool could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatusError {
    /// The text is not JSON.
    #[error("`zpool status` printed what is not JSON")]
    Syntax(#[source] serde_json::Error),
    /// There is no table of pools.
    #[error("`zpool status` printed no table of pools")]
    NoPools,
}

/// Reads the output of `zpool status -t -j -p --json-int`, sorted by name.
pub(crate) fn parse(output: &[u8]) -> Result<Vec<PoolStatus>, StatusError> {
    if output.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    let document: Value = serde_json::from_slice(output).map_err(StatusError::Syntax)?;
    let pools = document.get("pools").and_then(Value::as_object).ok_or(StatusError::NoPools)?;
    let mut pools: Vec<_> = pools.iter().map(|(name, pool)| status(name, pool)).collect();
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(pools)
}

fn status(name: &str, pool: &Value) -> PoolStatus {
    let table =
        |value: Option<&Value>| -> Map<String, Value> { value.and_then(Value::as_object).cloned().unwrap_or_default() };
    let root = pool.pointer("/vdevs").and_then(|roots| roots.get(name));
    let vdevs = table(root.and_then(|root| root.get("vdevs")));
    // The other classes are listed beside the data vdevs, not among them.
    let (log, cache, special) = (table(pool.get("logs")), table(pool.get("l2cache")), table(pool.get("special")));
    let sum = |key| vdevs.values().map(|vdev| number(vdev, key)).fold(0, i64::saturating_add);
    PoolStatus {
        name: name.to_owned(),
        state: text(pool, "state").to_owned(),
        layout: Layout::of(&vdevs),
        data: members(&vdevs),
        cache: members(&cache),
        log: members(&log),
        special: members(&special),
        special_layout: Layout::of(&special),
        others: members(&["spares", "dedup"].into_iter().flat_map(|class| table(pool.get(class))).collect()),
        raw_size: sum("total_space"),
        usable_size: sum("def_space"),
        allocated: sum("alloc_space"),
        scrub: pool.get("scan_stats").and_then(scrub),
        trim: trim([&vdevs, &log, &special].into_iter()),
    }
}

fn members(vdevs: &Map<String, Value>) -> Members {
    let mut members = Members::default();
    each_leaf(vdevs, &mut |name, vdev| {
        let list = if text(vdev, "state") == "ONLINE" { &mut members.online } else { &mut members.degraded };
        list.push(member(name, vdev));
    });
    members.online.sort();
    members.degraded.sort();
    members
}

fn each_leaf<'a>(vdevs: &'a Map<String, Value>, found: &mut impl FnMut(&'a str, &'a Value)) {
    for (name, vdev) in vdevs {
        match vdev.get("vdevs").and_then(Value::as_object) {
            Some(children) => each_leaf(children, found),
            None => found(name, vdev),
        }
    }
}

fn member(name: &str, vdev: &Value) -> Member {
    // A member that was missing at import is named by its number only.
    let was = text(vdev, "was");
    let path = if was.is_empty() { text(vdev, "path") } else { was };
    let missing = !was.is_empty() || number(vdev, "not_present") != 0;
    let whole = whole_disk(path).filter(|disk| missing || disk.rsplit('/').next() == Some(name));
    let path = match (whole, path) {
        (Some(disk), _) => disk.to_owned(),
        (None, "") => name.to_owned(),
        (None, path) => path.to_owned(),
    };
    Member { path, guid: vdev.get("guid").map(whole_number).unwrap_or_default(), missing }
}

/// The disk of the partition that ZFS makes on a disk that it is given whole.
fn whole_disk(path: &str) -> Option<&str> {
    path.strip_suffix("-part1")
}

fn scrub(scan: &Value) -> Option<PoolScrub> {
    const IN_PROGRESS: &str = "IN_PROGRESS";
    let start = number(scan, "start_time");
    // A resilver is described in the same place.
    if start == 0 || text(scan, "function") != "SCRUB" {
        return None;
    }
    let state = match text(scan, "state") {
        "SCANNING" => IN_PROGRESS,
        "FINISHED" => "FINISHED",
        _ => "UNKNOWN",
    };
    let end = if state == IN_PROGRESS { 0 } else { number(scan, "end_time") };
    let progress = match state {
        "FINISHED" => "100.00%".to_owned(),
        _ => percentage(number(scan, "examined"), number(scan, "to_examine")),
    };
    Some(PoolScrub {
        state: state.to_owned(),
        start_time: time(start),
        end_time: time(end),
        progress,
        errors: number(scan, "errors"),
    })
}

/// The trim of a pool, from those of its devices; `None` if there was none.
fn trim<'a>(classes: impl Iterator<Item = &'a Map<String, Value>>) -> Option<PoolTrim> {
    let (mut devices, mut unable) = (0, 0);
    let (mut done, mut total, mut latest, mut errors) = (0_i64, 0_i64, 0, 0_i64);
    let mut states = BTreeMap::<&str, usize>::new();
    for class in classes {
        each_leaf(class, &mut |_, vdev| {
            devices += 1;
            if number(vdev, "trim_notsup") != 0 {
                unable += 1;
                return;
            }
            match text(vdev, "trim_state") {
                "" | "UNTRIMMED" | "NONE" => return,
                state => *states.entry(state).or_default() += 1,
            }
            done = done.saturating_add(number(vdev, "trimmed"));
            total = total.saturating_add(number(vdev, "to_trim"));
            latest = latest.max(number(vdev, "trim_time"));
            errors = errors.saturating_add(number(vdev, "trim_errors"));
        });
    }
    let any = |state| states.contains_key(state);
    let state = if any("ACTIVE") {
        "IN_PROGRESS"
    } else if any("SUSPENDED") {
        "SUSPENDED"
    } else if any("CANCELED") {
        "CANCELED"
    } else if any("COMPLETE") {
        "FINISHED"
    } else if !states.is_empty() {
        "UNKNOWN"
    } else if devices > 0 && unable == devices {
        "UNSUPPORTED"
    } else {
        return None;
    };
    let progress = if state == "FINISHED" { "100.00%".to_owned() } else { percentage(done, total) };
    Some(PoolTrim { state: state.to_owned(), last_action_time: time(latest), progress, errors })
}

/// How much of `total` is done. More than all of it is almost all of it: the
/// total is an estimate, and the work has not ended.
fn percentage(done: i64, total: i64) -> String {
    if total <= 0 {
        return "0.00%".to_owned();
    }
    #[expect(clippy::cast_precision_loss, reason = "two decimals are printed")]
    let percent = done as f64 / total as f64 * 100.0;
    if percent > 100.0 { "99.99%".to_owned() } else { format!("{percent:.2}%") }
}

/// RFC 3339 of a time in seconds since the epoch.
fn time(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A number; zero if there is none.
fn number(value: &Value, key: &str) -> i64 {
    let number = value.get(key).map(whole_number).unwrap_or_default();
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that may be spelled as text; zero if it is none.
pub(super) fn whole_number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(text: &str) -> PoolStatus {
        parse(text.as_bytes()).unwrap().pop().unwrap()
    }

    fn paths(members: &[Member]) -> Vec<&str> {
        members.iter().map(|member| member.path.as_str()).collect()
    }

    /// A pool whose top-level vdevs have these names and types.
    fn layout(vdevs: &[(&str, &str)]) -> Layout {
        let vdevs =
            vdevs.iter().map(|(name, kind)| ((*name).to_owned(), serde_json::json!({"vdev_type": kind}))).collect();
        Layout::of(&vdevs)
    }

    #[test]
    fn the_system_pool_of_a_fresh_machine() {
        let pool = fixture(include_str!("../../tests/fixtures/zpool-status-local.json"));
        assert_eq!((pool.name.as_str(), pool.state.as_str()), ("local", "ONLINE"));
        assert_eq!(pool.layout.name(), "zfs-raid0");
        assert_eq!(paths(&pool.data.online), ["/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_incus_root-part11"]);
        assert_eq!(pool.raw_size, 17_716_740_096);
        assert_eq!(pool.usable_size, 17_716_740_096);
        assert_eq!(pool.allocated, 589_824);
        assert_eq!(pool.scrub, None);
        assert_eq!(pool.trim, None);
        assert_eq!(pool.special_layout.name(), "");
    }

    #[test]
    fn all_classes_of_a_degraded_pool() {
        let pool = fixture(include_str!("../../tests/fixtures/zpool-status-degraded-all-classes.json"));
        assert_eq!(pool.state, "DEGRADED");
        assert_eq!(pool.layout, Layout::Raidz(1));
        assert_eq!(paths(&pool.data.online), ["/dev/disk/by-id/scsi-d1", "/dev/disk/by-id/scsi-d3"]);
        // Whole disk, named by its number since it was missing at import.
        assert_eq!(paths(&pool.data.degraded), ["/dev/disk/by-id/scsi-d2"]);
        assert!(pool.data.degraded[0].missing);
        assert_eq!(pool.data.degraded[0].guid, 12_841_765_308_123_764_671);
        assert_eq!(paths(&pool.log.online), ["/dev/disk/by-id/scsi-l1", "/dev/disk/by-id/scsi-l2"]);
        assert_eq!(paths(&pool.cache.online), ["/dev/disk/by-id/scsi-c1"]);
        assert_eq!(paths(&pool.special.online), ["/dev/disk/by-id/scsi-s1", "/dev/disk/by-id/scsi-s2"]);
        assert_eq!(pool.special_layout, Layout::Raid1);
        // Only data members count.
        assert_eq!(pool.raw_size, 32_212_254_720);
        assert_eq!(pool.usable_size, 21_096_300_544);
        let scrub = pool.scrub.clone().unwrap();
        assert_eq!((scrub.state.as_str(), scrub.progress.as_str()), ("IN_PROGRESS", "99.81%"));
        assert_eq!(scrub.start_time, "2026-01-07T10:35:05Z");
        assert_eq!(scrub.end_time, "1970-01-01T00:00:00Z");
        let trim = pool.trim.clone().unwrap();
        assert_eq!((trim.state.as_str(), trim.progress.as_str(), trim.errors), ("IN_PROGRESS", "75.00%", 1));
        assert_eq!(trim.last_action_time, "2026-01-07T10:35:25Z");
        assert_eq!(pool.members().count(), 8);
    }

    #[test]
    fn a_member_that_was_missing_at_import() {
        // Printed by OpenZFS 2.4.4.
        let pool = fixture(include_str!("../../tests/fixtures/zpool-status-missing-member.json"));
        assert_eq!((pool.state.as_str(), pool.layout), ("DEGRADED", Layout::Raidz(1)));
        assert_eq!(paths(&pool.data.degraded), ["/dev/disk/by-id/virtio-vdd"]);
        assert_eq!(pool.data.degraded[0].guid, 5_653_121_592_037_638_986);
        assert_eq!(paths(&pool.data.online), ["/dev/disk/by-id/virtio-vdb-part1", "/dev/disk/by-id/virtio-vdc-part1"]);
        assert_eq!((pool.raw_size, pool.usable_size, pool.allocated), (1_476_395_008, 983_302_144, 0));
        assert_eq!(paths(&pool.log.online), ["/dev/disk/by-id/virtio-vda-part1"]);
        assert_eq!((pool.special.online.len(), pool.special_layout), (2, Layout::Raid1));
        assert_eq!(pool.scrub.unwrap().progress, "100.00%");
        assert_eq!(pool.trim.unwrap().state, "FINISHED");
    }

    #[test]
    fn layouts_are_told_by_kind_and_never_by_number() {
        assert_eq!(layout(&[("scsi-a", "disk")]), Layout::Raid0);
        assert_eq!(layout(&[("scsi-a", "disk"), ("scsi-b", "disk")]), Layout::Raid0);
        assert_eq!(layout(&[("mirror-1", "mirror")]), Layout::Raid1);
        assert_eq!(layout(&[("mirror-2", "mirror"), ("mirror-7", "mirror")]), Layout::Raid10);
        assert_eq!(layout(&[("raidz2-3", "raidz")]), Layout::Raidz(2));
        assert_eq!(layout(&[("raidz1-0", "raidz"), ("raidz1-1", "raidz")]), Layout::Raidz(1));
        assert_eq!(layout(&[("replacing-0", "replacing")]), Layout::Raid0);
        assert_eq!(layout(&[("spare-0", "spare"), ("scsi-a", "disk")]), Layout::Raid0);
        assert_eq!(layout(&[("/var/tmp/file", "file")]), Layout::Raid0);
        assert_eq!(layout(&[]), Layout::None);
    }

    #[test]
    fn foreign_layouts_are_named_not_refused() {
        assert_eq!(layout(&[("raidz1-0", "raidz"), ("raidz2-1", "raidz")]), Layout::Unsupported);
        assert_eq!(layout(&[("mirror-0", "mirror"), ("scsi-a", "disk")]), Layout::Unsupported);
        assert_eq!(layout(&[("draid2:4d:11c:1s-0", "draid")]), Layout::Unsupported);
        assert_eq!(layout(&[("raidz9-0", "raidz")]), Layout::Unsupported);
        assert_eq!(layout(&[("x", "")]), Layout::Unsupported);
        assert_eq!(Layout::Unsupported.name(), "zfs-unsupported");
    }

    #[test]
    fn both_sides_of_a_replacement_are_members() {
        let pool = fixture(
            r#"{"pools":{"p":{"state":"DEGRADED","vdevs":{"p":{"vdevs":{"mirror-0":{"vdev_type":"mirror","vdevs":{
                "replacing-0":{"vdev_type":"replacing","state":"DEGRADED","vdevs":{
                    "old":{"vdev_type":"disk","path":"/dev/disk/by-id/old-part1","state":"OFFLINE"},
                    "new":{"vdev_type":"disk","path":"/dev/disk/by-id/new-part1","state":"ONLINE"}}},
                "b":{"vdev_type":"disk","path":"/dev/disk/by-id/b-part1","state":"ONLINE"}}}}}}}}}"#,
        );
        assert_eq!(pool.layout, Layout::Raid1);
        assert_eq!(paths(&pool.data.online), ["/dev/disk/by-id/b", "/dev/disk/by-id/new"]);
        assert_eq!(paths(&pool.data.degraded), ["/dev/disk/by-id/old"]);
    }

    #[test]
    fn a_partition_of_its_own_stays_one() {
        let own = serde_json::json!({"path": "/dev/disk/by-id/x-part1", "guid": 1});
        // ZFS names it without the suffix only when it made the partition itself.
        assert_eq!(member("x-part1", &own).path, "/dev/disk/by-id/x-part1");
        assert_eq!(member("x", &own).path, "/dev/disk/by-id/x");
        assert_eq!(member("sdb", &serde_json::json!({"path": "/dev/sdb1"})).path, "/dev/sdb1");
        assert_eq!(member("12345", &serde_json::json!({})).path, "12345");
    }

    #[test]
    fn progress_of_a_scrub() {
        assert_eq!(percentage(4_268_032, 4_276_224), "99.81%");
        assert_eq!(percentage(5, 4), "99.99%");
        assert_eq!(percentage(0, 4), "0.00%");
        assert_eq!(percentage(4, 0), "0.00%");
        assert_eq!(percentage(i64::MAX, 1), "99.99%");
    }

    #[test]
    fn a_resilver_is_no_scrub() {
        let scan = |function: &str, state: &str| {
            scrub(&serde_json::json!({"function": function, "state": state, "start_time": 5, "end_time": "9"}))
        };
        assert_eq!(scan("RESILVER", "FINISHED"), None);
        let finished = scan("SCRUB", "FINISHED").unwrap();
        assert_eq!((finished.progress.as_str(), finished.end_time.as_str()), ("100.00%", "1970-01-01T00:00:09Z"));
        assert_eq!(scan("SCRUB", "CANCELED").unwrap().state, "UNKNOWN");
        assert_eq!(scrub(&serde_json::json!({"function": "SCRUB"})), None);
    }

    #[test]
    fn devices_that_cannot_trim_are_told() {
        let pool = fixture(
            r#"{"pools":{"p":{"vdevs":{"p":{"vdevs":{"a":{"vdev_type":"disk","trim_notsup":1,"state":"ONLINE"}}}}}}}"#,
        );
        assert_eq!(pool.trim.unwrap().state, "UNSUPPORTED");
    }

    #[test]
    fn nothing_imported_is_an_empty_list() {
        let none = br#"{"output_version":{"command":"zpool status","vers_major":0,"vers_minor":1},"pools":{}}"#;
        assert_eq!(parse(none).unwrap(), []);
    }

    #[test]
    fn bad_documents_are_errors_and_odd_pools_are_not() {
        assert_eq!(parse(b"\n").unwrap(), []);
        assert!(matches!(parse(b"no pools available"), Err(StatusError::Syntax(_))));
        assert!(matches!(parse(b"[]"), Err(StatusError::NoPools)));
        assert!(matches!(parse(br#"{"pools":[]}"#), Err(StatusError::NoPools)));
        let odd = parse(
            br#"{"pools":{"b":null,"a":{"state":7,"vdevs":{"a":{"vdevs":{"x":3,"y":{"total_space":-1,"def_space":"many"}}}},
                "scan_stats":"none","logs":[]}}}"#,
        )
        .unwrap();
        assert_eq!(odd.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(odd[0].layout, Layout::Unsupported);
        assert_eq!(odd[0].raw_size, 0);
    }
}
