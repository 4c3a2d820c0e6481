//! The service over its socket, on a machine made of files.

mod fake;

use std::{fs, os::unix::fs::PermissionsExt as _};

use api::v1::{Empty, SystemStorage};
use fake::{
    CREATE, Device, IMPORT, LOAD_KEY, Machine, STATUS, SYSTEM_PARTITION, list, local_pool, local_volumes, no_pools, ok,
};
use runner::{Reply, ScriptedRunner};
use tonic::Code;

/// What is asked when the readings are taken of a machine with pool `local`.
fn read_local(script: ScriptedRunner) -> ScriptedRunner {
    script.expect(STATUS, local_pool("ONLINE")).expect(list("local"), local_volumes("available"))
}

#[tokio::test]
async fn first_boot_creates_the_encrypted_system_pool() {
    let machine = Machine::new();
    let script = ScriptedRunner::new().expect(STATUS, no_pools()).expect(CREATE, ok());
    let mut service = machine.serve(read_local(read_local(script)));
    assert_eq!(service.start().await, [""; 0]);
    assert_eq!(fs::read(machine.key("local")).unwrap().len(), 32);
    assert_eq!(fs::metadata(machine.key("local")).unwrap().permissions().mode() & 0o777, 0o600);

    let state = service.state().await;
    let [pool] = &state.pools[..] else { panic!("one pool: {:?}", state.pools) };
    assert_eq!((pool.name.as_str(), pool.r#type.as_str(), pool.state.as_str()), ("local", "zfs-raid0", "ONLINE"));
    assert!(pool.managed);
    assert_eq!(pool.devices, [SYSTEM_PARTITION]);
    assert_eq!(pool.encryption_key_status, "available");
    assert_eq!(pool.volumes.len(), 3);
    let [drive] = &state.drives[..] else { panic!("one drive: {:?}", state.drives) };
    assert_eq!((drive.id.as_str(), drive.member_pool.as_str()), ("/dev/disk/by-id/virtio-root", "local"));
    assert_eq!((drive.bus.as_str(), drive.serial_number.as_str()), ("virtio", "root"));
    assert_eq!(drive.capacity_in_bytes, 50 << 30);
    assert!(drive.boot && !drive.remote && !drive.removable && !drive.multipath);
    assert!(state.root_partition.unwrap().size_in_bytes > 0);
    service.end().await;
}

#[tokio::test]
async fn the_key_is_on_disk_before_the_pool_is_created() {
    let machine = Machine::new();
    let broken = Reply::Failure(1, "cannot create 'local': I/O error".into());
    let script = ScriptedRunner::new().expect(STATUS, no_pools()).expect(CREATE, broken).expect(STATUS, no_pools());
    let mut service = machine.serve(script.expect(STATUS, no_pools()));
    let warnings = service.start().await;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("I/O error"), "{warnings:?}");
    let key = fs::read(machine.key("local")).unwrap();
    assert_eq!(service.state().await.pools[0].state, "UNAVAIL");
    service.end().await;

    // The next start completes it, with the same key.
    let script = ScriptedRunner::new().expect(STATUS, no_pools()).expect(CREATE, ok());
    let mut service = machine.serve(read_local(read_local(script)));
    assert_eq!(service.start().await, [""; 0]);
    assert_eq!(fs::read(machine.key("local")).unwrap(), key);
    service.state().await;
    service.end().await;
}

#[tokio::test]
async fn second_boot_imports_the_very_pool_on_the_partition() {
    let machine = Machine::new();
    machine.put_key("local", 32);
    machine.put_labels();
    let script = ScriptedRunner::new()
        .expect(STATUS, no_pools())
        .expect(format!("{IMPORT} 4854611665401592477"), ok())
        .expect(LOAD_KEY, ok());
    let mut service = machine.serve(read_local(read_local(script)));
    assert_eq!(service.start().await, [""; 0]);
    assert_eq!(service.state().await.pools.len(), 1);
    service.end().await;
}

#[tokio::test]
async fn starting_twice_changes_nothing() {
    let machine = Machine::new();
    machine.put_key("local", 32);
    machine.put_labels();
    let script = read_local(read_local(read_local(read_local(ScriptedRunner::new()))));
    let mut service = machine.serve(script);
    assert_eq!(service.start().await, [""; 0]);
    service.state().await;
    assert_eq!(service.start().await, [""; 0]);
    service.state().await;
    service.end().await;
}

#[tokio::test]
async fn a_pool_without_its_key_is_neither_imported_nor_overwritten() {
    let machine = Machine::new();
    machine.put_labels();
    let before = fs::read(machine.path("dev/vda11")).unwrap();
    let mut service = machine.serve(ScriptedRunner::new().expect(STATUS, no_pools()).expect(STATUS, no_pools()));
    let warnings = service.start().await;
    assert!(warnings[0].contains("encryption key is missing"), "{warnings:?}");
    assert!(!machine.key("local").exists());
    assert!(service.state().await.pools.is_empty());
    assert!(fs::read(machine.path("dev/vda11")).unwrap() == before);
    service.end().await;
}

#[tokio::test]
async fn foreign_content_is_refused() {
    let machine = Machine::new();
    for properties in [
        &[("ID_FS_TYPE", "ext4")][..],
        &[("ID_FS_AMBIVALENT", "filesystem:ext4 raid:x")],
        &[("ID_FS_TYPE", "zfs_member")],
    ] {
        machine.set_system_partition(properties);
        let mut service = machine.serve(ScriptedRunner::new().expect(STATUS, no_pools()).expect(STATUS, no_pools()));
        let warnings = service.start().await;
        assert!(warnings[0].starts_with("Storage pool 'local' was not created"), "{warnings:?}");
        assert!(!machine.key("local").exists());
        service.state().await;
        service.end().await;
    }
}

#[tokio::test]
async fn a_partition_of_that_name_on_another_drive_is_not_touched() {
    let machine = Machine::new();
    machine.put_key("local", 32);
    machine.put_labels();
    let folder = "pci0000:00/0000:00:06.0/virtio3/block/vdb";
    let other = Device {
        name: "vdb",
        number: "254:16",
        folder,
        size: 1 << 30,
        partition: None,
        links: &["disk/by-id/virtio-other"],
        properties: &[],
        attributes: &[],
    };
    machine.add(&other);
    machine.add(&Device {
        name: "vdb1",
        number: "254:17",
        folder: &format!("{folder}/vdb1"),
        partition: Some("local-data"),
        links: &["disk/by-id/virtio-other-part1"],
        ..other
    });
    let script = ScriptedRunner::new()
        .expect(STATUS, no_pools())
        .expect(format!("{IMPORT} 4854611665401592477"), ok())
        .expect(LOAD_KEY, ok());
    let mut service = machine.serve(read_local(read_local(script)));
    assert_eq!(service.start().await, [""; 0]);
    let state = service.state().await;
    let members: Vec<_> = state.drives.iter().map(|drive| (drive.member_pool.as_str(), drive.boot)).collect();
    assert_eq!(members, [("", false), ("local", true)]);
    service.end().await;
}

#[tokio::test]
async fn one_broken_pool_neither_stops_the_start_nor_hides_the_others() {
    let machine = Machine::new();
    machine.put_key("local", 32);
    machine.put_key("tank", 32);
    machine.put_labels();
    let away = Reply::Failure(1, "cannot import 'tank': no such pool available".into());
    let script = ScriptedRunner::new()
        .expect(STATUS, no_pools())
        .expect(format!("{IMPORT} tank"), away)
        .expect(format!("{IMPORT} 4854611665401592477"), ok())
        .expect(LOAD_KEY, ok());
    let mut service = machine.serve(read_local(read_local(script)));
    let warnings = service.start().await;
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].starts_with("Storage pool 'tank' is missing, its contents will be unavailable"),
        "{warnings:?}"
    );
    let pools: Vec<_> = service.state().await.pools.into_iter().map(|pool| (pool.name, pool.state)).collect();
    assert_eq!(pools, [("local".into(), "ONLINE".into()), ("tank".into(), "UNAVAIL".to_owned())]);
    service.end().await;
}

#[tokio::test]
async fn a_key_that_does_not_fit_is_told() {
    let machine = Machine::new();
    machine.put_key("local", 32);
    machine.put_labels();
    let wrong = Reply::Failure(255, "Key load error: Incorrect key provided for 'local'.".into());
    let locked = |script: ScriptedRunner| {
        script.expect(STATUS, local_pool("ONLINE")).expect(list("local"), local_volumes("unavailable"))
    };
    let script = ScriptedRunner::new()
        .expect(STATUS, no_pools())
        .expect(format!("{IMPORT} 4854611665401592477"), ok())
        .expect(LOAD_KEY, wrong);
    let mut service = machine.serve(locked(locked(script)));
    let warnings = service.start().await;
    assert!(warnings[0].contains("could not be unlocked") && warnings[0].contains("Incorrect key"), "{warnings:?}");
    assert_eq!(service.state().await.pools[0].encryption_key_status, "unavailable");
    service.end().await;
}

#[tokio::test]
async fn without_the_kernel_module_drives_are_still_shown() {
    let machine = Machine::new();
    machine.remove("sys/module/zfs/initstate");
    let mut service = machine.serve(ScriptedRunner::new());
    assert!(service.start().await[0].contains("kernel module is not loaded"));
    let state = service.state().await;
    assert_eq!((state.drives.len(), state.pools.len()), (1, 0));
    service.end().await;
}

#[tokio::test]
async fn asking_starts_no_program_while_nothing_changes() {
    let machine = Machine::new();
    machine.show_pool("local", "ONLINE");
    let mut service = machine.serve(read_local(ScriptedRunner::new()));
    let first = service.state().await;
    for _ in 0..3 {
        assert_eq!(service.state().await.pools, first.pools);
    }
    service.end().await;
}

#[tokio::test]
async fn a_change_of_state_shows_in_the_very_next_answer() {
    let machine = Machine::new();
    machine.show_pool("local", "ONLINE");
    let script = read_local(ScriptedRunner::new())
        .expect(STATUS, local_pool("DEGRADED"))
        .expect(list("local"), local_volumes("available"));
    let mut service = machine.serve(script);
    assert_eq!(service.state().await.pools[0].state, "ONLINE");
    machine.show_pool("local", "DEGRADED");
    assert_eq!(service.state().await.pools[0].state, "DEGRADED");
    service.end().await;
}

#[tokio::test]
async fn a_new_drive_shows_in_the_very_next_answer() {
    let machine = Machine::new();
    let mut service = machine.serve(ScriptedRunner::new().expect(STATUS, no_pools()).expect(STATUS, no_pools()));
    assert_eq!(service.state().await.drives.len(), 1);
    machine.add(&Device {
        name: "vdb",
        number: "254:16",
        folder: "pci0000:00/0000:00:06.0/virtio3/block/vdb",
        size: 1 << 30,
        partition: None,
        links: &["disk/by-id/virtio-data"],
        properties: &[],
        attributes: &[],
    });
    let ids: Vec<_> = service.state().await.drives.into_iter().map(|drive| drive.id).collect();
    assert_eq!(ids, ["/dev/disk/by-id/virtio-data", "/dev/disk/by-id/virtio-root"]);
    service.end().await;
}

#[tokio::test]
async fn when_zfs_hangs_the_last_reading_is_given() {
    let machine = Machine::new();
    machine.show_pool("local", "ONLINE");
    let mut service = machine.serve(read_local(ScriptedRunner::new()).expect(STATUS, Reply::Hang));
    assert_eq!(service.state().await.pools[0].state, "ONLINE");
    machine.show_pool("local", "SUSPENDED");
    // The first of these waits for ZFS, the second leaves it alone.
    assert_eq!(service.state().await.pools[0].state, "ONLINE");
    assert_eq!(service.state().await.pools[0].state, "ONLINE");
    service.end().await;
}

#[tokio::test]
async fn when_zfs_has_never_answered_that_is_said() {
    let machine = Machine::new();
    let mut service = machine.serve(ScriptedRunner::new().expect(STATUS, Reply::Hang));
    let refusal = service.client.get(Empty {}).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unavailable);
    assert!(refusal.message().contains("did not end"), "{refusal:?}");
    service.end().await;
}

#[tokio::test]
async fn a_suspended_pool_is_not_asked_for_its_volumes() {
    let machine = Machine::new();
    let mut service = machine.serve(ScriptedRunner::new().expect(STATUS, local_pool("SUSPENDED")));
    assert_eq!(service.state().await.pools[0].state, "SUSPENDED");
    service.end().await;
}

#[tokio::test]
async fn health_of_drives_is_read_in_the_background() {
    let machine = Machine::new();
    machine.add(&Device {
        name: "sda",
        number: "8:0",
        folder: "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda",
        size: 1 << 30,
        partition: None,
        links: &["disk/by-id/ata-WDC"],
        properties: &[("ID_BUS", "ata")],
        attributes: &[("device/vendor", "ATA     "), ("device/model", "WDC WD40EFRX-68N")],
    });
    let health = Reply::Stdout(include_bytes!("fixtures/smartctl-sata.json").to_vec());
    let script = ScriptedRunner::new().expect(STATUS, no_pools()).expect("smartctl -n standby -aj /dev/sda", health);
    let mut service = machine.serve(script);
    let drive = service.state().await.drives.into_iter().next().unwrap();
    assert_eq!((drive.id.as_str(), drive.bus.as_str()), ("/dev/disk/by-id/ata-WDC", "sata"));
    let drive = loop {
        let drive = service.state().await.drives.into_iter().next().unwrap();
        if drive.smart.is_some() {
            break drive;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(drive.model_family, "Western Digital Red");
    assert_eq!(drive.smart.unwrap().temperature_celsius, 34);
    service.end().await;
}

#[tokio::test]
async fn what_is_not_built_says_so() {
    let machine = Machine::new();
    let mut service = machine.serve(ScriptedRunner::new());
    let refusal = service.client.put(SystemStorage::default()).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unimplemented);
    service.end().await;
}

#[test]
fn the_document_has_the_keys_of_the_contract() {
    let text = serde_json::to_value(SystemStorage::default()).unwrap();
    let expected = serde_json::json!({
        "config": {"scrub_schedule": "", "trim_schedule": ""},
        "state": {"drives": [], "pools": [], "root_partition": {"size_in_bytes": 0, "available_in_bytes": 0}},
    });
    assert_eq!(text, expected);
    let pool = serde_json::to_value(api::v1::Pool::default()).unwrap();
    let expected = serde_json::json!({
        "name": "", "type": "", "devices": [], "managed": false, "state": "", "encryption_key_status": "",
        "raw_pool_size_in_bytes": 0, "usable_pool_size_in_bytes": 0, "pool_allocated_space_in_bytes": 0, "volumes": [],
    });
    assert_eq!(pool, expected);
}
