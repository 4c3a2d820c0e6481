//! The rules that hold for every endpoint, over the Unix socket.

#![allow(clippy::unwrap_used, reason = "a test may panic in its helper functions too")]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::json;
use service::Identity;
use support::{Running, error, eventually, metadata};
use testkit::client::Request;

const PROXY: &str = "X-IncusOS-Proxy";

#[test]
fn lists_have_their_documented_order() {
    let gateway = Running::start();
    assert_eq!(metadata(&gateway.get("/")), json!(["/1.0"]));
    assert_eq!(
        metadata(&gateway.get("/1.0/debug")),
        json!([
            "/1.0/debug/kernel",
            "/1.0/debug/log",
            "/1.0/debug/processes",
            "/1.0/debug/:run-script",
            "/1.0/debug/secureboot"
        ])
    );
    assert_eq!(metadata(&gateway.get("/1.0/debug/secureboot")), json!(["/1.0/debug/secureboot/event-log"]));
    let system = ["kernel", "logging", "network", "provider", "resources", "security", "storage", "update"];
    assert_eq!(metadata(&gateway.get("/1.0/system")), json!(system.map(|name| format!("/1.0/system/{name}"))));
    assert_eq!(metadata(&gateway.get("/1.0/services")), json!([]));
    assert_eq!(metadata(&gateway.get("/1.0/applications")), json!([]));
}

#[test]
fn urls_carry_the_prefix_of_the_first_proxy_and_internal_endpoints_refuse_any() {
    let gateway = Running::start();
    let security = gateway.owner(Identity::Security);
    security.answers("GetBuiltinCertificates", &api::v1::BuiltinCertificates::default());
    for (headers, root, internal) in [
        (&[][..], "/1.0", true),
        (&[(PROXY, "/os")], "/os/1.0", false),
        (&[(PROXY, "/")], "/1.0", false),
        (&[(PROXY, "/"), (PROXY, "/os")], "/1.0", false),
        (&[(PROXY, "/1.0/provisioning/servers/x"), (PROXY, "/os")], "/1.0/provisioning/servers/x/1.0", false),
        (&[(PROXY, "")], "/1.0", false),
        (&[("X-Forwarded-For", "192.0.2.7")], "/1.0", false),
    ] {
        assert_eq!(metadata(&gateway.send("GET", "/", headers, None)), json!([root]), "{headers:?}");
        let kernel = metadata(&gateway.send("GET", "/1.0/system", headers, None))[0].clone();
        assert_eq!(kernel, format!("{root}/system/kernel"), "{headers:?}");
        let response = gateway.send("GET", "/internal/secureboot", headers, None);
        if internal {
            metadata(&response);
        } else {
            assert_eq!(error(&response, 403), "not authorized", "{headers:?}");
            // Before the method is looked at.
            let response = gateway.send("DELETE", "/internal/secureboot", headers, None);
            assert_eq!(error(&response, 403), "not authorized", "{headers:?}");
        }
    }
    assert_eq!(error(&gateway.send("DELETE", "/internal/secureboot", &[], None), 501), "not implemented");
}

#[test]
fn a_wrong_method_is_not_implemented_and_an_unknown_path_not_found() {
    let gateway = Running::start();
    for path in ["/", "/1.0", "/1.0/system", "/1.0/system/kernel", "/1.0/applications/incus", "/1.0/system/:reboot"] {
        for method in ["DELETE", "PATCH", "OPTIONS", "BREW"] {
            assert_eq!(error(&gateway.send(method, path, &[], None), 501), "not implemented", "{method} {path}");
        }
        let head = gateway.send("HEAD", path, &[], None);
        assert_eq!((head.status, head.body.len()), (501, 0), "HEAD {path}");
    }
    assert_eq!(error(&gateway.get("/1.0/system/:reboot"), 501), "not implemented");
    for path in ["/1.0/", "/1.0/nowhere", "/os/1.0", "/1.0/services/nfs", "/1.0/system/kernel/", "//1.0"] {
        assert_eq!(error(&gateway.get(path), 404), "not found", "{path}");
    }
    assert_eq!(error(&gateway.send("POST", "/1.0/nowhere", &[], None), 501), "not implemented");
    assert_eq!(error(&gateway.send("DELETE", "/1.0/services/nfs", &[], None), 404), "not found");
}

#[test]
fn what_is_not_built_says_so_and_names_itself() {
    let gateway = Running::start();
    let response = gateway.send("POST", "/1.0/system/%3Abackup", &[], None);
    assert_eq!(error(&response, 501), "`POST /1.0/system/:backup` is not available in this version");
    let response = gateway.send("PUT", "/1.0/applications/incus", &[], Some("not even JSON"));
    assert_eq!(error(&response, 501), "`PUT /1.0/applications/{name}` is not available in this version");
}

#[test]
fn a_body_may_have_any_type_and_trailing_bytes() {
    let gateway = Running::start();
    let update = gateway.owner(Identity::Update);
    update.answers("Put", &api::v1::Empty {});
    for (content_type, body) in [
        ("application/json", r#"{"config":{}}"#),
        ("application/x-www-form-urlencoded", r#"{"config":{}}"#),
        ("text/plain", "{\"config\":null,\"state\":17}\n"),
        ("application/octet-stream", r#"{"config":{"from_the_future":1}} and more"#),
        ("multipart/form-data; boundary=x", "null"),
    ] {
        let response = gateway.send("PUT", "/1.0/system/update", &[("Content-Type", content_type)], Some(body));
        assert_eq!(metadata(&response), json!({}), "{body}");
    }
    assert_eq!(update.count("Put"), 5);
}

#[test]
fn a_malformed_body_reaches_nobody() {
    let gateway = Running::start();
    let update = gateway.owner(Identity::Update);
    let deep = "[".repeat(200_000);
    for body in [
        "",
        "x",
        "{",
        "[]",
        "\"x\"",
        "7",
        r#"{"config":[]}"#,
        r#"{"config":"x"}"#,
        "config=x",
        &deep,
        "\0",
        "{\"a\":\"\u{1}\"}",
    ] {
        let response = gateway.send("PUT", "/1.0/system/update", &[], Some(body));
        error(&response, 400);
    }
    assert_eq!(update.count("Put"), 0);
}

#[test]
fn an_empty_optional_body_is_an_empty_object() {
    let gateway = Running::start();
    let supervisor = gateway.owner(Identity::Supervisor);
    supervisor.answers("PutFallbackListener", &api::v1::Empty {});
    metadata(&gateway.send("PUT", "/1.0/system/fallback-listener", &[], None));
    metadata(&gateway.send("PUT", "/1.0/system/fallback-listener", &[], Some("")));
    let mut connection = gateway.client().connect().unwrap();
    let head = "PUT /1.0/system/fallback-listener HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    connection.send_raw(head.as_bytes()).unwrap();
    metadata(&connection.receive("PUT").unwrap());
    assert_eq!(supervisor.count("PutFallbackListener"), 3);
    error(&gateway.send("PUT", "/1.0/system/fallback-listener", &[], Some(" ")), 400);
}

#[test]
fn a_put_hands_on_the_config_without_the_state() {
    let gateway = Running::start();
    let supervisor = gateway.owner(Identity::Supervisor);
    supervisor.answers("PutFallbackListener", &api::v1::Empty {});
    let body = json!({
        "config": { "listen_address": ":9443", "trusted_client_certificates": null, "persistent": true },
        "state": { "active": true },
    });
    metadata(&gateway.send("PUT", "/1.0/system/fallback-listener", &[], Some(&body.to_string())));
    let sent: api::v1::SystemFallbackListener = supervisor.last("PutFallbackListener");
    assert_eq!(sent.state, None);
    let config = sent.config.unwrap();
    assert_eq!((config.listen_address.as_str(), config.persistent), (":9443", true));
}

#[test]
fn a_body_over_the_limit_is_refused_however_it_is_sent() {
    let gateway = Running::start();
    let update = gateway.owner(Identity::Update);
    update.answers("Put", &api::v1::Empty {});
    let padded = |size: usize| format!("{{\"x\":\"{}\"}}", "a".repeat(size - 8));
    let fits = padded(1 << 20);
    metadata(&gateway.send("PUT", "/1.0/system/update", &[], Some(&fits)));
    for size in [(1 << 20) + 1, 8 << 20] {
        let response = gateway.send("PUT", "/1.0/system/update", &[], Some(&padded(size)));
        assert!(error(&response, 413).contains("too large"));
        // The same without a length in advance.
        let mut connection = gateway.client().connect().unwrap();
        let body = padded(size);
        let head = "PUT /1.0/system/update HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunked = format!("{head}{size:x}\r\n{body}\r\n0\r\n\r\n");
        let _ = connection.send_raw(chunked.as_bytes());
        error(&connection.receive("PUT").unwrap(), 413);
    }
    assert_eq!(update.count("Put"), 1);
}

#[test]
fn a_client_that_asks_first_is_told_to_continue_or_refused_at_once() {
    let gateway = Running::start();
    let update = gateway.owner(Identity::Update);
    update.answers("Put", &api::v1::Empty {});
    let mut stream = UnixStream::connect(gateway.rest()).unwrap();
    let head = |length| {
        format!(
            "PUT /1.0/system/update HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    stream.write_all(head(2).as_bytes()).unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").unwrap();
    let mut status = [0; 15];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200 OK");

    let mut stream = UnixStream::connect(gateway.rest()).unwrap();
    stream.write_all(head(2 << 20).as_bytes()).unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
}

#[test]
fn requests_may_follow_each_other_on_one_connection_without_waiting() {
    let gateway = Running::start();
    let mut connection = gateway.client().connect().unwrap();
    let request = "GET / HTTP/1.1\r\nHost: incus-os\r\n\r\n";
    connection.send_raw(request.repeat(20).as_bytes()).unwrap();
    for _ in 0..20 {
        assert_eq!(metadata(&connection.receive("GET").unwrap()), json!(["/1.0"]));
    }
}

#[test]
fn a_client_that_closed_its_sending_side_still_gets_its_answer() {
    let gateway = Running::start();
    let mut stream = UnixStream::connect(gateway.rest()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\"metadata\":[\"/1.0\"]}\n"), "{answer}");
}

#[test]
fn a_head_that_is_too_large_or_no_http_is_refused() {
    let gateway = Running::start();
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-Padding: aaaaaaaaaaaaaaaa\r\n".repeat(5_000));
    let smuggled = "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx".to_owned();
    for bytes in [long, many, smuggled, "\x16\x03\x01\x02\x00".repeat(20), "GET\r\n\r\n".to_owned()] {
        let mut stream = UnixStream::connect(gateway.rest()).unwrap();
        let _ = stream.write_all(bytes.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    }
    metadata(&gateway.get("/"));
}

#[test]
fn two_hundred_connections_are_answered_at_once() {
    let gateway = Running::start();
    let mut connections: Vec<_> = (0..200).map(|_| gateway.client().connect().unwrap()).collect();
    for connection in &mut connections {
        connection.send_raw(b"GET /1.0/system HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    }
    for connection in &mut connections {
        metadata(&connection.receive("GET").unwrap());
    }
    for connection in &mut connections {
        metadata(&connection.send(&Request::new("GET", "/1.0/debug")).unwrap());
    }
}

#[test]
fn a_stop_finishes_the_request_that_is_under_way() {
    let mut gateway = Running::start();
    let update = gateway.owner(Identity::Update);
    update.answers("Put", &api::v1::Empty {});
    let mut busy = UnixStream::connect(gateway.rest()).unwrap();
    let mut idle = gateway.client().connect().unwrap();
    metadata(&idle.send(&Request::new("GET", "/")).unwrap());
    busy.write_all(b"PUT /1.0/system/update HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    // The request is under way once its body is asked for.
    let mut interim = [0; 25];
    busy.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    let mut served = gateway.stop();
    idle.expect_end().unwrap();
    assert!(!served.is_finished());
    busy.write_all(b"{}").unwrap();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    gateway.runtime().block_on(async { (&mut served).await.unwrap() });
    eventually("the socket to refuse", || match gateway.client().connect() {
        Ok(_) => Err("still open".to_owned()),
        Err(_) => Ok(()),
    });
}
