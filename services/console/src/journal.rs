//! The operator's log, followed; and the moments at which the kernel wrote over
//! the screen.

use std::{sync::Arc, time::Duration};

use runner::{Call, RunError, Runner, Tool};
use serde_json::Value;
use service::Identity;
use tokio::{sync::watch, time::sleep};

use crate::{lines::Lines, machine::Machine, view::View};

/// Lines of the past that are shown.
const PAST_LINES: &str = "--lines=200";

/// Longest time before a journal that broke off is read again.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Follows the journal into the view.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) machine: Machine,
    pub(crate) view: watch::Sender<View>,
    pub(crate) overwritten: watch::Sender<u64>,
    pub(crate) first_retry: Duration,
}

impl Follower {
    /// Follows for as long as it is polled, and begins again when the journal
    /// breaks off.
    pub(crate) async fn run(self, runner: Arc<dyn Runner>) {
        let mut retry = self.first_retry;
        loop {
            let mut count = 0;
            match self.follow(&*runner, &mut count).await {
                Ok(()) => tracing::info!("the journal broke off"),
                Err(error) => tracing::warn!("cannot follow the journal: {error}"),
            }
            retry = if count > 0 { self.first_retry } else { (retry * 2).min(LONGEST_RETRY) };
            sleep(retry).await;
        }
    }

    async fn follow(&self, runner: &dyn Runner, count: &mut u64) -> Result<(), RunError> {
        let call = Call::new(Tool::Journalctl, arguments(self.machine.kernel_loglevel()));
        let mut running = runner.stream(&call).await?;
        let mut lines = Lines::new(&mut running.stdout);
        // A journal that cannot be read has ended.
        while let Ok(Some(line)) = lines.next().await {
            match Entry::parse(line) {
                Some(Entry::Operator(message)) => self.view.send_modify(|view| {
                    // The past comes again with each beginning.
                    if *count == 0 {
                        view.log.clear();
                    }
                    *count += 1;
                    message.lines().for_each(|line| view.log(line));
                }),
                Some(Entry::Kernel) => self.overwritten.send_modify(|times| *times += 1),
                None => {}
            }
        }
        running.finish().await
    }
}

/// Entries of this boot: the operator's lines, and what the kernel has written
/// to the consoles.
fn arguments(kernel_loglevel: u8) -> Vec<String> {
    let mut arguments: Vec<_> = [
        "--no-pager",
        "--quiet",
        "--boot=0",
        "--follow",
        PAST_LINES,
        "--output=json",
        "--output-fields=MESSAGE,_TRANSPORT",
    ]
    .map(str::to_owned)
    .into();
    // The installer speaks in the supervisor's place, which does not run then.
    let identifiers = [Identity::Supervisor.unit(), "incus-osd-installer"];
    arguments.extend(identifiers.map(|identifier| format!("SYSLOG_IDENTIFIER={identifier}")));
    if kernel_loglevel > 0 {
        arguments.extend(["+".to_owned(), "_TRANSPORT=kernel".to_owned()]);
        arguments.extend((0..kernel_loglevel.min(8)).map(|priority| format!("PRIORITY={priority}")));
    }
    arguments
}

/// An entry of the journal.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Operator(String),
    Kernel,
}

impl Entry {
    /// Reads a line of the journal's JSON form.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut entry: Value = serde_json::from_slice(line).ok()?;
        if entry["_TRANSPORT"] == "kernel" {
            return Some(Self::Kernel);
        }
        message(entry.get_mut("MESSAGE")?.take()).map(Self::Operator)
    }
}

/// A value of the journal: text, bytes when it is no text, a list when a field
/// is there several times, and nothing when it is long.
fn message(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Null => Some("(a line that is too long)".to_owned()),
        Value::Array(values) if values.first().is_some_and(Value::is_number) => {
            let bytes: Vec<u8> =
                values.iter().filter_map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect();
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        Value::Array(values) => values.into_iter().next().and_then(message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Entry> {
        Entry::parse(line.as_bytes())
    }

    fn operator(text: &str) -> Option<Entry> {
        Some(Entry::Operator(text.to_owned()))
    }

    #[test]
    fn every_form_of_an_entry_is_read() {
        assert_eq!(parse(r#"{"MESSAGE":"a","_TRANSPORT":"journal"}"#), operator("a"));
        assert_eq!(parse(r#"{"MESSAGE":[97,27,255]}"#), operator("a\u{1b}\u{fffd}"));
        assert_eq!(parse(r#"{"MESSAGE":["a","b"]}"#), operator("a"));
        assert_eq!(parse(r#"{"MESSAGE":null}"#), operator("(a line that is too long)"));
        assert_eq!(parse(r#"{"MESSAGE":"x","_TRANSPORT":"kernel"}"#), Some(Entry::Kernel));
        for odd in ["", "{", "[]", "7", "{}", r#"{"MESSAGE":{}}"#, r#"{"MESSAGE":[]}"#] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn kernel_is_only_followed_where_it_writes_to_the_consoles() {
        let quiet = arguments(0).join(" ");
        assert!(quiet.ends_with("SYSLOG_IDENTIFIER=incus-osd SYSLOG_IDENTIFIER=incus-osd-installer"), "{quiet}");
        let loud = arguments(3).join(" ");
        assert!(loud.ends_with(" + _TRANSPORT=kernel PRIORITY=0 PRIORITY=1 PRIORITY=2"), "{loud}");
    }
}
