//! A console among fake services, on terminals that are real.

use std::{
    convert::Infallible,
    fs, io,
    marker::PhantomData,
    num::NonZeroU16,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use api::v1::{
    Empty, EncryptedVolume, Environment, KernelConsole, Modals, NetworkInterfaceState, NetworkState, OperatorLine,
    Overview, PowerRequest, RecoveryKey, Resources, ResourcesCpu, SecurityState,
};
use console::{Machine, Pace, Setup};
use runner::{Call, Output, RunError, Runner, Streaming};
use rustix::{
    fs::OFlags,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use service::{Context, Identity, Peers};
use tokio::{
    io::{AsyncWriteExt as _, DuplexStream, Interest, duplex, unix::AsyncFd},
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, ServerStreamingService, UnaryService},
    service::Routes,
};
use tonic_prost::ProstCodec;

/// Long enough for a loaded machine; nothing waits this long when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The recovery key of the machine.
pub(crate) const KEY: &str = "right-horse-battery";

pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) services: Services,
    pub(crate) journal: Journal,
    pub(crate) pace: Pace,
}

/// A console or fake service; stops when dropped.
pub(crate) struct Running {
    stopper: Option<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn stop(mut self) {
        drop(self.stopper.take());
        tokio::time::timeout(PATIENCE, &mut self.task).await.expect("it stops when asked").unwrap();
    }

    /// Ends it without any word.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

impl Bench {
    /// Without any terminal.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Self {
            dir,
            services: Services::default(),
            journal: Journal::default(),
            pace: Pace {
                poll: Duration::from_millis(20),
                retry: Duration::from_millis(20),
                repaint: Duration::from_secs(3600),
            },
        };
        for (path, text) in [
            ("usr/lib/os-release", "NAME=\"IncusOS\"\nIMAGE_VERSION=\"202611220101\"\n"),
            ("sys/class/tty/console/active", "tty0 ttyS0\n"),
            ("proc/sys/kernel/hostname", "localhost\n"),
            ("proc/sys/kernel/printk", "4 4 1 7\n"),
            ("dev/.keep", ""),
            ("run/incus-os/console/.keep", ""),
        ] {
            write(&bench.root().join(path), text);
        }
        bench
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// A terminal of this name.
    pub(crate) fn terminal(&self, name: &str, size: Option<(u16, u16)>) -> Terminal {
        let terminal = Terminal::open(size);
        let link = self.root().join("dev").join(name);
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&terminal.path, link).unwrap();
        terminal
    }

    pub(crate) fn console(&self) -> Running {
        let setup = Setup {
            machine: Machine { root: self.root() },
            peers: Peers::in_dir(self.dir.path()),
            runner: Arc::new(self.journal.clone()),
            pace: self.pace,
        };
        let (stopper, mut stop) = watch::channel(false);
        let task = tokio::spawn(console::serve(setup, || {}, async move {
            let _ = stop.wait_for(|stop| *stop).await;
        }));
        Running { stopper: Some(stopper), task }
    }

    pub(crate) fn supervisor(&self) -> Running {
        self.fake::<Supervisor>(Identity::Supervisor)
    }

    pub(crate) fn security(&self) -> Running {
        self.fake::<Security>(Identity::Security)
    }

    fn fake<N: Name>(&self, identity: Identity) -> Running {
        let _ = fs::remove_file(self.dir.path().join(identity.name()).with_extension("sock"));
        let (context, stopper) = Context::in_dir(identity, self.dir.path()).unwrap();
        let fake = Fake::<N> { services: self.services.clone(), stopped: stopper.subscribe(), service: PhantomData };
        let task = tokio::spawn(async move { context.serve(Routes::new(fake)).await.unwrap() });
        Running { stopper: Some(stopper), task }
    }
}

pub(crate) fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// The far end of a terminal: what somebody sees and types there.
pub(crate) struct Terminal {
    near: AsyncFd<OwnedFd>,
    /// Held open, so that the terminal is there before the console is.
    pub(crate) device: OwnedFd,
    pub(crate) path: PathBuf,
    parser: vt100::Parser,
    /// Everything that was written to it.
    pub(crate) sent: Vec<u8>,
}

impl Terminal {
    fn open(size: Option<(u16, u16)>) -> Self {
        let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&near).unwrap();
        unlockpt(&near).unwrap();
        let name = ptsname(&near, Vec::new()).unwrap();
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let device = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).unwrap();
        rustix::fs::fcntl_setfl(&near, OFlags::NONBLOCK).unwrap();
        #[expect(unsafe_code, reason = "as in the console itself")]
        // SAFETY: the `OwnedFd` moves into the result, which lends it out by shared reference only.
        let near = unsafe { AsyncFd::register(near) }.unwrap();
        let mut terminal = Self { near, device, path, parser: vt100::Parser::default(), sent: Vec::new() };
        if let Some((columns, rows)) = size {
            terminal.resize(columns, rows);
        }
        terminal
    }

    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(self.near.get_ref(), size).unwrap();
        self.parser.screen_mut().set_size(NonZeroU16::new(rows).unwrap(), NonZeroU16::new(columns).unwrap());
    }

    pub(crate) fn screen(&self) -> String {
        self.parser.screen().contents()
    }

    pub(crate) fn hides_cursor(&self) -> bool {
        self.parser.screen().hide_cursor()
    }

    /// Types, as a person or a paste would.
    pub(crate) async fn press(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let write = self.near.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?));
            bytes = &bytes[write.await.unwrap()..];
        }
    }

    /// Looks until the screen holds this text.
    pub(crate) async fn shows(&mut self, text: &str) -> String {
        self.until(text, |screen| screen.contains(text)).await
    }

    /// Looks until the screen is as wanted.
    pub(crate) async fn until(&mut self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let wait = async {
            loop {
                let screen = self.screen();
                if is_so(&screen) {
                    return screen;
                }
                self.read().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(screen) => screen,
            Err(_) => panic!("{what:?} does not appear on:\n{}", self.screen()),
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let read = self.near.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut buffer)?)).await?;
        self.sent.extend_from_slice(&buffer[..read]);
        self.parser.process(&buffer[..read]);
        Ok(())
    }

    /// Reads what is there already.
    pub(crate) fn drain(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(read) = rustix::io::read(self.near.get_ref(), &mut buffer) {
            self.sent.extend_from_slice(&buffer[..read]);
            self.parser.process(&buffer[..read]);
        }
    }

    pub(crate) fn count_sent(&self, part: &[u8]) -> usize {
        self.sent.windows(part.len()).filter(|window| *window == part).count()
    }
}

/// A journal that tests write.
#[derive(Clone, Default)]
pub(crate) struct Journal {
    state: Arc<Mutex<JournalState>>,
    followed: Arc<Notify>,
}

#[derive(Default)]
struct JournalState {
    past: String,
    followers: Vec<DuplexStream>,
    calls: Vec<String>,
    /// Printed for a call that does not follow and holds the text.
    texts: Vec<(&'static str, String)>,
}

impl Journal {
    /// Writes an entry, also for those who read later.
    pub(crate) async fn write(&self, entry: &serde_json::Value) {
        let line = format!("{entry}\n");
        let followers = {
            let mut state = self.state.lock().unwrap();
            state.past.push_str(&line);
            std::mem::take(&mut state.followers)
        };
        for mut follower in followers {
            follower.write_all(line.as_bytes()).await.unwrap();
            self.state.lock().unwrap().followers.push(follower);
        }
    }

    pub(crate) async fn line(&self, text: &str) {
        self.write(&serde_json::json!({ "MESSAGE": text, "_TRANSPORT": "journal" })).await;
    }

    pub(crate) fn text(&self, part_of_call: &'static str, text: &str) {
        self.state.lock().unwrap().texts.push((part_of_call, text.to_owned()));
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }

    /// Ends all who follow, as a crash of the program would.
    pub(crate) fn break_off(&self) {
        self.state.lock().unwrap().followers.clear();
    }

    /// Resolves once somebody follows.
    pub(crate) async fn is_followed(&self) {
        let wait = async {
            loop {
                let notified = self.followed.notified();
                if !self.state.lock().unwrap().followers.is_empty() {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the journal is followed");
    }
}

#[async_trait::async_trait]
impl Runner for Journal {
    async fn run(&self, _: &Call) -> Result<Output, RunError> {
        unreachable!("the console reads as it comes")
    }

    async fn stream(&self, call: &Call) -> Result<Streaming, RunError> {
        let command_line = call.command_line();
        let is_follower = command_line.contains(" --follow ");
        let (mut near, far) = duplex(1 << 20);
        let mut state = self.state.lock().unwrap();
        let text = if is_follower {
            state.past.clone()
        } else {
            let found = state.texts.iter().find(|(part, _)| command_line.contains(part));
            found.map(|(_, text)| text.clone()).unwrap_or_default()
        };
        let write = near.write_all(text.as_bytes());
        futures_now(write).unwrap();
        if is_follower {
            state.followers.push(near);
            self.followed.notify_waiters();
        }
        state.calls.push(command_line);
        Ok(Streaming::standing_in(call, far))
    }
}

/// Runs what has nothing to wait for.
fn futures_now<T>(work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    match work.as_mut().poll(&mut TaskContext::from_waker(std::task::Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("the pipe is too small for the text"),
    }
}

/// What the fake services say and heard.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) modals: watch::Sender<Modals>,
}

pub(crate) struct State {
    pub(crate) overview: Overview,
    pub(crate) lines: Vec<OperatorLine>,
    pub(crate) power: Vec<PowerRequest>,
    pub(crate) keys: Vec<String>,
    /// What the security service says of any key, instead of comparing it.
    pub(crate) verdict: Option<(Code, &'static str)>,
}

impl Default for Services {
    fn default() -> Self {
        let device = NetworkInterfaceState {
            r#type: "interface".into(),
            addresses: vec!["192.0.2.10".into()],
            ..NetworkInterfaceState::default()
        };
        let overview = Overview {
            environment: Some(Environment {
                hostname: "node1".into(),
                os_name: "IncusOS".into(),
                os_version: "202611220101".into(),
                ..Environment::default()
            }),
            security: Some(SecurityState {
                tpm_status: "swtpm".into(),
                secure_boot_enabled: true,
                system_state_status: "using swtpm".into(),
                encrypted_volumes: vec![EncryptedVolume { volume: "root".into(), state: "unlocked (TPM)".into() }],
                ..SecurityState::default()
            }),
            network: Some(NetworkState { interfaces: [("eth0".to_owned(), device)].into(), ..NetworkState::default() }),
            listen_address: ":9443".into(),
            ..Overview::default()
        };
        let state = State { overview, lines: Vec::new(), power: Vec::new(), keys: Vec::new(), verdict: None };
        Self { state: Arc::new(Mutex::new(state)), modals: watch::Sender::new(Modals::default()) }
    }
}

impl Services {
    pub(crate) fn configure(&self, device: &str, baud_rate: i64) {
        let console = KernelConsole { device: device.into(), baud_rate };
        self.state.lock().unwrap().overview.consoles.push(console);
    }

    /// The operator's lines so far: message and attributes.
    pub(crate) fn lines(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state
            .lines
            .iter()
            .map(|line| {
                let attributes = line.attributes.iter().map(|(key, value)| format!(" {key}={value}"));
                format!("{}{}", line.message, attributes.collect::<String>())
            })
            .collect()
    }

    /// Looks until something holds of what the services heard.
    pub(crate) async fn until<T>(&self, what: &str, look: impl Fn(&State) -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(found) = look(&self.state.lock().unwrap()) {
                    return found;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"))
    }
}

pub(crate) trait Name: Clone + Send + Sync + 'static {
    const NAME: &'static str;
}

#[derive(Clone)]
struct Supervisor;

impl Name for Supervisor {
    const NAME: &'static str = "incusos.v1.Supervisor";
}

#[derive(Clone)]
struct Security;

impl Name for Security {
    const NAME: &'static str = "incusos.v1.Security";
}

/// A service that knows the few methods the console calls, written against the
/// wire: a new method of a service does not concern it.
#[derive(Clone)]
struct Fake<N> {
    services: Services,
    stopped: watch::Receiver<bool>,
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
        let Services { state, modals } = self.services.clone();
        let stopped = self.stopped.clone();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
            Ok(match method.as_str() {
                "GetOverview" => unary(request, move |_: Empty| Ok(state.lock().unwrap().overview.clone())).await,
                "GetResources" => unary(request, |_: Empty| Ok(resources())).await,
                "WriteOperatorLine" => {
                    unary(request, move |line: OperatorLine| {
                        state.lock().unwrap().lines.push(line);
                        Ok(Empty {})
                    })
                    .await
                }
                "Power" => {
                    unary(request, move |action: PowerRequest| {
                        state.lock().unwrap().power.push(action);
                        Ok(Empty {})
                    })
                    .await
                }
                "CheckRecoveryKey" => unary(request, move |key: RecoveryKey| check(&state, key)).await,
                "WatchModals" => {
                    let stream = Watched { modals: modals.subscribe(), stopped };
                    Grpc::new(ProstCodec::<Modals, Empty>::default()).server_streaming(stream, request).await
                }
                _ => Status::unimplemented(method).into_http(),
            })
        })
    }
}

fn check(state: &Mutex<State>, key: RecoveryKey) -> Result<Empty, Status> {
    let mut state = state.lock().unwrap();
    let is_right = key.key == KEY;
    state.keys.push(key.key);
    match state.verdict {
        Some((code, text)) => Err(Status::new(code, text)),
        None if is_right => Ok(Empty {}),
        None => Err(Status::permission_denied("no such key")),
    }
}

fn resources() -> Resources {
    let cpu = ResourcesCpu { architecture: "x86_64".into(), sockets: Vec::new(), total: 2 };
    Resources { cpu: Some(cpu), ..Resources::default() }
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

/// All messages at each change, until the service stops.
struct Watched {
    modals: watch::Receiver<Modals>,
    stopped: watch::Receiver<bool>,
}

impl ServerStreamingService<Empty> for Watched {
    type Response = Modals;
    type ResponseStream = ReceiverStream<Result<Modals, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: Request<Empty>) -> Self::Future {
        let (sender, receiver) = mpsc::channel(1);
        let (mut modals, mut stopped) = (self.modals.clone(), self.stopped.clone());
        tokio::spawn(async move {
            loop {
                let now = modals.borrow_and_update().clone();
                if sender.send(Ok(now)).await.is_err() {
                    return;
                }
                tokio::select! {
                    _ = modals.changed() => {}
                    _ = stopped.wait_for(|stopped| *stopped) => return,
                    () = sender.closed() => return,
                }
            }
        });
        std::future::ready(Ok(Response::new(ReceiverStream::new(receiver))))
    }
}
