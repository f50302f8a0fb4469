//! Load: clients that take tickets from a pacer, and what they counted.
//!
//! *Closed loop* (no rate): each client sends its next request when the last one was answered. *Open loop* (a rate):
//! requests are due at fixed times whatever the answers do, and a latency counts from when the request was due. A slow
//! answer thus also delays, in the figures, those that had to wait behind it: nothing is left out because the store was
//! slow (coordinated omission).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::wire::{Answer, Connection, Op, Protocol};

/// Latencies above a minute are counted as a minute.
const LATENCY_MICROS_MAX: u64 = 60_000_000;
/// tokio's timers fire up to a millisecond late. That much is the generator's fault, not the store's, if the
/// client was free in time.
const TIMER_SLACK: Duration = Duration::from_millis(2);
/// After a refusal or a lost connection a client rests this long, so that errors do not become a busy loop.
const REFUSED_PAUSE: Duration = Duration::from_millis(5);
/// How many kinds of errors are told apart; a flood of odd texts is not.
const ERROR_KINDS_MAX: usize = 32;

/// Reads among the requests, in percent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reads(pub(crate) u8);

/// What every client does.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) addresses: Vec<String>,
    pub(crate) protocol: Protocol,
    pub(crate) query: &'static str,
    pub(crate) clients: usize,
    pub(crate) pipeline: u64,
    pub(crate) reads: Reads,
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
    /// Requests a second; `None`: closed loop.
    pub(crate) rate: Option<f64>,
    /// Requests that are due at the same moment; at a rate, the waves come as much further apart.
    pub(crate) wave: u64,
    /// How long an answer is waited for.
    pub(crate) timeout: Duration,
}

/// When it is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Until {
    Elapsed(Duration),
    Requests(u64),
}

/// Hands out requests, each with the time it is due.
#[derive(Debug)]
pub(crate) struct Pacer {
    start: Instant,
    rate: Option<f64>,
    wave: u64,
    until: Until,
    next: AtomicU64,
}

impl Pacer {
    pub(crate) fn new(start: Instant, rate: Option<f64>, wave: u64, until: Until) -> Pacer {
        assert!(wave > 0, "a wave of no request never ends");
        Pacer { start, rate, wave, until, next: AtomicU64::new(0) }
    }

    /// Takes up to `count` requests: how many, and when they are due. `None` when it is over.
    pub(crate) fn take(&self, count: u64, now: Instant) -> Option<(u64, Instant)> {
        if let Until::Elapsed(duration) = self.until
            && now >= self.start + duration
        {
            return None;
        }
        let first = self.next.fetch_add(count, Relaxed);
        let due = self.due(first);
        match self.until {
            Until::Requests(total) => (first < total).then(|| (count.min(total - first), due)),
            Until::Elapsed(duration) => (due < self.start + duration).then_some((count, due)),
        }
    }

    fn due(&self, index: u64) -> Instant {
        let begun = index - index % self.wave;
        self.rate.map_or(self.start, |rate| self.start + Duration::from_secs_f64(begun as f64 / rate))
    }

    /// Requests that were due within the time but never sent, because every client was busy.
    /// Only an open loop has them.
    pub(crate) fn unsent(&self) -> u64 {
        match (self.rate, self.until) {
            (Some(rate), Until::Elapsed(duration)) => {
                let scheduled = (rate * duration.as_secs_f64()).ceil() as u64;
                scheduled.saturating_sub(self.next.load(Relaxed))
            }
            _ => 0,
        }
    }
}

/// From when a request's latency counts.
pub(crate) fn measured_from(rate: Option<f64>, due: Instant, free: Instant, sent: Instant) -> Instant {
    match rate {
        None => sent,
        Some(_) if free <= due && sent.saturating_duration_since(due) <= TIMER_SLACK => sent,
        Some(_) => due,
    }
}

/// What was counted.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) writes: Histogram<u64>,
    pub(crate) reads: Histogram<u64>,
    pub(crate) missing: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    /// How many writes were acknowledged with so many copies, where answers tell.
    pub(crate) copies: BTreeMap<u32, u64>,
    /// The highest revision that an answer named.
    pub(crate) revision: u64,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        // Three significant digits from 1 µs to a minute: legal bounds, so the fallback is never taken.
        let empty = || {
            Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3)
                .or_else(|_| Histogram::new(3))
                .unwrap_or_else(|e| panic!("{e}"))
        };
        Tally {
            writes: empty(),
            reads: empty(),
            missing: 0,
            errors: BTreeMap::new(),
            copies: BTreeMap::new(),
            revision: 0,
        }
    }

    pub(crate) fn record(&mut self, op: Op, answer: Answer, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).clamp(1, LATENCY_MICROS_MAX);
        match answer {
            Answer::Error(code) => return self.error(code, 1),
            Answer::Missing => self.missing += 1,
            Answer::Done(told) => {
                if let Some(copies) = told.copies.filter(|_| op == Op::Write) {
                    *self.copies.entry(copies).or_default() += 1;
                }
                self.revision = self.revision.max(told.revision.unwrap_or(0));
            }
        }
        match op {
            Op::Write => self.writes.saturating_record(micros),
            Op::Read => self.reads.saturating_record(micros),
        }
    }

    pub(crate) fn error(&mut self, code: String, count: u64) {
        let room = self.errors.len() < ERROR_KINDS_MAX || self.errors.contains_key(&code);
        *self.errors.entry(if room { code } else { "other".to_owned() }).or_default() += count;
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        // The bounds are the same, so adding cannot fail.
        let _ = self.writes.add(&other.writes);
        let _ = self.reads.add(&other.reads);
        self.missing += other.missing;
        for (code, count) in &other.errors {
            self.error(code.clone(), *count);
        }
        for (copies, count) in &other.copies {
            *self.copies.entry(*copies).or_default() += count;
        }
        self.revision = self.revision.max(other.revision);
    }

    /// Requests that were answered without an error.
    pub(crate) fn done(&self) -> u64 {
        self.writes.len() + self.reads.len()
    }
}

/// A small generator of numbers (SplitMix64, Steele, Lea and Flood 2014): keys and the mix need no better one.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not zero. The bias of the remainder is far below what a load test sees.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// One client with its connection, which outlives a phase.
pub(crate) struct Client {
    load: Arc<Load>,
    address: String,
    connection: Option<Connection>,
    random: Random,
    value: Vec<u8>,
}

impl Client {
    /// The `number`-th client, connected.
    pub(crate) async fn connect(load: Arc<Load>, number: usize) -> std::io::Result<Client> {
        let address = load.addresses[number % load.addresses.len()].clone();
        let mut random = Random(number as u64 + 1);
        // Printable and without patterns, so that a store that compresses has no easier time than with real values.
        let value = (0..load.value_bytes).map(|_| b'!' + (random.below(94)) as u8).collect();
        let mut client = Client { load, address, connection: None, random, value };
        client.connection().await?;
        Ok(client)
    }

    async fn connection(&mut self) -> std::io::Result<&mut Connection> {
        if self.connection.as_ref().is_none_or(Connection::closing) {
            let opening = Connection::open(&self.address, self.load.protocol, self.load.query);
            let opened = tokio::time::timeout(self.load.timeout, opening).await;
            self.connection = Some(opened.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??);
        }
        self.connection.as_mut().ok_or_else(|| std::io::ErrorKind::NotConnected.into())
    }

    /// Takes and does requests until the pacer has no more. `counted` shows progress.
    pub(crate) async fn run(mut self, pacer: Arc<Pacer>, counted: Arc<AtomicU64>) -> (Client, Tally) {
        let mut tally = Tally::new();
        let mut ops = Vec::new();
        loop {
            let free = Instant::now();
            let Some((count, due)) = pacer.take(self.load.pipeline, free) else { break };
            if due > free {
                tokio::time::sleep_until(due).await;
            }
            let from = measured_from(self.load.rate, due, free, Instant::now());
            ops.clear();
            for _ in 0..count {
                let read = self.random.below(100) < u64::from(self.load.reads.0);
                ops.push(if read { Op::Read } else { Op::Write });
            }
            let refusals: u64 = tally.errors.values().sum();
            let answered = self.exchange(&ops, from, &mut tally).await;
            if let Err((error, unanswered)) = answered {
                self.connection = None;
                tally.error(name_of(&error), unanswered);
            }
            counted.fetch_add(count, Relaxed);
            if tally.errors.values().sum::<u64>() > refusals {
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
        }
        (self, tally)
    }

    /// Sends the requests together and takes their answers. If that fails: why, and how many stayed without an answer.
    async fn exchange(&mut self, ops: &[Op], from: Instant, tally: &mut Tally) -> Result<(), (std::io::Error, u64)> {
        let (timeout, keys) = (self.load.timeout, self.load.keys);
        let picked: Vec<u64> = ops.iter().map(|_| self.random.below(keys)).collect();
        let value = std::mem::take(&mut self.value);
        let mut answered = 0;
        let result = async {
            let connection = self.connection().await?;
            for (op, key) in ops.iter().zip(picked) {
                connection.push(*op, key, &value);
            }
            let exchange = async {
                connection.send().await?;
                for op in ops {
                    let answer = connection.answer(*op).await?;
                    tally.record(*op, answer, from.elapsed());
                    answered += 1;
                }
                Ok(())
            };
            let timed = tokio::time::timeout(timeout, exchange).await;
            timed.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        };
        let result: std::io::Result<()> = result.await;
        self.value = value;
        result.map_err(|e| (e, ops.len() as u64 - answered))
    }
}

fn name_of(error: &std::io::Error) -> String {
    use std::io::ErrorKind::{ConnectionRefused, InvalidData, TimedOut};
    match error.kind() {
        TimedOut => "timeout".to_owned(),
        ConnectionRefused => "connection refused".to_owned(),
        InvalidData => error.to_string(),
        _ => "connection lost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::Told;
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn an_open_loop_hands_out_requests_at_their_times_and_a_closed_one_at_once() {
        let start = Instant::now();
        let open = Pacer::new(start, Some(1000.0), 1, Until::Elapsed(10 * MS));
        let dues: Vec<_> = std::iter::from_fn(|| open.take(1, start)).map(|(_, due)| due - start).collect();
        assert_eq!(dues, (0..10).map(|i| i * MS).collect::<Vec<_>>());
        let closed = Pacer::new(start, None, 1, Until::Requests(5));
        let taken: Vec<_> = std::iter::from_fn(|| closed.take(2, start + MS)).collect();
        assert_eq!(taken, [(2, start), (2, start), (1, start)]);
    }

    #[test]
    fn the_requests_of_a_wave_are_due_together_and_the_rate_stays() {
        let start = Instant::now();
        let pacer = Pacer::new(start, Some(1000.0), 4, Until::Requests(9));
        let dues: Vec<_> = std::iter::from_fn(|| pacer.take(1, start)).map(|(_, due)| due - start).collect();
        assert_eq!(dues, [0, 0, 0, 0, 4, 4, 4, 4, 8].map(|at| at * MS));
    }

    #[test]
    fn nothing_is_handed_out_after_the_end_and_what_was_due_before_it_is_counted_as_unsent() {
        let start = Instant::now();
        let pacer = Pacer::new(start, Some(1000.0), 1, Until::Elapsed(10 * MS));
        assert!(pacer.take(1, start).is_some());
        assert_eq!(pacer.take(1, start + 10 * MS), None);
        assert_eq!(pacer.unsent(), 9);
    }

    #[test]
    fn a_request_that_waited_behind_a_slow_answer_counts_from_when_it_was_due() {
        let due = Instant::now();
        let late = due + 500 * MS;
        assert_eq!(measured_from(Some(10.0), due, late, late), due);
        // The timer fired late, the client was free: the generator's fault.
        assert_eq!(measured_from(Some(10.0), due, due, due + MS), due + MS);
        // Later than a timer ever is: the generator is overloaded, and that must be seen.
        assert_eq!(measured_from(Some(10.0), due, due, due + 50 * MS), due);
        assert_eq!(measured_from(None, due, due, late), late);
    }

    #[test]
    fn a_tally_keeps_reads_writes_and_errors_apart_and_adds_up() {
        let mut one = Tally::new();
        for ms in 1..=100 {
            one.record(Op::Write, Answer::Done(Told::default()), ms * MS);
        }
        one.record(Op::Read, Answer::Missing, MS);
        one.record(Op::Write, Answer::Error("no_quorum".into()), MS);
        let mut both = Tally::new();
        both.add(&one);
        both.add(&one);
        assert_eq!((both.done(), both.missing, both.errors["no_quorum"]), (202, 2, 2));
        let p99 = both.writes.value_at_quantile(0.99);
        assert!((98_900..=99_200).contains(&p99), "{p99}");
        assert!(both.writes.max() >= 100_000);
    }

    #[test]
    fn a_flood_of_different_errors_stays_bounded() {
        let mut tally = Tally::new();
        for i in 0..1000 {
            tally.error(format!("e{i}"), 1);
        }
        assert!(tally.errors.len() <= ERROR_KINDS_MAX + 1);
        assert_eq!(tally.errors.values().sum::<u64>(), 1000);
    }
}
