//! Whole inventories of machines made of files.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::Path};

use api::v1::Resources;
use resources::Inventory;

/// A machine made of files.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Writes several files of one folder.
    fn folder(&self, folder: &str, files: &[(&str, &str)]) -> &Self {
        let folder = self.0.path().join(folder);
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
            fs::write(folder.join(name), format!("{text}\n")).unwrap();
        }
        self
    }

    /// A link; both ends are written from the root.
    fn link(&self, from: &str, to: &str) -> &Self {
        let from = self.0.path().join(from);
        fs::create_dir_all(from.parent().unwrap()).unwrap();
        fs::create_dir_all(self.0.path().join(to)).unwrap();
        symlink(self.0.path().join(to), from).unwrap();
        self
    }

    fn inventory(&self) -> Resources {
        Inventory::below(self.0.path(), BTreeMap::new()).take()
    }
}

const PCI: &str = "sys/devices/pci0000:00";

/// A PCI device on the bus, with a driver.
fn pci(machine: &Machine, address: &str, class: &str, driver: &str) -> String {
    let folder = format!("{PCI}/{address}");
    machine.folder(&folder, &[("vendor", "0x1af4"), ("device", "0x1041"), ("class", class), ("numa_node", "-1")]);
    machine.link(&format!("sys/bus/pci/devices/{address}"), &folder);
    if !driver.is_empty() {
        machine.link(&format!("{folder}/driver"), &format!("sys/bus/pci/drivers/{driver}"));
    }
    machine.folder(
        "run/udev/data",
        &[(
            &format!("+pci:{address}"),
            "E:ID_VENDOR_FROM_DATABASE=Red Hat, Inc.\nE:ID_MODEL_FROM_DATABASE=Virtio 1.0 device",
        )],
    );
    folder
}

fn cpu(machine: &Machine, id: u32, socket: u32, core: u32, siblings: &str) {
    machine.folder(
        &format!("sys/devices/system/cpu/cpu{id}"),
        &[
            ("topology/physical_package_id", &socket.to_string()),
            ("topology/core_id", &core.to_string()),
            ("topology/cluster_id", "65535"),
            ("topology/thread_siblings_list", siblings),
            ("cpufreq/scaling_cur_freq", &(1_000_000 * (socket + 1)).to_string()),
            ("cpufreq/cpuinfo_max_freq", "3000000"),
            ("cache/index0/level", "1"),
            ("cache/index0/type", "Data"),
            ("cache/index0/size", "32K"),
        ],
    );
}

#[test]
fn empty_machine_has_an_empty_inventory_of_the_right_shape() {
    let resources = serde_json::to_value(Machine::new().inventory()).unwrap();
    for (key, empty) in [
        ("cpu", "sockets"),
        ("gpu", "cards"),
        ("network", "cards"),
        ("storage", "disks"),
        ("usb", "devices"),
        ("pci", "devices"),
        ("serial", "devices"),
    ] {
        assert_eq!(resources[key][empty], serde_json::json!([]), "{key}");
        assert_eq!(resources[key]["total"], 0, "{key}");
    }
    assert_eq!(resources["system"]["type"], "unknown");
    assert_eq!(resources["memory"]["total"], 0);
}

#[test]
fn threads_are_sorted_into_cores_and_sockets() {
    let machine = Machine::new();
    for (id, socket, core, siblings) in
        [(0, 0, 0, "0,4"), (1, 0, 1, "1,5"), (2, 1, 0, "2"), (4, 0, 0, "0,4"), (5, 0, 1, "1,5")]
    {
        cpu(&machine, id, socket, core, siblings);
    }
    // Offline: the kernel takes the topology away.
    machine.folder("sys/devices/system/cpu/cpu10", &[("online", "0")]);
    machine.folder("sys/devices/system/cpu", &[("isolated", "4-5"), ("cpufreq/policy", "x")]);
    machine.folder("sys/devices/system/node/node1", &[("cpulist", "2,5")]);
    machine.folder("proc", &[("cpuinfo", "processor: 0\nmodel name: CPU\nvendor_id: V\nflags: fpu hypervisor\n")]);
    let cpu = machine.inventory().cpu.unwrap();
    assert_eq!(cpu.total, 6);
    let [first, second] = cpu.sockets.as_slice() else { panic!("{:?}", cpu.sockets) };
    assert_eq!((first.name.as_str(), first.vendor.as_str(), first.socket), ("CPU", "V", 0));
    assert_eq!((first.frequency, first.frequency_turbo, second.frequency), (1000, 3000, 2000));
    assert_eq!((first.cache.len(), first.cache[0].size), (1, 32768));
    let threads: Vec<Vec<_>> =
        first.cores.iter().map(|core| core.threads.iter().map(|thread| (thread.id, thread.thread)).collect()).collect();
    assert_eq!(threads, [vec![(0, 0), (4, 1)], vec![(1, 0), (5, 1)], vec![(10, 0)]]);
    let [thread_1, thread_5] = first.cores[1].threads.as_slice() else { panic!() };
    assert_eq!((thread_1.isolated, thread_1.numa_node, thread_1.online), (false, 0, true));
    assert_eq!((thread_5.isolated, thread_5.numa_node, thread_5.online), (true, 1, true));
    assert!(!first.cores[2].threads[0].online);
    assert_eq!(first.cores[0].flags, ["fpu", "hypervisor"]);
    assert_eq!((first.cores[0].cluster, second.cores.len()), (0, 1));
}

#[test]
fn memory_is_what_is_built_in() {
    let machine = Machine::new();
    machine.folder(
        "proc",
        &[(
            "meminfo",
            "MemTotal: 1000 kB\nMemFree: 400 kB\nBuffers: 50 kB\nCached: 150 kB\nHugePages_Total: 4\nHugePages_Free: 1\nHugepagesize: 2048 kB",
        )],
    );
    machine.folder("sys/devices/system/node/node0", &[("meminfo", "Node 0 MemTotal: 1000 kB\nNode 0 MemUsed: 600 kB")]);
    let memory = machine.inventory().memory.unwrap();
    assert_eq!((memory.total, memory.used), (1000 << 10, 400 << 10));
    assert_eq!((memory.hugepages_total, memory.hugepages_used, memory.hugepages_size), (8 << 20, 6 << 20, 2 << 20));
    assert_eq!((memory.nodes.len(), memory.nodes[0].used), (1, 600 << 10));

    machine.folder("sys/devices/system/memory", &[("block_size_bytes", "8000000")]);
    for (block, online) in [("memory0", "1"), ("memory1", "1"), ("memory2", "0")] {
        machine.folder(&format!("sys/devices/system/memory/{block}"), &[("online", online)]);
    }
    assert_eq!(machine.inventory().memory.unwrap().total, 2 * 0x800_0000);
}

fn disk(machine: &Machine, name: &str, device: &str, parent: &str) {
    let folder = format!("{parent}/block/{name}");
    machine.folder(
        &folder,
        &[
            ("dev", device),
            ("size", "2048"),
            ("ro", "0"),
            ("removable", "0"),
            ("queue/rotational", "0"),
            ("queue/physical_block_size", "4096"),
        ],
    );
    machine.link(&format!("{folder}/device"), parent);
    machine.link(&format!("sys/class/block/{name}"), &folder);
}

#[test]
fn disks_are_named_by_udev_and_by_where_they_sit() {
    let machine = Machine::new();
    let card = pci(&machine, "0000:00:05.0", "0x010000", "virtio-pci");
    let target = format!("{card}/virtio2/host0/target0:0:0/0:0:0:1");
    machine.link(&format!("{target}/subsystem"), "sys/bus/scsi");
    disk(&machine, "sda", "8:0", &target);
    machine.folder(
        &format!("{target}/block/sda/sda1"),
        &[("partition", "1"), ("dev", "8:1"), ("size", "1024"), ("ro", "1")],
    );
    machine.folder(
        "run/udev/data",
        &[(
            "b8:0",
            "S:disk/by-id/wwn-0x1\nS:disk/by-id/scsi-0QEMU_root\nS:disk/by-id/lvm-pv-uuid-x\nS:disk/by-path/pci-0000:00:05.0-scsi-0:0:0:1\nE:ID_MODEL_ENC=QEMU\\x20HARDDISK\\x20\nE:ID_MODEL=QEMU_HARDDISK\nE:ID_SERIAL=0QEMU\nE:ID_SCSI_SERIAL=root",
        )],
    );
    // A disk that has just been pulled: its files no longer answer.
    let gone = pci(&machine, "0000:00:06.0", "0x010802", "nvme");
    machine.link(&format!("{gone}/nvme/nvme0/subsystem"), "sys/class/nvme");
    disk(&machine, "nvme0n1", "259:0", &format!("{gone}/nvme/nvme0"));
    fs::remove_file(machine.0.path().join(format!("{gone}/nvme/nvme0/block/nvme0n1/size"))).unwrap();
    // One that is gone altogether, ones that are no disks of this machine.
    machine.link("sys/class/block/sdz", "sys/devices/gone");
    machine.folder("sys/class/block/loop0", &[("dev", "7:0")]);
    disk(&machine, "rbd0", "252:0", "sys/devices/rbd/0");
    disk(&machine, "sr0", "11:0", &format!("{card}/virtio2/host0/target0:0:1/0:0:1:0"));
    disk(&machine, "sdb", "8:16", &format!("{PCI}/0000:00:1f.2/ata1/host1/target1:0:0/1:0:0:0"));

    let storage = machine.inventory().storage.unwrap();
    let ids: Vec<_> = storage.disks.iter().map(|disk| (disk.id.as_str(), disk.r#type.as_str())).collect();
    assert_eq!(ids, [("nvme0n1", "nvme"), ("sda", "scsi"), ("sdb", "sata"), ("sr0", "cdrom")]);
    assert_eq!(storage.total, 5);
    assert_eq!(storage.disks[0].size, 0);
    let sda = &storage.disks[1];
    assert_eq!((sda.model.as_str(), sda.serial.as_str(), sda.device.as_str()), ("QEMU HARDDISK", "root", "8:0"));
    assert_eq!((sda.device_id.as_str(), sda.size, sda.block_size), ("scsi-0QEMU_root", 1 << 20, 4096));
    assert_eq!(sda.device_path, "pci-0000:00:05.0-scsi-0:0:0:1");
    assert_eq!((sda.pci_address.as_str(), sda.numa_node), ("0000:00:05.0", 0));
    let [partition] = sda.partitions.as_slice() else { panic!("{:?}", sda.partitions) };
    assert_eq!(
        (partition.id.as_str(), partition.partition, partition.size, partition.read_only),
        ("sda1", 1, 524_288, true)
    );
}

fn interface(machine: &Machine, name: &str, device: &str) {
    machine.folder(
        &format!("{device}/net/{name}"),
        &[
            ("address", "00:16:3e:00:00:01"),
            ("type", "1"),
            ("dev_port", "0"),
            ("carrier", "1"),
            ("speed", "-1"),
            ("duplex", "unknown"),
        ],
    );
    machine.link(&format!("{device}/net/{name}/device"), device);
    machine.link(&format!("sys/class/net/{name}"), &format!("{device}/net/{name}"));
}

#[test]
fn virtual_functions_are_shown_below_their_card() {
    let machine = Machine::new();
    machine.folder("proc/sys/kernel", &[("osrelease", "6.12.1")]);
    let physical = pci(&machine, "0000:01:00.0", "0x020000", "ixgbe");
    machine.folder(&physical, &[("sriov_totalvfs", "63"), ("sriov_numvfs", "1")]);
    interface(&machine, "nic0", &physical);
    let function = pci(&machine, "0000:01:10.0", "0x020000", "vfio-pci");
    machine.link(&format!("{function}/physfn"), &physical);
    let virtio = pci(&machine, "0000:02:00.0", "0x020000", "virtio-pci");
    machine.link(&format!("{virtio}/virtio0/driver"), "sys/bus/virtio/drivers/virtio_net");
    interface(&machine, "nic1", &format!("{virtio}/virtio0"));
    // Interfaces without hardware are no cards.
    machine.folder("sys/class/net/lo", &[("type", "772")]);

    let network = machine.inventory().network.unwrap();
    assert_eq!((network.cards.len(), network.total), (2, 3));
    let [card, virtio] = network.cards.as_slice() else { panic!() };
    assert_eq!((card.driver.as_str(), card.driver_version.as_str()), ("ixgbe", "6.12.1"));
    assert_eq!(
        (card.vendor.as_str(), card.vendor_id.as_str(), card.product_id.as_str()),
        ("Red Hat, Inc.", "1af4", "1041")
    );
    let sriov = card.sriov.as_ref().unwrap();
    assert_eq!((sriov.current_vfs, sriov.maximum_vfs), (1, 63));
    assert_eq!((sriov.vfs[0].pci_address.as_str(), sriov.vfs[0].driver.as_str()), ("0000:01:10.0", "vfio-pci"));
    let port = &card.ports[0];
    assert_eq!((port.id.as_str(), port.protocol.as_str(), port.link_detected), ("nic0", "ethernet", true));
    assert_eq!((port.link_speed, port.link_duplex.as_str()), (0, ""));
    assert_eq!(
        (virtio.driver.as_str(), virtio.ports.len(), virtio.pci_address.as_str()),
        ("virtio_net", 1, "0000:02:00.0")
    );
}

#[test]
fn usb_devices_have_interfaces_and_hubs_are_left_out() {
    let machine = Machine::new();
    let root = format!("{}/usb1", pci(&machine, "0000:00:14.0", "0x0c0330", "xhci_hcd"));
    machine.folder(&root, &[("bDeviceClass", "09"), ("busnum", "1"), ("devnum", "1")]);
    let stick = format!("{root}/1-1");
    machine.folder(
        &stick,
        &[
            ("bDeviceClass", "00"),
            ("busnum", "1"),
            ("devnum", "7"),
            ("dev", "189:6"),
            ("speed", "1.5"),
            ("idVendor", "0951"),
            ("idProduct", "1666"),
            ("manufacturer", "Kingston"),
            ("product", "Stick"),
            ("serial", "S"),
            ("1-1:1.0/bInterfaceClass", "08"),
            ("1-1:1.0/bInterfaceSubClass", "06"),
            ("1-1:1.0/bInterfaceNumber", "00"),
            ("1-1:1.1/bInterfaceClass", "garbage"),
        ],
    );
    machine.link("sys/bus/usb/devices/usb1", &root);
    machine.link("sys/bus/usb/devices/1-1", &stick);
    machine.link("sys/bus/usb/devices/1-1:1.0", &format!("{stick}/1-1:1.0"));
    let resources = machine.inventory();
    let usb = resources.usb.unwrap();
    assert_eq!((usb.total, usb.devices.len()), (1, 1));
    let device = &usb.devices[0];
    assert_eq!((device.bus_address, device.device_address, device.vendor_id.as_str()), (1, 7, "0951"));
    assert_eq!((device.vendor.as_str(), device.product.as_str(), device.serial.as_str()), ("Kingston", "Stick", "S"));
    assert!((device.speed - 1.5).abs() < f64::EPSILON);
    let [interface] = device.interfaces.as_slice() else { panic!("{:?}", device.interfaces) };
    assert_eq!((interface.class.as_str(), interface.subclass.as_str()), ("Mass Storage", "SCSI"));
    assert_eq!(resources.pci.unwrap().total, 1);
}

#[test]
fn display_devices_without_a_driver_are_cards_too() {
    let machine = Machine::new();
    let driven = pci(&machine, "0000:00:01.0", "0x030000", "i915");
    machine.folder(
        &driven,
        &[("drm/card0/dev", "226:0"), ("drm/renderD128/dev", "226:128"), ("drm/card0/card0-DP-1/x", "")],
    );
    machine.link(&format!("{driven}/drm/card0/device"), &driven);
    machine.link("sys/class/drm/card0", &format!("{driven}/drm/card0"));
    machine.folder("sys/class/drm/card0-DP-1", &[]);
    pci(&machine, "0000:00:02.0", "0x030200", "");
    let gpu = machine.inventory().gpu.unwrap();
    assert_eq!((gpu.total, gpu.cards.len()), (2, 2));
    let drm = gpu.cards[0].drm.as_ref().unwrap();
    assert_eq!((drm.card_name.as_str(), drm.card_device.as_str()), ("card0", "226:0"));
    assert_eq!((drm.render_name.as_str(), drm.render_device.as_str()), ("renderD128", "226:128"));
    assert_eq!((gpu.cards[1].drm.as_ref(), gpu.cards[1].pci_address.as_str()), (None, "0000:00:02.0"));
}

#[test]
fn serial_ports_without_hardware_are_left_out() {
    let machine = Machine::new();
    for (name, number, kind) in [("ttyS0", "4:64", "4"), ("ttyS1", "4:65", "0")] {
        machine.folder(&format!("sys/class/tty/{name}"), &[("dev", number), ("type", kind)]);
        machine.link(&format!("sys/class/tty/{name}/device"), "sys/devices/platform/serial8250");
    }
    machine.link("sys/devices/platform/serial8250/driver", "sys/bus/platform/drivers/serial8250");
    machine.folder("sys/class/tty/tty1", &[("dev", "4:1")]);
    let serial = machine.inventory().serial.unwrap();
    assert_eq!((serial.total, serial.devices[0].id.as_str(), serial.devices[0].device.as_str()), (1, "ttyS0", "4:64"));
}

#[test]
fn firmware_facts_fill_in_what_only_root_may_read() {
    let machine = Machine::new();
    machine.folder(
        "sys/class/dmi/id",
        &[("sys_vendor", "QEMU"), ("product_name", "Standard PC"), ("bios_version", "1"), ("chassis_type", "23")],
    );
    machine.folder("proc", &[("cpuinfo", "processor: 0\nflags: fpu")]);
    let facts = BTreeMap::from([("product_uuid".to_owned(), "uuid".to_owned())]);
    let system = Inventory::below(machine.0.path(), facts).take().system.unwrap();
    assert_eq!(
        (system.uuid.as_str(), system.vendor.as_str(), system.r#type.as_str()),
        ("uuid", "QEMU", "virtual-machine")
    );
    assert_eq!(system.chassis.unwrap().r#type, "Rack Mount Chassis");
    machine.folder("run/systemd", &[("container", "lxc")]);
    assert_eq!(machine.inventory().system.unwrap().r#type, "container");
}

#[test]
fn machine_of_the_test_is_read_without_privilege() {
    let resources = Inventory::below(Path::new("/"), BTreeMap::new()).take();
    assert!(resources.cpu.unwrap().total > 0 && resources.memory.unwrap().total > 0);
    assert!(resources.load.unwrap().processes > 0);
}
