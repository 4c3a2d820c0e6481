//! The service over its real socket, on a machine made of files.
#![expect(clippy::unwrap_used, reason = "a failure of the harness is a failure of the test")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use api::v1::{Empty, SecurityConfig, StartRequest, SystemSecurity, security_client::SecurityClient};
use efi::{Guid, Variable};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use runner::{Reply, ScriptedRunner};
use security::{Machine, TpmReading, TpmSource};
use service::{Context, Identity, Peers};
use tokio::{sync::watch, task::JoinHandle};
use tonic::{Code, transport::Channel};
use tpm::{Digest, Pcr, TpmError};

const JOURNAL: &str = "journalctl --quiet --no-pager --boot=0 --output=cat --unit=systemd-cryptsetup@root.service";
const OPENED_BY_TPM: &str = "Finished systemd-cryptsetup@root.service - Cryptography Setup for root.\n";
const OPENED_BY_HAND: &str = "TPM2 operation failed, falling back to traditional unlocking: State not recoverable\n";

/// A machine made of files.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Secure Boot on, one certificate per key variable, an event log that
    /// agrees with all of it, root open and swap locked.
    fn healthy() -> Self {
        let files = Self::new();
        files.variable(Variable::SecureBoot, &[1]);
        for variable in [Variable::Pk, Variable::Kek, Variable::Db, Variable::Dbx] {
            files.variable(variable, &signature_list(certificate(variable.name()).der()));
        }
        files.write("sys/class/tpm/tpm0/tpm_version_major", b"2\n");
        files.write("sys/kernel/security/tpm0/binary_bios_measurements", &files.event_log());
        files.mapping("dm-1", "root");
        files
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    fn write(&self, path: &str, content: &[u8]) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn variable(&self, variable: Variable, data: &[u8]) {
        let path = format!("sys/firmware/efi/efivars/{}-{}", variable.name(), variable.vendor());
        self.write(&path, &[&[7, 0, 0, 0], data].concat());
    }

    fn read_variable(&self, variable: Variable) -> Vec<u8> {
        let path = format!("sys/firmware/efi/efivars/{}-{}", variable.name(), variable.vendor());
        fs::read(self.root().join(path)).unwrap().split_off(4)
    }

    fn mapping(&self, device: &str, name: &str) {
        self.write(&format!("sys/block/{device}/dm/name"), format!("{name}\n").as_bytes());
        self.write(&format!("sys/block/{device}/dm/uuid"), format!("CRYPT-LUKS2-0-{name}\n").as_bytes());
    }

    /// What firmware measures of the variables that are there.
    fn measured(&self) -> Vec<(u32, u32, Vec<u8>)> {
        let mut events = Vec::new();
        for variable in [Variable::SecureBoot, Variable::Pk, Variable::Kek, Variable::Db, Variable::Dbx] {
            let (name, data) = (variable.name(), self.read_variable(variable));
            let mut event = variable.vendor().as_bytes().to_vec();
            event.extend((name.len() as u64).to_le_bytes());
            event.extend((data.len() as u64).to_le_bytes());
            event.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
            event.extend(data);
            events.push((7, 0x8000_0001, event));
        }
        events.push((7, 4, vec![0; 4]));
        events.push((4, 0x8000_0007, b"Calling EFI Application from Boot Option".to_vec()));
        events.push((1, 4, vec![0; 4]));
        events
    }

    fn event_log(&self) -> Vec<u8> {
        let mut data = b"Spec ID Event03\0".to_vec();
        data.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0b, 0, 32, 0, 0]);
        let mut log =
            [&[0, 0, 0, 0, 3, 0, 0, 0][..], &[0; 20], &u32::try_from(data.len()).unwrap().to_le_bytes()].concat();
        log.extend(data);
        for (pcr, kind, data) in self.measured() {
            for word in [pcr, kind, 1] {
                log.extend(word.to_le_bytes());
            }
            log.extend([0x0b, 0]);
            log.extend(Digest::of(&data).0);
            log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            log.extend(data);
        }
        log
    }

    /// A TPM that holds what the firmware measured.
    fn tpm(&self) -> FakeTpm {
        let mut registers: BTreeMap<_, _> = TpmReading::PCRS.into_iter().map(|pcr| (pcr, Digest::ZERO)).collect();
        for (pcr, _, data) in self.measured() {
            if let Some(value) = Pcr::new(u8::try_from(pcr).unwrap()).and_then(|pcr| registers.get_mut(&pcr)) {
                *value = value.extended(Digest::of(&data));
            }
        }
        FakeTpm { registers: Some(registers), reads: Arc::default() }
    }

    async fn serve(&self, tpm: FakeTpm, journal: &str) -> Service {
        let journal = ScriptedRunner::new().expect(JOURNAL, Reply::Stdout(journal.into()));
        let (context, stopper) = Context::in_dir(Identity::Security, self.0.path()).unwrap();
        let running = tokio::spawn(security::run_with(context, Machine::new(self.root(), tpm, journal)));
        Service { client: Peers::in_dir(self.0.path()).security(), stopper, running }
    }
}

#[derive(Clone)]
struct FakeTpm {
    registers: Option<BTreeMap<Pcr, Digest>>,
    reads: Arc<AtomicUsize>,
}

impl TpmSource for FakeTpm {
    fn read(&self) -> Result<TpmReading, TpmError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let identity = tpm::Identity { family: "2.0".into(), manufacturer: "TEST".into(), firmware: "1.0.0.0".into() };
        let registers = self.registers.clone().ok_or(TpmError::NoBank { pcr: Pcr::SECURE_BOOT })?;
        Ok(TpmReading { identity, registers })
    }
}

struct Service {
    client: SecurityClient<Channel>,
    stopper: watch::Sender<bool>,
    running: JoinHandle<Result<(), service::Error>>,
}

impl Service {
    async fn get(&mut self) -> SystemSecurity {
        self.client.get(Empty {}).await.unwrap().into_inner()
    }

    async fn state(&mut self) -> api::v1::SecurityState {
        self.get().await.state.unwrap()
    }

    async fn warnings(&mut self) -> Vec<String> {
        self.client.start(StartRequest {}).await.unwrap().into_inner().warnings
    }

    async fn stop(self) {
        drop(self.stopper);
        self.running.await.unwrap().unwrap();
    }
}

fn certificate(name: &str) -> rcgen::Certificate {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Test");
    params.distinguished_name.push(DnType::CommonName, format!("Key of {name}"));
    params.self_signed(&KeyPair::generate().unwrap()).unwrap()
}

fn signature_list(der: &[u8]) -> Vec<u8> {
    let owner = Guid::new(0x433f8160, 0x9ab6, 0x4407, 0x8e38, 0x12d70e1d54e5);
    let size = |bytes: usize| u32::try_from(bytes).unwrap().to_le_bytes();
    let mut list = efi::signature_list::X509.as_bytes().to_vec();
    for field in [size(28 + 16 + der.len()), size(0), size(16 + der.len())] {
        list.extend(field);
    }
    list.extend(owner.as_bytes());
    list.extend(der);
    list
}

fn volumes(state: &api::v1::SecurityState) -> Vec<(&str, &str)> {
    state.encrypted_volumes.iter().map(|volume| (volume.volume.as_str(), volume.state.as_str())).collect()
}

#[tokio::test]
async fn a_healthy_machine_is_shown_as_such() {
    let files = Files::healthy();
    files.write("var/lib/incus-os/zpool.local.key", &[1; 32]);
    files.write("var/lib/incus-os/tpm-auth.pem", b"a public key");
    let mut service = files.serve(files.tpm(), OPENED_BY_TPM).await;

    assert_eq!(service.warnings().await, Vec::<String>::new());
    let state = service.state().await;
    assert!(state.secure_boot_enabled);
    assert_eq!(state.tpm_status, "ok");
    assert!(state.system_state_is_trusted);
    assert_eq!(state.system_state_status, "system state is fully trusted");
    assert_eq!(volumes(&state), [("root", "unlocked (TPM)"), ("swap", "locked")]);
    let certificates: Vec<_> =
        state.secure_boot_certificates.iter().map(|c| (c.r#type.as_str(), c.subject.as_str())).collect();
    let expected = ["PK", "KEK", "db", "dbx"].map(|name| (name, format!("CN=Key of {name},O=Test")));
    assert_eq!(certificates, expected.each_ref().map(|(name, subject)| (*name, subject.as_str())));
    assert_eq!(state.pool_recovery_keys["local"], "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=");
    assert_eq!(state.tpm_public_key, "a public key");
    service.stop().await;
}

#[tokio::test]
async fn the_document_has_exactly_the_keys_of_the_api() {
    let files = Files::healthy();
    let mut service = files.serve(files.tpm(), OPENED_BY_TPM).await;
    let document = serde_json::to_value(service.get().await).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&document), ["config", "state"]);
    assert_eq!(keys(&document["config"]), ["encryption_recovery_keys"]);
    assert_eq!(
        keys(&document["state"]),
        [
            "encrypted_volumes",
            "encryption_recovery_keys_retrieved",
            "pool_recovery_keys",
            "secure_boot_certificates",
            "secure_boot_enabled",
            "system_state_is_trusted",
            "system_state_status",
            "tpm_status",
        ]
    );
    assert_eq!(keys(&document["state"]["encrypted_volumes"][0]), ["volume", "state"]);
    assert_eq!(keys(&document["state"]["secure_boot_certificates"][0]), ["type", "fingerprint", "subject", "issuer"]);
}

#[tokio::test]
async fn an_empty_machine_is_answered_for_with_caution() {
    let files = Files::new();
    let mut service = files.serve(files.tpm_without_variables(), "").await;
    let state = service.state().await;
    assert!(!state.secure_boot_enabled);
    assert_eq!(state.tpm_status, "unavailable");
    assert_eq!(volumes(&state), [("root", "locked"), ("swap", "locked")]);
    assert_eq!(state.secure_boot_certificates, []);
}

impl Files {
    fn tpm_without_variables(&self) -> FakeTpm {
        FakeTpm { registers: None, reads: Arc::default() }
    }
}

#[tokio::test]
async fn broken_sources_spoil_only_their_own_part() {
    let files = Files::healthy();
    files.write("sys/kernel/security/tpm0/binary_bios_measurements", b"not a log");
    files.variable(Variable::Db, &[0xff; 40]);
    files.variable(Variable::Kek, &signature_list(b"not a certificate"));
    fs::create_dir_all(files.root().join("var/lib/incus-os/zpool.local.key")).unwrap();
    let mut service = files.serve(files.tpm(), OPENED_BY_TPM).await;
    let state = service.state().await;
    assert_eq!(state.tpm_status, "unavailable");
    assert_eq!(volumes(&state)[0], ("root", "unlocked (TPM)"));
    let types: Vec<_> = state.secure_boot_certificates.iter().map(|c| c.r#type.as_str()).collect();
    assert_eq!(types, ["PK", "dbx"]);
    assert!(state.pool_recovery_keys.is_empty());
}

#[tokio::test]
async fn a_tpm_that_disagrees_with_the_log_is_a_mismatch() {
    let files = Files::healthy();
    let mut tpm = files.tpm();
    tpm.registers.as_mut().unwrap().insert(Pcr::SECURE_BOOT, Digest::ZERO);
    let mut service = files.serve(tpm, OPENED_BY_HAND).await;
    let state = service.state().await;
    assert_eq!(state.tpm_status, "pcr mismatch");
    assert_eq!(volumes(&state)[0], ("root", "unlocked (TPM; PCR update pending)"));
}

#[tokio::test]
async fn a_changed_key_variable_is_seen_at_the_next_request_without_asking_the_tpm() {
    let files = Files::healthy();
    let tpm = files.tpm();
    let mut service = files.serve(tpm.clone(), OPENED_BY_TPM).await;
    assert_eq!(service.state().await.tpm_status, "ok");

    let both = [files.read_variable(Variable::Db), signature_list(certificate("next year").der())].concat();
    files.variable(Variable::Db, &both);
    let state = service.state().await;
    assert_eq!(state.tpm_status, "pcr mismatch");
    assert_eq!(state.secure_boot_certificates.len(), 5);
    assert_eq!(tpm.reads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_word_of_the_initrd_counts_before_the_journal() {
    let files = Files::healthy();
    files.variable(Variable::TpmState, &[0, 0, 0, 1]);
    let mut service = files.serve(files.tpm(), OPENED_BY_TPM).await;
    assert_eq!(volumes(&service.state().await)[0], ("root", "unlocked (recovery passphrase)"));
    files.variable(Variable::TpmState, &[0, 0, 0, 0]);
    assert_eq!(volumes(&service.state().await)[0], ("root", "unlocked (TPM)"));
}

#[tokio::test]
async fn without_secure_boot_the_fuse_blows_and_the_certificates_of_the_image_are_shown() {
    let files = Files::healthy();
    files.variable(Variable::SecureBoot, &[0]);
    files.write("sys/kernel/security/tpm0/binary_bios_measurements", &files.event_log());
    files.write("etc/machine-id", b"");
    files.write("usr/share/incus-os/secureboot/db/1.pem", certificate("the image").pem().as_bytes());
    files.write("usr/share/incus-os/secureboot/db/README", b"no certificate");
    let mut service = files.serve(files.tpm(), OPENED_BY_TPM).await;

    assert_eq!(service.warnings().await, ["Degraded security state: Secure Boot is disabled"]);
    assert_eq!(service.warnings().await, ["Degraded security state: Secure Boot is disabled"], "start is idempotent");
    let state = service.state().await;
    assert_eq!(state.tpm_status, "ok");
    assert!(!state.system_state_is_trusted);
    assert_eq!(state.system_state_status, "Secure Boot is disabled");
    assert_eq!(state.secure_boot_certificates.len(), 1);
    assert_eq!(state.secure_boot_certificates[0].subject, "CN=Key of the image,O=Test");

    files.variable(Variable::SecureBoot, &[1]);
    let state = service.state().await;
    assert!(!state.system_state_is_trusted, "trust does not come back");
    assert_eq!(state.system_state_status, "no current issues, but system was previously in an untrusted state");
}

#[tokio::test]
async fn a_tpm_without_hardware_or_log_is_a_software_tpm() {
    let files = Files::healthy();
    fs::remove_dir_all(files.root().join("sys/class/tpm/tpm0")).unwrap();
    fs::remove_dir_all(files.root().join("sys/kernel/security")).unwrap();
    files.write("sys/devices/virtual/tpm/tpm0/tpm_version_major", b"2\n");
    std::os::unix::fs::symlink("../../devices/virtual/tpm/tpm0", files.root().join("sys/class/tpm/tpm0")).unwrap();
    files.write("etc/machine-id", b"");
    let mut service = files.serve(files.tpm(), OPENED_BY_TPM).await;
    assert_eq!(service.warnings().await, ["Degraded security state: using swtpm"]);
    let state = service.state().await;
    assert_eq!((state.tpm_status.as_str(), state.system_state_status.as_str()), ("swtpm", "using swtpm"));
    assert_eq!(service.client.get_event_log(Empty {}).await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn the_event_log_shows_three_registers_in_order() {
    let files = Files::healthy();
    let tpm = files.tpm();
    let mut service = files.serve(tpm.clone(), OPENED_BY_TPM).await;
    let log = service.client.get_event_log(Empty {}).await.unwrap().into_inner();
    let registers = tpm.registers.unwrap();
    assert_eq!(log.pcr4, registers[&Pcr::LOADER].to_string());
    assert_eq!(log.pcr7, registers[&Pcr::SECURE_BOOT].to_string());
    let shown: Vec<_> = log.event_log.iter().map(|event| event.index).collect();
    assert_eq!(shown, [7, 7, 7, 7, 7, 7, 4]);
    let last = serde_json::to_value(&log.event_log[6]).unwrap();
    assert_eq!(
        last,
        serde_json::json!({
            "Index": 4,
            "Type": 0x8000_0007u32,
            "Data": "Q2FsbGluZyBFRkkgQXBwbGljYXRpb24gZnJvbSBCb290IE9wdGlvbg==",
            "Digest": "PWdytPhO1HWV1yosTF/9FfW7csdQf+JvKq7ixp1WM7o=",
        })
    );
}

#[tokio::test]
async fn builtin_certificates_are_the_files_of_the_image() {
    let files = Files::new();
    files.write("usr/share/incus-os/secureboot/PK/pk.pem", b"the pk");
    files.write("usr/share/incus-os/secureboot/KEK/2.pem", b"second");
    files.write("usr/share/incus-os/secureboot/KEK/1.pem", b"first");
    let mut service = files.serve(files.tpm_without_variables(), "").await;
    let builtin = service.client.get_builtin_certificates(Empty {}).await.unwrap().into_inner();
    assert_eq!((builtin.pk.as_str(), builtin.kek), ("the pk", vec!["first".to_owned(), "second".to_owned()]));
    assert_eq!((builtin.db, builtin.dbx), (vec![], vec![]));
}

#[tokio::test]
async fn that_the_keys_were_retrieved_survives_a_restart() {
    let files = Files::healthy();
    let mut service = files.serve(files.tpm(), OPENED_BY_TPM).await;
    assert!(!service.state().await.encryption_recovery_keys_retrieved);
    service.client.mark_recovery_keys_retrieved(Empty {}).await.unwrap();
    assert!(service.state().await.encryption_recovery_keys_retrieved);
    service.stop().await;

    fs::remove_file(files.0.path().join("security.sock")).unwrap();
    let mut service = files.serve(files.tpm(), OPENED_BY_TPM).await;
    assert!(service.state().await.encryption_recovery_keys_retrieved);
    assert!(is_private(&files.0.path().join("state/security/state.json")));
}

fn is_private(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o077 == 0
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_the_reason() {
    let files = Files::healthy();
    let mut service = files.serve(files.tpm(), OPENED_BY_TPM).await;

    let empty = service.client.put(SystemSecurity::default()).await.unwrap_err();
    assert_eq!((empty.code(), empty.message()), (Code::InvalidArgument, "no encryption key provided"));

    let encryption_recovery_keys = vec!["correct horse battery staple".to_owned()];
    let config = SecurityConfig { encryption_recovery_keys, ..SecurityConfig::default() };
    let new = service.client.put(SystemSecurity { config: Some(config), state: None }).await.unwrap_err();
    assert_eq!(new.code(), Code::Unimplemented);

    let rebind = service.client.rebind_tpm(Empty {}).await.unwrap_err();
    let text = "refusing to reset TPM encryption bindings because current state can unlock all volumes";
    assert_eq!((rebind.code(), rebind.message()), (Code::Internal, text));

    files.variable(Variable::TpmState, &[0, 0, 0, 1]);
    assert_eq!(service.client.rebind_tpm(Empty {}).await.unwrap_err().code(), Code::Unimplemented);
}
