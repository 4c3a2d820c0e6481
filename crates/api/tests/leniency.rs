//! What existing clients send must be read, and what they read must be there.

use api::v1::{Environment, FallbackListenerConfig, SystemFallbackListener};
use serde_json::json;

#[test]
fn null_and_missing_keys_are_zero_values() {
    let read: FallbackListenerConfig =
        serde_json::from_value(json!({ "listen_address": null, "trusted_client_certificates": null })).unwrap();
    assert_eq!(read, FallbackListenerConfig::default());
}

#[test]
fn unknown_keys_are_ignored() {
    let read: FallbackListenerConfig =
        serde_json::from_value(json!({ "from_the_future": 1, "persistent": true })).unwrap();
    assert!(read.persistent);
}

#[test]
fn integers_may_be_spelled_as_floats() {
    for spelling in ["5", "5.0", "5e0"] {
        let read: Environment = serde_json::from_str(&format!(r#"{{"uptime":{spelling}}}"#)).unwrap();
        assert_eq!(read.uptime, 5, "{spelling}");
    }
}

#[test]
fn fractions_strings_and_overflow_are_no_integers() {
    for bad in ["5.5", "\"5\"", "true", "1e30", "18446744073709551615", "[]"] {
        let read = serde_json::from_str::<Environment>(&format!(r#"{{"uptime":{bad}}}"#));
        assert!(read.is_err(), "{bad} was read as {read:?}");
    }
}

#[test]
fn a_string_is_not_a_bool() {
    assert!(serde_json::from_value::<FallbackListenerConfig>(json!({ "persistent": "yes" })).is_err());
}

#[test]
fn empty_keys_marked_so_are_left_out_and_objects_are_always_objects() {
    let written = serde_json::to_value(SystemFallbackListener::default()).unwrap();
    assert_eq!(written, json!({ "config": { "persistent": false }, "state": { "active": false } }));
}

#[test]
fn yaml_reads_like_json() {
    let read: FallbackListenerConfig = serde_yaml::from_str("listen_address: '[::]:9443'\npersistent: null\n").unwrap();
    assert_eq!(read.listen_address, "[::]:9443");
}
