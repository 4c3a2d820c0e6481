//! What a person at the console sees, which is also what the journal keeps.

use std::fmt;

/// A message, and how bad it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    severity: Severity,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Severity {
    Info,
    Warning,
    Error,
}

impl Message {
    pub(crate) fn info(text: impl Into<String>) -> Self {
        Self { severity: Severity::Info, text: text.into() }
    }

    pub(crate) fn warning(text: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, text: text.into() }
    }

    pub(crate) fn error(text: impl Into<String>) -> Self {
        Self { severity: Severity::Error, text: text.into() }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// Where messages go.
#[derive(Debug)]
pub(crate) struct Screen;

impl Screen {
    pub(crate) fn of_machine() -> Self {
        Self
    }

    /// Takes the place of the message before it.
    pub(crate) fn show(&self, message: &Message) {
        self.log(message);
    }

    /// One more line of the log.
    pub(crate) fn log(&self, message: &Message) {
        // The level as sd-daemon(3) defines it; the unit's output goes to the journal and the console.
        let level = match message.severity {
            Severity::Info => 6,
            Severity::Warning => 4,
            Severity::Error => 3,
        };
        for line in message.text.lines() {
            println!("<{level}>{line}");
        }
    }
}
