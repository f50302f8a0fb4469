//! Waiting for conditions.

use std::time::{Duration, Instant};

/// Between two looks at a condition: short against an election, long against a request.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// What conditions are given unless a test says otherwise: many election timeouts, on a machine several times slower
/// that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Repeats `look` until it yields a value.
///
/// # Panics
/// After [`PATIENCE`], with what was waited for and the last reason.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Result<T, String>) -> T {
    eventually_in(PATIENCE, what, look).await
}

/// As [`eventually`], within a time of its own.
///
/// # Panics
/// After that time, with what was waited for and the last reason.
pub async fn eventually_in<T>(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(reason) if Instant::now() >= deadline => panic!("{what}: not within {limit:?}: {reason}"),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}
