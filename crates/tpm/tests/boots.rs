//! Recorded boots of real firmware, `tests/boots/`.
#![expect(clippy::unwrap_used, reason = "a failure of the harness is a failure of the test")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use efi::{Variable, Variables};
use tpm::{
    Digest, Pcr, Prediction,
    event_log::{self, Event, EventType},
    replay,
};

const BOOTS: [&str; 2] = ["secure-boot-on", "secure-boot-off"];

struct Boot {
    log: Vec<u8>,
    registers: BTreeMap<Pcr, String>,
    variables: Variables,
}

fn boot(name: &str) -> Boot {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/boots").join(name);
    let registers = fs::read_to_string(folder.join("registers")).unwrap();
    let register = |line: &str| {
        let (index, value) = line.split_once(' ').unwrap();
        (Pcr::new(index.parse().unwrap()).unwrap(), value.to_owned())
    };
    Boot {
        log: fs::read(folder.join("event.log")).unwrap(),
        registers: registers.lines().map(register).collect(),
        variables: Variables::in_dir(folder.join("efivars")),
    }
}

fn current(boot: &Boot, variable: Variable) -> Option<Vec<u8>> {
    Some(boot.variables.read(variable).unwrap().map(|value| value.data).unwrap_or_default())
}

#[test]
fn the_log_gives_the_registers_that_only_the_firmware_extends() {
    for name in BOOTS {
        let boot = boot(name);
        let events = event_log::parse(&boot.log).unwrap();
        for index in 0..8 {
            let pcr = Pcr::new(index).unwrap();
            assert_eq!(replay(&events, pcr).unwrap().to_string(), boot.registers[&pcr], "{name}, {pcr}");
        }
        // The stub measures the parts of the image; nothing in these boots measured phases.
        assert_eq!(replay(&events, Pcr::KERNEL).unwrap().to_string(), boot.registers[&Pcr::KERNEL], "{name}");
    }
}

#[test]
fn no_record_of_real_firmware_counts_as_forged() {
    for name in BOOTS {
        let boot = boot(name);
        let events = event_log::parse(&boot.log).unwrap();
        let forged: Vec<_> = events.iter().filter(|event| event.data_is_genuine() == Some(false)).collect();
        assert_eq!(forged, Vec::<&Event<'_>>::new(), "{name}");
        assert!(events.iter().any(|event| event.data_is_genuine() == Some(true)), "{name}");
    }
}

#[test]
fn with_the_variables_of_the_boot_the_prediction_is_the_register() {
    for name in BOOTS {
        let boot = boot(name);
        let prediction = Prediction::of(&event_log::parse(&boot.log).unwrap()).unwrap();
        let value = prediction.value(|variable| current(&boot, variable));
        assert_eq!(value.to_string(), boot.registers[&Pcr::SECURE_BOOT], "{name}");
    }
}

#[test]
fn every_key_variable_counts_in_the_prediction() {
    let boot = boot("secure-boot-on");
    let prediction = Prediction::of(&event_log::parse(&boot.log).unwrap()).unwrap();
    for changed in [Variable::SecureBoot, Variable::Pk, Variable::Kek, Variable::Db, Variable::Dbx] {
        let value = prediction.value(|variable| {
            let mut data = current(&boot, variable)?;
            if variable == changed {
                data.push(0);
            }
            Some(data)
        });
        assert_ne!(value.to_string(), boot.registers[&Pcr::SECURE_BOOT], "{changed:?}");
    }
}

#[test]
fn the_next_boot_after_secure_boot_was_turned_on_is_not_the_logged_one() {
    let (off, on) = (boot("secure-boot-off"), boot("secure-boot-on"));
    let prediction = Prediction::of(&event_log::parse(&off.log).unwrap()).unwrap();
    let value = prediction.value(|variable| current(&on, variable));
    assert_ne!(value.to_string(), off.registers[&Pcr::SECURE_BOOT]);
}

#[test]
fn changing_any_byte_of_a_real_log_is_survived_and_changing_a_digest_is_noticed() {
    let boot = boot("secure-boot-on");
    let expected = &boot.registers[&Pcr::SECURE_BOOT];
    for position in (0..boot.log.len()).step_by(7) {
        let mut log = boot.log.clone();
        log[position] ^= 0x55;
        let _ = event_log::parse(&log).map(|events| Prediction::of(&events).map(|p| p.value(|_| Some(Vec::new()))));
    }
    let events = event_log::parse(&boot.log).unwrap();
    let separator = events.iter().position(|event| event.pcr == 7 && event.kind == EventType::SEPARATOR).unwrap();
    let mut forged = events;
    forged[separator].sha256 = Some(Digest::ZERO);
    assert_ne!(replay(&forged, Pcr::SECURE_BOOT).unwrap().to_string(), *expected);
}
