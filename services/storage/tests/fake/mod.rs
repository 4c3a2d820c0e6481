//! A machine made of files: sysfs, the udev database, `/dev`, `/proc`, keys.

#![expect(clippy::unwrap_used, reason = "a fake that cannot be built fails its test")]

use std::{
    fs,
    os::unix::fs::{FileExt as _, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};

use api::v1::storage_client::StorageClient;
use runner::{Reply, ScriptedRunner};
use service::{Context, Identity};
use storage::Roots;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};
use tonic::transport::Channel;

pub(crate) const SYSTEM_PARTITION: &str = "/dev/disk/by-id/virtio-root-part11";
pub(crate) const STATUS: &str = "zpool status -t -j -p --json-int";
pub(crate) const IMPORT: &str = "zpool import -N -o cachefile=none -d /dev/mapper -d /dev/disk/by-id -d /dev/disk/by-path \
                          -d /dev/disk/by-partlabel";
pub(crate) const CREATE: &str = "zpool create -o ashift=12 -o cachefile=none -O mountpoint=none -O encryption=aes-256-gcm \
                          -O keyformat=raw -O keylocation=file:///var/lib/incus-os/zpool.local.key local \
                          /dev/disk/by-id/virtio-root-part11";
pub(crate) const LOAD_KEY: &str = "zfs load-key -L file:///var/lib/incus-os/zpool.local.key local";

pub(crate) fn list(pool: &str) -> String {
    format!(
        "zfs list -r -d 1 -t filesystem,volume -j -p --json-int -o \
         name,used,quota,keystatus,mountpoint,special_small_blocks,incusos:use {pool}"
    )
}

pub(crate) fn no_pools() -> Reply {
    Reply::Stdout(br#"{"output_version":{"command":"zpool status"},"pools":{}}"#.to_vec())
}

/// `zpool status` of a machine with the pool `local` in this state.
pub(crate) fn local_pool(state: &str) -> Reply {
    let text = include_str!("../fixtures/zpool-status-local.json")
        .replace("scsi-0QEMU_QEMU_HARDDISK_incus_root", "virtio-root")
        .replacen("ONLINE", state, 1);
    Reply::Stdout(text.into_bytes())
}

pub(crate) fn local_volumes(key: &str) -> Reply {
    let text = include_str!("../fixtures/zfs-list-local.json");
    Reply::Stdout(text.replace(r#""value": "available""#, &format!(r#""value": "{key}""#)).into_bytes())
}

pub(crate) fn ok() -> Reply {
    Reply::Stdout(Vec::new())
}

/// One block device to be put on the machine.
pub(crate) struct Device<'a> {
    pub(crate) name: &'a str,
    pub(crate) number: &'a str,
    /// Folder below `/sys/devices`.
    pub(crate) folder: &'a str,
    /// Size in bytes.
    pub(crate) size: u64,
    /// Label, if it is a partition.
    pub(crate) partition: Option<&'a str>,
    pub(crate) links: &'a [&'a str],
    pub(crate) properties: &'a [(&'a str, &'a str)],
    pub(crate) attributes: &'a [(&'a str, &'a str)],
}

pub(crate) struct Machine {
    folder: TempDir,
}

impl Machine {
    /// A machine with ZFS, and with a virtio boot drive whose partition 11 is empty.
    pub(crate) fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        for folder in ["sys/class/block", "sys/devices", "proc/self", "dev", "udev", "keys", "svc"] {
            fs::create_dir_all(machine.path(folder)).unwrap();
        }
        machine.write("sys/module/zfs/initstate", "live\n");
        let root = "pci0000:00/0000:00:05.0/virtio2/block/vda";
        machine.add(&Device {
            name: "vda",
            number: "254:0",
            folder: root,
            size: 50 << 30,
            partition: None,
            links: &["disk/by-id/virtio-root", "disk/by-path/pci-0000:00:05.0"],
            properties: &[("ID_PART_TABLE_TYPE", "gpt")],
            attributes: &[("serial", "root"), ("removable", "0"), ("device/vendor", "0x1af4")],
        });
        for (name, number, label) in [("vda5", "254:5", "usr"), ("vda11", "254:11", "local-data")] {
            let part = name.strip_prefix("vda").unwrap();
            machine.add(&Device {
                name,
                number,
                folder: &format!("{root}/{name}"),
                size: 64 << 20,
                partition: Some(label),
                links: &[
                    &format!("disk/by-id/virtio-root-part{part}"),
                    &format!("disk/by-partlabel/{label}"),
                    &format!("disk/by-path/pci-0000:00:05.0-part{part}"),
                ],
                properties: &[("ID_PART_TABLE_TYPE", "gpt")],
                attributes: &[],
            });
        }
        machine.add(&Device {
            name: "dm-0",
            number: "252:0",
            folder: "virtual/block/dm-0",
            size: 1 << 30,
            partition: None,
            links: &["mapper/usr"],
            properties: &[],
            attributes: &[("dm/uuid", "CRYPT-VERITY-usr"), ("slaves/vda5", "")],
        });
        machine.write("proc/self/mountinfo", "30 1 252:0 / /usr ro - erofs /dev/mapper/usr ro\n");
        fs::File::create(machine.path("dev/vda11")).unwrap().set_len(64 << 20).unwrap();
        machine
    }

    pub(crate) fn add(&self, device: &Device<'_>) {
        let folder = format!("sys/devices/{}", device.folder);
        let name = device.name;
        let partition = device.partition.map(|label| format!("PARTNAME={label}\n")).unwrap_or_default();
        self.write(&format!("{folder}/uevent"), &format!("DEVNAME={name}\nDISKSEQ=1\n{partition}"));
        self.write(&format!("{folder}/dev"), &format!("{}\n", device.number));
        self.write(&format!("{folder}/size"), &format!("{}\n", device.size / 512));
        if device.partition.is_some() {
            self.write(&format!("{folder}/partition"), "1\n");
        }
        for (attribute, value) in device.attributes {
            self.write(&format!("{folder}/{attribute}"), value);
        }
        symlink(self.path(&folder), self.path("sys/class/block").join(name)).unwrap();
        if !self.path("dev").join(name).exists() {
            self.write(&format!("dev/{name}"), "");
        }
        for link in device.links {
            let link = self.path("dev").join(link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(self.path("dev").join(name), link).unwrap();
        }
        self.set_udev(device.number, device.links, device.properties);
    }

    /// Writes a record of the udev database the way udev does: beside, then renamed.
    pub(crate) fn set_udev(&self, number: &str, links: &[&str], properties: &[(&str, &str)]) {
        let mut record: String = links.iter().map(|link| format!("S:{link}\n")).collect();
        record += "I:1234\n";
        record.extend(properties.iter().map(|(name, value)| format!("E:{name}={value}\n")));
        record += "G:systemd\nQ:systemd\nV:1\n";
        self.write("udev/.#draft", &record);
        fs::rename(self.path("udev/.#draft"), self.path("udev").join(format!("b{number}"))).unwrap();
    }

    pub(crate) fn set_system_partition(&self, properties: &[(&str, &str)]) {
        self.set_udev("254:11", &["disk/by-id/virtio-root-part11", "disk/by-partlabel/local-data"], properties);
    }

    /// Puts the labels of a committed pool `local` on the system partition.
    pub(crate) fn put_labels(&self) {
        let node = fs::OpenOptions::new().write(true).open(self.path("dev/vda11")).unwrap();
        let list = include_bytes!("../fixtures/zfs-label-local.nvlist");
        let end = 64_u64 << 20;
        for label in [0, 256 << 10, end - (512 << 10), end - (256 << 10)] {
            node.write_all_at(list, label + (16 << 10)).unwrap();
            node.write_all_at(&0x00ba_b10c_u64.to_le_bytes(), label + (128 << 10)).unwrap();
        }
        self.set_system_partition(&[("ID_FS_TYPE", "zfs_member"), ("ID_FS_LABEL", "local")]);
    }

    pub(crate) fn put_key(&self, pool: &str, size: usize) {
        fs::write(self.key(pool), vec![7; size]).unwrap();
    }

    pub(crate) fn key(&self, pool: &str) -> PathBuf {
        self.path("keys").join(format!("zpool.{pool}.key"))
    }

    /// What the kernel shows of a pool.
    pub(crate) fn show_pool(&self, pool: &str, state: &str) {
        self.write(&format!("proc/spl/kstat/zfs/{pool}/state"), state);
        let groups = "txg birth state nwritten\n7 1 C 4096\n8 2 C 0\n";
        self.write(&format!("proc/spl/kstat/zfs/{pool}/txgs"), groups);
    }

    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.path(file)).unwrap();
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Starts the service on this machine.
    pub(crate) fn serve(&self, script: ScriptedRunner) -> Service {
        let roots = Roots {
            sys: self.path("sys"),
            proc: self.path("proc"),
            dev: self.path("dev"),
            udev: self.path("udev"),
            keys: self.path("keys"),
        };
        let sockets: &Path = &self.path("svc");
        // A second start on the same machine: the socket of the first is left over.
        let _ = fs::remove_file(sockets.join("storage.sock"));
        let (context, stop) = Context::in_dir(Identity::Storage, sockets).unwrap();
        let client = context.peers().storage();
        let task = tokio::spawn(storage::run_with(context, roots, Arc::new(script)));
        Service { client, stop, task }
    }
}

pub(crate) struct Service {
    pub(crate) client: StorageClient<Channel>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), service::Error>>,
}

impl Service {
    /// Asks the service to bring up pools; returns its warnings.
    pub(crate) async fn start(&mut self) -> Vec<String> {
        self.client.start(api::v1::StartRequest {}).await.unwrap().into_inner().warnings
    }

    pub(crate) async fn state(&mut self) -> api::v1::StorageState {
        self.client.get(api::v1::Empty {}).await.unwrap().into_inner().state.unwrap()
    }

    /// Stops the service; the script must have been played to its end by now.
    pub(crate) async fn end(self) {
        let Self { client, stop, task } = self;
        drop(client);
        drop(stop);
        task.await.unwrap().unwrap();
    }
}
