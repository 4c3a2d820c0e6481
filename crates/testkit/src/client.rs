//! A blocking HTTP/1.1 client for the management API that can also break the rules.
//!
//! Small on purpose: tests need exact control over what goes over the wire (raw bytes, half
//! requests, kept connections, two hundred at once), which a comfortable client takes away.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use serde_json::Value;

use crate::identity::Identity;

const HEAD_LIMIT: usize = 64 << 10;
const BODY_LIMIT: usize = 256 << 20;

/// A request was not answered, or its answer was not HTTP.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No connection.
    #[error("cannot connect to {to}")]
    Connect {
        /// Address or path.
        to: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or stayed silent for too long.
    #[error("the connection to {to} broke while {doing}")]
    Broken {
        /// Address or path.
        to: String,
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What came is no HTTP response.
    #[error("{to} answered with something that is not HTTP: {defect}")]
    NotHttp {
        /// Address or path.
        to: String,
        /// What is wrong with it.
        defect: String,
    },
    /// The body is not JSON.
    #[error("the answer is not JSON: {body}")]
    NotJson {
        /// The start of the body.
        body: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The client's certificate, its key or the server's pinned certificate is not usable.
    #[error("unusable {what}: {defect}")]
    Credentials {
        /// Which one.
        what: &'static str,
        /// What is wrong with it.
        defect: String,
    },
}

/// Which server certificate is accepted.
#[derive(Clone, Debug)]
pub enum ServerTrust {
    /// Any: for the first contact with a new machine only.
    FirstUse,
    /// Exactly this one (PEM), whatever its names and dates.
    Pinned(String),
}

/// Where requests go and who sends them. Cheap to clone, usable from many threads.
#[derive(Clone)]
pub struct Client {
    endpoint: Endpoint,
    patience: Duration,
}

#[derive(Clone)]
enum Endpoint {
    Https { address: SocketAddr, config: Arc<ClientConfig> },
    Unix(PathBuf),
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("to", &self.endpoint.to_string()).finish_non_exhaustive()
    }
}

impl Client {
    /// A client for `https://address`, with or without a certificate of its own.
    ///
    /// # Errors
    ///
    /// When a certificate or key is not usable; nothing is sent yet.
    pub fn https(address: SocketAddr, identity: Option<&Identity>, trust: &ServerTrust) -> Result<Self, ClientError> {
        let verifier = Verifier {
            accepted: match trust {
                ServerTrust::FirstUse => None,
                ServerTrust::Pinned(pem) => Some(certificate("server certificate", pem)?),
            },
            seen: Arc::default(),
        };
        let config = Arc::new(tls_config(verifier, identity)?);
        Ok(Self { endpoint: Endpoint::Https { address, config }, patience: PATIENCE })
    }

    /// A client for a service's Unix socket.
    #[must_use]
    pub fn unix(socket: &Path) -> Self {
        Self { endpoint: Endpoint::Unix(socket.to_owned()), patience: PATIENCE }
    }

    /// The same client with another limit for the server's silence.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Opens a connection; over TLS the handshake is done when this returns.
    ///
    /// # Errors
    ///
    /// When nobody listens or the handshake fails.
    pub fn connect(&self) -> Result<Connection, ClientError> {
        let to = self.endpoint.to_string();
        let connect = |source| ClientError::Connect { to: to.clone(), source };
        let stream: Box<dyn Stream> = match &self.endpoint {
            Endpoint::Https { address, config } => {
                Box::new(handshake(*address, config, self.patience).map_err(connect)?)
            }
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(connect)?;
                stream.set_read_timeout(Some(self.patience)).map_err(connect)?;
                stream.set_write_timeout(Some(self.patience)).map_err(connect)?;
                Box::new(stream)
            }
        };
        Ok(Connection { to, stream, received: Vec::new() })
    }

    /// Sends one request on a connection of its own.
    ///
    /// # Errors
    ///
    /// When it is not answered. An error *status* is an answer.
    pub fn send(&self, request: &Request) -> Result<Response, ClientError> {
        self.connect()?.send(request)
    }

    /// `GET path`.
    ///
    /// # Errors
    ///
    /// As [`Client::send`].
    pub fn get(&self, path: &str) -> Result<Response, ClientError> {
        self.send(&Request::new("GET", path))
    }

    /// `PUT path` with a JSON body.
    ///
    /// # Errors
    ///
    /// As [`Client::send`].
    pub fn put(&self, path: &str, body: &Value) -> Result<Response, ClientError> {
        self.send(&Request::new("PUT", path).json(body))
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    ///
    /// As [`Client::send`].
    pub fn post(&self, path: &str, body: &Value) -> Result<Response, ClientError> {
        self.send(&Request::new("POST", path).json(body))
    }
}

/// Limit for the silence of a server that runs under software emulation.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks a server for its certificate (PEM) and accepts whichever it shows.
///
/// # Errors
///
/// When nobody listens or the handshake fails.
pub fn server_certificate(address: SocketAddr, patience: Duration) -> Result<String, ClientError> {
    let verifier = Verifier::default();
    let seen = Arc::clone(&verifier.seen);
    let config = Arc::new(tls_config(verifier, None)?);
    handshake(address, &config, patience).map_err(|source| ClientError::Connect { to: address.to_string(), source })?;
    let certificate = seen.lock().ok().and_then(|mut seen| seen.take());
    let certificate = certificate
        .ok_or_else(|| ClientError::Credentials { what: "server certificate", defect: "none was shown".to_owned() })?;
    Ok(pem::encode(&pem::Pem::new("CERTIFICATE", certificate.as_ref())))
}

/// One request, as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    /// A request without a body. Neither method nor path is checked.
    #[must_use]
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.to_owned(), path: path.to_owned(), headers: Vec::new(), body: None }
    }

    /// Adds a header line; nothing stops a test from adding a second `Content-Length`.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body; its `Content-Length` is added when sending.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sets a JSON body.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string())
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str("Host: incus-os\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header lines in their order, names as sent.
    pub headers: Vec<(String, String)>,
    /// The body with any chunking taken off.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of the first header of that name, in any letter case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(candidate, _)| candidate.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text, for messages.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// When it is not JSON.
    pub fn json(&self) -> Result<Value, ClientError> {
        serde_json::from_slice(&self.body)
            .map_err(|source| ClientError::NotJson { body: self.text().chars().take(200).collect(), source })
    }
}

/// A kept-alive connection.
pub struct Connection {
    to: String,
    stream: Box<dyn Stream>,
    received: Vec<u8>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("to", &self.to).finish_non_exhaustive()
    }
}

impl Connection {
    /// Sends a request and reads its answer; the connection can be used again after it.
    ///
    /// # Errors
    ///
    /// When the connection breaks first.
    pub fn send(&mut self, request: &Request) -> Result<Response, ClientError> {
        let written = self.send_raw(&request.to_bytes());
        match self.receive(&request.method) {
            // A server may answer a request that it refuses before all of it was sent, and close.
            // The answer counts; without one, what broke first is the better story.
            Ok(response) => Ok(response),
            Err(error) => Err(written.err().unwrap_or(error)),
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.stream.write_all(bytes).and_then(|()| self.stream.flush()).map_err(|source| self.broken("sending", source))
    }

    /// Reads one answer to a request with the given method. Interim (1xx) answers are skipped.
    ///
    /// # Errors
    ///
    /// When the connection breaks or what comes is not HTTP.
    pub fn receive(&mut self, method: &str) -> Result<Response, ClientError> {
        loop {
            let (status, headers) = self.receive_head()?;
            if (100..200).contains(&status) {
                continue;
            }
            let mut response = Response { status, headers, body: Vec::new() };
            let without_body = method == "HEAD" || status == 204 || status == 304;
            let chunked =
                response.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
            response.body = match response.header("content-length").map(str::parse::<usize>) {
                _ if without_body => Vec::new(),
                _ if chunked => self.receive_chunks()?,
                Some(Ok(length)) => self.take(length)?,
                Some(Err(error)) => return Err(self.not_http(format!("content-length: {error}"))),
                None => self.receive_rest()?,
            };
            return Ok(response);
        }
    }

    /// Whether the server closes the connection, as it must after some defects, without sending
    /// anything more.
    ///
    /// # Errors
    ///
    /// When more bytes come, or nothing happens for the client's patience.
    pub fn expect_end(&mut self) -> Result<(), ClientError> {
        match self.fill() {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.not_http("more bytes instead of the end".to_owned())),
            Err(ClientError::Broken { source, .. }) if ended(&source) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn receive_head(&mut self) -> Result<(u16, Vec<(String, String)>), ClientError> {
        let end = loop {
            if let Some(at) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if self.received.len() > HEAD_LIMIT {
                return Err(self.not_http("the head does not end".to_owned()));
            }
            self.fill_more("waiting for the answer")?;
        };
        let head: Vec<u8> = self.received.drain(..end).collect();
        let mut lines = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut lines);
        let status = match parsed.parse(&head) {
            Ok(httparse::Status::Complete(_)) => parsed.code,
            Ok(httparse::Status::Partial) => None,
            Err(error) => return Err(self.not_http(error.to_string())),
        };
        let status = status.ok_or_else(|| self.not_http("no status line".to_owned()))?;
        let headers = parsed
            .headers
            .iter()
            .map(|line| {
                let value = String::from_utf8_lossy(line.value).into_owned();
                (line.name.to_owned(), value)
            })
            .collect();
        Ok((status, headers))
    }

    fn receive_chunks(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        loop {
            let line = self.take_line()?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16)
                .map_err(|error| self.not_http(format!("chunk size `{digits}`: {error}")))?;
            if size == 0 {
                while !self.take_line()?.is_empty() {}
                return Ok(body);
            }
            if body.len().saturating_add(size) > BODY_LIMIT {
                return Err(self.not_http("the body does not end".to_owned()));
            }
            body.append(&mut self.take(size)?);
            if !self.take_line()?.is_empty() {
                return Err(self.not_http("a chunk is longer than it says".to_owned()));
            }
        }
    }

    fn receive_rest(&mut self) -> Result<Vec<u8>, ClientError> {
        while self.fill()? > 0 {
            if self.received.len() > BODY_LIMIT {
                return Err(self.not_http("the body does not end".to_owned()));
            }
        }
        Ok(std::mem::take(&mut self.received))
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, ClientError> {
        if length > BODY_LIMIT {
            return Err(self.not_http(format!("a body of {length} bytes")));
        }
        while self.received.len() < length {
            self.fill_more("reading the body")?;
        }
        Ok(self.received.drain(..length).collect())
    }

    fn take_line(&mut self) -> Result<String, ClientError> {
        loop {
            if let Some(at) = self.received.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.received[..at]).into_owned();
                self.received.drain(..at + 2);
                return Ok(line);
            }
            if self.received.len() > HEAD_LIMIT {
                return Err(self.not_http("a line does not end".to_owned()));
            }
            self.fill_more("reading a chunk")?;
        }
    }

    fn fill_more(&mut self, doing: &'static str) -> Result<(), ClientError> {
        if self.fill()? == 0 {
            return Err(self.broken(doing, io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<usize, ClientError> {
        let mut buffer = [0; 16 << 10];
        let count = self.stream.read(&mut buffer).map_err(|source| self.broken("reading", source))?;
        self.received.extend_from_slice(&buffer[..count]);
        Ok(count)
    }

    fn broken(&self, doing: &'static str, source: io::Error) -> ClientError {
        ClientError::Broken { to: self.to.clone(), doing, source }
    }

    fn not_http(&self, defect: String) -> ClientError {
        ClientError::NotHttp { to: self.to.clone(), defect }
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Https { address, .. } => write!(f, "https://{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Ways in which a peer's close shows.
fn ended(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

fn handshake(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    patience: Duration,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut socket = TcpStream::connect_timeout(&address, patience)?;
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    socket.set_nodelay(true)?;
    let name = ServerName::IpAddress(address.ip().into());
    let mut session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(session, socket))
}

fn tls_config(verifier: Verifier, identity: Option<&Identity>) -> Result<ClientConfig, ClientError> {
    let unusable = |what, defect: &dyn fmt::Display| ClientError::Credentials { what, defect: defect.to_string() };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("protocol versions", &error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = vec![certificate("client certificate", &identity.certificate)?];
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())
                .map_err(|error| unusable("client key", &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| unusable("client certificate", &error))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificate(what: &'static str, pem: &str) -> Result<CertificateDer<'static>, ClientError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| ClientError::Credentials { what, defect: error.to_string() })
}

/// Accepts one certificate or, on first contact, any, and remembers what it saw. That the server
/// holds the key is checked in either case.
#[derive(Debug, Default)]
struct Verifier {
    accepted: Option<CertificateDer<'static>>,
    seen: Arc<Mutex<Option<CertificateDer<'static>>>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.accepted.as_ref().is_some_and(|accepted| accepted != end_entity) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        if let Ok(mut seen) = self.seen.lock() {
            *seen = Some(end_entity.clone().into_owned());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> CryptoProvider {
    ring::default_provider()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Answers one connection with fixed bytes and gives back what it was sent.
    fn exchange(answer: &'static [u8], request: &Request) -> (Result<Response, ClientError>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).unwrap();
            stream.write_all(answer).unwrap();
            String::from_utf8_lossy(&buffer[..count]).into_owned()
        });
        let response = Client::unix(&path).send(request);
        (response, server.join().unwrap())
    }

    /// A TLS server that answers each connection with the number of client certificates it saw.
    fn tls_server(clients: &Identity) -> (SocketAddr, Identity) {
        let identity = Identity::generate("server").unwrap();
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
        let chain = vec![certificate("server", &identity.certificate).unwrap()];
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate("client", &clients.certificate).unwrap()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider().into())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        let config = Arc::new(config);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(session, stream.unwrap());
                let mut buffer = [0; 4096];
                if matches!(stream.read(&mut buffer), Ok(1..)) {
                    let count = stream.conn.peer_certificates().map_or(0, <[_]>::len);
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{count}");
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        (address, identity)
    }

    #[test]
    fn first_contact_gives_the_certificate_that_later_ones_insist_on() {
        let admin = Identity::generate("admin").unwrap();
        let (address, server) = tls_server(&admin);
        let patience = Duration::from_secs(10);
        let shown = server_certificate(address, patience).unwrap();
        let same = |pem: &str| certificate("any", pem).unwrap();
        assert_eq!(same(&shown), same(&server.certificate));

        let pinned = ServerTrust::Pinned(shown);
        for (identity, count) in [(None, "0"), (Some(&admin), "1")] {
            let client = Client::https(address, identity, &pinned).unwrap().with_patience(patience);
            assert_eq!(client.get("/").unwrap().text(), count);
        }
        let other = ServerTrust::Pinned(Identity::generate("server").unwrap().certificate);
        let client = Client::https(address, None, &other).unwrap().with_patience(patience);
        assert!(matches!(client.get("/"), Err(ClientError::Connect { .. })));
    }

    #[test]
    fn body_with_length_is_read_and_interim_answers_are_skipped() {
        let request = Request::new("POST", "/1.0").json(&serde_json::json!({"a": 1}));
        let (response, sent) =
            exchange(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", &request);
        let response = response.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "{}"));
        assert!(sent.starts_with("POST /1.0 HTTP/1.1\r\nHost: incus-os\r\n"), "{sent}");
        assert!(sent.ends_with("Content-Length: 7\r\n\r\n{\"a\":1}"), "{sent}");
    }

    #[test]
    fn chunks_are_joined() {
        let (response, _) = exchange(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: r\r\n\r\n",
            &Request::new("GET", "/"),
        );
        assert_eq!(response.unwrap().text(), "abcde");
    }

    #[test]
    fn body_without_length_ends_with_the_connection() {
        let (response, _) = exchange(b"HTTP/1.1 404 Not Found\r\n\r\ngone", &Request::new("GET", "/"));
        let response = response.unwrap();
        assert_eq!((response.status, response.text().as_str()), (404, "gone"));
    }

    #[test]
    fn half_a_body_is_an_error() {
        let (response, _) = exchange(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", &Request::new("GET", "/"));
        assert!(matches!(response, Err(ClientError::Broken { .. })), "{response:?}");
    }

    #[test]
    fn answer_that_is_not_http_is_an_error() {
        let (response, _) = exchange(b"ssh-2.0 hello\r\n\r\n", &Request::new("GET", "/"));
        assert!(matches!(response, Err(ClientError::NotHttp { .. })), "{response:?}");
    }
}
