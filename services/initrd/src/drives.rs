//! Finding the medium that was booted, and the one with the user's seed.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use media::{Kind, Table, USER_SEED_LABEL, Volume};
use runner::{Call, Tool};
use sys::Block;

use crate::{Machine, Refusal, decision::Booted};

/// Where a drive or medium has its seed.
const SEED_PARTITION: u32 = 2;

/// How often the list of drives is read while waiting for one.
const PERIOD: Duration = Duration::from_millis(100);

/// How often every drive is looked at again: what could not be read once may be readable now.
const AGAIN: Duration = Duration::from_secs(5);

/// For how long udev must have had nothing to do before the list of drives is taken for complete.
/// USB sticks appear one after the other, a second apart.
const QUIET: Duration = Duration::from_millis(1500);

/// The medium or drive that was booted.
#[derive(Debug)]
pub(crate) struct BootDrive {
    /// Kernel name of the drive whose partitions are used: for a CD-ROM, of the loop device over it.
    pub(crate) name: String,
    pub(crate) node: PathBuf,
    /// The device that a person would remove: the CD-ROM drive.
    pub(crate) medium: PathBuf,
    pub(crate) booted: Booted,
    /// It has a partition for a seed.
    pub(crate) has_seed: bool,
    /// GUID of its EFI system partition.
    pub(crate) esp: String,
}

/// Waits for the drive with this EFI system partition.
pub(crate) async fn boot_drive(machine: &Machine, esp: &str) -> Result<BootDrive, Refusal> {
    let deadline = Instant::now() + machine.patience;
    // Reading the table of a drive again is worthless unless it has changed.
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut again = Instant::now() + AGAIN;
    loop {
        if Instant::now() >= again {
            seen.clear();
            again += AGAIN;
        }
        for drive in whole_drives(machine) {
            if seen.get(&drive.name) == Some(&drive.size) {
                continue;
            }
            // The kernel lists a drive before it has made the node.
            let Ok(device) = File::open(&drive.node) else { continue };
            seen.insert(drive.name.clone(), drive.size);
            let Ok(table) = Table::read(&device) else { continue };
            if table.partitions.iter().any(|part| part.kind == Kind::Esp && part.guid.to_string() == esp) {
                return take(machine, drive, &table, esp).await;
            }
        }
        if Instant::now() >= deadline {
            return Err(Refusal::new(format!(
                "The drive that was booted, with EFI system partition {esp}, did not show up within {} seconds. \
                 Connect it to another port, or check that its controller is supported.",
                machine.patience.as_secs()
            )));
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn take(machine: &Machine, drive: Block, table: &Table, esp: &str) -> Result<BootDrive, Refusal> {
    let booted = Booted {
        is_installed: table.is_installed(),
        is_writable: !drive.is_read_only && !drive.name.starts_with("sr"),
        size: drive.size,
    };
    let esp = esp.to_owned();
    let has_seed = table.partition(SEED_PARTITION).is_some();
    if !drive.name.starts_with("sr") {
        return Ok(BootDrive { name: drive.name, medium: drive.node.clone(), node: drive.node, booted, has_seed, esp });
    }
    // The kernel does not look for partitions on CD-ROMs, but does on a loop device over one.
    let cd_rom = drive.node.to_string_lossy().into_owned();
    let sector = table.sector_size.to_string();
    let call =
        Call::new(Tool::Losetup, ["--find", "--show", "--partscan", "--read-only", "--sector-size", &sector, &cd_rom]);
    let failed = |cause| Refusal::because(format!("The partitions of the CD-ROM {cd_rom} cannot be shown"), cause);
    let output = machine.runner.run(&call).await.map_err(failed)?.success().map_err(failed)?;
    let node = PathBuf::from(String::from_utf8_lossy(&output).trim());
    let name = node.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    Ok(BootDrive { name, node, medium: drive.node, booted, has_seed, esp })
}

/// Waits for the drive's own seed. The kernel reads a partition table after it has listed the drive,
/// and makes a partition's node after it has listed that.
pub(crate) async fn own_seed(machine: &Machine, boot: &BootDrive) -> Result<Option<File>, Refusal> {
    if !boot.has_seed {
        return Ok(None);
    }
    let deadline = Instant::now() + machine.patience;
    loop {
        let partitions = sys::block(&machine.roots, &boot.name).map(|block| block.partitions).unwrap_or_default();
        let found = partitions.into_iter().find(|(number, _)| *number == SEED_PARTITION);
        let partition = found.and_then(|(_, name)| sys::block(&machine.roots, &name));
        let opened = partition.map(|partition| File::open(partition.node));
        match opened {
            Some(Ok(device)) => return Ok(Some(device)),
            Some(Err(error)) if Instant::now() >= deadline => {
                let text =
                    format!("The seed on partition {SEED_PARTITION} of {} cannot be opened", boot.node.display());
                return Err(Refusal::because(text, error));
            }
            None if Instant::now() >= deadline => {
                return Err(Refusal::new(format!(
                    "Partition {SEED_PARTITION} of {}, which has the seed, did not show up",
                    boot.node.display()
                )));
            }
            _ => tokio::time::sleep(PERIOD).await,
        }
    }
}

/// Waits until no further drive is to be expected soon.
pub(crate) async fn settle(machine: &Machine) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < QUIET && Instant::now() < deadline {
        // Present while udev has something to do; sd-device documents no other sign.
        if machine.run.join("udev/queue").exists() {
            quiet_since = Instant::now();
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// A device with the user's seed on it.
#[derive(Debug)]
pub(crate) enum UserSeed {
    /// A partition with a bare archive at its start.
    Archive(PathBuf),
    /// A file system, with the files of the seed.
    Files(Vec<seed::File>),
}

/// The user's seed, if a medium with one is there: a partition of that name before a file system
/// with that label.
pub(crate) fn user_seed(machine: &Machine, boot: &BootDrive) -> Result<Option<UserSeed>, Refusal> {
    let devices: Vec<_> = sys::blocks(&machine.roots).into_iter().filter(|block| is_foreign(block, boot)).collect();
    let labelled = devices.iter().filter(|block| has_partition_label(machine, block));
    let others = devices.iter().filter(|block| block.holders.is_empty() && block.partitions.is_empty());
    for (is_labelled, block) in labelled.map(|block| (true, block)).chain(others.map(|block| (false, block))) {
        let Ok(device) = File::open(&block.node) else { continue };
        let failed =
            |cause| Refusal::because(format!("The seed on {} (SEED_DATA) cannot be read", block.node.display()), cause);
        match Volume::find(&device).map_err(failed) {
            Ok(Some(volume)) if is_labelled || volume.label() == USER_SEED_LABEL => {
                let files = volume.seed_files().map_err(failed)?.into_iter();
                return Ok(Some(UserSeed::Files(files.map(|(name, content)| seed::File { name, content }).collect())));
            }
            Ok(None) if is_labelled => return Ok(Some(UserSeed::Archive(block.node.clone()))),
            Err(error) if is_labelled => return Err(error),
            // A drive that cannot be read is nobody's seed.
            _ => {}
        }
    }
    Ok(None)
}

fn whole_drives(machine: &Machine) -> Vec<Block> {
    let mut drives = sys::blocks(&machine.roots);
    drives.retain(|block| block.partition.is_none() && block.size > 0 && !block.name.starts_with("loop"));
    drives
}

fn is_foreign(block: &Block, boot: &BootDrive) -> bool {
    let drive = block.partition.as_ref().map_or(&block.name, |(drive, _)| drive);
    block.size > 0 && *drive != boot.name && !drive.starts_with("dm-") && !drive.starts_with("loop")
}

fn has_partition_label(machine: &Machine, block: &Block) -> bool {
    let Some((drive, number)) = &block.partition else { return false };
    let table = sys::block(&machine.roots, drive).and_then(|drive| table_of(&drive.node));
    table.as_ref().and_then(|table| table.partition(*number)).is_some_and(|part| part.label == USER_SEED_LABEL)
}

fn table_of(node: &Path) -> Option<Table> {
    Table::read(&File::open(node).ok()?).ok()
}
