//! The audit log: who did what, and never with which values.

#![allow(clippy::unwrap_used, reason = "a test may panic in its helper functions too")]

mod support;

use std::{
    fmt::Write,
    sync::{Arc, Mutex},
};

use api::v1::Empty;
use service::Identity;
use support::{Running, Secure};
use testkit::client::Request;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Keeps the audit lines, and what they are made of.
#[derive(Clone, Default)]
struct Audit(Arc<Mutex<Vec<String>>>);

impl Subscriber for Audit {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "audit"
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

// One test in this file: the subscriber is the whole process's.
#[test]
fn changes_and_secrets_are_recorded_with_their_caller_and_without_values() {
    let audit = Audit::default();
    tracing::subscriber::set_global_default(audit.clone()).unwrap();
    let lines = || std::mem::take(&mut *audit.0.lock().unwrap());
    let gateway = Running::start();
    let secure = Secure::on(&gateway);
    let update = gateway.owner(Identity::Update);
    update.answers("Put", &Empty {});
    update.answers("Get", &Empty {});
    update.answers("GetProvider", &Empty {});

    let uid = rustix::process::geteuid().as_raw();
    gateway.send("PUT", "/1.0/system/update?password=hunter2", &[], Some(r#"{"config":{"channel":"hunter2"}}"#));
    gateway.send("PUT", "/1.0/system/update", &[], Some("hunter2"));
    gateway.get("/1.0/system/provider");
    gateway.send("GET", "/internal/secureboot", &[("X-IncusOS-Proxy", "/os")], None);
    let recorded = lines();
    let expected = [
        ("PUT /1.0/system/update", 200),
        ("PUT /1.0/system/update", 400),
        ("GET /1.0/system/provider", 200),
        ("GET /internal/secureboot", 403),
    ];
    assert_eq!(recorded.len(), expected.len(), "{recorded:#?}");
    for (line, (operation, status)) in recorded.iter().zip(expected) {
        assert!(line.starts_with("INFO "), "{line}");
        assert!(line.contains(&format!("operation={operation} ")), "{line}");
        assert!(line.contains(&format!("caller=uid {uid} ")) && line.contains("listener=\"unix\""), "{line}");
        assert!(line.contains(&format!("status={status}")), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }

    secure.client(Some(&secure.trusted)).send(&Request::new("GET", "/os/1.0/system/provider")).unwrap();
    let [line] = &lines()[..] else { panic!("not one line") };
    assert!(line.contains("caller=certificate ") && line.contains("listener=\"https\""), "{line}");

    // Documents without secrets and lists leave no trace.
    gateway.get("/1.0/system/update");
    gateway.get("/1.0/system");
    assert_eq!(lines(), [""; 0]);
}
