//! `cargo xtask bench`: the figures of the management plane, read inside an emulated machine.
//!
//! Times under emulation say nothing absolute; they are compared with the reference daemon's,
//! which were taken in the same way on the same kind of machine.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;
use testkit::{
    client::Request,
    image::Image,
    process::Lifetime,
    vm::{Store, Vm, agent::Agent},
    wait::wait_for,
};

use crate::{
    progress::Steps,
    vm::{self, Shape},
};

/// The program of `tests/agent`, inside the machine.
const AGENT: &str = "/usr/lib/incus-os/test-agent";
/// The machine that is measured.
const MACHINE: &str = "bench";
const SOCKET: &str = "/run/incus-os/unix.socket";

/// What is asked for, the reference daemon's median and our limit, in milliseconds.
const GETS: [(&str, Option<f64>, f64); 6] = [
    ("/1.0", None, 5.0),
    ("/1.0/system/update", Some(3.1), 3.0),
    ("/1.0/system/network", Some(3.4), 3.0),
    ("/1.0/system/resources", Some(4.2), 4.0),
    ("/1.0/system/security", Some(85.0), 10.0),
    ("/1.0/system/storage", Some(394.0), 40.0),
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

/// Boots the test flavour, and the same system without our services, and prints
/// the figures as tables.
pub(crate) fn run(arguments: &Bench, steps: &Steps, build: impl Fn(Services) -> Result<Image>) -> Result<()> {
    let plain = booted_twice(arguments, steps, &|| build(Services::Without))?;
    let plain_start = userspace_to(&mut plain.agent(PATIENCE)?, "multi-user.target")?;
    let mut vm = booted_twice(arguments, steps, &|| build(Services::With))?;
    vm.wait_ready(PATIENCE, |_| ())?;
    let mut agent = vm.agent(PATIENCE)?;
    print_start(&mut agent, plain_start)?;
    print_requests(&mut agent, arguments, steps)?;
    print_kept(&vm, arguments)?;
    vm::discard(&Store::of_user(), MACHINE)
}

/// Whether an image holds our services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Services {
    With,
    Without,
}

/// A new machine after its second boot: the first one also formats disks.
fn booted_twice(arguments: &Bench, steps: &Steps, build: &dyn Fn() -> Result<Image>) -> Result<Vm> {
    let image = build()?;
    let store = Store::of_user();
    vm::discard(&store, MACHINE)?;
    // Not installed: a system without our services has no installer either.
    let shape = arguments.shape.clone().written();
    let mut vm = vm::bring_up(&store, MACHINE, &shape, false, steps, || Ok(image))?;
    steps.step("two boots", Duration::from_mins(3), |_| {
        wait_booted(&vm)?;
        vm.power_cut()?;
        vm.start(Lifetime::Detached)?;
        wait_booted(&vm)
    })?;
    Ok(vm)
}

fn wait_booted(vm: &Vm) -> Result<()> {
    let is_booted = || {
        let moment = Duration::from_secs(20);
        let mut agent = vm.agent(moment).map_err(|error| error.to_string())?;
        match agent.outcome(&["systemctl", "is-system-running"]) {
            Ok(outcome) if ["running\n", "degraded\n"].contains(&outcome.stdout.as_str()) => Ok(()),
            Ok(outcome) => Err(outcome.stdout.trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    };
    Ok(wait_for("the system to have started", PATIENCE, is_booted)?)
}

/// Seconds from the start of userspace, initrd included, to the activation of a unit.
fn userspace_to(agent: &mut Agent, unit: &str) -> Result<f64> {
    let manager = agent.run(&["systemctl", "show", "--value", "--property=InitRDTimestampMonotonic"])?;
    let active = agent.run(&["systemctl", "show", unit, "--value", "--property=ActiveEnterTimestampMonotonic"])?;
    seconds_between(&manager, &active)
}

/// Both are microseconds since the kernel started, as text.
fn seconds_between(from: &str, to: &str) -> Result<f64> {
    let micros = |text: &str| text.trim().parse::<f64>().with_context(|| format!("{text:?} is no time"));
    Ok((micros(to)? - micros(from)?) / 1e6)
}

fn print_start(agent: &mut Agent, plain: f64) -> Result<()> {
    let manager = agent.run(&["systemctl", "show", "--value", "--property=InitRDTimestampMonotonic"])?;
    let ready = agent.run(&[
        "journalctl",
        "--boot",
        "--unit=incus-osd",
        "--grep=System is ready",
        "--output=json",
        "--output-fields=__MONOTONIC_TIMESTAMP",
    ])?;
    let entry: serde_json::Value =
        serde_json::from_str(ready.lines().next().unwrap_or_default()).context("no ready line in the journal")?;
    let ready = entry["__MONOTONIC_TIMESTAMP"].as_str().context("the ready line has no time")?.to_owned();
    let ours = seconds_between(&manager, &ready)?;
    println!("| From userspace start | seconds |");
    println!("|---|---|");
    println!("| plain system, `multi-user.target` | {plain:.1} |");
    println!("| API answers (gateway active) | {:.1} |", userspace_to(agent, "incus-osd-gateway.service")?);
    println!("| system ready | {ours:.1} |");
    println!("| system ready, of the plain system | {:.2} |", ours / plain);
    println!();
    println!("{}", agent.run(&["systemd-analyze", "time"])?.trim());
    println!();
    Ok(())
}

fn print_requests(agent: &mut Agent, arguments: &Bench, steps: &Steps) -> Result<()> {
    let at_start = memory(agent)?;
    println!("| GET, fresh connection on the Unix socket | reference | limit | median | p99 | failed |");
    println!("|---|---|---|---|---|---|");
    for (path, reference, limit) in GETS {
        let times = get(agent, path, arguments.requests)?;
        let reference = reference.map_or_else(|| "–".to_owned(), |reference| format!("{reference:.1} ms"));
        println!(
            "| `{path}` | {reference} | {limit:.0} ms | {:.2} ms | {:.2} ms | {} |",
            times.median / 1000.0,
            times.p99 / 1000.0,
            times.failed
        );
    }
    steps.step("soak", Duration::from_mins(1), |_| {
        for (path, ..) in GETS {
            get(agent, path, arguments.soak / GETS.len())?;
        }
        Ok(())
    })?;
    let at_end = memory(agent)?;
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
    Ok(())
}

/// From outside, through the emulator's network.
fn print_kept(vm: &Vm, arguments: &Bench) -> Result<()> {
    let mut connection = vm.client()?.connect()?;
    let request = Request::new("GET", "/1.0");
    let mut times = (0..arguments.requests.max(1))
        .map(|_| {
            let start = Instant::now();
            let response = connection.send(&request)?;
            ensure!(response.status == 200, "GET /1.0 over HTTPS: {}", response.text());
            Ok(start.elapsed().as_secs_f64() * 1000.0)
        })
        .collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!();
    println!("GET `/1.0` on a kept HTTPS connection: median {median:.2} ms (limit 5 ms), p99 {p99:.2} ms");
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
