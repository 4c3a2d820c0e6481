//! The only place of the system that starts programs.
//!
//! Every program is a variant of [`Tool`], so the list is a reviewable fact and
//! the image can be checked against it. A [`Call`] has no shell, an empty
//! environment with a fixed locale, and always a deadline: a hung tool is an
//! error, not a hang. What a failure means is the caller's decision.

use std::sync::Arc;

mod call;
mod error;
mod faulty;
mod scripted;
mod system;
mod tool;

pub use call::{Call, Exit, Output, Streaming};
pub use error::RunError;
pub use faulty::{Fault, FaultyRunner};
pub use scripted::{Reply, ScriptedRunner};
pub use system::SystemRunner;
pub use tool::Tool;

/// Runs one program.
#[async_trait::async_trait]
pub trait Runner: Send + Sync {
    /// Runs the program to its end and returns what it printed. An exit status
    /// other than zero is not an error here, see [`Output::success`].
    async fn run(&self, call: &Call) -> Result<Output, RunError>;

    /// Starts the program and hands out its standard output while it runs. The
    /// deadline of the call does not apply; dropping the result ends the program.
    async fn stream(&self, call: &Call) -> Result<Streaming, RunError>;
}

#[async_trait::async_trait]
impl<R: Runner + ?Sized> Runner for Arc<R> {
    async fn run(&self, call: &Call) -> Result<Output, RunError> {
        (**self).run(call).await
    }

    async fn stream(&self, call: &Call) -> Result<Streaming, RunError> {
        (**self).stream(call).await
    }
}
