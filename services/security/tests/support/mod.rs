//! A machine made of files, and the service on it.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use api::v1::{Empty, SecurityStart, SystemSecurity, security_client::SecurityClient};
use efi::{Guid, Variable};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use runner::{Reply, ScriptedRunner};
use security::{Machine, TpmReading, TpmSource};
use service::{Context, Identity, Peers};
use tokio::{sync::watch, task::JoinHandle};
use tonic::transport::Channel;
use tpm::{Digest, Pcr, TpmError};

const JOURNAL: &str = "journalctl --quiet --no-pager --boot=0 --output=cat --unit=systemd-cryptsetup@root.service";

/// A machine made of files.
pub(crate) struct Files(pub(crate) tempfile::TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Secure Boot on, one certificate per key variable, an event log that
    /// agrees with all of it, root open and swap locked.
    pub(crate) fn healthy() -> Self {
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

    pub(crate) fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    pub(crate) fn write(&self, path: &str, content: &[u8]) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn variable(&self, variable: Variable, data: &[u8]) {
        let path = format!("sys/firmware/efi/efivars/{}-{}", variable.name(), variable.vendor());
        self.write(&path, &[&[7, 0, 0, 0], data].concat());
    }

    pub(crate) fn read_variable(&self, variable: Variable) -> Vec<u8> {
        let path = format!("sys/firmware/efi/efivars/{}-{}", variable.name(), variable.vendor());
        fs::read(self.root().join(path)).unwrap().split_off(4)
    }

    pub(crate) fn mapping(&self, device: &str, name: &str) {
        self.write(&format!("sys/block/{device}/dm/name"), format!("{name}\n").as_bytes());
        self.write(&format!("sys/block/{device}/dm/uuid"), format!("CRYPT-LUKS2-0-{name}\n").as_bytes());
    }

    /// What firmware measures of the variables that are there.
    pub(crate) fn measured(&self) -> Vec<(u32, u32, Vec<u8>)> {
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

    pub(crate) fn event_log(&self) -> Vec<u8> {
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
    pub(crate) fn tpm(&self) -> FakeTpm {
        let mut registers: BTreeMap<_, _> = TpmReading::PCRS.into_iter().map(|pcr| (pcr, Digest::ZERO)).collect();
        for (pcr, _, data) in self.measured() {
            if let Some(value) = Pcr::new(u8::try_from(pcr).unwrap()).and_then(|pcr| registers.get_mut(&pcr)) {
                *value = value.extended(Digest::of(&data));
            }
        }
        FakeTpm { registers: Some(registers), reads: Arc::default() }
    }

    /// The service on this machine.
    pub(crate) async fn serve(&self, tpm: FakeTpm, journal: &str) -> Service {
        let journal = ScriptedRunner::new().expect(JOURNAL, Reply::Stdout(journal.into()));
        self.serve_on(Machine::new(self.root(), tpm, journal)).await
    }

    pub(crate) async fn serve_on(&self, machine: Machine) -> Service {
        // A restarted service finds the socket of its predecessor.
        let _ = fs::remove_file(self.0.path().join("security.sock"));
        let (context, stopper) = Context::in_dir(Identity::Security, self.0.path()).unwrap();
        let running = tokio::spawn(security::run_with(context, machine));
        Service { client: Peers::in_dir(self.0.path()).security(), stopper, running }
    }
}

/// A TPM that holds what the firmware measured, or does not answer.
#[derive(Clone)]
pub(crate) struct FakeTpm {
    pub(crate) registers: Option<BTreeMap<Pcr, Digest>>,
    pub(crate) reads: Arc<AtomicUsize>,
}

impl TpmSource for FakeTpm {
    fn read(&self) -> Result<TpmReading, TpmError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let identity = tpm::Identity { family: "2.0".into(), manufacturer: "TEST".into(), firmware: "1.0.0.0".into() };
        let registers = self.registers.clone().ok_or(TpmError::NoBank { pcr: Pcr::SECURE_BOOT })?;
        Ok(TpmReading { identity, registers })
    }
}

/// The running service.
pub(crate) struct Service {
    pub(crate) client: SecurityClient<Channel>,
    stopper: watch::Sender<bool>,
    pub(crate) running: JoinHandle<Result<(), service::Error>>,
}

impl Service {
    pub(crate) async fn get(&mut self) -> SystemSecurity {
        self.client.get(Empty {}).await.unwrap().into_inner()
    }

    pub(crate) async fn state(&mut self) -> api::v1::SecurityState {
        self.get().await.state.unwrap()
    }

    pub(crate) async fn warnings(&mut self) -> Vec<String> {
        self.client.start(SecurityStart::default()).await.unwrap().into_inner().warnings
    }

    pub(crate) async fn stop(self) {
        drop(self.stopper);
        self.running.await.unwrap().unwrap();
    }
}

pub(crate) fn certificate(name: &str) -> rcgen::Certificate {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Test");
    params.distinguished_name.push(DnType::CommonName, format!("Key of {name}"));
    params.self_signed(&KeyPair::generate().unwrap()).unwrap()
}

pub(crate) fn signature_list(der: &[u8]) -> Vec<u8> {
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
