//! The service itself: sockets, routes, and what each of them does.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Path, Request, State},
    response::{IntoResponse as _, Redirect, Response},
    routing::{MethodRouter, get, post},
};
use feed::Update;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{
    StartError,
    answer::{refusal, success, wrong_method},
    archive, certificate, image, page, proxy,
    request::{ImageRequest, Medium, Order, UpdateRequest},
    rescue,
    stream::{self, Sink},
    tickets::Tickets,
    tree::{Stored, Tree, TreeError},
};

/// Largest body of a request.
const BODY_LIMIT: usize = 1 << 20;

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Downloads at the same time, at about one MiB of memory each.
pub(crate) const DOWNLOADS: usize = 40;

/// Connections at the same time.
const CONNECTIONS: usize = 512;

/// What the service is started with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) tree: Tree,
    pub(crate) listen: String,
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

/// Why a certificate or key cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("it is not PEM")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("they do not fit each other")]
    Unusable(#[from] rustls::Error),
}

/// The server side of TLS with this PEM certificate chain and key.
pub(crate) fn tls(certificate: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves until the process is asked to stop.
pub(crate) fn run(settings: &Settings) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Downloads run on these, a semaphore keeps their number below.
        .max_blocking_threads(DOWNLOADS + 2)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .map_err(StartError::Runtime)?;
    runtime.block_on(async {
        let address = address(&settings.listen)?;
        let failed = |source| StartError::Listen { address: settings.listen.clone(), source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Runtime)?;
        let bound = listener.local_addr().map_err(failed)?;
        let scheme = if settings.tls.is_some() { "https" } else { "http" };
        tracing::info!("listening on {scheme}://{bound}");
        let acceptor = settings.tls.clone().map(TlsAcceptor::from);
        tokio::select! {
            () = accept(&listener, acceptor, router(settings.tree.clone())) => {}
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        Ok(())
    })
}

/// `:8080` is every address of the machine.
fn address(text: &str) -> Result<SocketAddr, StartError> {
    let refuse = || StartError::Address(text.to_owned());
    match text.strip_prefix(':') {
        Some(port) => Ok((Ipv6Addr::UNSPECIFIED, port.parse().map_err(|_| refuse())?).into()),
        None => text.parse().map_err(|_| refuse()),
    }
}

async fn accept(listener: &TcpListener, tls: Option<TlsAcceptor>, router: Router) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, router) = (tls.clone(), router.clone());
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(error) = greet(stream, peer, tls, router).await {
                tracing::debug!("no conversation with {peer}: {error}");
            }
        });
    }
}

/// What comes before the first request.
async fn greet(stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>, router: Router) -> io::Result<()> {
    let (stream, client) = timeout(PATIENCE, proxy::behind(stream, peer)).await??;
    match tls {
        None => converse(stream, client, router).await,
        Some(tls) => converse(timeout(PATIENCE, tls.accept(stream)).await??, client, router).await,
    }
    Ok(())
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, peer: SocketAddr, router: Router) {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(64 << 10);
    server.http2().timer(TokioTimer::new()).keep_alive_interval(Some(PATIENCE)).max_concurrent_streams(32);
    let router = router.layer(axum::Extension(Peer(peer)));
    if let Err(error) = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await {
        tracing::debug!("connection of {peer} ended: {error}");
    }
}

#[derive(Debug, Clone, Copy)]
struct Peer(SocketAddr);

/// `update.json` and its signed form.
type Documents = Vec<(&'static str, Vec<u8>)>;

/// What was ordered, to be made when it is fetched.
enum Download {
    Image { stored: Stored, archive: Vec<u8> },
    Update { name: String, documents: Documents, files: Vec<Stored> },
    Resources { name: String, documents: Documents, files: Vec<Stored> },
}

impl Download {
    /// Name of the file for the client, without `.gz`.
    fn name(&self) -> &str {
        match self {
            Self::Image { stored, .. } => stored.base_name(),
            Self::Update { name, .. } | Self::Resources { name, .. } => name,
        }
    }

    /// Bytes of memory that it holds while it waits.
    fn size(&self) -> usize {
        match self {
            Self::Image { archive, .. } => archive.len(),
            Self::Update { documents, .. } | Self::Resources { documents, .. } => {
                documents.iter().map(|(_, document)| document.len()).sum()
            }
        }
    }

    /// Makes it.
    fn write(&self, sink: &mut Sink) -> io::Result<()> {
        match self {
            Self::Image { stored, archive } => image::splice(&stored.path, archive, sink).map(drop),
            Self::Update { documents, files, .. } => archive::write(documents, files, sink).map(drop),
            Self::Resources { documents, files, .. } => rescue::write(documents, files, sink).map(drop),
        }
    }
}

struct Service {
    tree: Tree,
    tickets: Tickets<Download>,
    downloads: Arc<Semaphore>,
}

type Shared = State<Arc<Service>>;

fn router(tree: Tree) -> Router {
    let service = Service { tree, tickets: Tickets::new(), downloads: Arc::new(Semaphore::new(DOWNLOADS)) };
    let only = |route: MethodRouter<Arc<Service>>| route.fallback(wrong_method);
    Router::new()
        .route("/", only(get(root)))
        .route("/1.0", only(get(async || success(serde_json::json!({})))))
        .route("/1.0/certificate", only(get(client_certificate)))
        .route("/1.0/oidc", only(get(oidc)))
        .route("/1.0/images", only(post(order_image).options(preflight)))
        .route("/1.0/seeds", only(post(preview)))
        .route("/1.0/updates", only(post(order_update).options(preflight)))
        .route("/1.0/files/{ticket}", only(get(download).options(preflight)))
        .route("/ui", only(get(async || Redirect::permanent("/ui/"))))
        .route("/ui/", only(get(page::index)))
        .route("/ui/{file}", only(get(page::file)))
        .fallback(unknown)
        .layer(axum::middleware::from_fn(log))
        .with_state(Arc::new(service))
}

/// One line per request. The address of a download is as good as the download, so it is not shown.
async fn log(request: Request, next: axum::middleware::Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.to_string()).unwrap_or_default();
    let forwarded = request.headers().get("x-forwarded-for").and_then(|value| value.to_str().ok());
    let client = forwarded.map_or(peer, |client| client.chars().filter(|c| !c.is_control()).take(100).collect());
    let method = request.method().clone();
    let path = request.uri().path();
    let path = if path.starts_with("/1.0/files/") { "/1.0/files/…" } else { path }.to_owned();
    let response = next.run(request).await;
    tracing::info!(%client, %method, path, status = response.status().as_u16(), "request");
    response
}

fn is_browser(headers: &HeaderMap) -> bool {
    headers.get(header::USER_AGENT).is_some_and(|agent| agent.as_bytes().windows(5).any(|word| word == b"Gecko"))
}

async fn root(headers: HeaderMap) -> Response {
    if is_browser(&headers) { to_page() } else { success(["/1.0"]) }
}

async fn unknown(headers: HeaderMap) -> Response {
    if is_browser(&headers) { to_page() } else { refusal(StatusCode::NOT_FOUND, "not found") }
}

fn to_page() -> Response {
    (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, "/ui/")]).into_response()
}

async fn client_certificate() -> Response {
    match certificate::make() {
        Ok(certificate) => success(certificate),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// The original registers a client with an account of the project behind the public feed; this
/// service knows no such account.
async fn oidc() -> Response {
    refusal(StatusCode::BAD_REQUEST, "OIDC isn't configured on this server")
}

async fn preflight() -> Response {
    across_origins(StatusCode::OK.into_response())
}

/// Pages of other origins may order and fetch images.
fn across_origins(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Content-Type"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[derive(Serialize)]
struct Ordered {
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<String>,
}

#[derive(Serialize)]
struct OrderedUpdate {
    update: String,
}

async fn order_image(State(service): Shared, body: Body) -> Response {
    let outcome = async {
        let request: ImageRequest = read(body).await?;
        let order = request.check().map_err(|error| Refusal::bad(error.to_string()))?;
        if order.offline && order.medium == Medium::Iso {
            let reason = "offline: applications are offered on a raw medium only; ask for the type raw";
            return Err(Refusal(StatusCode::NOT_IMPLEMENTED, reason.into()));
        }
        let (image, resources) = on_disk(service.tree.clone(), move |tree| found(tree, order)).await?;
        let resources = resources.map(|resources| service.ticket(resources)).transpose()?;
        Ok(Ordered { image: service.ticket(image)?, resources })
    };
    across_origins(answer(outcome.await))
}

#[derive(Serialize)]
struct Preview {
    files: Vec<PreviewFile>,
    /// What would be refused.
    findings: Vec<String>,
}

#[derive(Serialize)]
struct PreviewFile {
    name: String,
    content: String,
}

/// What an image would get. For pages that want to show it before it is ordered.
async fn preview(body: Body) -> Response {
    let outcome = async {
        let request: ImageRequest = read(body).await?;
        let (files, findings) = request.preview().map_err(|error| Refusal::bad(error.to_string()))?;
        let text = |content| String::from_utf8_lossy(content).into_owned();
        let files = files.iter().map(|file| PreviewFile { name: file.name.clone(), content: text(&file.content) });
        Ok(Preview { files: files.collect(), findings })
    };
    answer(outcome.await)
}

/// The stored image that an order needs, and the applications if they are wanted too.
fn found(tree: &Tree, order: Order) -> Result<(Download, Option<Download>), TreeError> {
    let release = tree.release(&order.channel, &order.version)?;
    let resources = if order.offline { Some(resources(tree, &release, &order)?) } else { None };
    let stored = tree.image(&release, order.medium, order.arch)?;
    Ok((Download::Image { stored, archive: order.archive }, resources))
}

fn resources(tree: &Tree, release: &Update, order: &Order) -> Result<Download, TreeError> {
    let applications = order.applications_with_needs();
    if applications.is_empty() {
        return Err(TreeError::NoApplications);
    }
    let files = applications.iter().map(|name| tree.application(release, name, order.arch));
    let files = files.collect::<Result<_, _>>()?;
    let name = format!("{}-{}.raw", order.channel, release.version);
    Ok(Download::Resources { name, documents: documents(tree, release)?, files })
}

fn documents(tree: &Tree, release: &Update) -> Result<Documents, TreeError> {
    let names = ["update.json", "update.sjson"].into_iter();
    names.map(|name| Ok((name, tree.release_document(release, name)?))).collect()
}

async fn order_update(State(service): Shared, body: Body) -> Response {
    let outcome = async {
        let request: UpdateRequest = read(body).await?;
        let download = on_disk(service.tree.clone(), move |tree| {
            let channel = request.channel();
            let release = tree.release(channel, &request.version)?;
            let name = format!("update-{channel}-{}.tar", release.version);
            let documents = documents(tree, &release)?;
            Ok(Download::Update { name, documents, files: tree.selected(&release, &request)? })
        })
        .await?;
        Ok(OrderedUpdate { update: service.ticket(download)? })
    };
    across_origins(answer(outcome.await))
}

async fn download(State(service): Shared, Path(ticket): Path<String>, headers: HeaderMap) -> Response {
    let Ok(slot) = service.downloads.clone().try_acquire_owned() else {
        // The ticket is kept, so that the client can come back.
        return across_origins(refusal(StatusCode::SERVICE_UNAVAILABLE, "too many downloads at once; try again"));
    };
    let Some(download) = service.tickets.take(&ticket) else {
        return across_origins(refusal(StatusCode::NOT_FOUND, "there is no such file: it was fetched, or has expired"));
    };
    let accepts_gzip = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let accepts_gzip = accepts_gzip.is_some_and(|value| value.contains("gzip"));
    // A client that decompresses what it is sent stores the image itself, every other one the archive.
    let (name, mut response_headers) = if accepts_gzip {
        (download.name().to_owned(), vec![(header::CONTENT_ENCODING, "gzip".to_owned())])
    } else {
        (format!("{}.gz", download.name()), Vec::new())
    };
    let kind = if accepts_gzip { "application/octet-stream" } else { "application/gzip" };
    response_headers.push((header::CONTENT_TYPE, kind.to_owned()));
    response_headers.push((header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")));
    response_headers.push((header::CACHE_CONTROL, "no-store".to_owned()));

    let (body, mut sink) = stream::body();
    tokio::task::spawn_blocking(move || {
        let _slot = slot;
        match download.write(&mut sink) {
            Ok(()) => tracing::info!("{name} was fetched"),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                tracing::info!("{name} was given up by its client")
            }
            Err(error) => {
                tracing::error!("{name} could not be made: {error}");
                sink.fail(error);
            }
        }
    });
    let mut response = body.into_response();
    for (name, value) in response_headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    across_origins(response)
}

impl Service {
    fn ticket(&self, download: Download) -> Result<String, Refusal> {
        let size = download.size();
        let ticket = self.tickets.add(download, size);
        let ticket =
            ticket.ok_or_else(|| Refusal(StatusCode::SERVICE_UNAVAILABLE, "too many orders wait; try again".into()))?;
        Ok(format!("/1.0/files/{ticket}"))
    }
}

/// A status and the reason for it.
struct Refusal(StatusCode, String);

impl Refusal {
    fn bad(reason: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, reason.into())
    }
}

impl From<TreeError> for Refusal {
    fn from(error: TreeError) -> Self {
        let status = match error {
            TreeError::Version { .. } => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, causes::chain(&error))
    }
}

fn answer(outcome: Result<impl Serialize, Refusal>) -> Response {
    match outcome {
        Ok(payload) => success(payload),
        Err(Refusal(status, reason)) => refusal(status, reason),
    }
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let bytes = match timeout(PATIENCE, to_bytes(body, BODY_LIMIT)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => return Err(Refusal::bad(format!("the body is cut short, or longer than {BODY_LIMIT} bytes"))),
        Err(_) => return Err(Refusal(StatusCode::REQUEST_TIMEOUT, "the body took too long".into())),
    };
    serde_json::from_slice(&bytes).map_err(|error| Refusal::bad(error.to_string()))
}

/// Runs what reads the disk beside the connections.
async fn on_disk<T: Send + 'static>(
    tree: Tree,
    work: impl FnOnce(&Tree) -> Result<T, TreeError> + Send + 'static,
) -> Result<T, Refusal> {
    let failed = |_| Refusal(StatusCode::INTERNAL_SERVER_ERROR, "the disk cannot be read".into());
    Ok(tokio::task::spawn_blocking(move || work(&tree)).await.map_err(failed)??)
}
