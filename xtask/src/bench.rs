//! `cargo xtask bench`: the figures of the management plane, read inside an emulated machine.
//!
//! Times under emulation say nothing absolute; they are compared with the reference daemon's,
//! which were taken in the same way on the same kind of machine.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use serde::Deserialize;
use testkit::{
    image::Image,
    process::Lifetime,
    vm::{Store, Vm, agent::Agent},
};

use crate::{
    progress::Steps,
    vm::{self, Shape},
};

/// The program of `tests/agent`, inside the machine.
const AGENT: &str = "/usr/lib/incus-os/test-agent";
const SOCKET: &str = "/run/incus-os/unix.socket";

/// What is asked for, the reference daemon's median and our limit, in milliseconds.
const GETS: [(&str, f64, f64); 6] = [
    ("/1.0", f64::NAN, 5.0),
    ("/1.0/system/update", 3.1, 3.0),
    ("/1.0/system/network", 3.4, 3.0),
    ("/1.0/system/resources", 4.2, 4.0),
    ("/1.0/system/security", 85.0, 10.0),
    ("/1.0/system/storage", 394.0, 40.0),
];

/// Longest that one measurement may take.
const PATIENCE: Duration = Duration::from_mins(20);

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Requests per endpoint
    #[arg(long, default_value_t = 300)]
    requests: usize,
    /// Requests between the two readings of memory
    #[arg(long, default_value_t = 10_000)]
    soak: usize,
    #[command(flatten)]
    shape: Shape,
}

#[derive(Debug, Deserialize)]
struct Latency {
    failed: usize,
    median: f64,
    p99: f64,
}

#[derive(Debug, Deserialize)]
struct Memory {
    pss: u64,
    rss: u64,
}

/// Boots the test flavour in a new machine and prints its figures as tables.
pub(crate) fn run(arguments: &Bench, steps: &Steps, test_image: impl FnOnce() -> Result<Image>) -> Result<()> {
    let image = test_image()?;
    let store = Store::of_user();
    vm::discard(&store, "bench")?;
    let mut vm = vm::bring_up(&store, "bench", &arguments.shape, true, steps, || Ok(image))?;
    // A first boot also formats disks; figures are those of an ordinary one.
    steps.step("second boot", Duration::from_mins(2), |_| {
        vm.power_cut()?;
        vm.start(Lifetime::Detached)?;
        vm.wait_ready(Duration::from_mins(15), |_| ())?;
        Ok(())
    })?;
    let outcome = measure(&vm, arguments, steps);
    vm::discard(&store, "bench")?;
    outcome
}

fn measure(vm: &Vm, arguments: &Bench, steps: &Steps) -> Result<()> {
    let mut agent = vm.agent(PATIENCE)?;
    let at_start = memory(&mut agent)?;
    println!("| GET, fresh connection on the Unix socket | reference | limit | median | p99 | failed |");
    println!("|---|---|---|---|---|---|");
    for (path, reference, limit) in GETS {
        let times = get(&mut agent, path, arguments.requests)?;
        println!(
            "| `{path}` | {reference:.1} ms | {limit:.0} ms | {:.2} ms | {:.2} ms | {} |",
            times.median / 1000.0,
            times.p99 / 1000.0,
            times.failed
        );
    }
    steps.step("soak", Duration::from_mins(2), |_| {
        for (path, ..) in GETS {
            get(&mut agent, path, arguments.soak / GETS.len())?;
        }
        Ok(())
    })?;
    let at_end = memory(&mut agent)?;
    println!();
    println!("| Memory (KiB) | PSS at start | PSS after {} requests | RSS |", arguments.soak);
    println!("|---|---|---|---|");
    let mut total = (0, 0);
    for (service, start) in &at_start {
        let end = at_end.get(service).with_context(|| format!("{service} ended during the measurement"))?;
        println!("| `{service}` | {} | {} | {} |", start.pss, end.pss, end.rss);
        total = (total.0 + start.pss, total.1 + end.pss);
    }
    println!("| all | {} | {} | |", total.0, total.1);
    println!();
    println!("{}", agent.run(&["systemd-analyze", "time"])?.trim());
    for unit in ["incus-osd.service", "multi-user.target"] {
        let show = ["systemctl", "show", unit, "--property=Id,ActiveEnterTimestampMonotonic"];
        println!("{}", agent.run(&show)?.trim().replace('\n', " "));
    }
    Ok(())
}

fn get(agent: &mut Agent, path: &str, requests: usize) -> Result<Latency> {
    let printed = agent.run(&[AGENT, "measure-get", SOCKET, path, &requests.to_string()])?;
    serde_json::from_str(&printed).with_context(|| format!("the agent measured {path} as {printed:?}"))
}

fn memory(agent: &mut Agent) -> Result<BTreeMap<String, Memory>> {
    let printed = agent.run(&[AGENT, "measure-memory"])?;
    serde_json::from_str(&printed).with_context(|| format!("the agent measured memory as {printed:?}"))
}
