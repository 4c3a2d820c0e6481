//! The service with real LUKS2 volumes in files and a TPM in software: what it
//! makes at the first start, and what it leaves when it is broken off.
//!
//! Needs cryptsetup, systemd-cryptenroll and swtpm; skips without them.
#![expect(clippy::unwrap_used, reason = "a failure of the harness is a failure of the test")]

mod support;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::v1::{Empty, RecoveryKey, SecurityConfig, SecurityStart, SystemSecurity};
use efi::Variable;
use runner::{Call, Exit, Fault, FaultyRunner, Output, RunError, Runner, Streaming, SystemRunner, Tool};
use security::Machine;
use support::{FakeTpm, Files, Service};
use tonic::{Code, Status, async_trait};
use tpm::{Digest, Pcr, Policy, PolicySigner};

/// What opens a fresh volume, where a machine has its TPM.
const RELEASED: &str = "a key that the TPM would release";

/// Signs the good values of PCR 11.
const SIGNER: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA1PnJlNi5aM4LYmExj8eb
lFZVAcrG2hawcHo8gqmhi5qkNFqASnRVg5pXSMPPTlQj4FPUMxC0CKaej0fNXubf
KSvqjJ5AUuGam9ZTnFKr4GVMOB1weflDxmofk4jxKFoo2ctaqkkwgQ1lf1aZsW2g
/VgEpWtjUxEzTsb0g2IsJWMfMsv14hI8dgS8ePek1Twa0yoDEhZ/rKT+y2W9NIuF
HMqJ2XBDIXLmwsP56Wkg9o4nU9SaA5AXkX5g18aPK22T5G+E490mPKZpznyo5GwY
74MGK3xcJUxLcID6MXEGTJqU67Uy1WcqdCB5WMb55435nAee4nHpHkq0QUEHBCR7
6QIDAQAB
-----END PUBLIC KEY-----
";

const VOLUMES: [(&str, &str); 2] = [("root", "vda10"), ("swap", "vda9")];

/// Programs whose failure is played through.
const TOOLS: [Tool; 2] = [Tool::Cryptsetup, Tool::SystemdCryptenroll];

const BY_TPM: [u8; 4] = [0, 0, 0, 0];
const BY_HAND: [u8; 4] = [0, 0, 0, 1];

/// A TPM simulator that ends with the test.
struct Simulator {
    tpm: testkit::tpm::Simulator,
    _state: tempfile::TempDir,
}

impl Simulator {
    /// `None`, with the reason printed, where something is missing.
    fn start() -> Option<Self> {
        for tool in TOOLS {
            if !tool.path().exists() {
                println!("skipped: {} is not installed; run it with `cargo xtask cargo -- test`", tool.name());
                return None;
            }
        }
        let state = tempfile::tempdir().unwrap();
        let tpm = testkit::tpm::Simulator::start(state.path()).unwrap();
        if tpm.is_none() {
            println!("skipped: swtpm is not installed");
        }
        Some(Self { tpm: tpm?, _state: state })
    }
}

/// Runs the real programs. cryptsetup finds a TPM by its device file only, which a
/// simulator has not: where it would let the TPM open a volume, it gets the key
/// from a file, as long as the volume has the slot for it.
struct Programs {
    released: PathBuf,
}

#[async_trait]
impl Runner for Programs {
    async fn run(&self, call: &Call) -> Result<Output, RunError> {
        let line = call.command_line();
        if let Some((before, after)) = line.split_once("--token-only --token-type systemd-tpm2") {
            let line = format!("{before}--key-file {}{after}", self.released.display());
            let args: Vec<_> = line.split(' ').skip(1).map(str::to_owned).collect();
            return SystemRunner.run(&Call::new(Tool::Cryptsetup, args)).await;
        }
        if line.starts_with("journalctl") {
            let source = io::Error::other("this machine has no journal");
            return Err(RunError::Start { command_line: line, source });
        }
        SystemRunner.run(call).await
    }

    async fn stream(&self, call: &Call) -> Result<Streaming, RunError> {
        SystemRunner.stream(call).await
    }
}

/// A machine with an encrypted disk.
struct Disk {
    files: Files,
    tpm: FakeTpm,
    device: String,
}

impl Disk {
    /// As the first boot finds it: the TPM opens both volumes under the weak policy
    /// of `systemd-repart(8)`, and nothing else does.
    async fn fresh(simulator: &Simulator) -> Self {
        let files = Files::healthy();
        files.write("proc/sys/kernel/random/boot_id", b"the-first-boot\n");
        files.write("run/systemd/tpm2-pcr-public-key.pem", SIGNER.as_bytes());
        files.write("usr/share/certs/ca-certificates.crt", b"of the image\n");
        files.write("sys/devices/vda/uevent", b"DEVNAME=vda\n");
        for (name, partition) in VOLUMES {
            let facts = format!("DEVNAME={partition}\nPARTNAME={name}\n");
            files.write(&format!("sys/devices/vda/{partition}/uevent"), facts.as_bytes());
        }
        files.write("sys/block/dm-1/slaves/.keep", b"");
        fs::remove_file(files.root().join("sys/block/dm-1/slaves/.keep")).unwrap();
        symlink("../../../devices/vda/vda10", files.root().join("sys/block/dm-1/slaves/vda10")).unwrap();
        files.write("var/lib/incus-os/.keep", b"");
        files.write("dev/.keep", b"");
        files.variable(Variable::TpmState, &BY_TPM);
        let tpm = files.tpm();
        let disk = Self { files, tpm, device: simulator.tpm.device().to_owned() };
        fs::write(disk.released(), RELEASED).unwrap();
        for volume in VOLUMES.map(|(name, _)| name) {
            disk.format(volume).await;
        }
        disk
    }

    fn released(&self) -> PathBuf {
        self.files.0.path().join("released")
    }

    fn partition(&self, volume: &str) -> PathBuf {
        let (_, partition) = VOLUMES.iter().find(|(name, _)| *name == volume).unwrap();
        self.files.root().join("dev").join(partition)
    }

    fn key_file(&self, volume: &str) -> PathBuf {
        self.files.root().join(format!("var/lib/incus-os/recovery.{volume}.key"))
    }

    async fn format(&self, volume: &str) {
        let partition = self.partition(volume);
        fs::File::create(&partition).unwrap().set_len(20 << 20).unwrap();
        let (partition, released) = (partition.to_str().unwrap(), self.released());
        let args = ["luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--hash", "sha512"];
        let rest = ["--pbkdf-force-iterations", "1000", "--key-file", released.to_str().unwrap(), partition];
        cryptsetup(&[&args[..], &rest].concat(), None).await.success().unwrap();
        let token = serde_json::json!({
            "type": "systemd-tpm2", "keyslots": ["0"], "tpm2-blob": "AAAA", "tpm2-pcrs": [7],
            "tpm2-pcr-bank": "sha256", "tpm2-primary-alg": "ecc", "tpm2-policy-hash": "00".repeat(32),
            "tpm2_pubkey_pcrs": [11], "tpm2_pubkey": "LS0t",
        });
        let import = ["token", "import", "--batch-mode", "--json-file", "-", partition];
        cryptsetup(&import, Some(&token.to_string())).await.success().unwrap();
    }

    /// The service with a fault somewhere.
    async fn serve_with(&self, runner: impl Runner + 'static) -> Service {
        let machine = Machine::new(self.files.root(), self.tpm.clone(), runner);
        self.files.serve_on(machine.with_tpm_device(&self.device)).await
    }

    fn programs(&self) -> Programs {
        Programs { released: self.released() }
    }

    async fn serve(&self) -> Service {
        self.serve_with(self.programs()).await
    }

    /// A start without faults, and without complaints.
    async fn start(&self) -> Service {
        let mut service = self.serve().await;
        assert_eq!(service.warnings().await, Vec::<String>::new());
        service
    }

    /// The machine is started once more.
    fn boot(&self, name: &str, unlock: [u8; 4]) {
        self.files.write("proc/sys/kernel/random/boot_id", name.as_bytes());
        self.files.variable(Variable::TpmState, &unlock);
    }

    async fn header(&self, volume: &str) -> Header {
        let partition = self.partition(volume);
        let args = ["luksDump", "--dump-json-metadata", partition.to_str().unwrap()];
        let json = cryptsetup(&args, None).await.success().unwrap();
        Header(serde_json::from_slice(&json).unwrap())
    }

    async fn opens(&self, volume: &str, key: &str) -> bool {
        let partition = self.partition(volume);
        let args = ["open", "--batch-mode", "--test-passphrase", "--key-file", "-", partition.to_str().unwrap()];
        cryptsetup(&args, Some(key)).await.exit == Exit::Code(0)
    }

    /// The policy that the volumes must end up with.
    fn policy(&self) -> String {
        let registers = self.tpm.registers.as_ref().unwrap();
        let zero = [Pcr::COMMAND_LINE, Pcr::EXTENSIONS, Pcr::VOLUME].map(|pcr| (pcr, Digest::ZERO));
        let mut literals = BTreeMap::from(zero);
        literals.insert(Pcr::SECURE_BOOT, registers[&Pcr::SECURE_BOOT]);
        Policy::new(literals, PolicySigner::from_pem(SIGNER.as_bytes()).unwrap()).digest().to_string()
    }

    /// Everything that must be true once a start has completed: nothing is missing,
    /// nothing is left over, and every key does what it is said to do.
    async fn assert_complete(&self, service: &mut Service, old_bindings: usize, what: &str) -> Vec<String> {
        let keys = service.get().await.config.unwrap().encryption_recovery_keys;
        for volume in VOLUMES.map(|(name, _)| name) {
            let header = self.header(volume).await;
            let policies = header.policies();
            assert_eq!(policies.iter().filter(|policy| **policy == self.policy()).count(), 1, "{what}: {policies:?}");
            assert_eq!(policies.len(), 1 + old_bindings, "{what}: bindings of {volume}: {policies:?}");
            assert_eq!(header.slots().len(), 2 + old_bindings + keys.len(), "{what}: slots of {volume}: {header:?}");
            assert_eq!(header.of_kind("systemd-recovery").len(), 1, "{what}: {volume}");
            let own = fs::read_to_string(self.key_file(volume)).unwrap();
            assert!(self.opens(volume, &own).await, "{what}: the key file of {volume} does not open it");
            assert_eq!(fs::metadata(self.key_file(volume)).unwrap().permissions().mode() & 0o777, 0o400);
            assert!(!self.key_file(volume).with_extension("key.new").exists(), "{what}");
            for key in &keys {
                assert!(self.opens(volume, key).await, "{what}: a listed key does not open {volume}");
            }
        }
        keys
    }
}

/// A folder in memory: the tools wait for each write to a header to reach the disk,
/// and hundreds of headers are written here.
fn in_memory() -> Files {
    let folder = Path::new("/dev/shm");
    Files(if folder.is_dir() { tempfile::tempdir_in(folder) } else { tempfile::tempdir() }.unwrap())
}

/// What cryptsetup prints of a header.
#[derive(Debug)]
struct Header(serde_json::Value);

impl Header {
    fn slots(&self) -> Vec<&String> {
        self.0["keyslots"].as_object().unwrap().keys().collect()
    }

    fn of_kind(&self, kind: &str) -> Vec<&serde_json::Value> {
        self.0["tokens"].as_object().unwrap().values().filter(|token| token["type"] == kind).collect()
    }

    /// The policies of all bindings to the TPM, each of which has a slot of its own.
    fn policies(&self) -> Vec<String> {
        let tokens = self.of_kind("systemd-tpm2");
        for token in &tokens {
            assert_eq!(token["keyslots"].as_array().unwrap().len(), 1, "a token without slot");
        }
        tokens.iter().map(|token| token["tpm2-policy-hash"].as_str().unwrap().to_owned()).collect()
    }
}

async fn cryptsetup(args: &[&str], stdin: Option<&str>) -> Output {
    let mut call = Call::new(Tool::Cryptsetup, args.iter().copied());
    if let Some(stdin) = stdin {
        call = call.stdin(stdin);
    }
    SystemRunner.run(&call).await.unwrap()
}

fn settings(keys: &[&str]) -> SystemSecurity {
    let encryption_recovery_keys = keys.iter().map(|key| (*key).to_owned()).collect();
    SystemSecurity {
        config: Some(SecurityConfig { encryption_recovery_keys, ..SecurityConfig::default() }),
        state: None,
    }
}

fn copy(from: &Path, to: &Path) {
    // Sparse files and links stay what they are.
    let places = [from.to_str().unwrap(), to.to_str().unwrap()];
    let arguments = [&["-a", "--sparse=always", "--reflink=auto"][..], &places].concat();
    testkit::process::run("cp", &arguments, Path::new("/"), Duration::from_secs(60)).unwrap();
}

#[tokio::test]
async fn the_first_start_makes_keys_and_binds_in_place_of_the_weak_binding() {
    let Some(simulator) = Simulator::start() else { return };
    let disk = Disk::fresh(&simulator).await;
    let mut service = disk.start().await;
    let keys = disk.assert_complete(&mut service, 0, "first boot").await;
    assert_eq!(keys.len(), 1);
    assert_eq!((keys[0].len(), keys[0].split('-').count()), (71, 8));
    assert!(!service.state().await.encryption_recovery_keys_retrieved);
    assert!(service.client.check_recovery_key(RecoveryKey { key: keys[0].clone() }).await.is_ok());
    let own = fs::read_to_string(disk.key_file("root")).unwrap();
    let wrong = service.client.check_recovery_key(RecoveryKey { key: own }).await.unwrap_err();
    assert_eq!(wrong.code(), Code::PermissionDenied, "the service's own key is nobody else's");

    service.stop().await;
    let mut service = disk.start().await;
    assert_eq!(disk.assert_complete(&mut service, 0, "second start").await, keys);

    let token = disk.header("root").await;
    let token = token.of_kind("systemd-tpm2")[0].clone();
    assert_eq!(token["tpm2-pcrs"], serde_json::json!([7, 12, 13, 15]));
    assert_eq!(token["tpm2_pubkey_pcrs"], serde_json::json!([11]));
    assert!(!disk.opens("root", RELEASED).await, "the TPM has nothing for the running system any more");
}

#[tokio::test]
async fn without_secure_boot_the_started_programs_count_too() {
    let Some(simulator) = Simulator::start() else { return };
    let mut disk = Disk::fresh(&simulator).await;
    disk.files.variable(Variable::SecureBoot, &[0]);
    disk.files.write("sys/kernel/security/tpm0/binary_bios_measurements", &disk.files.event_log());
    disk.tpm = disk.files.tpm();
    disk.files.write("etc/machine-id", b"");
    let mut service = disk.serve().await;
    assert_eq!(service.warnings().await, ["Degraded security state: Secure Boot is disabled"]);
    let header = disk.header("root").await;
    let literal: Vec<_> = header.of_kind("systemd-tpm2").iter().map(|token| token["tpm2-pcrs"].clone()).collect();
    assert!(literal.contains(&serde_json::json!([4, 7, 12, 13, 15])), "{literal:?}");
}

#[tokio::test]
async fn a_boot_with_additions_or_an_unexplained_register_is_not_bound_to() {
    let Some(simulator) = Simulator::start() else { return };
    for (pcr, reason) in [
        (Pcr::COMMAND_LINE, "foreign command line or credentials were added to this boot"),
        (Pcr::EXTENSIONS, "foreign command line or credentials were added to this boot"),
        (Pcr::SECURE_BOOT, "the firmware's event log does not give the value of PCR 7"),
    ] {
        let mut disk = Disk::fresh(&simulator).await;
        disk.tpm.registers.as_mut().unwrap().insert(pcr, Digest::of(b"something else"));
        let mut service = disk.serve().await;
        let warnings = service.warnings().await;
        assert_eq!(warnings.last().unwrap(), &format!("The encrypted volumes were not bound to the TPM: {reason}"));
        assert_eq!(disk.header("root").await.policies().len(), 1, "the binding of the first boot stays");
        assert_eq!(
            service.get().await.config.unwrap().encryption_recovery_keys.len(),
            1,
            "there is a key all the same"
        );
    }
}

#[tokio::test]
async fn wherever_the_first_start_is_broken_off_the_next_one_completes_it() {
    let Some(simulator) = Simulator::start() else { return };
    let fresh = Disk::fresh(&simulator).await;
    let complete = async |disk: &Disk, service: &mut Service, what: &str| {
        assert_eq!(disk.assert_complete(service, 0, what).await.len(), 1, "{what}");
    };
    break_off_everywhere(&fresh, start, complete).await;
}

#[tokio::test]
async fn wherever_retiring_a_binding_is_broken_off_the_next_start_completes_it() {
    let Some(simulator) = Simulator::start() else { return };
    let mut disk = Disk::fresh(&simulator).await;
    disk.start().await.stop().await;

    // The firmware takes another key: the next boot will not be like this one.
    let key = support::signature_list(support::certificate("next year").der());
    let keys = [disk.files.read_variable(Variable::Db), key].concat();
    disk.files.variable(Variable::Db, &keys);
    let mut service = disk.start().await;
    disk.assert_complete(&mut service, 1, "bound to this boot and the next").await;
    service.stop().await;
    let mut service = disk.start().await;
    disk.assert_complete(&mut service, 1, "without another boot nothing is proven").await;
    service.stop().await;

    disk.files.write("sys/kernel/security/tpm0/binary_bios_measurements", &disk.files.event_log());
    disk.tpm = disk.files.tpm();
    disk.boot("the-second-boot", BY_TPM);
    let complete = async |disk: &Disk, service: &mut Service, what: &str| {
        assert_eq!(disk.assert_complete(service, 0, what).await.len(), 1, "{what}");
    };
    break_off_everywhere(&disk, start, complete).await;
}

/// A key of the form that is cheap to derive.
const NEW: &str = "fkrjjenn-tbtjbjgh-jtvvchjr-ctienevu-crknfkvi-vjlvblhl-kbneribu-htjtldch";

#[tokio::test]
async fn wherever_a_change_of_keys_is_broken_off_no_key_is_lost() {
    let Some(simulator) = Simulator::start() else { return };
    let disk = Disk::fresh(&simulator).await;
    let mut service = disk.start().await;
    let old = service.get().await.config.unwrap().encryption_recovery_keys;
    service.stop().await;
    let replace = async |client: &mut Client| client.put(settings(&[NEW])).await.map(|_| Vec::new());
    let complete = async |disk: &Disk, service: &mut Service, what: &str| {
        let keys = disk.assert_complete(service, 0, what).await;
        let (had_old, has_new) = (keys.contains(&old[0]), keys.contains(&NEW.to_owned()));
        assert!(had_old || has_new, "{what}: all keys are gone");
        for volume in VOLUMES.map(|(name, _)| name) {
            assert_eq!(disk.opens(volume, &old[0]).await, had_old, "{what}: {volume} differs from what is told");
            assert_eq!(disk.opens(volume, NEW).await, has_new, "{what}: {volume} differs from what is told");
        }
    };
    break_off_everywhere(&disk, replace, complete).await;
}

#[tokio::test]
async fn a_half_enrolled_binding_is_cleared_away() {
    let Some(simulator) = Simulator::start() else { return };
    let disk = Disk::fresh(&simulator).await;
    // The tool adds the slot first and its token then; here power goes in between.
    let calls = FaultyRunner::new(disk.programs(), [Tool::SystemdCryptenroll], 0, Fault::CutBefore);
    let calls = Arc::new(calls);
    let mut service = disk.serve_with(Arc::clone(&calls)).await;
    let mut client = service.client.clone();
    tokio::select! {
        _ = client.start(SecurityStart::default()) => panic!("the machine is down"),
        () = calls.struck() => {}
    }
    assert_eq!(service.get().await.config.unwrap().encryption_recovery_keys.len(), 1);
    cut(service).await;
    let own = disk.key_file("root");
    let (partition, own) = (disk.partition("root"), own.to_str().unwrap().to_owned());
    let args = ["luksAddKey", "--batch-mode", "--key-file", &own, "--new-keyfile", "-", "--pbkdf", "pbkdf2"];
    let rest = ["--pbkdf-force-iterations", "1000", partition.to_str().unwrap()];
    cryptsetup(&[&args[..], &rest].concat(), Some("nobody knows this")).await.success().unwrap();

    let mut service = disk.start().await;
    disk.assert_complete(&mut service, 0, "after the cut").await;
    assert!(!disk.opens("root", "nobody knows this").await);
}

#[tokio::test]
async fn keys_of_people_are_added_and_removed_and_survive_a_restart() {
    let Some(simulator) = Simulator::start() else { return };
    let disk = Disk::fresh(&simulator).await;
    let mut service = disk.start().await;
    let generated = service.get().await.config.unwrap().encryption_recovery_keys[0].clone();
    service.client.mark_recovery_keys_retrieved(Empty {}).await.unwrap();

    let chosen = "correct-horse-battery";
    service.client.put(settings(&[&generated, chosen, chosen])).await.unwrap();
    let keys = disk.assert_complete(&mut service, 0, "added").await;
    assert_eq!(keys, [generated.as_str(), chosen]);
    assert!(!service.state().await.encryption_recovery_keys_retrieved, "there is a key that nobody has fetched");
    let header = disk.header("root").await;
    let costly: Vec<_> =
        header.0["keyslots"].as_object().unwrap().values().filter(|slot| slot["kdf"]["type"] == "argon2id").collect();
    assert_eq!(costly.len(), 1, "a key that a person chose is expensive to guess");

    service.client.put(settings(&[chosen])).await.unwrap();
    assert_eq!(disk.assert_complete(&mut service, 0, "removed").await, [chosen]);
    assert!(!disk.opens("root", &generated).await && !disk.opens("swap", &generated).await);
    service.stop().await;
    let mut service = disk.start().await;
    assert_eq!(disk.assert_complete(&mut service, 0, "restarted").await, [chosen]);
}

#[tokio::test]
async fn a_lost_volume_and_a_lost_key_file_are_made_up_for() {
    let Some(simulator) = Simulator::start() else { return };
    let disk = Disk::fresh(&simulator).await;
    let mut service = disk.start().await;
    let keys = disk.assert_complete(&mut service, 0, "before").await;
    service.stop().await;

    // Swap was formatted anew: nothing that is written down about it is true.
    disk.format("swap").await;
    let mut service = disk.start().await;
    assert_eq!(disk.assert_complete(&mut service, 0, "swap is new").await, keys);
    service.stop().await;

    // A key file of another installation, as a restored backup might bring it.
    fs::remove_file(disk.key_file("root")).unwrap();
    fs::write(disk.key_file("root"), NEW).unwrap();
    let mut service = disk.serve().await;
    service.warnings().await;
    let own = fs::read_to_string(disk.key_file("root")).unwrap();
    assert!(own != NEW && disk.opens("root", &own).await);
}

#[tokio::test]
async fn a_volume_is_bound_to_another_tpm_when_an_administrator_wants_it() {
    let (Some(simulator), Some(other)) = (Simulator::start(), Simulator::start()) else { return };
    let mut disk = Disk::fresh(&simulator).await;
    disk.start().await.stop().await;
    disk.boot("the-second-boot", BY_TPM);
    let mut service = disk.start().await;
    let before = disk.header("root").await.of_kind("systemd-tpm2")[0]["tpm2-blob"].clone();
    let refused = service.client.rebind_tpm(Empty {}).await.unwrap_err();
    let text = "refusing to reset TPM encryption bindings because current state can unlock all volumes";
    assert_eq!((refused.code(), refused.message()), (Code::Internal, text));
    service.stop().await;

    // Another TPM, the same values in it: a person had to type a recovery key.
    disk.device = other.tpm.device().to_owned();
    disk.boot("the-third-boot", BY_HAND);
    let mut service = disk.serve().await;
    assert_eq!(service.warnings().await.len(), 1, "the start changes nothing by itself");
    assert_eq!(disk.header("root").await.of_kind("systemd-tpm2")[0]["tpm2-blob"], before);
    let unheard = service.client.rebind_tpm(Empty {}).await.unwrap_err();
    let text = "the encrypted volumes are bound to the TPM again, but the restart failed: \
                the supervisor service is not available right now";
    assert_eq!(unheard.message(), text);
    disk.assert_complete(&mut service, 0, "bound again").await;
    assert_ne!(disk.header("root").await.of_kind("systemd-tpm2")[0]["tpm2-blob"], before);
}

#[tokio::test]
async fn binding_to_changed_firmware_adds_beside_the_old_binding_until_a_boot_proves_it() {
    let Some(simulator) = Simulator::start() else { return };
    let mut disk = Disk::fresh(&simulator).await;
    disk.start().await.stop().await;
    disk.boot("the-second-boot", BY_TPM);
    disk.start().await.stop().await;

    disk.tpm.registers.as_mut().unwrap().insert(Pcr::SECURE_BOOT, Digest::of(b"other keys"));
    disk.boot("the-third-boot", BY_HAND);
    let mut service = disk.serve().await;
    service.warnings().await;
    assert_eq!(service.client.rebind_tpm(Empty {}).await.unwrap_err().code(), Code::Internal, "no supervisor here");
    disk.assert_complete(&mut service, 1, "both bindings").await;
    // The same wish once more changes nothing.
    assert!(service.client.rebind_tpm(Empty {}).await.is_err());
    disk.assert_complete(&mut service, 1, "both bindings").await;
}

#[tokio::test]
async fn authorities_of_the_seed_are_taken_over_once() {
    let files = Files::healthy();
    files.write("usr/share/certs/ca-certificates.crt", b"of the image\n");
    let authority = support::certificate("an authority").pem();
    let seed = |pem: &str| SecurityConfig { custom_ca_certs: vec![pem.to_owned()], ..SecurityConfig::default() };
    let bundle = files.root().join("etc/ssl/certs/ca-certificates.crt");
    let mut service = files.serve(files.tpm(), "").await;
    service.client.start(SecurityStart { seed: Some(seed(&authority)) }).await.unwrap();
    assert_eq!(service.get().await.config.unwrap().custom_ca_certs, std::slice::from_ref(&authority));
    assert_eq!(fs::read_to_string(&bundle).unwrap(), format!("of the image\n{authority}"));

    let other = support::certificate("another authority").pem();
    service.client.start(SecurityStart { seed: Some(seed(&other)) }).await.unwrap();
    assert_eq!(service.get().await.config.unwrap().custom_ca_certs, [authority]);
}

/// Ends a service as a machine that loses power does.
async fn cut(service: Service) {
    service.running.abort();
    let _ = service.running.await;
}

type Client = api::v1::security_client::SecurityClient<tonic::transport::Channel>;

async fn start(client: &mut Client) -> Result<Vec<String>, Status> {
    client.start(SecurityStart::default()).await.map(|reply| reply.into_inner().warnings)
}

/// Lets `act` meet every fault at every call of a program, on a copy of the machine
/// each. The service is started again after that, and must be complete then.
async fn break_off_everywhere(
    template: &Disk,
    act: impl AsyncFn(&mut Client) -> Result<Vec<String>, Status>,
    complete: impl AsyncFn(&Disk, &mut Service, &str),
) {
    let mut struck = 0;
    for fault in Fault::ALL {
        for position in 0.. {
            let files = in_memory();
            for part in ["root", "state", "released"] {
                let from = template.files.0.path().join(part);
                if from.exists() {
                    copy(&from, files.0.path());
                }
            }
            let disk = Disk { files, tpm: template.tpm.clone(), device: template.device.clone() };
            let what = format!("{fault:?} at call {position}");
            let runner = Arc::new(FaultyRunner::new(disk.programs(), TOOLS, position, fault));
            let service = disk.serve_with(Arc::clone(&runner)).await;
            let mut client = service.client.clone();
            let is_cut = matches!(fault, Fault::CutBefore | Fault::CutAfter);
            tokio::select! {
                biased;
                () = runner.struck(), if is_cut => {}
                outcome = act(&mut client) => {
                    let told = outcome.as_ref().map_or(true, |warnings| !warnings.is_empty());
                    assert_eq!(told, runner.has_struck(), "{what}: {outcome:?}");
                }
            }
            cut(service).await;
            if !runner.has_struck() {
                assert!(position > 0, "nothing was called");
                break;
            }
            struck += 1;
            let mut service = disk.serve().await;
            let warnings = service.warnings().await;
            assert_eq!(warnings, Vec::<String>::new(), "{what}");
            complete(&disk, &mut service, &what).await;
        }
    }
    println!("{struck} interruptions");
}
