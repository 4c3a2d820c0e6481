use std::{error::Error, fmt};

/// Why the boot does not go on, in one sentence for a person at the console.
#[derive(Debug)]
pub struct Refusal {
    sentence: String,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl Refusal {
    /// A refusal that needs no further explanation.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), cause: None }
    }

    /// One that has a cause.
    pub(crate) fn because(sentence: impl Into<String>, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { sentence: sentence.into(), cause: Some(cause.into()) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.sentence)?;
        match &self.cause {
            Some(cause) => write!(out, ": {}", causes::chain(cause.as_ref())),
            None => Ok(()),
        }
    }
}

impl Error for Refusal {}
