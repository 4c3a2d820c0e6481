//! A gateway in a folder of its own, with stand-ins for the other services.

#![allow(dead_code, unreachable_pub, reason = "shared by test files, each of which uses its own part")]

pub mod owner;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use api::v1::ListenerSettings;
use gateway::{Machine, Setup};
use owner::Owner;
use runner::{Runner, ScriptedRunner};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{self, CryptoProvider},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use serde_json::Value;
use service::{Identity, Peers};
use tempfile::TempDir;
use testkit::{
    client::{Client, Request, Response, ServerTrust},
    identity::Identity as Certificate,
    wait::wait_for,
};
use tokio::{
    net::UnixListener,
    runtime::{Builder, Runtime},
    sync::watch,
    task::JoinHandle,
};

const LIMIT: Duration = Duration::from_secs(30);

/// A running gateway. Its services run only if the test starts them.
pub struct Running {
    pub dir: TempDir,
    runtime: Option<Runtime>,
    stop: Option<watch::Sender<()>>,
    served: Option<JoinHandle<()>>,
}

impl Running {
    /// A gateway that may not start any program.
    pub fn start() -> Self {
        Self::with_runner(Arc::new(ScriptedRunner::new()))
    }

    pub fn with_runner(runner: Arc<dyn Runner>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write(&dir, "usr/lib/os-release", "NAME=\"TestOS\"\nIMAGE_VERSION=202611221530\n");
        write(&dir, "etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        write(&dir, "proc/modules", "b 1 0 - Live 0x0\na 1 1 b, Live 0x0\n");
        write(&dir, "proc/meminfo", "MemTotal: 2048 kB\n");
        write(&dir, "proc/loadavg", "0.5 0.25 0.125 1/2 3\n");
        write(&dir, "run/systemd/timesync/synchronized", "");
        // One thread for the gateway and its services, like in production; the test itself blocks.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stop, mut stopped) = watch::channel(());
        let entered = runtime.enter();
        let setup = Setup {
            rest: UnixListener::bind(dir.path().join("rest.sock")).unwrap(),
            peers: Peers::in_dir(dir.path()),
            machine: Machine::at(dir.path()),
            runner,
        };
        let served = runtime.spawn(gateway::serve(setup, || {}, async move {
            let _ = stopped.changed().await;
        }));
        drop(entered);
        Self { dir, runtime: Some(runtime), stop: Some(stop), served: Some(served) }
    }

    /// Starts the stand-in for one service.
    pub fn owner(&self, identity: Identity) -> Owner {
        let socket = self.dir.path().join(identity.name()).with_extension("sock");
        Owner::start(self.runtime.as_ref().unwrap().handle().clone(), socket)
    }

    pub fn rest(&self) -> PathBuf {
        self.dir.path().join("rest.sock")
    }

    pub fn client(&self) -> Client {
        Client::unix(&self.rest()).with_patience(LIMIT)
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Response {
        let mut request = Request::new(method, path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        self.client().send(&request).unwrap()
    }

    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], None)
    }

    pub fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().unwrap()
    }

    /// Asks the gateway to stop; the answer resolves when it has.
    pub fn stop(&mut self) -> JoinHandle<()> {
        drop(self.stop.take());
        self.served.take().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn write(dir: &TempDir, path: &str, text: &str) {
    let path = dir.path().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// The HTTPS side of a gateway: what its supervisor tells it.
pub struct Secure {
    pub supervisor: Owner,
    pub server: Certificate,
    pub trusted: Certificate,
    pub address: SocketAddr,
}

impl Secure {
    pub fn on(running: &Running) -> Self {
        let secure = Self {
            supervisor: running.owner(Identity::Supervisor),
            server: Certificate::generate("server").unwrap(),
            trusted: Certificate::generate("admin").unwrap(),
            address: free_address(),
        };
        secure.supervisor.streams("WatchListener");
        secure.tell(&secure.settings());
        secure.wait_until_open();
        secure
    }

    pub fn settings(&self) -> ListenerSettings {
        ListenerSettings {
            listen_address: self.address.to_string(),
            trusted_client_certificates: vec![der(&self.trusted)],
            server_certificate: self.server.certificate.clone(),
            server_key: self.server.key.clone(),
        }
    }

    pub fn tell(&self, settings: &ListenerSettings) {
        self.supervisor.stream("WatchListener", settings);
    }

    pub fn wait_until_open(&self) {
        let connects = || self.client(None).connect().map(drop).map_err(|error| error.to_string());
        wait_for("the HTTPS listener", LIMIT, connects).unwrap();
    }

    pub fn client(&self, identity: Option<&Certificate>) -> Client {
        let trust = ServerTrust::Pinned(self.server.certificate.clone());
        Client::https(self.address, identity, &trust).unwrap().with_patience(LIMIT)
    }
}

pub fn der(certificate: &Certificate) -> Vec<u8> {
    CertificateDer::from_pem_slice(certificate.certificate.as_bytes()).unwrap().to_vec()
}

/// An address of this machine that nobody listens on.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits for a condition that must come true soon.
pub fn eventually<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    wait_for(what, LIMIT, look).unwrap()
}

/// Checks that the answer is the success envelope, and takes its metadata.
#[track_caller]
pub fn metadata(response: &Response) -> Value {
    let envelope = envelope(response);
    assert_eq!(response.status, 200, "{envelope}");
    assert_eq!(envelope["type"], "sync");
    assert_eq!(envelope["status"], "Success");
    assert_eq!((&envelope["status_code"], &envelope["error_code"]), (&200.into(), &0.into()));
    assert_eq!((&envelope["error"], &envelope["operation"]), (&"".into(), &"".into()));
    envelope["metadata"].clone()
}

/// Checks that the answer is the error envelope with this status, and takes its text.
#[track_caller]
pub fn error(response: &Response, status: u16) -> String {
    let envelope = envelope(response);
    assert_eq!(response.status, status, "{envelope}");
    assert_eq!(envelope["type"], "error");
    assert_eq!(envelope["status"], "");
    assert_eq!((&envelope["status_code"], &envelope["error_code"]), (&0.into(), &status.into()));
    assert_eq!((&envelope["metadata"], &envelope["operation"]), (&Value::Null, &"".into()));
    assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    envelope["error"].as_str().unwrap().to_owned()
}

#[track_caller]
fn envelope(response: &Response) -> Value {
    assert_eq!(response.header("content-type"), Some("application/json"), "{}", response.text());
    assert_eq!(response.body.last(), Some(&b'\n'), "{}", response.text());
    let envelope = response.json().unwrap();
    let keys: Vec<_> = envelope.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["type", "status", "status_code", "operation", "error_code", "error", "metadata"]);
    envelope
}

/// Accepts every server that holds the key of its certificate.
#[derive(Debug)]
pub struct AnyServer(pub Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
