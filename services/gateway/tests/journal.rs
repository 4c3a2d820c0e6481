//! `debug/log`: selection, the two formats, and what happens when reading fails.

#![allow(clippy::unwrap_used, reason = "a test may panic in its helper functions too")]

mod support;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::Arc,
};

use runner::{Reply, ScriptedRunner};
use serde_json::json;
use support::{Running, error, eventually, metadata};
use testkit::client::Request;

const EXPORT: &str = "application/vnd.fdo.journal";

fn scripted(command_line: &str, reply: Reply) -> Running {
    Running::with_runner(Arc::new(ScriptedRunner::new().expect(command_line, reply)))
}

#[test]
fn entries_are_a_list_in_the_envelope() {
    let entries = r#"{"MESSAGE":"one\ntwo","_PID":"1"}
{"MESSAGE":[1,2,255]}
{"MESSAGE":null}
"#;
    let gateway = scripted("journalctl --no-pager --quiet --output=json --boot=0", Reply::Stdout(entries.into()));
    assert_eq!(
        metadata(&gateway.get("/1.0/debug/log")),
        json!([{ "MESSAGE": "one\ntwo", "_PID": "1" }, { "MESSAGE": [1, 2, 255] }, { "MESSAGE": null }])
    );
}

#[test]
fn every_filter_becomes_one_argument() {
    let gateway = scripted(
        "journalctl --no-pager --quiet --output=json --boot=-1 --unit=incus-osd --lines=10 --since=-1h --until=2026-11-22 10:00",
        Reply::Stdout(Vec::new()),
    );
    let path = "/1.0/debug/log?unit=incus-osd&boot=-1&entries=10&since=-1h&until=2026-11-22+10%3A00&target=x";
    assert_eq!(metadata(&gateway.get(path)), json!([]));
}

#[test]
fn hostile_filters_start_no_program() {
    let gateway = Running::start();
    for query in [
        "boot=--file=/etc/shadow",
        "boot=0%20--vacuum-size=1",
        "entries=--vacuum-files=1",
        "entries=-1",
        "unit=-u",
        "unit=a%0ab",
        "unit=..%2F..%2Fx",
        "since=%00",
        "until=%1b%5b2J",
        "follow",
    ] {
        error(&gateway.get(&format!("/1.0/debug/log?{query}")), 400);
    }
}

#[test]
fn a_long_list_is_passed_through_whole() {
    let entry = format!("{{\"MESSAGE\":\"{}\"}}\n", "x".repeat(1_000));
    let gateway =
        scripted("journalctl --no-pager --quiet --output=json --boot=0", Reply::Stdout(entry.repeat(5_000).into()));
    let response = gateway.get("/1.0/debug/log");
    assert_eq!(response.header("transfer-encoding"), Some("chunked"));
    assert_eq!(metadata(&response).as_array().unwrap().len(), 5_000);
}

#[test]
fn a_journal_that_cannot_be_read_is_a_failure() {
    let reply = Reply::Failure(1, "Data from the specified boot (-9) is not available".into());
    let gateway = scripted("journalctl --no-pager --quiet --output=json --boot=-9", reply);
    assert_eq!(
        error(&gateway.get("/1.0/debug/log?boot=-9"), 500),
        "Failed to run: journalctl --no-pager --quiet --output=json --boot=-9: exit status 1 \
         (Data from the specified boot (-9) is not available)"
    );
}

#[test]
fn a_journal_that_breaks_off_breaks_the_answer_off() {
    for (accept, output, printed) in [("application/json", "json", "{}\n"), (EXPORT, "export", "MESSAGE=x\n\n")] {
        let command_line = format!("journalctl --no-pager --quiet --output={output} --boot=0");
        let gateway = scripted(&command_line, Reply::StdoutThenFailure(printed.into(), 1, "disk error".into()));
        let request = Request::new("GET", "/1.0/debug/log").header("Accept", accept);
        let broken = gateway.client().send(&request);
        assert!(broken.is_err(), "{broken:?}");
    }
}

#[test]
fn the_export_format_is_passed_through_unchanged() {
    let mut exported = b"__CURSOR=s=1\n__REALTIME_TIMESTAMP=1700000000000000\nMESSAGE\n".to_vec();
    exported.extend_from_slice(&5_u64.to_le_bytes());
    exported.extend_from_slice(b"a\nb\0c\n\n");
    let gateway = scripted(
        "journalctl --no-pager --quiet --output=export --boot=0 --unit=incus-osd-gateway",
        Reply::Stdout(exported.clone()),
    );
    let accept = [("Accept", "text/plain;q=0.1, application/vnd.fdo.journal")];
    let response = gateway.send("GET", "/1.0/debug/log?unit=incus-osd-gateway", &accept, None);
    assert_eq!((response.status, response.header("content-type")), (200, Some(EXPORT)));
    assert_eq!(response.body, exported);
}

#[test]
fn an_empty_export_is_empty() {
    let gateway = scripted("journalctl --no-pager --quiet --output=export --boot=0", Reply::Stdout(Vec::new()));
    let response = gateway.send("GET", "/1.0/debug/log", &[("Accept", EXPORT)], None);
    assert_eq!((response.status, response.body.len()), (200, 0));
}

#[test]
fn a_follower_is_answered_at_once_and_ended_when_its_client_leaves() {
    let gateway = scripted(FOLLOW, Reply::Hang);
    let mut connection = follow(&gateway);
    assert!(connection.starts_with("HTTP/1.1 200 OK\r\n"), "{}", connection.read);
    assert!(open_readers(&gateway) > 0.0);
    drop(connection);
    eventually("the reader to end", || {
        let open = open_readers(&gateway);
        (open < 1.0).then_some(()).ok_or_else(|| format!("{open} readers"))
    });
}

#[test]
fn a_follower_ends_properly_when_the_gateway_stops() {
    let mut gateway = scripted(FOLLOW, Reply::Hang);
    let mut connection = follow(&gateway);
    let served = gateway.stop();
    assert!(connection.rest().ends_with("\r\n\r\n0\r\n\r\n"), "{}", connection.read);
    gateway.runtime().block_on(served).unwrap();
}

#[test]
fn the_journal_has_a_limited_number_of_readers() {
    let mut script = ScriptedRunner::new();
    for _ in 0..16 {
        script = script.expect(FOLLOW, Reply::Hang);
    }
    let gateway = Running::with_runner(Arc::new(script));
    let readers: Vec<_> = (0..16).map(|_| follow(&gateway)).collect();
    assert!(error(&gateway.get("/1.0/debug/log"), 503).contains("too many readers"));
    drop(readers);
}

const FOLLOW: &str = "journalctl --no-pager --quiet --output=export --boot=0 --follow --no-tail";

/// An answer that does not end.
struct Following {
    stream: UnixStream,
    read: String,
}

/// Follows the journal, up to and including the head of the answer.
fn follow(gateway: &Running) -> Following {
    let mut stream = UnixStream::connect(gateway.rest()).unwrap();
    let request = format!("GET /1.0/debug/log?follow HTTP/1.1\r\nHost: x\r\nAccept: {EXPORT}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut read = String::new();
    while !read.ends_with("\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        read.push(byte[0].into());
    }
    Following { stream, read }
}

impl Following {
    fn starts_with(&mut self, text: &str) -> bool {
        self.read.starts_with(text)
    }

    fn rest(&mut self) -> &str {
        self.stream.read_to_string(&mut self.read).unwrap();
        &self.read
    }
}

fn open_readers(gateway: &Running) -> f64 {
    let report = metadata(&gateway.get("/1.0/debug/report?match=gateway_journal_readers_open"));
    report["metrics"][0]["value"].as_f64().unwrap()
}
