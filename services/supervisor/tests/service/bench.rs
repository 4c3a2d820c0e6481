//! A supervisor in a temp dir, among fake services whose answers are scripted.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    fs,
    marker::PhantomData,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use api::v1::{
    Empty, NetworkConfig, NetworkDns, NetworkInterfaceState, NetworkState, OsVersions, SecurityConfig, SecurityState,
    StartReply, StartRequest, SystemNetwork, SystemSecurity,
};
use service::{Context, Identity, Peers};
use supervisor::{Machine, Pace};
use tokio::{
    net::UnixDatagram,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, UnaryService},
    service::Routes,
};
use tonic_prost::ProstCodec;

/// What only some may see.
pub(crate) const SECRET: &str = "a recovery key";

/// Long enough for a loaded machine; nothing waits this long when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    /// Names of the services in the order in which they were asked to start.
    pub(crate) started: Arc<Mutex<Vec<&'static str>>>,
    lines: mpsc::UnboundedReceiver<Entry>,
}

/// One journal entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) message: String,
    pub(crate) priority: String,
    pub(crate) component: String,
}

/// A supervisor or fake service; stops when dropped.
pub(crate) struct Running {
    stopper: Option<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn stop(mut self) {
        drop(self.stopper.take());
        tokio::time::timeout(PATIENCE, &mut self.task).await.expect("the service stops when asked").unwrap();
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("root/etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
            ("root/usr/lib/os-release", "NAME=\"IncusOS\"\nIMAGE_VERSION=\"202611220000\"\nVARIANT_ID=dev\n"),
            ("root/proc/uptime", "1234.56 2000.00\n"),
            ("run/.keep", ""),
            ("root/run/systemd/journal/.keep", ""),
        ] {
            write(&dir.path().join(path), text);
        }
        let journal = UnixDatagram::bind(dir.path().join("root/run/systemd/journal/socket")).unwrap();
        let (sender, lines) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(length) = journal.recv(&mut buffer).await {
                if sender.send(Entry::parse(std::str::from_utf8(&buffer[..length]).unwrap())).is_err() {
                    break;
                }
            }
        });
        Self { dir, started: Arc::default(), lines }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn machine(&self) -> Machine {
        Machine {
            root: self.root(),
            runtime_dir: self.dir.path().join("run"),
            seed: None,
            firmware_facts: BTreeMap::new(),
        }
    }

    pub(crate) fn peers(&self) -> Peers {
        Peers::in_dir(self.dir.path())
    }

    pub(crate) fn supervisor(&self, machine: Machine) -> Running {
        let pace = Pace {
            first_retry: Duration::from_millis(1),
            longest_retry: Duration::from_millis(1),
            stage: PATIENCE,
            power_delay: Duration::from_millis(1),
        };
        let (context, stopper) = self.context(Identity::Supervisor);
        let task = tokio::spawn(async move { supervisor::serve(context, machine, pace).await.unwrap() });
        Running { stopper: Some(stopper), task }
    }

    /// Starts the fake services that bring something up, all willing.
    pub(crate) fn willing_services(&self) -> [Running; 4] {
        [self.security([]), self.network([]), self.storage([]), self.update()]
    }

    pub(crate) fn security(&self, script: impl IntoIterator<Item = Answer>) -> Running {
        self.fake::<Security>(Identity::Security, script)
    }

    pub(crate) fn network(&self, script: impl IntoIterator<Item = Answer>) -> Running {
        self.fake::<Network>(Identity::Network, script)
    }

    pub(crate) fn storage(&self, script: impl IntoIterator<Item = Answer>) -> Running {
        self.fake::<Storage>(Identity::Storage, script)
    }

    pub(crate) fn update(&self) -> Running {
        self.fake::<Update>(Identity::Update, [])
    }

    /// The next journal entry.
    pub(crate) async fn entry(&mut self) -> Entry {
        tokio::time::timeout(PATIENCE, self.lines.recv()).await.expect("a journal entry is written").unwrap()
    }

    /// The next line without its time.
    pub(crate) async fn line(&mut self) -> String {
        self.entry().await.message[20..].to_owned()
    }

    /// All lines up to and including `last`, without their time.
    pub(crate) async fn lines_until(&mut self, last: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            lines.push(self.line().await);
            if lines.last().is_some_and(|line| line.contains(last)) {
                return lines;
            }
        }
    }

    /// The lines that were written and not asked for yet.
    pub(crate) fn further_lines(&mut self) -> Vec<Entry> {
        std::iter::from_fn(|| self.lines.try_recv().ok()).collect()
    }

    pub(crate) fn starts(&self) -> Vec<&'static str> {
        self.started.lock().unwrap().clone()
    }

    fn fake<N: Name>(&self, identity: Identity, script: impl IntoIterator<Item = Answer>) -> Running {
        let fake = Fake::<N> {
            name: identity.name(),
            started: self.started.clone(),
            script: Arc::new(Mutex::new(script.into_iter().collect())),
            service: PhantomData,
        };
        let (context, stopper) = self.context(identity);
        let task = tokio::spawn(async move { context.serve(Routes::new(fake)).await.unwrap() });
        Running { stopper: Some(stopper), task }
    }

    fn context(&self, identity: Identity) -> (Context, watch::Sender<bool>) {
        // A restarted service finds the socket of its predecessor.
        let _ = fs::remove_file(self.dir.path().join(identity.name()).with_extension("sock"));
        Context::in_dir(identity, self.dir.path()).unwrap()
    }
}

impl Entry {
    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            let prefix = format!("{name}=");
            let values: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
            assert_eq!(values.len(), 1, "one {name} in {text:?}");
            values[0].to_owned()
        };
        assert_eq!(field("SYSLOG_IDENTIFIER"), "incus-osd");
        Self { message: field("MESSAGE"), priority: field("PRIORITY"), component: field("INCUSOS_COMPONENT") }
    }
}

pub(crate) fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// What a fake service answers to one `Start`; once they are used up, it starts.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Fail(&'static str),
    Warn(&'static str),
}

pub(crate) trait Name: Clone + Send + Sync + 'static {
    const NAME: &'static str;
}

macro_rules! names {
    ($($type:ident = $name:literal;)*) => {
        $(
            #[derive(Clone)]
            pub(crate) struct $type;

            impl Name for $type {
                const NAME: &'static str = $name;
            }
        )*
    };
}

names! {
    Security = "incusos.v1.Security";
    Network = "incusos.v1.Network";
    Storage = "incusos.v1.Storage";
    Update = "incusos.v1.Update";
}

/// A service that knows the few methods the supervisor calls. Written against
/// the wire instead of the generated traits, which grow with every method that
/// has nothing to do with the supervisor.
#[derive(Clone)]
struct Fake<N> {
    name: &'static str,
    started: Arc<Mutex<Vec<&'static str>>>,
    script: Arc<Mutex<VecDeque<Answer>>>,
    service: PhantomData<N>,
}

impl<N: Name> NamedService for Fake<N> {
    const NAME: &'static str = N::NAME;
}

impl<N: Name> tower::Service<http::Request<Body>> for Fake<N> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let fake = self.clone();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
            Ok(match method.as_str() {
                "Start" => unary(request, move |_: StartRequest| fake.start()).await,
                "Get" if N::NAME == Security::NAME => unary(request, |_: Empty| Ok(security())).await,
                "Get" if N::NAME == Network::NAME => unary(request, |_: Empty| Ok(network())).await,
                "GetVersions" => unary(request, |_: Empty| Ok(versions())).await,
                _ => Status::unimplemented(method).into_http(),
            })
        })
    }
}

impl<N> Fake<N> {
    fn start(&self) -> Result<StartReply, Status> {
        self.started.lock().unwrap().push(self.name);
        match self.script.lock().unwrap().pop_front() {
            None => Ok(StartReply::default()),
            Some(Answer::Warn(text)) => Ok(StartReply { warnings: vec![text.into()] }),
            Some(Answer::Fail(text)) => Err(Status::internal(text)),
        }
    }
}

fn network() -> SystemNetwork {
    let dns = NetworkDns { hostname: "host".into(), domain: "example.org".into(), ..NetworkDns::default() };
    SystemNetwork {
        config: Some(NetworkConfig { dns: Some(dns), ..NetworkConfig::default() }),
        state: Some(NetworkState {
            interfaces: [("eth0".to_owned(), NetworkInterfaceState::default())].into(),
            ..NetworkState::default()
        }),
    }
}

/// With a secret wherever there can be one.
fn security() -> SystemSecurity {
    let keys = || [("local".to_owned(), SECRET.to_owned())].into();
    SystemSecurity {
        config: Some(SecurityConfig { encryption_recovery_keys: vec![SECRET.to_owned()], ..SecurityConfig::default() }),
        state: Some(SecurityState {
            tpm_status: "swtpm".into(),
            drive_recovery_keys: keys(),
            pool_recovery_keys: keys(),
            ..SecurityState::default()
        }),
    }
}

fn versions() -> OsVersions {
    OsVersions { running: "202611220000".into(), next: "202611230000".into(), alternate: "202611210000".into() }
}

async fn unary<Q, A>(
    request: http::Request<Body>,
    answer: impl FnOnce(Q) -> Result<A, Status> + Send + 'static,
) -> http::Response<Body>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    Grpc::new(ProstCodec::<A, Q>::default()).unary(Once(Some(answer), PhantomData), request).await
}

struct Once<F, Q>(Option<F>, PhantomData<fn(Q)>);

impl<F, Q, A> UnaryService<Q> for Once<F, Q>
where
    F: FnOnce(Q) -> Result<A, Status>,
    A: Send + 'static,
{
    type Response = A;
    type Future = std::future::Ready<Result<Response<A>, Status>>;

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let answer = self.0.take().expect("one request, one call");
        std::future::ready(answer(request.into_inner()).map(Response::new))
    }
}
