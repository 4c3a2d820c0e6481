//! The harness's hands inside a machine under test.
//!
//! Only the `test` flavour of the image holds this program; the product has no
//! way in but its API. It reads one JSON request a line from a virtio serial
//! port and writes one JSON answer a line:
//!
//! ```json
//! {"argv": ["systemctl", "is-active", "incus-osd"]}
//! {"exit": 0, "stdout": "active\n", "stderr": ""}
//! ```
//!
//! A program that cannot be started is answered with `exit` 127. Started with
//! arguments, the program is one of the harness's measuring tools instead:
//!
//! ```text
//! test-agent measure-get /run/incus-os/unix.socket /1.0 200
//! test-agent measure-memory
//! ```

#![expect(clippy::disallowed_methods, reason = "starting arbitrary programs is the purpose of this one")]

mod measure;

use std::{
    env,
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    process::Command,
};

use serde::{Deserialize, Serialize};

/// The port that the harness names so in QEMU (`virtserialport,name=…`).
const PORT: &str = "/dev/virtio-ports/incus-os.test";

#[derive(Deserialize)]
struct Request {
    argv: Vec<String>,
}

#[derive(Serialize)]
struct Answer {
    exit: i32,
    stdout: String,
    stderr: String,
}

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => serve(),
        ["measure-get", socket, path, requests] => {
            let requests = requests.parse().map_err(|_| io::Error::other(format!("{requests:?} is no number")))?;
            measure::get(Path::new(socket), path, requests)
        }
        ["measure-memory"] => measure::memory(),
        _ => Err(io::Error::other("usage: test-agent [measure-get SOCKET PATH REQUESTS | measure-memory]")),
    }
}

fn serve() -> io::Result<()> {
    let mut port = File::options().read(true).write(true).open(PORT)?;
    let requests = BufReader::new(port.try_clone()?);
    writeln!(port, r#"{{"ready":true}}"#)?;
    for line in requests.lines() {
        let answer = answer(&line?);
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        port.write_all(&text)?;
    }
    Ok(())
}

fn answer(line: &str) -> Answer {
    match serde_json::from_str::<Request>(line) {
        Ok(request) => run(&request.argv),
        Err(error) => Answer { exit: 127, stdout: String::new(), stderr: format!("bad request {line:?}: {error}") },
    }
}

fn run(argv: &[String]) -> Answer {
    let Some((program, args)) = argv.split_first() else {
        return Answer { exit: 127, stdout: String::new(), stderr: "an empty command line".into() };
    };
    match Command::new(program).args(args).output() {
        Ok(output) => Answer {
            exit: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        },
        Err(error) => Answer { exit: 127, stdout: String::new(), stderr: format!("cannot run {program}: {error}") },
    }
}
