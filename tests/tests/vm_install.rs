//! Installing: from every kind of medium, refused for every reason, cut short and tried again.
//!
//! These tests really boot, minutes each without hardware virtualisation.
#![expect(clippy::unwrap_used, reason = "a failure is what a test reports")]

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use system_tests::{
    BOOT_LIMIT, MOMENT, Machine, first_boot_console, image, installed_at_once, machine_with_seed, ready_machine,
    wait_opened_by_tpm,
};
use testkit::process::{self, Lifetime};
use testkit::seed::Seed;
use testkit::vm::console::Console;
use testkit::vm::record::{GIB, Keys, Medium, Spec};

/// A machine with an empty boot disk and a medium in it.
fn with_medium(label: &str, spec: &Spec, change: impl FnOnce(Seed) -> Seed) -> Option<Machine> {
    Some(machine_with_seed(label, spec, &image()?, change))
}

fn from(medium: Medium) -> Spec {
    Spec { medium: Some(medium), ..Spec::default() }
}

fn get(machine: &Machine, path: &str) -> Value {
    let response = machine.client().unwrap().get(path).unwrap();
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    response.json().unwrap()["metadata"].clone()
}

/// Label and size of the partitions of the boot disk, as the kernel and udev show them.
fn partitions(machine: &Machine) -> Vec<(String, u64)> {
    let mut agent = machine.agent(MOMENT).unwrap();
    let call = ["lsblk", "--json", "--bytes", "--list", "--output", "TYPE,PARTN,PARTLABEL,SIZE", "/dev/vda"];
    let list: Value = serde_json::from_str(&agent.run(&call).unwrap()).unwrap();
    let mut found: Vec<_> = list["blockdevices"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|device| device["type"] == "part")
        .map(|part| {
            let label = part["partlabel"].as_str().unwrap_or_default().to_owned();
            (part["partn"].as_u64().unwrap(), (label, part["size"].as_u64().unwrap()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, part)| part).collect()
}

fn assert_installed(machine: &Machine) {
    let found = partitions(machine);
    let version = get(machine, "/1.0")["environment"]["os_version"].as_str().unwrap().to_owned();
    let current = format!("IncusOS_{version}");
    let (mib, gib) = (1 << 20, 1_u64 << 30);
    let expected = [
        ("esp", 2 * gib),
        ("seed-data", 100 * mib),
        (&format!("{current}_verity_sig"), 16 << 10),
        (&format!("{current}_verity"), 100 * mib),
        (&current, gib),
        ("_empty", 16 << 10),
        ("_empty", 100 * mib),
        ("_empty", gib),
        ("swap", 4 * gib),
        ("root-x86-64", 25 * gib),
    ];
    for (found, (label, size)) in found.iter().zip(expected) {
        assert_eq!(found, &(label.to_owned(), size));
    }
    assert_eq!(found.len(), 11, "{found:?}");
    assert_eq!(found[10].0, "local-data");
    wait_opened_by_tpm(machine);
}

#[test]
fn usb_stick_installs_to_the_only_drive_and_asks_nobody() {
    let Some(console) = first_boot_console() else { return };
    let line = |text: &str| console.lines().find(|line| line.contains(text)).map(str::to_owned);
    let begin = line("Installing IncusOS").unwrap_or_else(|| panic!("no installation:\n{console}"));
    assert!(
        begin.contains("source=/dev/disk/by-id/usb-") && begin.contains("target=/dev/disk/by-id/virtio-disk0"),
        "{begin}"
    );
    assert!(line("IncusOS was installed to /dev/disk/by-id/virtio-disk0").is_some());
    assert!(line("┌ Installation ──").is_some(), "the status screen shows no installation:\n{console}");
    let Some(machine) = ready_machine("installed") else { return };
    assert_installed(&machine);
    // The wish to install is gone, the rest of the seed is not.
    let mut agent = machine.agent(MOMENT).unwrap();
    let seed = agent.run(&["cat", "/run/incus-os/seed.tar"]).unwrap();
    assert!(seed.contains("incus.json") && !seed.contains("install.json"), "{seed}");
}

#[test]
fn cd_rom_enrols_keys_installs_to_large_sectors_and_the_machine_restarts_when_it_is_removed() {
    let wish = json!({ "version": "1", "target": { "id": "virtio-disk0" } });
    let spec = Spec { sector_size: 4096, keys: Keys::SetupMode, ..from(Medium::CdRom) };
    let Some(mut machine) = with_medium("cd-rom", &spec, |seed| seed.installing(&wish)) else { return };
    machine.start(Lifetime::Tied).unwrap();
    machine.console().wait_for("Remove the install medium", BOOT_LIMIT).unwrap();
    machine.remove_medium().unwrap();
    machine.wait_ready(BOOT_LIMIT, |_| ()).unwrap();
    assert_installed(&machine);
    assert_eq!(get(&machine, "/1.0/system/security")["state"]["secure_boot_enabled"], true);
}

/// Waits for the sentence on the console, which only says it when nothing is being written.
fn refused(console: &Console, sentence: &str) {
    let line = console.wait_for(sentence, BOOT_LIMIT).unwrap();
    assert!(line.contains("System check error: "), "{line}");
}

#[test]
fn every_reason_not_to_install_is_told_until_the_machine_fits() {
    let wish = json!({ "version": "1", "force_reboot": true, "target": { "min_size": "55GiB" } });
    let spec = Spec { disk_size: 8 * GIB, ..from(Medium::Nvme) };
    let Some(mut machine) = with_medium("refused", &spec, |seed| seed.installing(&wish)) else { return };
    machine.start(Lifetime::Tied).unwrap();
    refused(&machine.console(), "no device matches the target of the seed; detected devices: virtio-disk0");
    let console = machine.console_from_now();
    let first = machine.attach_disk(64 * GIB).unwrap();
    // That one fits, so the installation begins by itself.
    console.wait_for(&format!("target=/dev/disk/by-id/virtio-{first}"), BOOT_LIMIT).unwrap();
    console.wait_for("was installed to", BOOT_LIMIT).unwrap();
    machine.power_cut().unwrap();
    // What was installed is now in the way of the same medium, which says so.
    let console = machine.console_from_now();
    machine.start(Lifetime::Tied).unwrap();
    refused(&console, "the system is already installed: remove the USB stick");
}

#[test]
fn mistakes_of_all_seeds_are_told_at_once_before_anything_is_written() {
    let spoil = |seed: Seed| {
        let seed = seed.installing(&json!({ "force_install": true, "colour": "red" }));
        let seed = seed.with_bytes("network.yaml", b"interfaces: {}".to_vec());
        seed.with_bytes("security.yaml", b"encryption_recovery_keys: [aaaa]".to_vec())
    };
    let Some(mut machine) = with_medium("bad-seed", &from(Medium::Sata), spoil) else { return };
    machine.start(Lifetime::Tied).unwrap();
    let console = machine.console();
    refused(&console, "network.yaml: interfaces:");
    refused(&console, "security.yaml: encryption_recovery_keys: recovery keys cannot be set by seed");
    machine.power_cut().unwrap();
    assert!(is_empty(&machine, 0, 64 * GIB), "something was written to the drive");
}

#[test]
fn drive_with_anything_on_it_is_not_overwritten_unless_told_so() {
    let Some(mut machine) = with_medium("occupied", &from(Medium::Usb), |seed| seed.installing(&installed_at_once()))
    else {
        return;
    };
    // A LUKS2 header without a partition table around it.
    let disk = machine.folder().disk("disk0");
    let header = machine.folder().path().join("header");
    std::fs::write(&header, b"LUKS\xba\xbe\x00\x02").unwrap();
    let write = format!("write -q -s {} 0 8", header.display());
    qemu_io(&machine, &disk, &write);
    machine.start(Lifetime::Tied).unwrap();
    let line = machine.console().wait_for("System check error: ", BOOT_LIMIT).unwrap();
    assert!(line.contains("'/dev/disk/by-id/virtio-disk0' is in use: it holds crypto_LUKS"), "{line}");
}

#[test]
fn power_cut_at_any_point_of_an_installation_leaves_nothing_or_all() {
    let Some(mut machine) = with_medium("cut", &from(Medium::Usb), |seed| seed.installing(&installed_at_once())) else {
        return;
    };
    machine.start(Lifetime::Tied).unwrap();
    machine.console().wait_for("Installing IncusOS", BOOT_LIMIT).unwrap();
    machine.snapshot("begin").unwrap();
    let points = [
        "Copying partition 1",
        "Copying partition 3",
        "Verifying partition 3",
        "Copying partition 4",
        "Verifying partition 4",
        "Copying partition 5",
        "IncusOS_", // the first tenth of /usr
        "Verifying partition 5",
        "100%",
        "was installed to",
    ];
    for (number, point) in points.iter().enumerate() {
        if number > 0 {
            machine.restore("begin").unwrap();
        }
        let line = machine.console_from_now().wait_for(point, BOOT_LIMIT).unwrap();
        machine.power_cut().unwrap();
        println!("cut at: {line}");
        // The table is the last thing that is written: without it, nothing takes the drive for a system.
        if number < 8 {
            assert!(is_empty(&machine, 0, 1 << 20), "a partition table was there at {point}");
        }
    }
    // The last cut came after the end. One in the middle is followed by another installation.
    machine.restore("begin").unwrap();
    machine.console_from_now().wait_for("Copying partition 5", BOOT_LIMIT).unwrap();
    machine.power_cut().unwrap();
    machine.start(Lifetime::Tied).unwrap();
    machine.wait_ready(BOOT_LIMIT, |_| ()).unwrap();
    assert_installed(&machine);
}

/// Whether the boot disk of a stopped machine holds zeros only, there.
fn is_empty(machine: &Machine, start: u64, length: u64) -> bool {
    let disk = machine.folder().disk("disk0");
    let arguments = ["map", "--output=json", disk.to_str().unwrap()];
    let map = process::run("qemu-img", &arguments, Path::new("/"), Duration::from_secs(60)).unwrap();
    let map: Value = serde_json::from_str(&map).unwrap();
    map.as_array().unwrap().iter().all(|extent| {
        let (at, size) = (extent["start"].as_u64().unwrap(), extent["length"].as_u64().unwrap());
        let overlaps = at < start + length && start < at + size;
        !overlaps
            || extent["zero"] == true
            || reads_zero(machine, &disk, at.max(start), (at + size).min(start + length))
    })
}

/// Written clusters can be zeros as well.
fn reads_zero(machine: &Machine, disk: &Path, start: u64, end: u64) -> bool {
    let read = format!("read -q -P 0 {start} {}", end - start);
    let arguments = ["-r", "-f", "qcow2", "-c", &read, disk.to_str().unwrap()];
    process::run("qemu-io", &arguments, machine.folder().path(), Duration::from_secs(60)).is_ok()
}

fn qemu_io(machine: &Machine, disk: &Path, command: &str) {
    let arguments = ["-f", "qcow2", "-c", command, disk.to_str().unwrap()];
    process::run("qemu-io", &arguments, machine.folder().path(), Duration::from_secs(60)).unwrap();
}
