//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// A condition did not come true within its limit.
#[derive(Debug, thiserror::Error)]
#[error("waited {} s for {what}; last seen: {last}", limit.as_secs())]
pub struct WaitError {
    /// The condition, as the caller put it.
    pub what: String,
    /// How long it was waited for.
    pub limit: Duration,
    /// What the last look found instead.
    pub last: String,
}

/// Looks again and again until `look` answers `Ok`, and gives that answer.
///
/// `look` says with `Err` what it sees while the condition does not hold yet; the last such text
/// is part of the error. The condition is looked at least once, also with a limit of zero. A
/// finding that makes further waiting pointless is an `Ok` of a `Result` type.
///
/// # Errors
///
/// [`WaitError`] when the limit passes first.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T, WaitError> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        let last = match look() {
            Ok(found) => return Ok(found),
            Err(seen) => seen,
        };
        let Some(left) = limit.checked_sub(start.elapsed()) else {
            return Err(WaitError { what: what.to_owned(), limit, last });
        };
        // Between two looks only: short at first for things that are nearly there, then easy on a
        // machine that is busy emulating another one.
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(300));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn condition_that_holds_is_answered_even_without_time() {
        assert_eq!(wait_for("seven", Duration::ZERO, || Ok(7)).unwrap(), 7);
    }

    #[test]
    fn error_names_condition_and_last_state() {
        let mut looks = 0;
        let error = wait_for::<()>("a light", Duration::from_millis(30), || {
            looks += 1;
            Err(format!("look {looks}: dark"))
        })
        .unwrap_err();
        assert!(looks > 1);
        assert_eq!(error.what, "a light");
        assert_eq!(error.last, format!("look {looks}: dark"));
    }
}
