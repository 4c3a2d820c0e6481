//! The status screen on every terminal of the machine, and the restricted menu
//! behind it.
//!
//! It owns the terminals and nothing else. What it shows it is told: by the
//! supervisor, by the journal, and during an installation by a file that the
//! installer leaves. What its menu changes is changed by the service that owns
//! it, after a recovery key was checked by the security service.
//!
//! Invariants:
//!
//! * There is no shell behind it, and no way to run a program or to open a file
//!   that was named at a terminal.
//! * It never holds a recovery key of the machine: it can only ask whether one
//!   that was typed is right.
//! * No control character of a text reaches a terminal, whoever wrote the text.
//! * A terminal that is missing, stuck or broken disturbs no other one, and is
//!   tried again.
//! * It may be killed at any time and loses nothing.

mod desk;
mod facts;
mod journal;
mod keys;
mod lines;
mod machine;
mod menu;
mod paint;
mod readiness;
mod screen;
mod status_file;
mod terminal;
mod text;
mod tty;
mod view;

use std::{
    collections::{HashMap, HashSet},
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    sync::Arc,
    time::Duration,
};

use api::v1::{KernelConsole, operator_line::Level};
use runner::{Runner, SystemRunner};
use service::{Context, Error, Peers};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::timeout,
};

pub use crate::machine::Machine;
use crate::{
    desk::Desk,
    facts::Facts,
    journal::Follower,
    machine::Wanted,
    terminal::{Station, keep},
};

/// The waiting times of the console.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two looks at the machine.
    pub poll: Duration,
    /// Before something that failed is tried again.
    pub retry: Duration,
    /// Between two drawings of everything, whether it changed or not: something
    /// else may have written to the terminal.
    pub repaint: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { poll: Duration::from_secs(5), retry: Duration::from_secs(3), repaint: Duration::from_secs(60) }
    }
}

/// What the console works with.
pub struct Setup {
    /// What it reads by itself.
    pub machine: Machine,
    /// The other services.
    pub peers: Peers,
    /// What starts programs: it reads the journal with one.
    pub runner: Arc<dyn Runner>,
    /// How often it looks.
    pub pace: Pace,
}

impl fmt::Debug for Setup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Setup").field("machine", &self.machine).field("pace", &self.pace).finish_non_exhaustive()
    }
}

/// Runs the console on this machine.
pub async fn run(context: Context) -> Result<(), Error> {
    let setup = Setup {
        machine: Machine { root: "/".into() },
        peers: context.peers(),
        runner: Arc::new(SystemRunner),
        pace: Pace::default(),
    };
    serve(setup, || context.ready(), context.stopped()).await;
    Ok(())
}

/// Shows the screen until `stop` resolves, and gives the terminals back then.
/// Calls `ready` once it looks for terminals.
pub async fn serve(setup: Setup, ready: impl FnOnce(), stop: impl Future<Output = ()>) {
    let Setup { machine, peers, runner, pace } = setup;
    let (view, seen) = watch::channel(Facts::first_view(&machine));
    let (overwritten, noticed) = watch::channel(0);
    let (configured, consoles) = watch::channel(Vec::new());
    let desk = Arc::new(Desk::new(peers.clone(), runner.clone()));
    let facts = Facts { machine: machine.clone(), peers, view: view.clone(), pace };
    let follower = Follower { machine: machine.clone(), view: view.clone(), overwritten, first_retry: pace.retry };
    let station = Station { view: seen, overwritten: noticed, desk, pace };
    let mut terminals = Terminals {
        machine: machine.clone(),
        station,
        kept: HashMap::new(),
        tasks: JoinSet::new(),
        missing: HashSet::new(),
    };
    let status_file = machine.status_file();
    ready();
    tokio::select! {
        () = facts.clone().follow_overview(configured) => {}
        () = facts.follow_messages() => {}
        () = follower.run(runner) => {}
        () = status_file::follow(&status_file, &view, pace.retry) => {}
        () = terminals.keep_all(consoles) => {}
        () = stop => {}
    }
    // The others have no end of their own.
    terminals.tasks.shutdown().await;
}

/// The terminals that show the screen.
struct Terminals {
    machine: Machine,
    station: Station,
    /// By the number of the device, which may have several names.
    kept: HashMap<u64, (Wanted, AbortHandle)>,
    tasks: JoinSet<()>,
    /// Named terminals that do not exist, of which the operator was told.
    missing: HashSet<String>,
}

impl Terminals {
    /// Keeps the screen on all wanted terminals, which are not always the same.
    async fn keep_all(&mut self, mut consoles: watch::Receiver<Vec<KernelConsole>>) {
        loop {
            let configured = consoles.borrow_and_update().clone();
            self.arrange(&configured).await;
            // A terminal may also come and go by itself. An error means that the
            // service is stopping.
            let _ = timeout(self.station.pace.poll, consoles.changed()).await;
        }
    }

    async fn arrange(&mut self, configured: &[KernelConsole]) {
        let mut wanted = HashMap::new();
        let mut missing = HashSet::new();
        for terminal in self.machine.terminals(configured) {
            match fs::metadata(&terminal.path) {
                Ok(device) => {
                    wanted.entry(device.rdev()).or_insert(terminal);
                }
                Err(_) if terminal.is_configured => {
                    missing.insert(terminal.name);
                }
                Err(_) => {}
            }
        }
        let mut ended = 0;
        self.kept.retain(|device, (kept, task)| {
            let stays = wanted.get(device).is_some_and(|wanted| wanted.baud_rate == kept.baud_rate);
            if !stays {
                task.abort();
                ended += 1;
            }
            stays
        });
        // No task ends by itself. A terminal has to be given back before it is
        // opened again.
        for _ in 0..ended {
            self.tasks.join_next().await;
        }
        for (device, terminal) in wanted {
            let (tasks, station) = (&mut self.tasks, &self.station);
            self.kept.entry(device).or_insert_with(|| {
                let task = tasks.spawn(keep(terminal.clone(), station.clone()));
                (terminal, task)
            });
        }
        for name in missing.difference(&self.missing) {
            let device = format!("/dev/{name}");
            self.station
                .desk
                .tell(Level::Warn, "A console of the settings does not exist", &[("device", &device)])
                .await;
        }
        self.missing = missing;
    }
}
