//! What a person at the console sees, which is also what the journal keeps.

use std::{cell::Cell, fmt, path::PathBuf};

use modal::{Category, Modal, Percent, Severity};

/// A message, and how bad it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    category: Category,
    severity: Severity,
    text: String,
    progress: Option<Percent>,
}

impl Message {
    pub(crate) fn info(text: impl Into<String>) -> Self {
        Self::of(Severity::Info, text)
    }

    pub(crate) fn warning(text: impl Into<String>) -> Self {
        Self::of(Severity::Warning, text)
    }

    pub(crate) fn error(text: impl Into<String>) -> Self {
        Self::of(Severity::Error, text)
    }

    /// Why this machine cannot be installed to as it is.
    pub(crate) fn system_check(reason: &str) -> Self {
        Self { category: Category::SystemCheck, ..Self::error(format!("System check error: {reason}")) }
    }

    /// The same, with how far the work is.
    pub(crate) fn with_progress(self, progress: Percent) -> Self {
        Self { progress: Some(progress), ..self }
    }

    fn of(severity: Severity, text: impl Into<String>) -> Self {
        Self { category: Category::Install, severity, text: text.into(), progress: None }
    }

    fn title(&self) -> &'static str {
        match self.category {
            Category::SystemCheck => "System check",
            _ => "Installation",
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// Where messages go.
#[derive(Debug)]
pub(crate) struct Screen {
    /// Where the console looks for the message over its status screen.
    file: PathBuf,
    /// It was told already that the file cannot be written.
    is_mute: Cell<bool>,
}

impl Screen {
    pub(crate) fn of_machine() -> Self {
        Self::at(modal::STATUS_FILE)
    }

    fn at(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), is_mute: Cell::new(false) }
    }

    /// Takes the place of the message before it.
    pub(crate) fn show(&self, message: &Message) {
        self.log(message);
        let modal = Modal {
            category: message.category,
            title: message.title().to_owned(),
            text: message.text.clone(),
            severity: message.severity,
            progress: message.progress,
        };
        if let Err(error) = modal.write(&self.file)
            && !self.is_mute.replace(true)
        {
            // The installation does not depend on being watched.
            self.log(&Message::warning(format!(
                "The status screen does not show the installation: {}.",
                causes::chain(&error)
            )));
        }
    }

    /// One more line of the log.
    pub(crate) fn log(&self, message: &Message) {
        // The level as sd-daemon(3) defines it; the unit's output goes to the journal.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_message_is_the_one_on_the_screen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("status.json");
        let screen = Screen::at(&file);
        screen.show(&Message::system_check("there is no drive"));
        let shown = Modal::read(&file).unwrap().unwrap();
        assert_eq!((shown.category, shown.severity), (Category::SystemCheck, Severity::Error));
        assert_eq!(
            (shown.title.as_str(), shown.text.as_str()),
            ("System check", "System check error: there is no drive")
        );

        screen.show(&Message::info("Copying").with_progress(Percent::of(1, 4)));
        screen.log(&Message::warning("The firmware keeps no note"));
        let shown = Modal::read(&file).unwrap().unwrap();
        assert_eq!((shown.category, shown.text.as_str()), (Category::Install, "Copying"));
        assert_eq!(shown.progress.map(Percent::get), Some(25));
    }

    #[test]
    fn screen_that_cannot_be_written_stops_nothing() {
        let screen = Screen::at("/nowhere/status.json");
        screen.show(&Message::info("Copying"));
        screen.show(&Message::info("Verifying"));
        assert!(screen.is_mute.get());
    }
}
