//! What a power cut, a bad disk or another release can leave behind.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use serde::{Deserialize, Serialize};
use store::{Health, Store, StoreError};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct State {
    channel: String,
    checks: u64,
}

fn state(channel: &str) -> State {
    State { channel: channel.into(), checks: 7 }
}

fn open(dir: &Path) -> Store<State> {
    Store::open(dir, 1).unwrap()
}

#[test]
fn what_was_saved_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).replace(state("stable")).unwrap();
    let store = open(dir.path());
    assert_eq!(store.get(), &state("stable"));
    assert_eq!(store.health(), &Health::Good);
    let mode = fs::metadata(dir.path().join("state.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_first_start_has_defaults() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(open(dir.path()).get(), &State::default());
}

#[test]
fn every_torn_document_gives_the_previous_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    store.replace(state("first")).unwrap();
    store.replace(state("second")).unwrap();
    let path = dir.path().join("state.json");
    let whole = fs::read(&path).unwrap();
    // The last byte is the newline after the object.
    for length in 0..whole.len() - 1 {
        fs::write(&path, &whole[..length]).unwrap();
        let store = open(dir.path());
        assert_eq!(store.get(), &state("first"), "cut at {length}");
        assert!(matches!(store.health(), Health::Recovered { .. }), "cut at {length}");
        assert!(!path.exists(), "the torn document was moved away");
    }
}

#[test]
fn a_changed_value_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    store.replace(state("first")).unwrap();
    store.replace(state("second")).unwrap();
    let path = dir.path().join("state.json");
    let forged = fs::read_to_string(&path).unwrap().replace("second", "evil");
    fs::write(&path, forged).unwrap();
    assert_eq!(open(dir.path()).get(), &state("first"));
}

#[test]
fn with_nothing_readable_defaults_are_used_and_the_bad_file_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("state.json"), "garbage").unwrap();
    fs::write(dir.path().join("state.json.1"), "garbage").unwrap();
    let mut store = open(dir.path());
    assert_eq!(store.get(), &State::default());
    let Health::Damaged { kept } = store.health().clone() else { panic!("{:?}", store.health()) };
    assert_eq!(fs::read_to_string(kept).unwrap(), "garbage");
    store.replace(state("again")).unwrap();
    assert_eq!(open(dir.path()).get(), &state("again"));
}

#[test]
fn a_power_cut_between_the_renames_of_a_save_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    store.replace(state("first")).unwrap();
    store.replace(state("second")).unwrap();
    fs::rename(dir.path().join("state.json"), dir.path().join("state.json.1")).unwrap();
    assert_eq!(open(dir.path()).get(), &state("second"));
}

#[test]
fn a_newer_document_is_read_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    Store::open(dir.path(), 2).unwrap().replace(state("newer")).unwrap();
    let before = fs::read(dir.path().join("state.json")).unwrap();
    let mut store = open(dir.path());
    assert_eq!(store.get(), &state("newer"));
    assert!(matches!(store.replace(state("older")), Err(StoreError::TooNew { found: 2, known: 1, .. })));
    assert_eq!(store.get(), &state("newer"));
    assert_eq!(fs::read(dir.path().join("state.json")).unwrap(), before);
}

#[test]
fn keys_of_another_release_survive_a_rewrite() {
    #[derive(Default, Serialize, Deserialize)]
    struct Wider {
        channel: String,
        waves: u64,
    }
    let dir = tempfile::tempdir().unwrap();
    Store::open(dir.path(), 1).unwrap().replace(Wider { channel: "stable".into(), waves: 3 }).unwrap();
    open(dir.path()).replace(state("testing")).unwrap();
    let text = fs::read_to_string(dir.path().join("state.json")).unwrap();
    assert!(text.contains("\"waves\": 3"), "{text}");
    assert_eq!(open(dir.path()).get(), &state("testing"));
}

#[test]
fn an_oversized_document_is_not_read_into_memory() {
    let dir = tempfile::tempdir().unwrap();
    let file = fs::File::create(dir.path().join("state.json")).unwrap();
    file.set_len(1 << 30).unwrap();
    assert!(matches!(open(dir.path()).health(), Health::Damaged { .. }));
}

#[test]
fn a_missing_folder_is_an_error_when_saving() {
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("gone");
    let mut store: Store<State> = Store::open(&gone, 1).unwrap();
    assert!(matches!(store.replace(state("x")), Err(StoreError::Write { .. })));
    assert_eq!(store.get(), &State::default());
}
