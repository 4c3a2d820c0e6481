use std::{
    fmt,
    fs::File,
    io::{Seek as _, SeekFrom},
};

use gptman::{GPT, GPTPartitionEntry};

use crate::{ESP_LABEL, ESP_OFFSET, MediaError, SEED_LABEL, SEED_OFFSET, SEED_SIZE};

/// Bytes per sector that drives and CD-ROMs have.
const SECTOR_SIZES: [u64; 3] = [512, 2048, 4096];

/// A GUID as it is written to disk: the first three fields little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// From the digits of the usual form, in their order.
    pub(crate) const fn new(digits: u128) -> Self {
        let d = digits.to_be_bytes();
        Self([d[3], d[2], d[1], d[0], d[5], d[4], d[7], d[6], d[8], d[9], d[10], d[11], d[12], d[13], d[14], d[15]])
    }

    /// A random one, RFC 9562 version 4.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .expect("the kernel has random numbers once it has started");
        bytes[7] = bytes[7] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = self.0;
        write!(
            out,
            "{:02x}{:02x}{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}-",
            d[3], d[2], d[1], d[0], d[5], d[4], d[7], d[6]
        )?;
        write!(
            out,
            "{:02x}{:02x}-{:02x}{:02x}{:02x}{:02x}{:02x}{:02x}",
            d[8], d[9], d[10], d[11], d[12], d[13], d[14], d[15]
        )
    }
}

/// Architectures that the system is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "their usual names")]
pub enum Arch {
    X86_64,
    Aarch64,
}

/// What a partition is for: type GUIDs of the Discoverable Partitions
/// Specification (UAPI.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// EFI system partition.
    Esp,
    /// Anything of Linux: the seed, and the ZFS pool `local`.
    Generic,
    /// Signature of the root hash of `/usr`.
    UsrVeritySignature(Arch),
    /// Hash tree of `/usr`.
    UsrVerity(Arch),
    /// `/usr`.
    Usr(Arch),
    /// Swap.
    Swap,
    /// Root file system.
    Root(Arch),
    /// Something else.
    Other(Guid),
}

const KINDS: [(Kind, Guid); 11] = [
    (Kind::Esp, Guid::new(0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b)),
    (Kind::Generic, Guid::new(0x0fc63daf_8483_4772_8e79_3d69d8477de4)),
    (Kind::UsrVeritySignature(Arch::X86_64), Guid::new(0xe7bb33fb_06cf_4e81_8273_e543b413e2e2)),
    (Kind::UsrVeritySignature(Arch::Aarch64), Guid::new(0xc23ce4ff_44bd_4b00_b2d4_b41b3419e02a)),
    (Kind::UsrVerity(Arch::X86_64), Guid::new(0x77ff5f63_e7b6_4633_acf4_1565b864c0e6)),
    (Kind::UsrVerity(Arch::Aarch64), Guid::new(0x6e11a4e7_fbca_4ded_b9e9_e1a512bb664e)),
    (Kind::Usr(Arch::X86_64), Guid::new(0x8484680c_9521_48c6_9c11_b0720656f69e)),
    (Kind::Usr(Arch::Aarch64), Guid::new(0xb0e01050_ee5f_4390_949a_9101b17104e9)),
    (Kind::Swap, Guid::new(0x0657fd6d_a4ab_43c4_84e5_0933c84b4f4f)),
    (Kind::Root(Arch::X86_64), Guid::new(0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709)),
    (Kind::Root(Arch::Aarch64), Guid::new(0xb921b045_1df0_41c3_af44_4c6f280d3fae)),
];

impl Kind {
    fn of(guid: Guid) -> Self {
        KINDS.iter().find(|(_, known)| *known == guid).map_or(Self::Other(guid), |(kind, _)| *kind)
    }

    pub(crate) fn guid(self) -> Guid {
        match self {
            Self::Other(guid) => guid,
            _ => {
                KINDS.iter().find(|(kind, _)| *kind == self).map(|(_, guid)| *guid).expect("every other kind is listed")
            }
        }
    }
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from one.
    pub number: u32,
    /// What it is for.
    pub kind: Kind,
    /// Its own GUID.
    pub guid: Guid,
    /// Its name.
    pub label: String,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

/// The partition table of a medium or drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Bytes per sector that the table counts in.
    pub sector_size: u64,
    /// The partitions by their number.
    pub partitions: Vec<Partition>,
}

impl Table {
    /// Reads the table of a file or block device, whatever its sector size.
    ///
    /// # Errors
    ///
    /// When there is none, or it is damaged.
    pub fn read(file: &File) -> Result<Self, MediaError> {
        let mut reader = file;
        for sector_size in SECTOR_SIZES {
            match GPT::read_from(&mut reader, sector_size) {
                Ok(table) => return Self::of(&table),
                // At another sector size, these bytes are anything.
                Err(gptman::Error::InvalidSignature | gptman::Error::ReadError(..) | gptman::Error::Deserialize(_)) => {
                }
                Err(gptman::Error::Io(source)) if source.kind() == std::io::ErrorKind::UnexpectedEof => {}
                Err(gptman::Error::Io(source)) => return Err(MediaError::io("read", sector_size)(source)),
                Err(error) => return Err(MediaError::Table(error.to_string())),
            }
        }
        Err(MediaError::NoTable)
    }

    fn of(table: &GPT) -> Result<Self, MediaError> {
        let mut partitions = Vec::new();
        for (number, entry) in table.iter().filter(|(_, entry)| entry.is_used()) {
            let sectors = entry.size().map_err(|error| MediaError::Table(error.to_string()))?;
            let bytes = |sectors: u64| sectors.checked_mul(table.sector_size);
            let range = bytes(entry.starting_lba).zip(bytes(sectors));
            let (start, size) = range.ok_or_else(|| MediaError::Table(format!("partition {number} is nowhere")))?;
            partitions.push(Partition {
                number,
                kind: Kind::of(Guid(entry.partition_type_guid)),
                guid: Guid(entry.unique_partition_guid),
                label: entry.partition_name.as_str().to_owned(),
                start,
                size,
            });
        }
        Ok(Self { sector_size: table.sector_size, partitions })
    }

    /// The architecture of an install medium, or of a drive with the system on it: both begin alike.
    ///
    /// # Errors
    ///
    /// When it is neither, with the first partition that differs.
    pub fn medium(&self) -> Result<Arch, MediaError> {
        let no_medium = |reason: &str| MediaError::NoMedium(reason.to_owned());
        let part = |number: u32| self.partition(number).ok_or_else(|| no_medium("it has fewer than five partitions"));
        let (esp, seed_data, usr) = (part(1)?, part(2)?, part(5)?);
        let Kind::Usr(arch) = usr.kind else {
            return Err(no_medium("its fifth partition is not `/usr`"));
        };
        if (esp.kind, esp.label.as_str(), esp.start) != (Kind::Esp, ESP_LABEL, ESP_OFFSET) {
            return Err(no_medium("its first partition is not the EFI system partition"));
        }
        if (seed_data.label.as_str(), seed_data.start, seed_data.size) != (SEED_LABEL, SEED_OFFSET, SEED_SIZE) {
            return Err(no_medium("its second partition is not the one for the seed"));
        }
        if (part(3)?.kind, part(4)?.kind) != (Kind::UsrVeritySignature(arch), Kind::UsrVerity(arch)) {
            return Err(no_medium("the hash tree of `/usr` or its signature are missing"));
        }
        Ok(arch)
    }

    /// The partition with this number.
    pub fn partition(&self, number: u32) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.number == number)
    }

    /// Whether the system has run from this drive: only then has it swap or a root.
    pub fn is_installed(&self) -> bool {
        self.partitions.iter().any(|partition| matches!(partition.kind, Kind::Swap | Kind::Root(_)))
    }

    /// Writes the table to a file or block device, backup included.
    pub(crate) fn write(&self, file: &File) -> Result<(), MediaError> {
        let refuse = |error: gptman::Error| match error {
            gptman::Error::Io(source) => MediaError::io("write the partition table", 0)(source),
            error => MediaError::Table(error.to_string()),
        };
        let mut writer = file;
        let mut table = GPT::new_from(&mut writer, self.sector_size, Guid::random().0).map_err(refuse)?;
        for partition in &self.partitions {
            table[partition.number] = GPTPartitionEntry {
                partition_type_guid: partition.kind.guid().0,
                unique_partition_guid: partition.guid.0,
                starting_lba: partition.start / self.sector_size,
                ending_lba: (partition.start + partition.size) / self.sector_size - 1,
                attribute_bits: 0,
                partition_name: partition.label.as_str().into(),
            };
        }
        table.write_into(&mut writer).map_err(refuse)?;
        GPT::write_protective_mbr_into(&mut writer, self.sector_size).map_err(refuse)
    }
}

/// Bytes of a file or block device.
pub(crate) fn size_of(file: &File) -> Result<u64, MediaError> {
    (&mut &*file).seek(SeekFrom::End(0)).map_err(MediaError::io("find the end", 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_are_written_as_everywhere() {
        assert_eq!(Kind::Esp.guid().to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
        assert_eq!(Kind::Esp.guid().0[..4], [0x28, 0x73, 0x2a, 0xc1]);
        let random = Guid::random().to_string();
        assert_eq!((&random[14..15], random.len()), ("4", 36));
        assert_ne!(Guid::random(), Guid::random());
    }

    #[test]
    fn seed_starts_where_tools_of_others_write_it() {
        assert_eq!(SEED_OFFSET, 2_148_532_224);
    }

    #[test]
    fn files_without_a_table_have_none() {
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(Table::read(&file), Err(MediaError::NoTable)));
        file.set_len(10 << 20).unwrap();
        assert!(matches!(Table::read(&file), Err(MediaError::NoTable)));
    }

    #[test]
    fn tables_are_read_in_the_sector_size_that_they_were_written_in() {
        for sector_size in SECTOR_SIZES {
            let file = tempfile::tempfile().unwrap();
            file.set_len(64 << 20).unwrap();
            let partition = |number: u32, kind, label: &str| Partition {
                number,
                kind,
                guid: Guid::random(),
                label: label.to_owned(),
                start: u64::from(number) << 20,
                size: 16 << 10,
            };
            let partitions = vec![
                partition(1, Kind::Esp, "esp"),
                partition(2, Kind::UsrVeritySignature(Arch::X86_64), "IncusOS_202601010000_verity_sig"),
                partition(5, Kind::Other(Guid::random()), ""),
            ];
            let table = Table { sector_size, partitions };
            table.write(&file).unwrap();
            assert_eq!(Table::read(&file).unwrap(), table);
            assert!(!table.is_installed());
        }
    }

    #[test]
    fn damaged_table_is_refused_and_the_backup_is_as_good() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        let partitions = vec![Partition {
            number: 9,
            kind: Kind::Swap,
            guid: Guid::random(),
            label: "swap".into(),
            start: 1 << 20,
            size: 1 << 20,
        }];
        let table = Table { sector_size: 512, partitions };
        table.write(&file).unwrap();
        assert!(table.is_installed());
        let damage = |at: u64| std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 16], at).unwrap();
        damage(512 + 16);
        assert_eq!(Table::read(&file).unwrap(), table);
        damage((64 << 20) - 512 + 16);
        assert!(Table::read(&file).is_err());
    }
}
