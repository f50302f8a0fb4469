//! What a node holds of requests that are still arriving, all connections of its faces together.
//!
//! Each connection is bounded, and so is their number; but thousands of clients that each stop within a large value
//! would together hold more memory than a machine has. Small requests are not counted: they lie in buffers that
//! every connection has anyway.
//!
//! Before: `http::request`, `tcp::session`. After: nothing; who finds no room answers that the node is overloaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::options::Limits;

/// Held by a connection without being counted: sixteen thousand of them come to as much as all others together.
const FREE_BYTES: usize = 16 << 10;

/// How much is held, and how much may be.
#[derive(Debug)]
pub(crate) struct Intake {
    held: AtomicUsize,
    most: usize,
}

impl Intake {
    /// Twice what may be under way afterwards, and at least twice the largest command: who sends at an ordinary pace is
    /// through before that is full.
    pub(super) fn new(limits: &Limits) -> Arc<Intake> {
        let most = limits.in_flight_bytes.max(limits.command_bytes()).saturating_mul(2);
        Arc::new(Intake { held: AtomicUsize::new(0), most })
    }
}

/// One connection's part, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    intake: Arc<Intake>,
    bytes: usize,
}

impl Held {
    pub(super) fn of(intake: &Arc<Intake>) -> Held {
        Held { intake: Arc::clone(intake), bytes: 0 }
    }

    /// Holds so many bytes from now on, in place of what was held. `false` if there is no room for
    /// them: then nothing changes.
    pub(crate) fn hold(&mut self, bytes: usize) -> bool {
        let bytes = if bytes > FREE_BYTES { bytes } else { 0 };
        if bytes > self.bytes {
            let fits = |held: usize| held.checked_add(bytes - self.bytes).filter(|held| *held <= self.intake.most);
            if self.intake.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
                return false;
            }
        } else if bytes < self.bytes {
            self.intake.held.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hold(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_together_hold_no_more_than_the_bound_and_give_it_back() {
        let intake = Arc::new(Intake { held: AtomicUsize::new(0), most: 100 << 10 });
        let (mut one, mut two) = (Held::of(&intake), Held::of(&intake));
        assert!(one.hold(60 << 10) && !two.hold(60 << 10) && two.hold(40 << 10));
        assert!(!one.hold(61 << 10) && one.hold(59 << 10) && two.hold(41 << 10));
        assert!(Held::of(&intake).hold(FREE_BYTES), "a small request is not counted");
        drop(one);
        assert!(two.hold(100 << 10) && two.hold(0));
        drop(two);
        assert_eq!(intake.held.load(Ordering::Relaxed), 0);
    }
}
