//! Booting: by itself, again, after a power cut, and not at all when something was tampered with.
//!
//! These tests really boot, minutes each without hardware virtualisation.
#![expect(clippy::unwrap_used, reason = "a failure is what a test reports")]

use std::path::Path;

use serde_json::Value;
use system_tests::{
    BOOT_LIMIT, disk, first_boot_console, image, machine_of, new_machine, ready_machine, wait_opened_by_tpm,
};
use testkit::process::Lifetime;
use testkit::vm::Vm;
use testkit::vm::console::Console;
use testkit::vm::record::{Keys, Spec};

/// What a console shows when a person would have to type something.
const PROMPTS: [&str; 4] = ["enter passphrase", "enter recovery key", "Press any key", "emergency mode"];

fn assert_no_prompt(console: &str) {
    for prompt in PROMPTS {
        let line = console.lines().find(|line| line.to_lowercase().contains(&prompt.to_lowercase()));
        assert_eq!(line, None, "a person is asked for something");
    }
}

/// `metadata` of a GET that must succeed.
fn get(vm: &Vm, path: &str) -> Value {
    let response = vm.client().unwrap().get(path).unwrap();
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    response.json().unwrap()["metadata"].clone()
}

fn assert_encrypted_by_tpm(vm: &Vm) {
    assert_eq!(get(vm, "/1.0/system/security")["state"]["secure_boot_enabled"], true);
    wait_opened_by_tpm(vm);
}

#[test]
fn first_boot_asks_nobody() {
    let Some(console) = first_boot_console() else { return };
    assert_no_prompt(&console);
}

#[test]
fn second_boot_unlocks_root_and_swap_by_the_tpm() {
    let Some(mut machine) = ready_machine("second-boot") else { return };
    assert_encrypted_by_tpm(&machine);
    machine.power_cut().unwrap();
    let console = machine.console_from_now();
    machine.start(Lifetime::Tied).unwrap();
    machine.wait_ready(BOOT_LIMIT, |_| ()).unwrap();
    assert_no_prompt(&console.text().unwrap());
    assert_encrypted_by_tpm(&machine);
}

#[test]
fn power_cut_while_partitions_are_made_is_healed_by_the_next_boot() {
    power_cut_at("cut-repart", &["Encrypting", "Formatting", "Adding new partition"]);
}

#[test]
fn power_cut_while_services_start_first_is_healed_by_the_next_boot() {
    power_cut_at("cut-services", &["incus-osd-storage"]);
}

fn power_cut_at(label: &str, markers: &[&str]) {
    let Some(mut machine) = new_machine(label, &Spec::default()) else { return };
    machine.start(Lifetime::Tied).unwrap();
    let line = machine.console().wait_for_any(markers, BOOT_LIMIT).unwrap();
    machine.power_cut().unwrap();
    println!("cut at: {line}");
    let console = machine.console_from_now();
    machine.start(Lifetime::Tied).unwrap();
    machine.wait_ready(BOOT_LIMIT, |_| ()).unwrap();
    assert_no_prompt(&console.text().unwrap());
    assert_encrypted_by_tpm(&machine);
}

#[test]
fn firmware_in_setup_mode_gets_the_keys_and_boots_with_secure_boot() {
    let spec = Spec { keys: Keys::SetupMode, ..Spec::default() };
    let Some(mut machine) = new_machine("setup-mode", &spec) else { return };
    machine.start(Lifetime::Tied).unwrap();
    machine.wait_ready(BOOT_LIMIT, |_| ()).unwrap();
    assert_encrypted_by_tpm(&machine);
}

#[test]
fn tampered_usr_is_refused() {
    let Some(image) = image() else { return };
    let folder = tempfile::tempdir().unwrap();
    let image = disk::copy(&image, folder.path()).unwrap();
    let label = format!("{}_{}", image.os_name, image.os_version);
    let partitions = disk::partitions(&image.disk_image).unwrap();
    let usr = partitions.iter().find(|partition| partition.label == label);
    let usr = usr.unwrap_or_else(|| panic!("no partition {label}: {partitions:?}"));
    // The file system's superblock: read at every mount.
    disk::damage(&image.disk_image, usr.start + 1024, 16).unwrap();

    let mut machine = machine_of("bad-usr", &Spec::default(), &image);
    machine.start(Lifetime::Tied).unwrap();
    machine.console().wait_for("is corrupted", BOOT_LIMIT).unwrap();
    assert_never_started(&machine.console());
}

#[test]
fn tampered_kernel_image_is_refused() {
    let Some(image) = image() else { return };
    let folder = tempfile::tempdir().unwrap();
    let image = disk::copy(&image, folder.path()).unwrap();
    let name = kernel_image(&image.disk_image);
    let size = image.uki.metadata().unwrap().len();
    // In the middle: the kernel or the initrd, whichever it is.
    disk::damage_esp_file(&image.disk_image, &name, size / 2, 1).unwrap();

    let mut machine = machine_of("bad-uki", &Spec::default(), &image);
    machine.start(Lifetime::Tied).unwrap();
    let refusals = ["Access denied", "Access Denied", "Security violation", "Security Violation"];
    machine.console().wait_for_any(&refusals, BOOT_LIMIT).unwrap();
    assert_never_started(&machine.console());
}

/// The one kernel image on the ESP.
fn kernel_image(disk_image: &Path) -> String {
    let names = disk::esp_files(disk_image, "/EFI/Linux/").unwrap();
    let [name] = names.as_slice() else { panic!("not one kernel image: {names:?}") };
    format!("/EFI/Linux/{name}")
}

fn assert_never_started(console: &Console) {
    let text = console.text().unwrap();
    assert!(!text.contains("incus-osd"), "a service of ours was started:\n{}", console.tail(40));
}
