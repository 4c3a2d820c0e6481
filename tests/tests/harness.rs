//! The machine harness itself, with an empty disk: the firmware is all that runs.
//!
//! Needs the emulators of the tools tree, no image; skips without them.
#![expect(clippy::unwrap_used, reason = "a failure is what a test reports")]

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use testkit::identity::Identity;
use testkit::image::Image;
use testkit::process::{self, Lifetime};
use testkit::seed::Seed;
use testkit::vm::record::{GIB, Keys, Spec};
use testkit::vm::{Store, Vm, VmError};

const MOMENT: Duration = Duration::from_secs(60);

fn emulators_are_here() -> bool {
    let here = process::run("qemu-system-x86_64", &["--version"], Path::new("/"), MOMENT).is_ok()
        && process::run("swtpm", &["--version"], Path::new("/"), MOMENT).is_ok();
    if !here {
        println!("skipped: qemu-system-x86_64 and swtpm are not here; run it with `cargo xtask test`");
    }
    here
}

/// A machine without a system, made in `folder`.
fn bare_machine(folder: &Path, spec: &Spec) -> (Store, Vm) {
    let disk_image = folder.join("empty.raw");
    File::create(&disk_image).unwrap().set_len(3 * GIB).unwrap();
    let none = folder.join("none");
    let image = Image {
        os_name: "none".to_owned(),
        os_version: "000000000000".to_owned(),
        disk_image,
        iso_image: none.clone(),
        uki: none.clone(),
        usr: none.clone(),
        usr_verity: none.clone(),
        usr_verity_sig: none,
        pki_dir: folder.to_owned(),
    };
    let store = Store::at(folder.join("vms"));
    let administrator = Identity::generate("admin").unwrap();
    let seed = Seed::administrator(&administrator.certificate);
    let vm = store.create("bare", spec, &image, &seed, &administrator).unwrap();
    (store, vm)
}

fn small() -> Spec {
    Spec { memory_mib: 256, cpus: 1, keys: Keys::SetupMode, ..Spec::default() }
}

fn status(vm: &mut Vm) -> String {
    vm.execute("query-status", json!({})).unwrap()["status"].to_string()
}

#[test]
fn machine_starts_survives_power_cuts_and_goes_when_deleted() {
    if !emulators_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (store, mut vm) = bare_machine(folder.path(), &small());
    assert_eq!(store.names().unwrap(), ["bare"]);
    for _ in 0..2 {
        vm.start(Lifetime::Tied).unwrap();
        assert!(vm.is_running());
        assert!(matches!(vm.start(Lifetime::Tied), Err(VmError::Running { .. })));
        vm.reset().unwrap();
        vm.power_cut().unwrap();
        assert!(!vm.is_running());
    }
    assert!(matches!(vm.power_cut(), Err(VmError::Stopped { .. })));
    vm.delete().unwrap();
    assert!(store.names().unwrap().is_empty());
}

#[test]
fn waiting_for_a_system_that_is_not_there_ends_with_what_was_seen() {
    if !emulators_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (_store, mut vm) = bare_machine(folder.path(), &small());
    vm.start(Lifetime::Tied).unwrap();
    let mut reports = 0;
    let error = vm.wait_ready(Duration::from_secs(3), |_| reports += 1).unwrap_err();
    let text = system_tests::explain(error);
    assert!(text.contains("did not get there") && text.contains("cannot connect"), "{text}");
    assert!(reports > 0);
    vm.execute("quit", json!({})).unwrap();
    let error = vm.wait_ready(MOMENT, |_| ()).unwrap_err();
    assert!(matches!(error, VmError::Stopped { .. }), "{error}");
}

#[test]
fn seed_is_in_its_partition() {
    if !emulators_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (_store, vm) = bare_machine(folder.path(), &small());
    let raw = folder.path().join("disk.raw");
    let disk = vm.folder().disk("disk0");
    let arguments = ["convert", "-O", "raw", disk.to_str().unwrap(), raw.to_str().unwrap()];
    process::run("qemu-img", &arguments, folder.path(), MOMENT).unwrap();
    let seed = fs::read(vm.folder().seed()).unwrap();
    let mut found = vec![0; seed.len()];
    std::os::unix::fs::FileExt::read_exact_at(&File::open(&raw).unwrap(), &mut found, media::SEED_OFFSET).unwrap();
    assert!(found == seed);
}

#[test]
fn snapshot_is_restored_in_a_running_and_in_a_stopped_machine() {
    if !emulators_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (_store, mut vm) = bare_machine(folder.path(), &small());
    vm.start(Lifetime::Tied).unwrap();
    vm.snapshot("early").unwrap();
    // The same tag again replaces the older state.
    vm.snapshot("early").unwrap();
    vm.restore("early").unwrap();
    assert_eq!(status(&mut vm), "\"running\"");
    assert!(vm.restore("never-taken").is_err());
    assert_eq!(status(&mut vm), "\"running\"");
    vm.power_cut().unwrap();
    vm.restore("early").unwrap();
    assert_eq!(status(&mut vm), "\"running\"");
    vm.power_cut().unwrap();
}

#[test]
fn frozen_machine_goes_on_twice_at_the_same_time() {
    if !emulators_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (store, mut vm) = bare_machine(folder.path(), &small());
    vm.start(Lifetime::Tied).unwrap();
    let frozen = vm.freeze().unwrap();
    let mut one = frozen.thaw(&store, "one", Lifetime::Tied).unwrap();
    let mut two = frozen.thaw(&store, "two", Lifetime::Tied).unwrap();
    assert_eq!(status(&mut one), "\"running\"");
    assert_eq!(status(&mut two), "\"running\"");
    assert_ne!(one.api_address(), two.api_address());
    // The TPM of a thawed machine is a new one with the old one's state; that one lasts as well.
    one.power_cut().unwrap();
    one.start(Lifetime::Tied).unwrap();
}

#[test]
fn devices_come_while_it_runs_and_stay_over_a_power_cut() {
    if !emulators_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (_store, mut vm) = bare_machine(folder.path(), &Spec { extra_disks: vec![GIB], ..small() });
    vm.start(Lifetime::Tied).unwrap();
    assert_eq!(vm.attach_disk(GIB).unwrap(), "disk2");
    vm.attach_nic("lan", "52:54:00:00:00:02").unwrap();
    vm.power_cut().unwrap();
    vm.start(Lifetime::Tied).unwrap();
    let blocks = vm.execute("query-block", json!({})).unwrap().to_string();
    for serial in ["disk0", "disk1", "disk2"] {
        assert!(blocks.contains(&format!("\"node-name\":\"{serial}\"")), "{serial}: {blocks}");
    }
    let error = vm.detach_disk("disk0").unwrap_err();
    assert_eq!(error.to_string(), "machine `bare` has no attached device `disk0`");
}

#[test]
fn tied_machine_ends_with_its_owner() {
    if !emulators_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (store, mut vm) = bare_machine(folder.path(), &small());
    // The starting thread ends at once; the machine must not end with it.
    let vm = std::thread::spawn(move || {
        vm.start(Lifetime::Tied).unwrap();
        vm
    })
    .join()
    .unwrap();
    assert!(vm.is_running());
    drop(vm);
    assert!(!store.open("bare").unwrap().is_running());
}
