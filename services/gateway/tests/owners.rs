//! The services behind the gateway: shown, down, killed, failing.

#![allow(clippy::unwrap_used, reason = "a test may panic in its helper functions too")]

mod support;

use std::sync::Arc;

use api::v1::{
    ConsoleMessage, Empty, Environment, OperatorLine, OsVersions, PowerRequest, SystemSecurity, operator_line,
    power_request,
};
use runner::{Reply, ScriptedRunner};
use serde_json::json;
use service::Identity;
use support::{Running, error, eventually, metadata};
use tonic::Code;

/// Every section with the service and the method that shows it.
const SECTIONS: [(&str, Identity, &str); 12] = [
    ("/1.0/system/fallback-listener", Identity::Supervisor, "GetFallbackListener"),
    ("/1.0/system/kernel", Identity::Supervisor, "GetKernel"),
    ("/1.0/system/logging", Identity::Supervisor, "GetLogging"),
    ("/1.0/system/network", Identity::Network, "Get"),
    ("/1.0/system/provider", Identity::Update, "GetProvider"),
    ("/1.0/system/resources", Identity::Supervisor, "GetResources"),
    ("/1.0/system/security", Identity::Security, "Get"),
    ("/1.0/system/storage", Identity::Storage, "Get"),
    ("/1.0/system/update", Identity::Update, "Get"),
    ("/1.0/debug/secureboot/event-log", Identity::Security, "GetEventLog"),
    ("/internal/secureboot", Identity::Security, "GetBuiltinCertificates"),
    ("/1.0", Identity::Update, "GetVersions"),
];

#[test]
fn a_service_that_is_down_takes_only_its_own_sections_with_it() {
    let gateway = Running::start();
    let services = [Identity::Supervisor, Identity::Network, Identity::Storage, Identity::Security, Identity::Update];
    let owners: Vec<_> = services.iter().map(|identity| (*identity, gateway.owner(*identity))).collect();
    for (identity, owner) in &owners {
        for (_, _, method) in SECTIONS.iter().filter(|(_, section, _)| section == identity) {
            // Every document of a service in its initial state is an empty message.
            owner.answers(method, &Empty {});
        }
    }
    for (down, owner) in &owners {
        owner.kill();
        for (path, section, _) in SECTIONS {
            let response = gateway.get(path);
            if section == *down && path != "/1.0" {
                assert_eq!(error(&response, 503), format!("the {down} service is not available right now"), "{path}");
            } else {
                metadata(&response);
            }
        }
        owner.revive();
        for (path, _, _) in SECTIONS {
            metadata(&gateway.get(path));
        }
    }
}

#[test]
fn a_service_that_is_killed_during_a_request_makes_it_unavailable_and_comes_back() {
    let gateway = Running::start();
    let storage = gateway.owner(Identity::Storage);
    storage.hangs("Get");
    let mut connection = gateway.client().connect().unwrap();
    for round in 1..=3 {
        connection.send_raw(b"GET /1.0/system/storage HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        eventually("the call", || (storage.count("Get") == round).then_some(()).ok_or_else(String::new));
        storage.kill();
        let response = connection.receive("GET").unwrap();
        assert_eq!(error(&response, 503), "the storage service is not available right now");
        storage.revive();
    }
    storage.answers("Get", &Empty {});
    metadata(&gateway.get("/1.0/system/storage"));
}

#[test]
fn a_failure_of_a_service_has_its_words_and_the_status_of_the_table() {
    let gateway = Running::start();
    let network = gateway.owner(Identity::Network);
    for (code, status) in [
        (Code::InvalidArgument, 400),
        (Code::PermissionDenied, 403),
        (Code::NotFound, 404),
        (Code::AlreadyExists, 409),
        (Code::Internal, 500),
        (Code::Unknown, 500),
        (Code::Unimplemented, 501),
        (Code::Unavailable, 503),
        (Code::ResourceExhausted, 503),
    ] {
        network.fails("FlushDns", code, "exactly: <these> words & “no” others");
        let response = gateway.send("POST", "/1.0/system/network/:flush-dns", &[], None);
        assert_eq!(error(&response, status), "exactly: <these> words & “no” others");
    }
    network.answers("FlushDns", &Empty {});
    assert_eq!(metadata(&gateway.send("POST", "/1.0/system/network/:flush-dns", &[], None)), json!({}));
}

#[test]
fn the_server_document_joins_what_supervisor_and_update_know() {
    let gateway = Running::start();
    let supervisor = gateway.owner(Identity::Supervisor);
    let update = gateway.owner(Identity::Update);
    supervisor.answers(
        "GetEnvironment",
        &Environment {
            hostname: "server1.example".into(),
            machine_id: "ffff".into(),
            os_name: "TestOS".into(),
            os_version: "202611221530".into(),
            system_is_ready: true,
            uptime: 60,
            ..Environment::default()
        },
    );
    let versions =
        OsVersions { running: "202611221530".into(), next: "202612010000".into(), alternate: "202612010000".into() };
    update.answers("GetVersions", &versions);
    let expected = json!({ "environment": {
        "hostname": "server1.example", "machine_id": "ffff", "os_name": "TestOS", "os_version": "202611221530",
        "os_version_next": "202612010000", "os_version_alternate": "202612010000",
        "system_is_ready": true, "uptime": 60,
    }});
    assert_eq!(metadata(&gateway.get("/1.0")), expected);
}

#[test]
fn the_server_document_is_there_without_any_service() {
    let gateway = Running::start();
    let environment = metadata(&gateway.get("/1.0"))["environment"].clone();
    assert_eq!(environment["machine_id"], "0123456789abcdef0123456789abcdef");
    assert_eq!(environment["os_name"], "TestOS");
    assert_eq!(environment["os_version"], "202611221530");
    assert_eq!(environment["os_version_next"], "");
    assert_eq!(environment["system_is_ready"], false);
    assert!(environment["uptime"].as_i64().unwrap() > 0);
    assert!(environment.get("os_version_alternate").is_none());
}

#[test]
fn power_is_the_supervisors() {
    let gateway = Running::start();
    let supervisor = gateway.owner(Identity::Supervisor);
    supervisor.answers("Power", &Empty {});
    for (path, action) in [
        ("/1.0/system/:poweroff", power_request::Action::Poweroff),
        ("/1.0/system/%3Areboot", power_request::Action::Reboot),
        ("/1.0/system/:suspend", power_request::Action::Suspend),
    ] {
        assert_eq!(metadata(&gateway.send("POST", path, &[], Some("a body that nobody reads"))), json!({}));
        assert_eq!(supervisor.last::<PowerRequest>("Power").action(), action);
    }
}

#[test]
fn keys_and_their_binding_are_the_security_service_s() {
    let gateway = Running::start();
    let security = gateway.owner(Identity::Security);
    for method in ["Put", "MarkRecoveryKeysRetrieved", "RebindTpm"] {
        security.answers(method, &Empty {});
    }
    let body = json!({ "config": { "encryption_recovery_keys": ["a"], "custom_ca_certs": null }, "state": {} });
    assert_eq!(metadata(&gateway.send("PUT", "/1.0/system/security", &[], Some(&body.to_string()))), json!({}));
    let sent: SystemSecurity = security.last("Put");
    assert_eq!((sent.state, sent.config.unwrap().encryption_recovery_keys), (None, vec!["a".to_owned()]));
    for (action, method) in [(":retrieved", "MarkRecoveryKeysRetrieved"), (":tpm-rebind", "RebindTpm")] {
        let path = format!("/1.0/system/security/{action}");
        assert_eq!(metadata(&gateway.send("POST", &path, &[], None)), json!({}));
        assert_eq!(security.count(method), 1);
    }
    let reason = "refusing to reset TPM encryption bindings because current state can unlock all volumes";
    security.fails("RebindTpm", Code::Internal, reason);
    assert_eq!(error(&gateway.send("POST", "/1.0/system/security/:tpm-rebind", &[], None), 500), reason);
}

#[test]
fn a_change_goes_on_when_the_client_leaves() {
    let gateway = Running::start();
    let network = gateway.owner(Identity::Network);
    network.hangs("FlushDns");
    let mut connection = gateway.client().connect().unwrap();
    connection.send_raw(b"POST /1.0/system/network/:flush-dns HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    eventually("the call", || (network.open_calls() == 1).then_some(()).ok_or_else(String::new));
    drop(connection);
    eventually("the connection to be gone", || {
        let open = open_connections(&gateway);
        // The one that asks is open itself.
        (open <= 1.0).then_some(()).ok_or_else(|| format!("{open} connections"))
    });
    assert_eq!(network.open_calls(), 1);
}

#[test]
fn a_question_is_dropped_when_the_client_leaves() {
    let gateway = Running::start();
    let network = gateway.owner(Identity::Network);
    network.hangs("Get");
    let mut connection = gateway.client().connect().unwrap();
    connection.send_raw(b"GET /1.0/system/network HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    eventually("the call", || (network.open_calls() == 1).then_some(()).ok_or_else(String::new));
    drop(connection);
    eventually("the call to end", || (network.open_calls() == 0).then_some(()).ok_or_else(String::new));
}

fn open_connections(gateway: &Running) -> f64 {
    let report = metadata(&gateway.get("/1.0/debug/report?match=gateway_connections_open"));
    let unix = &report["metrics"][0];
    assert_eq!(unix["object"], "unix");
    unix["value"].as_f64().unwrap()
}

#[test]
fn messages_for_the_operator_have_a_level_and_a_text() {
    let gateway = Running::start();
    let supervisor = gateway.owner(Identity::Supervisor);
    supervisor.answers("WriteOperatorLine", &Empty {});
    let write = |body: &str| gateway.send("POST", "/internal/tui/:write-message", &[], Some(body));
    let message = ConsoleMessage { level: "warn+1".into(), message: "look here".into() };
    metadata(&write(&serde_json::to_string(&message).unwrap()));
    let line: OperatorLine = supervisor.last("WriteOperatorLine");
    assert_eq!((line.level(), line.message.as_str()), (operator_line::Level::Warn, "look here"));
    metadata(&write(r#"{"message":"plain"}"#));
    assert_eq!(supervisor.last::<OperatorLine>("WriteOperatorLine").level(), operator_line::Level::Info);
    // Debug lines are dropped, which is no failure.
    metadata(&write(r#"{"level":"DEBUG","message":"chatter"}"#));
    assert_eq!(supervisor.count("WriteOperatorLine"), 2);
    for bad in ["{}", r#"{"message":""}"#, r#"{"level":4,"message":"x"}"#, r#"{"level":"LOUD","message":"x"}"#, ""] {
        error(&write(bad), 400);
    }
}

#[test]
fn kernel_and_processes_are_described() {
    let script = ScriptedRunner::new()
        .expect("ps fauxww", Reply::Stdout(b"USER PID\nroot 1 \xff\n".to_vec()))
        .expect("ps fauxww", Reply::Failure(1, "no /proc".into()))
        .expect("ps fauxww", Reply::Hang);
    let gateway = Running::with_runner(Arc::new(script));
    let kernel = metadata(&gateway.get("/1.0/debug/kernel"));
    assert_eq!(
        kernel["modules"],
        json!([{ "name": "a", "dependencies": [], "in_use": true }, { "name": "b", "dependencies": ["a"], "in_use": false }])
    );
    assert_eq!(kernel["architecture"], std::env::consts::ARCH);
    assert_eq!(metadata(&gateway.get("/1.0/debug/processes")), "USER PID\nroot 1 \u{fffd}\n");
    assert_eq!(error(&gateway.get("/1.0/debug/processes"), 500), "Failed to run: ps fauxww: exit status 1 (no /proc)");
    assert!(error(&gateway.get("/1.0/debug/processes"), 500).contains("was killed"));
}

#[test]
fn a_report_can_be_narrowed_to_what_is_asked_for() {
    let gateway = Running::start();
    let report = metadata(&gateway.get("/1.0/debug/report?match=system_load&match=system_memory_total_bytes"));
    assert_eq!(
        report["metrics"],
        json!([
            { "name": "system_memory_total_bytes", "value": 2_097_152.0 },
            { "name": "system_load_average", "fields": { "period": "1m" }, "value": 0.5 },
            { "name": "system_load_average", "fields": { "period": "5m" }, "value": 0.25 },
            { "name": "system_load_average", "fields": { "period": "15m" }, "value": 0.125 },
        ])
    );
    let all = metadata(&gateway.get("/1.0/debug/report"));
    assert!(all["metrics"].as_array().unwrap().len() > 5 && all["timestamp"].as_str().unwrap().ends_with('Z'));
}
