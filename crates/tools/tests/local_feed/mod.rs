//! A feed like the public one, small and on this machine: real signatures of a test authority, and
//! images that have the layout of real ones and hardly any content.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::cast_possible_truncation, reason = "pieces of a file are small")]

pub(crate) mod process;
pub(crate) mod server;

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use feed::Signer;
use flate2::{Compression, write::GzEncoder};
use gptman::{GPT, GPTPartitionEntry};
pub(crate) use media::{SEED_OFFSET, SEED_SIZE};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

pub(crate) const VERSION: &str = "203001020304";
const MIB: u64 = 1 << 20;

/// An authority with its certificate.
pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

/// A feed on disk.
pub(crate) struct LocalFeed {
    folder: TempDir,
    pub(crate) root: Authority,
    pub(crate) update: Authority,
    /// An authority under the same root that signs other things.
    pub(crate) support: Authority,
    files: Vec<Value>,
}

impl LocalFeed {
    /// A feed without any file.
    pub(crate) fn new() -> Self {
        let root = authority("Root E1", None);
        let update = authority("Update E1", Some(&root));
        let support = authority("Support E1", Some(&root));
        let feed = Self { folder: tempfile::tempdir().unwrap(), root, update, support, files: Vec::new() };
        fs::write(feed.path("root.crt"), feed.root.pem()).unwrap();
        fs::write(feed.path("update.crt"), feed.update.pem()).unwrap();
        feed
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds a file to the only release.
    pub(crate) fn add(&mut self, arch: &str, component: &str, kind: &str, name: &str, packed: &[u8]) {
        let filename = format!("{arch}/{name}");
        let path = self.path(&format!("{VERSION}/{filename}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, packed).unwrap();
        let sha256 = Sha256::digest(packed).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        self.files.push(json!({
            "architecture": arch, "component": component, "filename": filename,
            "sha256": sha256, "size": packed.len(), "type": kind,
        }));
    }

    /// Changes what the documents say of the last file.
    pub(crate) fn amend(&mut self, key: &str, value: Value) {
        self.files.last_mut().unwrap()[key] = value;
    }

    /// Writes all documents, signed by a signer of this authority.
    pub(crate) fn publish(&self, authority: &Authority) {
        let signer = self.signer(authority);
        let now = jiff::Timestamp::now();
        let mut update = json!({
            "format": "1.0", "channels": ["testing", "stable"], "files": self.files, "origin": "example.org",
            "published_at": "2030-01-02T04:00:00.5Z", "severity": "none", "version": VERSION,
        });
        for (name, document) in [
            (format!("{VERSION}/update"), update.clone()),
            ("index".to_owned(), {
                update["url"] = json!(format!("/{VERSION}"));
                json!({ "format": "1.0", "updates": [update] })
            }),
        ] {
            let text = format!("{document}\n");
            let path = self.path(&format!("{name}.json"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, &text).unwrap();
            fs::write(self.path(&format!("{name}.sjson")), signer.clear(&text, now).unwrap()).unwrap();
        }
    }

    /// Someone who signs, with everything in the bag that could mislead.
    fn signer(&self, authority: &Authority) -> Signer {
        let key = KeyPair::generate().unwrap();
        let mut parameters = parameters("Update 2030");
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = parameters.signed_by(&key, authority).unwrap();
        let mut bag = vec![self.update.pem()];
        if authority.pem() != bag[0] {
            bag.push(authority.pem());
        }
        let bag: Vec<_> = bag.iter().map(String::as_str).collect();
        Signer::new(&key.serialize_pem(), &certificate.pem(), &bag).unwrap()
    }
}

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.not_before = rcgen::date_time_ymd(2000, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2099, 1, 1);
    parameters
}

fn authority(name: &str, issuer: Option<&Authority>) -> Authority {
    let mut parameters = parameters(name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    match issuer {
        None => CertifiedIssuer::self_signed(parameters, key),
        Some(issuer) => CertifiedIssuer::signed_by(parameters, key, issuer),
    }
    .unwrap()
}

/// An image: a sparse file with the partitions of a medium, and its compressed form.
pub(crate) struct TestImage {
    file: File,
    size: u64,
}

impl TestImage {
    /// For `x86_64` or `aarch64`, with sectors of 512 bytes, or of 2048 for an ISO.
    pub(crate) fn new(arch: &str, sector: u64) -> Self {
        let (usr, verity, signature) = match arch {
            "x86_64" => (
                0x8484680c_9521_48c6_9c11_b0720656f69e,
                0x77ff5f63_e7b6_4633_acf4_1565b864c0e6,
                0xe7bb33fb_06cf_4e81_8273_e543b413e2e2,
            ),
            _ => (
                0xb0e01050_ee5f_4390_949a_9101b17104e9,
                0x6e11a4e7_fbca_4ded_b9e9_e1a512bb664e,
                0xc23ce4ff_44bd_4b00_b2d4_b41b3419e02a,
            ),
        };
        let label = format!("IncusOS_{VERSION}");
        let size = SEED_OFFSET + SEED_SIZE + 12 * MIB;
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        let mut table = GPT::new_from(&mut file, sector, [1; 16]).unwrap();
        let mut start = MIB;
        for (number, (kind, name, length)) in (1..).zip([
            (0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b_u128, "esp".to_owned(), 2048 * MIB),
            (0x0fc63daf_8483_4772_8e79_3d69d8477de4, "seed-data".to_owned(), SEED_SIZE),
            (signature, format!("{label}_verity_sig"), MIB),
            (verity, format!("{label}_verity"), MIB),
            (usr, label.clone(), 4 * MIB),
        ]) {
            table[number] = GPTPartitionEntry {
                partition_type_guid: on_disk(kind),
                unique_partition_guid: [u8::try_from(number).unwrap(); 16],
                starting_lba: start / sector,
                ending_lba: (start + length) / sector - 1,
                attribute_bits: 0,
                partition_name: name.as_str().into(),
            };
            start += length;
        }
        table.write_into(&mut file).unwrap();
        GPT::write_protective_mbr_into(&mut file, sector).unwrap();
        // Something that does not compress, at the end of the seed partition's neighbours.
        let noise: Vec<u8> = (0..6 * MIB / 32).flat_map(|at| Sha256::digest(at.to_le_bytes())).collect();
        file.write_all_at(&noise, SEED_OFFSET + SEED_SIZE).unwrap();
        file.write_all_at(&noise[..4096], SEED_OFFSET - 4096).unwrap();
        Self { file, size }
    }

    /// Without a partition for the seed.
    pub(crate) fn stranger() -> Self {
        let image = Self::new("x86_64", 512);
        image.file.write_all_at(&[0; 34 * 512], 0).unwrap();
        image.file.write_all_at(&[0; 33 * 512], image.size - 33 * 512).unwrap();
        image
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Compressed. The long stretches of nothing are compressed once and repeated, for a compressed
    /// file may have many members.
    pub(crate) fn packed(&self) -> Vec<u8> {
        const PIECE: u64 = 64 * MIB;
        let nothing = pack(&vec![0; PIECE as usize]);
        let mut out = Vec::new();
        let mut at = 0;
        while at < self.size {
            let length = PIECE.min(self.size - at);
            // Where the file has no data, it is nothing.
            let next = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(at)).unwrap_or(self.size);
            if length == PIECE && next >= at + PIECE {
                out.extend_from_slice(&nothing);
            } else {
                let mut piece = vec![0; length as usize];
                self.file.read_exact_at(&mut piece, at).unwrap();
                out.extend(pack(&piece));
            }
            at += length;
        }
        out
    }

    pub(crate) fn save(&self, path: &Path) {
        let to = File::create(path).unwrap();
        to.set_len(self.size).unwrap();
        let mut at = 0;
        let mut piece = vec![0; MIB as usize];
        while let Ok(next) = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(at)) {
            let length = (self.size - next).min(MIB) as usize;
            self.file.read_exact_at(&mut piece[..length], next).unwrap();
            to.write_all_at(&piece[..length], next).unwrap();
            at = next + length as u64;
        }
    }

    /// Compares a whole image with this one: equal everywhere but in the seed, which starts with
    /// `archive` and goes on with nothing.
    pub(crate) fn assert_equal_outside_of(&self, archive: &[u8], mut other: impl std::io::Read) {
        let (mut mine, mut theirs) = (vec![0; MIB as usize], vec![0; MIB as usize]);
        let mut at = 0;
        while at < self.size {
            let length = (self.size - at).min(MIB) as usize;
            self.file.read_exact_at(&mut mine[..length], at).unwrap();
            other.read_exact(&mut theirs[..length]).unwrap();
            if at == SEED_OFFSET {
                assert!(archive.len() < length);
                mine[..archive.len()].copy_from_slice(archive);
            }
            assert!(mine[..length] == theirs[..length], "the images differ between {at} and {}", at + length as u64);
            at += length as u64;
        }
        assert_eq!(other.read(&mut theirs).unwrap(), 0, "the image is longer than it was");
    }
}

/// A GUID as it is written to disk.
fn on_disk(digits: u128) -> [u8; 16] {
    let d = digits.to_be_bytes();
    [d[3], d[2], d[1], d[0], d[5], d[4], d[7], d[6], d[8], d[9], d[10], d[11], d[12], d[13], d[14], d[15]]
}

pub(crate) fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
