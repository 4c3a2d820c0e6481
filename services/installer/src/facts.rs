//! What there is to know before deciding anything.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
};

use efi::Variable;
use media::{Kind, Table};
use runner::{Call, Tool};
use seed::Report;
use serde::Deserialize;
use sys::Block;
use tpm::{Pcr, Tpm};

use crate::{
    machine::Machine,
    select::{Candidate, PassedOver, candidates},
};

/// Everything that a decision depends on.
#[derive(Debug)]
pub(crate) struct Facts {
    /// Whether Secure Boot is on.
    pub(crate) secure_boot: Result<bool, String>,
    /// Whether a TPM 2.0 answers.
    pub(crate) tpm: Result<(), String>,
    /// What the seed says and what is wrong with it, or why it cannot be read.
    pub(crate) seed: Result<Report, String>,
    /// The medium that was booted.
    pub(crate) source: Result<Source, String>,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) passed_over: Vec<PassedOver>,
    /// What is on each candidate, by its kernel name.
    pub(crate) contents: HashMap<String, Result<Contents, String>>,
    /// A medium has installed this machine, and what it installed was not started yet.
    pub(crate) is_installed: bool,
}

/// The medium that was booted.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// The device that partitions are read from.
    pub(crate) node: PathBuf,
    /// The device that a person removes.
    pub(crate) medium: PathBuf,
    /// How messages name it.
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) is_read_only: bool,
    /// GUID of its `/usr`.
    pub(crate) usr: media::Guid,
}

/// What is on a drive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Everything that is recognised on the drive itself: a partition table, file systems,
    /// signatures of LUKS, LVM, ZFS, RAID.
    pub(crate) signatures: Vec<String>,
    /// The system that is installed on it, if there is one of ours.
    pub(crate) system: Option<System>,
}

/// A system of ours that is installed on a drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct System {
    /// First digits of the GUID of its EFI system partition, which no other drive has.
    pub(crate) code: String,
    /// GUIDs of its two `/usr`.
    pub(crate) usr: Vec<media::Guid>,
}

impl Facts {
    pub(crate) async fn gather(machine: &Machine) -> Self {
        let blocks = sys::blocks(&machine.roots);
        let source = source(machine, &blocks);
        let name = source.as_ref().ok().and_then(|source| Some(source.medium.file_name()?.to_str()?.to_owned()));
        let (candidates, passed_over) = candidates(&blocks, name.as_deref().unwrap_or_default());
        let mut contents = HashMap::new();
        for candidate in &candidates {
            contents.insert(candidate.block.name.clone(), look_at(machine, &candidate.block).await);
        }
        Self {
            secure_boot: machine.variables.is_on(Variable::SecureBoot).map_err(|error| causes::chain(&error)),
            tpm: working_tpm(machine),
            seed: seed(machine),
            source,
            candidates,
            passed_over,
            contents,
            is_installed: matches!(machine.variables.read(Variable::InstallComplete), Ok(Some(value)) if !value.data.is_empty()),
        }
    }
}

/// A TPM that tells a register does what the disk encryption needs it for.
fn working_tpm(machine: &Machine) -> Result<(), String> {
    let device = machine.roots.dev.join("tpmrm0");
    if !device.exists() {
        return Err("there is none".to_owned());
    }
    let registers = Tpm::device(&device).and_then(|mut tpm| tpm.pcrs(&[Pcr::SECURE_BOOT]));
    registers.map(drop).map_err(|error| causes::chain(&error))
}

fn seed(machine: &Machine) -> Result<Report, String> {
    let path = machine.handover.join("seed.tar");
    let archive = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let files = seed::read(&archive).map_err(|error| causes::chain(&error))?;
    Ok(seed::check(&files.unwrap_or_default()))
}

fn source(machine: &Machine, blocks: &[Block]) -> Result<Source, String> {
    let node = PathBuf::from(machine.handed_over("BOOT_DRIVE").ok_or("the initrd did not say what was booted")?);
    let medium = PathBuf::from(machine.handed_over("BOOT_MEDIUM").ok_or("the initrd did not say what was booted")?);
    let block = |node: &Path| blocks.iter().find(|block| block.node == node);
    let device = block(&medium).ok_or_else(|| format!("{} is gone", medium.display()))?;
    let file = File::open(&node).map_err(|error| format!("{}: {error}", node.display()))?;
    let table = Table::read(&file).map_err(|error| format!("{}: {}", node.display(), causes::chain(&error)))?;
    let usr = table.partition(5).filter(|part| matches!(part.kind, Kind::Usr(_)));
    Ok(Source {
        path: device.ids.first().map_or_else(|| medium.display().to_string(), |id| format!("/dev/disk/by-id/{id}")),
        size: device.size,
        is_read_only: device.is_read_only || device.name.starts_with("sr"),
        usr: usr.ok_or_else(|| format!("{} is no install medium: it has no `/usr`", node.display()))?.guid,
        node,
        medium,
    })
}

/// What `wipefs --json` prints.
#[derive(Deserialize)]
struct Wipefs {
    #[serde(default)]
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    #[serde(rename = "type")]
    kind: String,
}

/// What is on a drive. One that cannot be read is not taken for empty.
async fn look_at(machine: &Machine, block: &Block) -> Result<Contents, String> {
    let node = block.node.to_string_lossy().into_owned();
    let call = Call::new(Tool::Wipefs, ["--no-act", "--json", &node]);
    let run = machine.runner.run(&call).await.and_then(runner::Output::success);
    let output = run.map_err(|error| causes::chain(&error))?;
    let mut signatures = signatures(&output)?;
    let table = File::open(&block.node).ok().and_then(|file| Table::read(&file).ok());
    // A partition table without its signature would still be one to the firmware, and the other way round.
    if table.is_some() && !signatures.iter().any(|kind| kind == "gpt") {
        signatures.push("gpt".to_owned());
    }
    if !block.holders.is_empty() {
        signatures.push(format!("part of {}", block.holders.join(", ")));
    }
    let system = table.filter(Table::is_installed).and_then(|table| {
        let esp = table.partition(1).filter(|part| part.kind == Kind::Esp)?;
        let usr = table.partitions.iter().filter(|part| matches!(part.kind, Kind::Usr(_))).map(|part| part.guid);
        Some(System { code: esp.guid.to_string()[..6].to_owned(), usr: usr.collect() })
    });
    Ok(Contents { signatures, system })
}

fn signatures(output: &[u8]) -> Result<Vec<String>, String> {
    // Nothing at all on an empty drive.
    if output.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let found: Wipefs =
        serde_json::from_slice(output).map_err(|error| format!("wipefs was not understood: {error}"))?;
    let mut kinds: Vec<_> = found.signatures.into_iter().map(|signature| signature.kind).collect();
    kinds.sort();
    kinds.dedup();
    Ok(kinds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_named_once_each() {
        // As util-linux 2.41 prints them for a drive with a GUID partition table.
        let output = br#"{
           "signatures": [
              {"device":"vda","offset":"0x200","type":"gpt","uuid":"x","label":null},
              {"device":"vda","offset":"0x1fe","type":"PMBR","uuid":null,"label":null},
              {"device":"vda","offset":"0x3fffe00","type":"gpt","uuid":"x","label":null}
           ]
        }"#;
        assert_eq!(signatures(output), Ok(vec!["PMBR".into(), "gpt".into()]));
        assert_eq!(signatures(b"\n"), Ok(vec![]));
        assert!(signatures(b"wipefs: error").is_err());
    }
}
