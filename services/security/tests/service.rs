//! The service over its real socket, on a machine made of files.
#![expect(clippy::unwrap_used, reason = "a failure of the harness is a failure of the test")]

mod support;

use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use api::v1::{Empty, RecoveryKey, SecurityConfig, SystemSecurity};
use efi::Variable;
use support::{FakeTpm, Files, certificate, signature_list};
use tonic::Code;
use tpm::{Digest, Pcr};

const OPENED_BY_TPM: &str = "Finished systemd-cryptsetup@root.service - Cryptography Setup for root.\n";
const OPENED_BY_HAND: &str = "TPM2 operation failed, falling back to traditional unlocking: State not recoverable\n";

/// These machines have mappings and no disks below them; those in `volumes.rs` have both.
const NO_PARTITIONS: [&str; 2] =
    ["The partition of volume root is not found", "The partition of volume swap is not found"];

fn volumes(state: &api::v1::SecurityState) -> Vec<(&str, &str)> {
    state.encrypted_volumes.iter().map(|volume| (volume.volume.as_str(), volume.state.as_str())).collect()
}

#[tokio::test]
async fn a_healthy_machine_is_shown_as_such() {
    let files = Files::healthy();
    files.write("var/lib/incus-os/zpool.local.key", &[1; 32]);
    files.write("var/lib/incus-os/tpm-auth.pem", b"a public key");
    let mut service = files.serve(files.tpm(), OPENED_BY_TPM).await;

    assert_eq!(service.warnings().await, NO_PARTITIONS);
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

/// A TPM that does not answer.
fn silent_tpm() -> FakeTpm {
    FakeTpm { registers: None, reads: Arc::default() }
}

#[tokio::test]
async fn an_empty_machine_is_answered_for_with_caution() {
    let files = Files::new();
    let mut service = files.serve(silent_tpm(), "").await;
    let state = service.state().await;
    assert!(!state.secure_boot_enabled);
    assert_eq!(state.tpm_status, "unavailable");
    assert_eq!(volumes(&state), [("root", "locked"), ("swap", "locked")]);
    assert_eq!(state.secure_boot_certificates, []);
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

    for _ in 0..2 {
        let warnings = service.warnings().await;
        assert_eq!(warnings[0], "Degraded security state: Secure Boot is disabled");
        assert_eq!(warnings[1..], NO_PARTITIONS, "start is idempotent");
    }
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
    let warnings = service.warnings().await;
    assert_eq!(warnings[0], "Degraded security state: using swtpm");
    assert_eq!(warnings[1..], NO_PARTITIONS);
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
    let mut service = files.serve(silent_tpm(), "").await;
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

    let put = |keys: &[&str], authorities: &[&str]| SystemSecurity {
        config: Some(SecurityConfig {
            encryption_recovery_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            custom_ca_certs: authorities.iter().map(|pem| (*pem).to_owned()).collect(),
        }),
        state: None,
    };
    let wrong = [
        (put(&["correcthorsebattery"], &[]), "Password does not contain any special symbols"),
        (put(&["correct-horse-battery", "short"], &[]), "Password is too short"),
        (put(&["correct-horse-battery"], &["x"]), "custom CA certificate 0 is not a PEM block"),
    ];
    for (wrong, reason) in wrong {
        let refused = service.client.put(wrong).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, reason));
    }
    let nowhere = service.client.put(put(&["correct-horse-battery"], &[])).await.unwrap_err();
    assert_eq!((nowhere.code(), nowhere.message()), (Code::Internal, "the partition of volume root is not found"));
    assert_eq!(service.get().await.config.unwrap_or_default(), SecurityConfig::default());

    let typed = RecoveryKey { key: "correct-horse-battery".into() };
    assert_eq!(service.client.check_recovery_key(typed).await.unwrap_err().code(), Code::PermissionDenied);

    let rebind = service.client.rebind_tpm(Empty {}).await.unwrap_err();
    let text = "refusing to reset TPM encryption bindings because current state can unlock all volumes";
    assert_eq!((rebind.code(), rebind.message()), (Code::Internal, text));
}

#[tokio::test]
async fn what_was_added_to_the_boot_is_told_and_does_not_last() {
    let files = Files::healthy();
    let mut tpm = files.tpm();
    tpm.registers.as_mut().unwrap().insert(Pcr::COMMAND_LINE, Digest::of(b"an addition"));
    let mut service = files.serve(tpm, OPENED_BY_TPM).await;
    let warnings = service.warnings().await;
    let expected = "Degraded security state: foreign command line or credentials were added to this boot";
    assert_eq!(warnings[0], expected);
    assert!(service.state().await.system_state_is_trusted);
}

#[tokio::test]
async fn a_boot_by_recovery_key_is_told_with_what_to_do() {
    let files = Files::healthy();
    files.variable(Variable::TpmState, &[0, 0, 0, 1]);
    let mut service = files.serve(files.tpm(), OPENED_BY_TPM).await;
    let warnings = service.warnings().await;
    assert!(warnings[0].starts_with("The root volume was opened with a recovery key"), "{warnings:?}");
}
