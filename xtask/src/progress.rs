//! Long steps: what runs, how long it has been running, and how long it took last time.

use std::{
    collections::BTreeMap,
    fs,
    io::IsTerminal,
    sync::{
        Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cmd::Log;

/// Runs steps and remembers their durations for the next estimate.
#[derive(Debug)]
pub(crate) struct Steps {
    logs: Utf8PathBuf,
    file: Utf8PathBuf,
    seconds: Mutex<BTreeMap<String, u64>>,
}

impl Steps {
    /// Loads the durations of earlier runs from the cache folder.
    pub(crate) fn new(cache: &Utf8Path) -> Self {
        let file = cache.join("durations.json");
        let seconds = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { logs: cache.join("logs"), file, seconds: Mutex::new(seconds) }
    }

    /// Runs one step. `guess` is the estimate until the step ran once on this machine.
    pub(crate) fn step<T>(&self, name: &str, guess: Duration, work: impl FnOnce(&Log) -> Result<T>) -> Result<T> {
        let known = self.seconds.lock().ok().and_then(|seconds| seconds.get(name).copied());
        let estimate = known.map_or(guess, Duration::from_secs);
        let log = self.log(name)?;
        let start = Instant::now();
        let result = if std::io::stderr().is_terminal() {
            with_bar(name, estimate, || work(&log))
        } else {
            eprintln!("{name} (about {})", human(estimate));
            work(&log)
        };
        let took = start.elapsed();
        if result.is_ok() {
            eprintln!("{name}: done in {}", human(took));
            self.remember(name, took);
        }
        result
    }

    /// Runs a step that is usually too short to mention.
    pub(crate) fn quiet<T>(&self, name: &str, work: impl FnOnce(&Log) -> Result<T>) -> Result<T> {
        work(&self.log(name)?)
    }

    fn log(&self, name: &str) -> Result<Log> {
        Log::create(&self.logs.join(format!("{}.log", name.replace(|c: char| !c.is_alphanumeric(), "-"))))
    }

    fn remember(&self, name: &str, took: Duration) {
        let Ok(mut seconds) = self.seconds.lock() else { return };
        seconds.insert(name.to_owned(), took.as_secs());
        // An estimate that cannot be saved is not worth failing a build.
        if let Ok(text) = serde_json::to_vec_pretty(&*seconds) {
            let _ = fs::write(&self.file, text);
        }
    }
}

fn with_bar<T>(name: &str, estimate: Duration, work: impl FnOnce() -> T) -> T {
    let bar = ProgressBar::new(estimate.as_secs().max(1));
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg} [{bar:24}] {elapsed} of about {prefix}")
            .expect("the template above is valid"),
    );
    bar.set_message(name.to_owned());
    bar.set_prefix(human(estimate));
    let (stop, stopped) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let ticking = bar.clone();
        scope.spawn(move || {
            while stopped.recv_timeout(Duration::from_millis(200)) == Err(RecvTimeoutError::Timeout) {
                ticking.tick();
                ticking.set_position(ticking.elapsed().as_secs().min(ticking.length().unwrap_or(1)));
            }
        });
        let result = work();
        drop(stop);
        bar.finish_and_clear();
        result
    })
}

/// A duration as a person says it.
pub(crate) fn human(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimate_survives_and_failures_do_not_count() {
        let dir = tempfile::tempdir().expect("temp dir");
        let cache = Utf8Path::from_path(dir.path()).expect("UTF-8");
        let steps = Steps::new(cache);
        steps.step("good", Duration::ZERO, |_| Ok(())).expect("step works");
        steps.step("bad", Duration::ZERO, |_| Err::<(), _>(anyhow::anyhow!("no"))).expect_err("step fails");
        let again = Steps::new(cache);
        let seconds = again.seconds.lock().expect("not poisoned");
        assert_eq!(seconds.keys().collect::<Vec<_>>(), ["good"]);
    }
}
