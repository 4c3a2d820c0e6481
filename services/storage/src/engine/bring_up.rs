//! Which pools to import, to unlock and to create when the system starts.
//!
//! The rules, in the order of their weight:
//!
//! 1. Nothing that anyone could want back is ever overwritten. The system pool
//!    is created only on the boot drive's own partition, and only when that holds
//!    nothing recognisable and no pool of that name is to be seen anywhere.
//! 2. A key is on disk before anything is encrypted with it. So a power cut at
//!    any instant leaves either no trace or a key without a pool, and the next
//!    start completes the creation with the same key.
//! 3. A pool is imported because its key file exists, and for no other reason.
//! 4. Trouble with one pool is a sentence for the operator, not a failed start.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::{datasets::KeyStatus, label::PoolLabel};

/// The pool on the boot drive.
pub(crate) const SYSTEM_POOL: &str = "local";

/// Label of the partition that it is on.
pub(crate) const SYSTEM_PARTITION: &str = "local-data";

/// What was found on the machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    /// Pools that are imported.
    pub(crate) imported: BTreeMap<String, Imported>,
    /// Pools that there is a key file of.
    pub(crate) keys: BTreeMap<String, PoolKey>,
    /// Names of the pools that any device claims to be part of.
    pub(crate) visible: BTreeSet<String>,
    /// The partition for the system pool.
    pub(crate) partition: Option<SystemPartition>,
}

/// The file that is to hold the key of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PoolKey {
    /// It holds a key.
    Usable,
    /// It has another size than a key.
    Damaged,
}

/// An imported pool.
#[derive(Debug, Clone, Default)]
pub(crate) struct Imported {
    pub(crate) key: KeyStatus,
    pub(crate) mountpoint: String,
}

/// The partition for the system pool.
#[derive(Debug, Clone)]
pub(crate) struct SystemPartition {
    /// Path that stays the same over restarts.
    pub(crate) path: String,
    pub(crate) content: Content,
}

/// What is on a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing recognisable.
    Nothing,
    /// What is left of a pool that was wiped or never completed.
    Remnant,
    /// A member of a pool.
    Pool(PoolLabel),
    /// Something else, in the words of whoever recognised it.
    Other(String),
    /// It could not be examined.
    Unknown(String),
}

/// One step of bringing up pools.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Import a pool without mounting anything.
    Import { pool: String, target: Target },
    /// Make the content of an imported pool readable.
    LoadKey { pool: String },
    /// Make a new key of a pool, durably.
    CreateKey { pool: String },
    /// Remove what is left of a pool from a device.
    ClearLabels { pool: String, device: String },
    /// Create an encrypted pool of one device, with the key of its file.
    Create { pool: String, device: String },
    /// Keep the root of a pool from being mounted.
    HideRoot { pool: String },
}

/// What a pool is imported by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Name,
    Guid(u64),
}

impl Step {
    /// The pool that the step is about.
    pub(crate) fn pool(&self) -> &str {
        match self {
            Self::Import { pool, .. }
            | Self::LoadKey { pool }
            | Self::CreateKey { pool }
            | Self::ClearLabels { pool, .. }
            | Self::Create { pool, .. }
            | Self::HideRoot { pool } => pool,
        }
    }
}

/// What to do, and what an operator should know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In order. When a step fails, the later ones of the same pool are left out.
    pub(crate) steps: Vec<Step>,
    /// One sentence each.
    pub(crate) warnings: Vec<String>,
}

/// Decides what to do. On a machine on which everything is done the plan has no
/// steps.
pub(crate) fn plan(observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    for (pool, key) in &observed.keys {
        if *key == PoolKey::Damaged {
            plan.warnings.push(format!(
                "The key file of storage pool '{pool}' is damaged, its contents are unavailable until the key is restored"
            ));
            continue;
        }
        match observed.imported.get(pool) {
            Some(imported) => finish(&mut plan, pool, imported),
            None if pool == SYSTEM_POOL => {}
            None => import(&mut plan, pool, Target::Name),
        }
    }
    if !observed.imported.contains_key(SYSTEM_POOL) {
        plan_system_pool(&mut plan, observed);
    }
    plan
}

/// The rest of what makes an imported pool usable.
fn finish(plan: &mut Plan, pool: &str, imported: &Imported) {
    if imported.key == KeyStatus::Unavailable {
        plan.steps.push(Step::LoadKey { pool: pool.to_owned() });
    }
    // The last act of creating a pool is to set this, and it can be cut short.
    if pool == SYSTEM_POOL && !["", "none"].contains(&imported.mountpoint.as_str()) {
        plan.steps.push(Step::HideRoot { pool: pool.to_owned() });
    }
}

fn import(plan: &mut Plan, pool: &str, target: Target) {
    plan.steps.push(Step::Import { pool: pool.to_owned(), target });
    plan.steps.push(Step::LoadKey { pool: pool.to_owned() });
}

fn plan_system_pool(plan: &mut Plan, observed: &Observed) {
    let key = observed.keys.get(SYSTEM_POOL);
    let Some(partition) = &observed.partition else {
        match key {
            // It may be on other drives.
            Some(PoolKey::Usable) => import(plan, SYSTEM_POOL, Target::Name),
            Some(PoolKey::Damaged) => {}
            None => plan.warnings.push(format!(
                "The boot drive has no partition '{SYSTEM_PARTITION}', so there is no storage pool '{SYSTEM_POOL}'"
            )),
        }
        return;
    };
    let refuse = |plan: &mut Plan, what: &str| {
        plan.warnings
            .push(format!("Storage pool '{SYSTEM_POOL}' was not created: partition '{}' {what}", partition.path));
    };
    match (&partition.content, key) {
        (Content::Pool(label), Some(PoolKey::Usable)) if label.name == SYSTEM_POOL => {
            import(plan, SYSTEM_POOL, Target::Guid(label.guid));
        }
        // Said above.
        (_, Some(PoolKey::Damaged)) => {}
        (Content::Pool(label), None) if label.name == SYSTEM_POOL => plan.warnings.push(format!(
            "Storage pool '{SYSTEM_POOL}' is not available, because its encryption key is missing; import it with its old key"
        )),
        (Content::Pool(label), _) if label.name.is_empty() => refuse(plan, "has damaged ZFS labels"),
        (Content::Pool(label), _) => refuse(plan, &format!("is part of storage pool '{}'", label.name)),
        (Content::Other(what), _) => refuse(plan, &format!("already holds {what}")),
        (Content::Unknown(why), _) => refuse(plan, &format!("could not be examined ({why})")),
        (Content::Nothing | Content::Remnant, key) if observed.visible.contains(SYSTEM_POOL) => match key {
            // The system's half of a mirror was replaced.
            Some(_) => import(plan, SYSTEM_POOL, Target::Name),
            None => refuse(
                plan,
                "is empty, but other drives hold a storage pool of that name; import that pool with its old key, or wipe its drives",
            ),
        },
        (content, key) => {
            let pool = || SYSTEM_POOL.to_owned();
            if key.is_none() {
                plan.steps.push(Step::CreateKey { pool: pool() });
            }
            if *content == Content::Remnant {
                plan.steps.push(Step::ClearLabels { pool: pool(), device: partition.path.clone() });
            }
            plan.steps.push(Step::Create { pool: pool(), device: partition.path.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: &str = "/dev/disk/by-id/virtio-root-part11";

    fn machine(content: Content, keys: &[(&str, PoolKey)]) -> Observed {
        Observed {
            keys: keys.iter().map(|(pool, key)| ((*pool).to_owned(), *key)).collect(),
            partition: Some(SystemPartition { path: DEVICE.into(), content }),
            ..Observed::default()
        }
    }

    fn pool_label(name: &str) -> Content {
        Content::Pool(PoolLabel { name: name.into(), guid: 42 })
    }

    fn create() -> Step {
        Step::Create { pool: "local".into(), device: DEVICE.into() }
    }

    fn import(pool: &str, target: Target) -> [Step; 2] {
        [Step::Import { pool: pool.into(), target }, Step::LoadKey { pool: pool.into() }]
    }

    fn refusal(observed: &Observed) -> String {
        let plan = plan(observed);
        assert_eq!(plan.steps, [], "a refusal touches nothing");
        assert_eq!(plan.warnings.len(), 1);
        plan.warnings.into_iter().next().unwrap()
    }

    const KEY: (&str, PoolKey) = ("local", PoolKey::Usable);

    #[test]
    fn first_boot_makes_the_key_before_the_pool() {
        let plan = plan(&machine(Content::Nothing, &[]));
        assert_eq!(plan.steps, [Step::CreateKey { pool: "local".into() }, create()]);
        assert_eq!(plan.warnings, [""; 0]);
    }

    #[test]
    fn later_boots_import_the_very_pool_on_the_partition() {
        assert_eq!(plan(&machine(pool_label("local"), &[KEY])).steps, import("local", Target::Guid(42)));
    }

    #[test]
    fn a_key_without_a_pool_is_completed_with_the_same_key() {
        assert_eq!(plan(&machine(Content::Nothing, &[KEY])).steps, [create()]);
    }

    #[test]
    fn a_pool_cut_short_is_cleared_and_created_again() {
        let clear = Step::ClearLabels { pool: "local".into(), device: DEVICE.into() };
        assert_eq!(plan(&machine(Content::Remnant, &[KEY])).steps, [clear.clone(), create()]);
        // What a factory reset leaves on a drive that cannot discard.
        assert_eq!(
            plan(&machine(Content::Remnant, &[])).steps,
            [Step::CreateKey { pool: "local".into() }, clear, create()]
        );
    }

    #[test]
    fn a_pool_without_its_key_is_left_alone() {
        assert!(refusal(&machine(pool_label("local"), &[])).contains("encryption key is missing"));
    }

    #[test]
    fn anything_recognisable_is_left_alone() {
        for key in [&[][..], &[KEY]] {
            assert!(
                refusal(&machine(Content::Other("an ext4 file system".into()), key)).contains("an ext4 file system")
            );
            assert!(refusal(&machine(pool_label("tank"), key)).contains("part of storage pool 'tank'"));
            assert!(refusal(&machine(pool_label(""), key)).contains("damaged ZFS labels"));
            assert!(refusal(&machine(Content::Unknown("I/O error".into()), key)).contains("I/O error"));
        }
    }

    #[test]
    fn a_pool_of_the_same_name_on_other_drives_is_never_shadowed() {
        let mut observed = machine(Content::Nothing, &[]);
        observed.visible.insert("local".into());
        assert!(refusal(&observed).contains("other drives"));
        observed.keys.insert("local".into(), PoolKey::Usable);
        assert_eq!(plan(&observed).steps, import("local", Target::Name));
    }

    #[test]
    fn a_damaged_key_is_neither_used_nor_replaced() {
        for content in [Content::Nothing, Content::Remnant, pool_label("local")] {
            assert!(refusal(&machine(content, &[("local", PoolKey::Damaged)])).contains("damaged"));
        }
    }

    #[test]
    fn without_the_partition_nothing_is_created() {
        let mut observed = Observed::default();
        assert!(refusal(&observed).contains("no partition 'local-data'"));
        observed.keys.insert("local".into(), PoolKey::Usable);
        assert_eq!(plan(&observed).steps, import("local", Target::Name));
    }

    #[test]
    fn pools_with_a_key_are_imported_and_others_are_not() {
        let mut observed = machine(pool_label("local"), &[KEY, ("tank", PoolKey::Usable), ("old", PoolKey::Damaged)]);
        observed.visible.extend(["foreign".into(), "tank".into()]);
        let plan = plan(&observed);
        let expected = [import("tank", Target::Name), import("local", Target::Guid(42))].concat();
        assert_eq!(plan.steps, expected);
        assert_eq!(plan.warnings.len(), 1);
    }

    #[test]
    fn when_all_is_done_there_is_nothing_to_do() {
        let mut observed = machine(pool_label("local"), &[KEY]);
        let imported = Imported { key: KeyStatus::Available, mountpoint: "none".into() };
        observed.imported.insert("local".into(), imported);
        assert_eq!(plan(&observed), Plan::default());
    }

    #[test]
    fn an_imported_pool_is_unlocked_and_completed() {
        let mut observed = machine(pool_label("local"), &[KEY]);
        let imported = Imported { key: KeyStatus::Unavailable, mountpoint: "/local".into() };
        observed.imported.insert("local".into(), imported);
        let steps = [Step::LoadKey { pool: "local".into() }, Step::HideRoot { pool: "local".into() }];
        assert_eq!(plan(&observed).steps, steps);
    }
}
