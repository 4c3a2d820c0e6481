use std::{
    fmt, future, io,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::sync::watch;

use crate::{Call, Output, RunError, Runner, Streaming, Tool};

/// Wraps a runner and lets things go wrong at one of its calls. Repeated for
/// every position, it shows what a workflow leaves behind wherever it is broken
/// off.
pub struct FaultyRunner<R> {
    inner: R,
    tools: Vec<Tool>,
    position: usize,
    fault: Fault,
    calls: AtomicUsize,
    struck: watch::Sender<bool>,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The program cannot be run; the following ones can.
    Refused,
    /// The program does its work and is then taken for failed; the following ones run.
    Unheard,
    /// The machine goes down before the program runs: nobody gets an answer any more.
    CutBefore,
    /// The machine goes down when the program has done its work.
    CutAfter,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 4] = [Self::Refused, Self::Unheard, Self::CutBefore, Self::CutAfter];
}

impl<R> FaultyRunner<R> {
    /// Lets `fault` strike at the call number `position`, counted from zero, of
    /// these tools. Others are passed on uncounted.
    pub fn new(inner: R, tools: impl Into<Vec<Tool>>, position: usize, fault: Fault) -> Self {
        let (struck, _) = watch::channel(false);
        Self { inner, tools: tools.into(), position, fault, calls: AtomicUsize::new(0), struck }
    }

    /// Whether the workflow came as far as the fault.
    pub fn has_struck(&self) -> bool {
        *self.struck.borrow()
    }

    /// Resolves when the fault has struck.
    pub async fn struck(&self) {
        // The sender is in `self`: it cannot go away.
        let _ = self.struck.subscribe().wait_for(|struck| *struck).await;
    }

    fn counts(&self, call: &Call) -> bool {
        self.tools.contains(&call.tool)
    }
}

#[async_trait::async_trait]
impl<R: Runner> Runner for FaultyRunner<R> {
    async fn run(&self, call: &Call) -> Result<Output, RunError> {
        if !self.counts(call) {
            return self.inner.run(call).await;
        }
        let is_down = self.has_struck() && matches!(self.fault, Fault::CutBefore | Fault::CutAfter);
        if is_down {
            return future::pending().await;
        }
        if self.calls.fetch_add(1, Ordering::SeqCst) != self.position {
            return self.inner.run(call).await;
        }
        if matches!(self.fault, Fault::Unheard | Fault::CutAfter) {
            self.inner.run(call).await?;
        }
        self.struck.send_replace(true);
        match self.fault {
            Fault::CutBefore | Fault::CutAfter => future::pending().await,
            Fault::Refused | Fault::Unheard => Err(RunError::Start {
                command_line: call.command_line(),
                source: io::Error::other("a fault was injected"),
            }),
        }
    }

    async fn stream(&self, call: &Call) -> Result<Streaming, RunError> {
        self.inner.stream(call).await
    }
}

impl<R> fmt::Debug for FaultyRunner<R> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("FaultyRunner")
            .field("position", &self.position)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reply, ScriptedRunner};

    fn call(argument: &str) -> Call {
        Call::new(Tool::Zpool, [argument])
    }

    fn script(arguments: &[&str]) -> ScriptedRunner {
        arguments.iter().fold(ScriptedRunner::new(), |script, argument| {
            script.expect(format!("zpool {argument}"), Reply::Stdout(Vec::new()))
        })
    }

    #[tokio::test]
    async fn a_refused_program_does_not_run_and_an_unheard_one_does() {
        for (fault, ran) in [(Fault::Refused, &["a", "c"][..]), (Fault::Unheard, &["a", "b", "c"])] {
            let runner = FaultyRunner::new(script(ran), [Tool::Zpool], 1, fault);
            assert!(runner.run(&call("a")).await.is_ok() && !runner.has_struck());
            assert!(runner.run(&call("b")).await.is_err() && runner.has_struck());
            assert!(runner.run(&call("c")).await.is_ok());
        }
    }

    #[tokio::test]
    async fn after_a_cut_nothing_answers() {
        for (fault, ran) in [(Fault::CutBefore, &["a"][..]), (Fault::CutAfter, &["a", "b"])] {
            let runner = FaultyRunner::new(script(ran), [Tool::Zpool], 1, fault);
            assert!(runner.run(&call("a")).await.is_ok());
            for argument in ["b", "c"] {
                tokio::select! {
                    biased;
                    _ = async { runner.run(&call(argument)).await } => panic!("the machine is down"),
                    () = runner.struck() => {}
                }
            }
        }
    }
}
