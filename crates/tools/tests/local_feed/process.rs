//! Starting the tools as what they are: programs.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
};

/// Runs a program to its end, without a terminal.
pub(crate) fn run(program: &str, arguments: &[&str], folder: &Path) -> Output {
    #[expect(clippy::disallowed_methods, reason = "tests start the tools as their users do")]
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

/// A program that runs until it is dropped, or until this process ends.
pub(crate) struct Running {
    child: Child,
    /// What the line said that told that it is ready.
    pub(crate) ready: String,
}

impl Running {
    /// Starts a program and waits for a line with `marker` on its output.
    pub(crate) fn start(program: &str, arguments: &[&str], environment: &[(&str, &str)], marker: &str) -> Self {
        // Ends with the *thread* that started it, see prctl(2).
        #[expect(clippy::disallowed_methods, reason = "tests start the tools as their users do")]
        let mut command = Command::new("setpriv");
        // Both outputs end in one pipe: some programs talk on one, some on the other.
        let (reader, writer) = std::io::pipe().unwrap();
        command.args(["--pdeathsig", "KILL", program]).args(arguments).envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
        let (children, child) = mpsc::channel();
        let (said, lines) = mpsc::channel();
        thread::spawn(move || {
            children.send(command.spawn()).unwrap();
            // The command still holds its ends of the pipe.
            drop(command);
            // Goes on reading to the end, whether anybody listens or not, so that the program never waits.
            BufReader::new(reader).lines().map_while(Result::ok).for_each(|line| drop(said.send(line)));
        });
        let child = child.recv().unwrap().unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
        let mut before = Vec::new();
        let ready = loop {
            match lines.recv() {
                Ok(line) if line.contains(marker) => break line,
                Ok(line) => before.push(line),
                Err(_) => panic!("{program} ended and said:\n{}", before.join("\n")),
            }
        };
        Self { child, ready }
    }

    /// The most memory that it ever had, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
