//! The HTTPS listener: who is let in, and how it follows its settings.

#![allow(clippy::unwrap_used, reason = "a test may panic in its helper functions too")]

mod support;

use std::{io::Read, sync::Arc};

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::json;
use service::Identity;
use support::{Running, Secure, der, error, eventually, free_address, metadata};
use testkit::{
    client::{Client, Request, ServerTrust},
    identity::Identity as Certificate,
};

#[test]
fn only_trusted_certificates_are_let_in_and_urls_carry_the_prefix() {
    let gateway = Running::start();
    let secure = Secure::on(&gateway);
    let stranger = Certificate::generate("stranger").unwrap();
    for path in ["/", "/1.0", "/os/1.0", "/1.0/system/storage", "/internal/secureboot", "/nowhere"] {
        for identity in [None, Some(&stranger)] {
            let response = secure.client(identity).get(path).unwrap();
            assert_eq!(error(&response, 403), "Forbidden", "{path}");
        }
    }
    let admin = secure.client(Some(&secure.trusted));
    assert_eq!(metadata(&admin.get("/").unwrap()), json!(["/os/1.0"]));
    assert_eq!(metadata(&admin.get("/os").unwrap()), json!(["/os/1.0"]));
    assert_eq!(metadata(&admin.get("/os/1.0/system").unwrap())[0], "/os/1.0/system/kernel");
    let forged = Request::new("GET", "/1.0/debug/secureboot").header("X-IncusOS-Proxy", "/");
    assert_eq!(metadata(&admin.send(&forged).unwrap()), json!(["/os/1.0/debug/secureboot/event-log"]));
    assert_eq!(error(&admin.get("/os/os/1.0").unwrap(), 404), "not found");
}

#[test]
fn internal_endpoints_are_closed_to_everybody() {
    let gateway = Running::start();
    let secure = Secure::on(&gateway);
    let admin = secure.client(Some(&secure.trusted));
    for path in ["/internal/secureboot", "/os/internal/secureboot"] {
        assert_eq!(error(&admin.get(path).unwrap(), 403), "not authorized");
    }
    let write = Request::new("POST", "/internal/tui/:write-message").json(&json!({ "message": "x" }));
    assert_eq!(error(&admin.send(&write).unwrap(), 403), "not authorized");
}

#[test]
fn a_stranger_is_not_kept() {
    let gateway = Running::start();
    let secure = Secure::on(&gateway);
    let mut connection = secure.client(None).connect().unwrap();
    let response = connection.send(&Request::new("GET", "/1.0")).unwrap();
    error(&response, 403);
    connection.expect_end().unwrap();
}

#[test]
fn a_change_of_trust_acts_on_the_next_request_of_an_open_connection() {
    let gateway = Running::start();
    let secure = Secure::on(&gateway);
    let mut connection = secure.client(Some(&secure.trusted)).connect().unwrap();
    let request = Request::new("GET", "/1.0/system");
    metadata(&connection.send(&request).unwrap());
    let mut settings = secure.settings();
    let other = Certificate::generate("other").unwrap();
    settings.trusted_client_certificates = vec![der(&other)];
    secure.tell(&settings);
    eventually("the other to be let in", || {
        let response = secure.client(Some(&other)).send(&request).map_err(|error| error.to_string())?;
        (response.status == 200).then_some(()).ok_or_else(|| response.text())
    });
    error(&connection.send(&request).unwrap(), 403);
}

#[test]
fn a_certificate_that_has_run_out_is_trusted_only_while_the_clock_is_not() {
    let gateway = Running::start();
    let secure = Secure::on(&gateway);
    let expired = expired_certificate();
    let mut settings = secure.settings();
    settings.trusted_client_certificates.push(der(&expired));
    secure.tell(&settings);
    let request = Request::new("GET", "/1.0/system");
    error(&secure.client(Some(&expired)).send(&request).unwrap(), 403);
    std::fs::remove_file(gateway.dir.path().join("run/systemd/timesync/synchronized")).unwrap();
    eventually("the expired certificate to be let in", || {
        let response = secure.client(Some(&expired)).send(&request).map_err(|error| error.to_string())?;
        (response.status == 200).then_some(()).ok_or_else(|| response.text())
    });
}

#[test]
fn a_move_finishes_what_is_under_way_and_then_leaves_the_old_address() {
    let gateway = Running::start();
    let mut secure = Secure::on(&gateway);
    let storage = gateway.owner(Identity::Storage);
    storage.hangs("Get");
    let old = secure.client(Some(&secure.trusted));
    let mut busy = old.connect().unwrap();
    let mut idle = old.connect().unwrap();
    metadata(&idle.send(&Request::new("GET", "/1.0/system")).unwrap());
    busy.send_raw(b"GET /1.0/system/storage HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    eventually("the call", || (storage.count("Get") == 1).then_some(()).ok_or_else(String::new));

    secure.address = free_address();
    secure.tell(&secure.settings());
    secure.wait_until_open();
    assert!(old.connect().is_err());
    idle.expect_end().unwrap();
    // Its answer: the service behind it went away only now.
    storage.kill();
    error(&busy.receive("GET").unwrap(), 503);
    metadata(&secure.client(Some(&secure.trusted)).get("/1.0/system").unwrap());
}

#[test]
fn without_an_address_it_is_closed_and_with_one_open_again() {
    let gateway = Running::start();
    let secure = Secure::on(&gateway);
    secure.tell(&api::v1::ListenerSettings { listen_address: String::new(), ..secure.settings() });
    eventually("the listener to close", || match secure.client(None).connect() {
        Ok(_) => Err("open".to_owned()),
        Err(_) => Ok(()),
    });
    secure.tell(&secure.settings());
    secure.wait_until_open();
}

#[test]
fn the_listener_outlives_its_supervisor_and_follows_the_next_one() {
    let gateway = Running::start();
    let secure = Secure::on(&gateway);
    secure.supervisor.kill();
    let admin = secure.client(Some(&secure.trusted));
    metadata(&admin.get("/1.0").unwrap());
    let next = Certificate::generate("next").unwrap();
    let mut settings = secure.settings();
    settings.trusted_client_certificates = vec![der(&next)];
    secure.tell(&settings);
    secure.supervisor.revive();
    eventually("the new trust", || {
        let response = secure.client(Some(&next)).get("/1.0/system").map_err(|error| error.to_string())?;
        (response.status == 200).then_some(()).ok_or_else(|| response.text())
    });
}

#[test]
fn tls_below_1_3_is_refused() {
    let gateway = Running::start();
    let secure = Secure::on(&gateway);
    let config = client_config(&secure, &[&rustls::version::TLS12], b"http/1.1");
    let mut socket = std::net::TcpStream::connect(secure.address).unwrap();
    let mut session = rustls::ClientConnection::new(Arc::new(config), server_name(&secure)).unwrap();
    let outcome = loop {
        match session.complete_io(&mut socket) {
            Ok(_) if session.is_handshaking() => {}
            outcome => break outcome,
        }
    };
    assert!(outcome.is_err(), "{outcome:?}");
    // And what is not TLS at all does not get an answer.
    let mut socket = std::net::TcpStream::connect(secure.address).unwrap();
    std::io::Write::write_all(&mut socket, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
}

#[test]
fn http2_is_spoken_to_those_who_offer_it() {
    let gateway = Running::start();
    let secure = Secure::on(&gateway);
    let config = client_config(&secure, &[&rustls::version::TLS13], b"h2");
    let (address, name) = (secure.address, server_name(&secure));
    gateway.runtime().block_on(async move {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        for (method, path, status) in
            [("GET", "/os/1.0/system", 200), ("GET", "/nowhere", 404), ("DELETE", "/1.0", 501), ("HEAD", "/1.0", 501)]
        {
            let request = http::Request::builder().method(method).uri(format!("https://host{path}"));
            let response = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
            assert_eq!(response.status(), status, "{method} {path}");
            assert!(!response.headers().contains_key("connection"));
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body.is_empty(), method == "HEAD", "{body:?}");
        }
    });
}

#[test]
fn two_hundred_clients_are_answered_at_once() {
    let gateway = Running::start();
    let secure = Secure::on(&gateway);
    let client = secure.client(Some(&secure.trusted));
    let mut connections: Vec<_> = (0..200).map(|_| client.connect().unwrap()).collect();
    for connection in &mut connections {
        connection.send_raw(b"GET /1.0/system HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    }
    for connection in &mut connections {
        metadata(&connection.receive("GET").unwrap());
    }
}

#[test]
fn silent_strangers_lock_out_neither_the_machine_nor_other_sources() {
    let gateway = Running::start();
    let secure = Secure::on(&gateway);
    // More than one source is granted; none of them ever says a word.
    let silent: Vec<_> = (0..300).map_while(|_| std::net::TcpStream::connect(secure.address).ok()).collect();
    assert!(secure.client(Some(&secure.trusted)).connect().is_err());
    metadata(&gateway.get("/1.0/system"));
    let config = client_config(&secure, &[&rustls::version::TLS13], b"http/1.1");
    let (address, name) = (secure.address, server_name(&secure));
    let status = gateway.runtime().block_on(async move {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        let socket = socket.connect(address).await.unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::builder().uri("/1.0/system").header("host", "x");
        sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap().status()
    });
    assert_eq!(status, 200);
    drop(silent);
}

#[test]
fn another_server_certificate_is_shown_to_the_next_client() {
    let gateway = Running::start();
    let mut secure = Secure::on(&gateway);
    let mut connection = secure.client(Some(&secure.trusted)).connect().unwrap();
    let next = Certificate::generate("next server").unwrap();
    secure.server = next.clone();
    secure.tell(&secure.settings());
    eventually("the new certificate", || {
        let client =
            Client::https(secure.address, Some(&secure.trusted), &ServerTrust::Pinned(next.certificate.clone()));
        client.and_then(|client| client.connect()).map(drop).map_err(|error| error.to_string())
    });
    // The old connection goes on.
    metadata(&connection.send(&Request::new("GET", "/1.0/system")).unwrap());
}

fn server_name(secure: &Secure) -> ServerName<'static> {
    ServerName::IpAddress(secure.address.ip().into())
}

fn client_config(secure: &Secure, versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[u8]) -> ClientConfig {
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let chain = vec![CertificateDer::from(der(&secure.trusted))];
    let key = PrivateKeyDer::from_pem_slice(secure.trusted.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(support::AnyServer(provider)))
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

fn expired_certificate() -> Certificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.not_before = rcgen::date_time_ymd(2000, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let certificate = parameters.self_signed(&key).unwrap();
    Certificate { certificate: certificate.pem(), key: key.serialize_pem() }
}
