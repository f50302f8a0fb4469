//! The simulated delay: a line of points in time at which a lane has something to send.
//!
//! Each append with entries gets a time before which it does not leave; the lane keeps the message, this line only
//! wakes the lane when the time has come. So a thousand appends wait side by side and none caps the others. A thread of
//! its own, because the runtime's timer counts in milliseconds and delays of a tenth of one are usual here. Nothing
//! runs until the first delay is configured. The range may change while appends wait: what waits keeps its time, and
//! what follows leaves after it.
//!
//! Before: [`super::Network::send`]. After: [`super::connection`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// What is woken.
pub(super) trait Sleeper: Send + Sync {
    /// Something it keeps is due.
    fn wake(&self);
}

struct Due<S> {
    at: Instant,
    who: Arc<S>,
}

impl<S> PartialEq for Due<S> {
    fn eq(&self, other: &Due<S>) -> bool {
        self.at == other.at
    }
}

impl<S> Eq for Due<S> {}

impl<S> PartialOrd for Due<S> {
    fn partial_cmp(&self, other: &Due<S>) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<S> Ord for Due<S> {
    fn cmp(&self, other: &Due<S>) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

struct Line<S> {
    /// As long as the lanes' queues together, which are bounded.
    due: Mutex<(BinaryHeap<Reverse<Due<S>>>, bool)>,
    changed: Condvar,
}

/// The range of the delays, and the state of the dice.
struct Draws {
    range: (Duration, Duration),
    dice: u64,
}

/// Draws delays, and wakes who waits for one.
pub(super) struct DelayLine<S> {
    draws: Mutex<Draws>,
    line: Arc<Line<S>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl<S: Sleeper + 'static> DelayLine<S> {
    /// A line for delays in this range; `None` if there is no delay, or no thread to be had.
    pub(super) fn start(range: (Duration, Duration)) -> Option<DelayLine<S>> {
        let range = in_order(range);
        if range.1.is_zero() {
            return None;
        }
        let line = Arc::new(Line { due: Mutex::new((BinaryHeap::new(), false)), changed: Condvar::new() });
        let running = line.clone();
        let thread = std::thread::Builder::new().name("quorate-delay".into()).spawn(move || running.run());
        match thread {
            Ok(thread) => {
                let thread = Mutex::new(Some(thread));
                let draws = Mutex::new(Draws { range, dice: RandomState::new().hash_one(1) });
                Some(DelayLine { draws, line, thread })
            }
            Err(error) => {
                tracing::error!(%error, "the simulated delay is off: its thread did not start");
                None
            }
        }
    }

    /// A delay, uniform in the range.
    pub(super) fn draw(&self) -> Duration {
        let mut draws = self.draws.lock();
        let (low, high) = draws.range;
        low + (high - low).mul_f64(unit(&mut draws.dice))
    }

    /// Another range, for whatever is drawn from now on.
    pub(super) fn set_range(&self, range: (Duration, Duration)) {
        self.draws.lock().range = in_order(range);
    }

    /// Wakes `who` at that time.
    pub(super) fn at(&self, at: Instant, who: Arc<S>) {
        let mut due = self.line.due.lock();
        let first = due.0.peek().is_none_or(|Reverse(next)| at < next.at);
        due.0.push(Reverse(Due { at, who }));
        drop(due);
        if first {
            self.line.changed.notify_one();
        }
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.line.due.lock().1 = true;
        self.line.changed.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

fn in_order(range: (Duration, Duration)) -> (Duration, Duration) {
    (range.0.min(range.1), range.1.max(range.0))
}

impl<S: Sleeper> Line<S> {
    fn run(&self) {
        let mut due = self.due.lock();
        loop {
            if due.1 {
                due.0.clear();
                return;
            }
            let now = Instant::now();
            match due.0.peek() {
                None => self.changed.wait(&mut due),
                Some(Reverse(next)) if next.at > now => {
                    let at = next.at;
                    self.changed.wait_until(&mut due, at);
                }
                Some(_) => {
                    if let Some(Reverse(next)) = due.0.pop() {
                        // Not under the lock: waking may take the runtime a moment.
                        parking_lot::MutexGuard::unlocked(&mut due, || next.who.wake());
                    }
                }
            }
        }
    }
}

/// The next number of a splitmix64 sequence (Steele, Lea, Flood 2014), in 0…1. Simulated delays and
/// jitter need no better one.
pub(super) fn unit(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Bell(Mutex<mpsc::Sender<Instant>>);

    impl Sleeper for Bell {
        fn wake(&self) {
            let _ = self.0.lock().send(Instant::now());
        }
    }

    #[test]
    fn sleepers_are_woken_in_order_and_never_early() {
        let line = DelayLine::start((Duration::ZERO, Duration::from_millis(1))).expect("line");
        let (tx, rx) = mpsc::channel();
        let bell = Arc::new(Bell(Mutex::new(tx)));
        let start = Instant::now();
        for millis in [30, 10, 20] {
            line.at(start + Duration::from_millis(millis), bell.clone());
        }
        for millis in [10, 20, 30] {
            let rung = rx.recv_timeout(Duration::from_secs(5)).expect("rung");
            assert!(rung >= start + Duration::from_millis(millis));
        }
        line.stop();
    }

    #[test]
    fn draws_stay_in_the_range_and_use_all_of_it() {
        let (low, high) = (Duration::from_micros(100), Duration::from_millis(1));
        let line = DelayLine::<Bell>::start((low, high)).expect("line");
        let draws: Vec<_> = (0..1000).map(|_| line.draw()).collect();
        assert!(draws.iter().all(|d| (low..=high).contains(d)));
        let mean = draws.iter().sum::<Duration>() / 1000;
        assert!((Duration::from_micros(500)..Duration::from_micros(600)).contains(&mean), "{mean:?}");
        line.set_range((Duration::from_secs(3), Duration::from_secs(2)));
        assert!((0..100).map(|_| line.draw().as_secs()).all(|s| s == 2), "the other range, low end first");
        line.stop();
    }
}
