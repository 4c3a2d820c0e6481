//! Against a real TPM 2.0, in software.
#![expect(clippy::unwrap_used, reason = "a failure of the harness is a failure of the test")]

use std::{path::Path, str::FromStr as _};

use testkit::tpm::Simulator;
use tpm::{Digest, Pcr, Tpm, TpmError};
use tss_esapi::{
    Context,
    handles::PcrHandle,
    interface_types::{algorithm::HashingAlgorithm, session_handles::AuthSession},
    structures::DigestValues,
    tcti_ldr::TctiNameConf,
};

/// A TPM simulator that ends with the test; `None`, with the reason printed, where there is none.
fn simulator() -> Option<(Simulator, tempfile::TempDir)> {
    let state = tempfile::tempdir().unwrap();
    let simulator = Simulator::start(state.path()).unwrap();
    if simulator.is_none() {
        println!("skipped: swtpm is not installed");
    }
    Some((simulator?, state))
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
    let Some((simulator, _state)) = simulator() else { return };
    let all: Vec<Pcr> = (0..16).filter_map(Pcr::new).collect();

    let fresh = Tpm::tcti(simulator.device()).unwrap().pcrs(&all).unwrap();
    assert_eq!(fresh.len(), 16, "more than fit into one command are read");
    assert!(fresh.values().all(|value| *value == Digest::ZERO), "{fresh:?}");

    let digest = Digest::of(b"measured");
    extend(simulator.device(), digest);
    let read = Tpm::tcti(simulator.device()).unwrap().pcrs(&[Pcr::VOLUME, Pcr::KERNEL]).unwrap();
    assert_eq!(read[&Pcr::KERNEL], Digest::ZERO.extended(digest));
    assert_eq!(read[&Pcr::VOLUME], Digest::ZERO);
}

#[test]
fn maker_and_version_are_told() {
    let Some((simulator, _state)) = simulator() else { return };
    let identity = Tpm::tcti(simulator.device()).unwrap().identity().unwrap();
    assert_eq!((identity.family.as_str(), identity.manufacturer.as_str()), ("2.0", "IBM"));
    assert_eq!(identity.firmware.split('.').count(), 4, "{identity:?}");
}

#[test]
fn an_absent_device_is_an_error_that_names_it() {
    let error = Tpm::device(Path::new("/nonexistent/tpmrm0")).unwrap_err();
    assert!(matches!(error, TpmError::Open { .. }));
    assert!(error.to_string().contains("/nonexistent/tpmrm0"), "{error}");
}
