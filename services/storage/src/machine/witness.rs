//! What the kernel shows of pools in `/proc/spl/kstat`.

use std::{collections::BTreeMap, fs, path::Path};

/// A cheap view of all imported pools: whatever `zpool status` or `zfs list`
/// would print differently shows here too. Reading it takes two small files per
/// pool and no lock of ZFS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Witness(BTreeMap<String, PoolWitness>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct PoolWitness {
    state: String,
    /// Latest transaction group that is on disk and that changed something;
    /// `None` when the kernel keeps no record of groups.
    written: Option<u64>,
}

impl Witness {
    pub(super) fn read(proc: &Path) -> Self {
        let pools = fs::read_dir(proc.join("spl/kstat/zfs")).into_iter().flatten().flatten();
        Self(
            pools
                .filter_map(|entry| {
                    let state = fs::read_to_string(entry.path().join("state")).ok()?.trim().to_owned();
                    let groups = fs::read_to_string(entry.path().join("txgs")).unwrap_or_default();
                    Some((entry.file_name().into_string().ok()?, PoolWitness { state, written: last_written(&groups) }))
                })
                .collect(),
        )
    }

    /// Whether the kernel does not tell of some pool if it is written to.
    pub(crate) fn is_blind(&self) -> bool {
        self.0.values().any(|pool| pool.written.is_none())
    }

    /// Whether pools came, went or changed their state since `earlier`.
    pub(crate) fn differs_in_pools(&self, earlier: &Self) -> bool {
        let states = |witness: &Self| -> Vec<_> {
            witness.0.iter().map(|(name, pool)| (name.clone(), pool.state.clone())).collect()
        };
        states(self) != states(earlier)
    }
}

/// The number of the latest committed group that wrote anything, of the text of
/// `txgs`. Idle pools go on counting groups, but write nothing.
fn last_written(groups: &str) -> Option<u64> {
    let mut lines = groups.lines().skip_while(|line| !line.trim_start().starts_with("txg"));
    let header = lines.next()?;
    let column = |name: &str| header.split_whitespace().position(|title| title == name);
    let (number, state, written) = (column("txg")?, column("state")?, column("nwritten")?);
    lines
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let is_committed = *fields.get(state)? == "C";
            let has_written = *fields.get(written)? != "0";
            // A record of groups that wrote nothing is a record nevertheless.
            if is_committed && has_written { fields.get(number)?.parse().ok() } else { Some(0) }
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: &str = "\
7 0 0x01 4 448 100000000 200000000
txg      birth            state ndirty       nread        nwritten     reads    writes   otime        qtime        wtime        stime       
41       1000             C     8192         0            131072       0        12       5119999999   1000         2000         3000        
42       2000             C     0            0            0            0        0        5119999999   1000         2000         3000        
43       3000             S     4096         0            4096         0        1        5119999999   1000         2000         0           
44       4000             O     0            0            0            0        0        0            0            0            0           
";

    #[test]
    fn the_last_group_that_wrote_counts() {
        assert_eq!(last_written(GROUPS), Some(41));
        assert_eq!(last_written(""), None);
        assert_eq!(last_written("txg state\n1 C"), None);
        assert_eq!(
            last_written(&GROUPS.replace("43       3000             S", "43       3000             C")),
            Some(43)
        );
        assert_eq!(last_written("txg state nwritten\nx C 1\n\n5 C\n6 C 1\n"), Some(6));
    }

    #[test]
    fn pools_and_their_states_are_seen() {
        let proc = tempfile::tempdir().unwrap();
        let pool = |name: &str, state: &str| {
            let folder = proc.path().join("spl/kstat/zfs").join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("state"), format!("{state}\n")).unwrap();
            fs::write(folder.join("txgs"), GROUPS).unwrap();
        };
        let none = Witness::read(proc.path());
        pool("local", "ONLINE");
        // A file beside the pools, as `arcstats` is.
        fs::write(proc.path().join("spl/kstat/zfs/arcstats"), "").unwrap();
        let online = Witness::read(proc.path());
        assert!(online.differs_in_pools(&none));
        assert_eq!(online, Witness::read(proc.path()));
        pool("local", "DEGRADED");
        assert!(Witness::read(proc.path()).differs_in_pools(&online));
    }
}
