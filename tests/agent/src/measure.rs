//! Figures that only the inside of a machine can give. Each prints one JSON
//! object on standard output.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;

/// How long requests took, in microseconds.
#[derive(Serialize)]
struct Latency {
    requests: usize,
    failed: usize,
    min: u128,
    median: u128,
    p99: u128,
    max: u128,
    /// Size of the last answer, head included.
    bytes: usize,
}

/// Memory of processes, in KiB (proc(5), `smaps_rollup`).
#[derive(Default, Serialize)]
struct Memory {
    pss: u64,
    pss_dirty: u64,
    rss: u64,
}

/// `GET path` this many times, each over a connection of its own.
pub(crate) fn get(socket: &Path, path: &str, requests: usize) -> io::Result<()> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: incus-os\r\nConnection: close\r\n\r\n");
    let mut times = Vec::with_capacity(requests);
    let (mut failed, mut bytes) = (0, 0);
    for _ in 0..requests {
        let start = Instant::now();
        let answer = exchange(socket, request.as_bytes())?;
        times.push(start.elapsed());
        bytes = answer.len();
        failed += usize::from(!answer.starts_with(b"HTTP/1.1 200"));
    }
    times.sort_unstable();
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1)));
    let micros = |time: Option<&Duration>| time.map_or(0, Duration::as_micros);
    print(&Latency {
        requests,
        failed,
        min: micros(times.first()),
        median: micros(at(50)),
        p99: micros(at(99)),
        max: micros(times.last()),
        bytes,
    })
}

fn exchange(socket: &Path, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Memory of every running service, with all the processes it has started.
pub(crate) fn memory() -> io::Result<()> {
    let mut services: BTreeMap<String, Memory> = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        // Processes come and go; one that is gone has no memory.
        if let Some((name, memory)) = process(&entry.path()) {
            let service = services.entry(name).or_default();
            service.pss += memory.pss;
            service.pss_dirty += memory.pss_dirty;
            service.rss += memory.rss;
        }
    }
    print(&services)
}

/// The service that a process belongs to, and what the process takes.
fn process(process: &Path) -> Option<(String, Memory)> {
    let group = fs::read_to_string(process.join("cgroup")).ok()?;
    let name = Path::new(group.trim_end()).file_name()?.to_str()?.strip_suffix(".service")?;
    if !name.starts_with("incus-osd") {
        return None;
    }
    let rollup = fs::read_to_string(process.join("smaps_rollup")).ok()?;
    let value = |key: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    let memory =
        Memory { pss: value("Pss:")?, pss_dirty: value("Pss_Dirty:").unwrap_or_default(), rss: value("Rss:")? };
    Some((name.to_owned(), memory))
}

fn print(figure: &impl Serialize) -> io::Result<()> {
    println!("{}", serde_json::to_string(figure)?);
    Ok(())
}
