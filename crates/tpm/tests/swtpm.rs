//! Against a real TPM 2.0, in software.
#![expect(clippy::disallowed_methods, reason = "starts a TPM simulator, which the shipped runner must not know")]
#![expect(clippy::unwrap_used, reason = "a failure of the harness is a failure of the test")]

use std::{
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    str::FromStr as _,
    time::{Duration, Instant},
};

use tpm::{Digest, Pcr, Tpm, TpmError};
use tss_esapi::{
    Context,
    handles::PcrHandle,
    interface_types::{algorithm::HashingAlgorithm, session_handles::AuthSession},
    structures::DigestValues,
    tcti_ldr::TctiNameConf,
};

/// A TPM simulator that ends with the test.
struct Simulator {
    process: Child,
    _state: tempfile::TempDir,
    tcti: String,
}

impl Simulator {
    /// `None`, with the reason printed, where there is no simulator.
    fn start() -> Option<Self> {
        loop {
            let state = tempfile::tempdir().unwrap();
            let port = free_port_pair();
            let process = match spawn(state.path(), port) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    println!("skipped: swtpm is not installed");
                    return None;
                }
                spawned => spawned.unwrap(),
            };
            let tcti = format!("swtpm:host=127.0.0.1,port={port}");
            let mut simulator = Self { process, _state: state, tcti };
            // Otherwise somebody else took the port in between.
            if simulator.comes_up(port) {
                return Some(simulator);
            }
        }
    }

    fn comes_up(&mut self, port: u16) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            // The control channel may be opened any number of times; the command channel may not.
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
                return true;
            }
            std::thread::yield_now();
        }
        panic!("swtpm does not listen on port {port}");
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(state: &Path, port: u16) -> io::Result<Child> {
    Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg(format!("--tpmstate=dir={}", state.display()))
        .arg(format!("--server=type=tcp,port={port},disconnect"))
        .arg(format!("--ctrl=type=tcp,port={}", port + 1))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// The transport expects the control channel one port above the command channel.
fn free_port_pair() -> u16 {
    loop {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
            return port;
        }
    }
}

fn extend(tcti: &str, digest: Digest) {
    let mut context = Context::new(TctiNameConf::from_str(tcti).unwrap()).unwrap();
    let mut values = DigestValues::new();
    values.set(HashingAlgorithm::Sha256, digest.0.to_vec().try_into().unwrap());
    context
        .execute_with_session(Some(AuthSession::Password), |context| context.pcr_extend(PcrHandle::Pcr11, values))
        .unwrap();
}

#[test]
fn registers_start_at_zero_and_follow_the_extend_rule() {
    let Some(simulator) = Simulator::start() else { return };
    let all: Vec<Pcr> = (0..16).filter_map(Pcr::new).collect();

    let fresh = Tpm::tcti(&simulator.tcti).unwrap().pcrs(&all).unwrap();
    assert_eq!(fresh.len(), 16, "more than fit into one command are read");
    assert!(fresh.values().all(|value| *value == Digest::ZERO), "{fresh:?}");

    let digest = Digest::of(b"measured");
    extend(&simulator.tcti, digest);
    let read = Tpm::tcti(&simulator.tcti).unwrap().pcrs(&[Pcr::VOLUME, Pcr::KERNEL]).unwrap();
    assert_eq!(read[&Pcr::KERNEL], Digest::ZERO.extended(digest));
    assert_eq!(read[&Pcr::VOLUME], Digest::ZERO);
}

#[test]
fn maker_and_version_are_told() {
    let Some(simulator) = Simulator::start() else { return };
    let identity = Tpm::tcti(&simulator.tcti).unwrap().identity().unwrap();
    assert_eq!((identity.family.as_str(), identity.manufacturer.as_str()), ("2.0", "IBM"));
    assert_eq!(identity.firmware.split('.').count(), 4, "{identity:?}");
}

#[test]
fn an_absent_device_is_an_error_that_names_it() {
    let error = Tpm::device(Path::new("/nonexistent/tpmrm0")).unwrap_err();
    assert!(matches!(error, TpmError::Open { .. }));
    assert!(error.to_string().contains("/nonexistent/tpmrm0"), "{error}");
}
