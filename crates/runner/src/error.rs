use std::{io, time::Duration};

use crate::Exit;

/// Why a program gave no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It could not be started or talked to.
    #[error("cannot run `{command_line}`")]
    Start {
        /// What was tried.
        command_line: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It did not end in time, and was killed with its children.
    #[error("`{command_line}` did not end within {deadline:?} and was killed")]
    Deadline {
        /// What was tried.
        command_line: String,
        /// The limit.
        deadline: Duration,
    },
    /// It printed more than a tool of this system has reason to.
    #[error("`{command_line}` printed more than {limit} bytes")]
    TooMuchOutput {
        /// What was tried.
        command_line: String,
        /// The limit.
        limit: usize,
    },
    /// It ended with an error. Clients compare this text.
    #[error("Failed to run: {command_line}: {exit}{}", parenthesised(stderr))]
    Failed {
        /// What was run.
        command_line: String,
        /// How it ended.
        exit: Exit,
        /// What it complained of, trimmed.
        stderr: String,
    },
}

fn parenthesised(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(" ({stderr})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_as_clients_expect() {
        let mut failed = RunError::Failed {
            command_line: "zpool import x".into(),
            exit: Exit::Code(1),
            stderr: "no such pool".into(),
        };
        assert_eq!(failed.to_string(), "Failed to run: zpool import x: exit status 1 (no such pool)");
        if let RunError::Failed { stderr, .. } = &mut failed {
            stderr.clear();
        }
        assert_eq!(failed.to_string(), "Failed to run: zpool import x: exit status 1");
    }
}
