//! A machine's console, read from its log.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::wait::{WaitError, wait_for};

/// Reads a console log from a chosen place on.
#[derive(Clone, Debug)]
pub struct Console {
    path: PathBuf,
    start: u64,
}

impl Console {
    /// Everything in the log, from the machine's first boot on.
    #[must_use]
    pub fn whole(path: &Path) -> Self {
        Self { path: path.to_owned(), start: 0 }
    }

    /// What comes from now on: take it before the act whose traces are awaited.
    #[must_use]
    pub fn from_now(path: &Path) -> Self {
        let start = path.metadata().map_or(0, |metadata| metadata.len());
        Self { path: path.to_owned(), start }
    }

    /// The text so far; empty while there is no log. Escape sequences are taken out, because
    /// markers would be missed where systemd puts colours into them.
    ///
    /// # Errors
    ///
    /// When the log is there and cannot be read.
    pub fn text(&self) -> io::Result<String> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(self.start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(plain(&String::from_utf8_lossy(&bytes)))
    }

    /// The last lines, for messages.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let text = self.text().unwrap_or_else(|error| format!("(unreadable: {error})"));
        let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Waits for a text and gives the line it stands in.
    ///
    /// # Errors
    ///
    /// When it does not come; the error shows the last lines.
    pub fn wait_for(&self, marker: &str, limit: Duration) -> Result<String, WaitError> {
        self.wait_for_any(&[marker], limit)
    }

    /// Waits for the first of several texts and gives the line it stands in.
    ///
    /// # Errors
    ///
    /// When none comes; the error shows the last lines.
    pub fn wait_for_any(&self, markers: &[&str], limit: Duration) -> Result<String, WaitError> {
        wait_for(&format!("`{}` on the console", markers.join("` or `")), limit, || {
            let text = self.text().map_err(|error| error.to_string())?;
            text.lines()
                .find(|line| markers.iter().any(|marker| line.contains(marker)))
                .map(str::to_owned)
                .ok_or_else(|| format!("\n{}", self.tail(15)))
        })
    }
}

/// Text without terminal escape sequences and carriage returns.
fn plain(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\r' => {}
            '\u{1b}' => match characters.next() {
                // CSI: parameters, then one final byte.
                Some('[') => {
                    characters.by_ref().find(|c| ('\u{40}'..='\u{7e}').contains(c));
                }
                // OSC: up to BEL or ESC \.
                Some(']') => {
                    let end = characters.by_ref().find(|c| matches!(c, '\u{7}' | '\u{1b}'));
                    if end == Some('\u{1b}') {
                        characters.next_if_eq(&'\\');
                    }
                }
                _ => {}
            },
            other => result.push(other),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn marker_is_found_through_colours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let sequences =
            "\u{1b}]0;title\u{1b}\\[\u{1b}[0;32m  OK  \u{1b}[0m] Reached \u{1b}[0;1mmulti-user.target\u{1b}[0m\r\n";
        fs::write(&path, sequences).unwrap();
        let line = Console::whole(&path).wait_for("Reached multi-user", Duration::ZERO).unwrap();
        assert_eq!(line, "[  OK  ] Reached multi-user.target");
    }

    #[test]
    fn old_lines_do_not_count_for_a_later_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "first boot\n").unwrap();
        let console = Console::from_now(&path);
        let error = console.wait_for("boot", Duration::ZERO).unwrap_err();
        assert_eq!(error.what, "`boot` on the console");
    }
}
