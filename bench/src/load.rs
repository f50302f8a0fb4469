//! The load on an HTTP server: keep-alive connections, each with one request under way, and exact latencies.
//!
//! Two shapes. *Closed*: every client sends its next request when the answer to the last one is there; this finds the
//! throughput. *Open*: requests fall due at a fixed rate whether or not the server keeps up, and each latency counts
//! from when the request was due, so that a stall is charged to every request that it delayed (no coordinated
//! omission). A due time is met to the millisecond, and the wait for it is part of the latency.
//!
//! On a machine whose cores the servers share, the generator must be cheap: one thread, one task a connection, one
//! write and one read a request, the request a template whose key is overwritten in place.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::failure::{Context, Failure, Outcome};

/// Slowest latency that is told apart, µs: beyond every timeout of the servers.
const LATENCY_US_MAX: u64 = 60_000_000;
/// How long after its end a run waits for answers still out.
const GRACE: Duration = Duration::from_secs(10);
/// Largest answer: a value and its headers, with room.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Digits of a key; `bench-` and they make 16 bytes, as long as etcd's keys in the comparison.
const KEY_DIGITS: usize = 10;

/// What is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    /// Write a value.
    Put,
    /// Read a value; it must be there.
    Get,
}

/// Which keys, in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Any, for as long as the run lasts.
    Random,
    /// Every key once; then the run ends.
    EachOnce,
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) port: u16,
    pub(crate) method: Method,
    pub(crate) clients: usize,
    pub(crate) value_bytes: usize,
    pub(crate) keys: u64,
    pub(crate) order: Order,
    /// Requests a second in all; none: as fast as the answers come.
    pub(crate) rate: Option<f64>,
    /// Runs first, without being counted.
    pub(crate) warm_up: Duration,
    /// Is counted.
    pub(crate) duration: Duration,
}

/// What a run found.
#[derive(Debug)]
pub(crate) struct Report {
    /// Length of the counted part, seconds.
    pub(crate) seconds: f64,
    /// Requests answered well in the counted part.
    pub(crate) answered: u64,
    /// The same with the warm-up: what the servers' processor time was spent on.
    pub(crate) answered_in_all: u64,
    /// Answers that were no 2xx, and requests without an answer.
    pub(crate) errors: u64,
    /// The first error, to tell what happened.
    pub(crate) first_error: Option<String>,
    /// Latencies of the counted part, µs.
    pub(crate) latency_us: Histogram<u64>,
    /// The slowest answer of each second, ms: shows stalls in time.
    pub(crate) slowest_ms: Vec<f64>,
}

impl Report {
    /// Well answered requests a second.
    pub(crate) fn per_second(&self) -> f64 {
        self.answered as f64 / self.seconds
    }

    /// A quantile (0…1) of the latency, ms.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// What the connections count together. One thread drives them all: the lock is never contended.
struct Tally {
    answered: u64,
    answered_in_all: u64,
    errors: u64,
    first_error: Option<String>,
    latency_us: Histogram<u64>,
    slowest_ms: Vec<f64>,
}

impl Tally {
    fn new(seconds: usize) -> Outcome<Tally> {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).context(|| "histogram".to_owned())?;
        let slowest_ms = vec![0.0; seconds.max(1)];
        Ok(Tally { answered: 0, answered_in_all: 0, errors: 0, first_error: None, latency_us, slowest_ms })
    }

    fn failed(&mut self, what: String) {
        self.errors += 1;
        self.first_error.get_or_insert(what);
    }

    /// Counts an answer; `since_start` is negative during the warm-up.
    fn answered(&mut self, latency: Duration, since_start: Option<Duration>) {
        self.answered_in_all += 1;
        let Some(at) = since_start else { return };
        self.answered += 1;
        self.latency_us.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(LATENCY_US_MAX).max(1));
        let second = (at.as_secs() as usize).min(self.slowest_ms.len() - 1);
        self.slowest_ms[second] = self.slowest_ms[second].max(latency.as_secs_f64() * 1000.0);
    }
}

/// What every connection of a run shares.
struct Run {
    spec: Spec,
    begin: Instant,
    /// Counting starts here,
    start: Instant,
    /// and ends here.
    end: Instant,
    /// The next key (each once) or the next due time (open).
    next: AtomicU64,
    tally: Mutex<Tally>,
}

impl Run {
    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the next request is due, and its key where the order says so; none when the run is over.
    async fn next(&self) -> Option<(Instant, Option<u64>)> {
        let now = Instant::now();
        if self.spec.order == Order::EachOnce {
            let key = self.next.fetch_add(1, Ordering::Relaxed);
            return (key < self.spec.keys && now < self.end).then_some((now, Some(key)));
        }
        let Some(rate) = self.spec.rate else {
            return (now < self.end).then_some((now, None));
        };
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let due = self.begin + Duration::from_secs_f64(turn as f64 / rate);
        if due >= self.end {
            return None;
        }
        tokio::time::sleep_until(due).await;
        Some((due, None))
    }
}

/// Drives the load and returns when it has ended: after the spec's time and a bounded grace.
pub(crate) async fn run(spec: &Spec) -> Outcome<Report> {
    let streams = connect(spec).await?;
    let begin = Instant::now();
    let start = begin + spec.warm_up;
    let end = start + spec.duration;
    let tally = Mutex::new(Tally::new(spec.duration.as_secs_f64().ceil() as usize)?);
    let run = Arc::new(Run { spec: spec.clone(), begin, start, end, next: AtomicU64::new(0), tally });
    let mut clients = JoinSet::new();
    for (number, stream) in streams.into_iter().enumerate() {
        clients.spawn(client(Arc::clone(&run), stream, number as u64));
    }
    let all = async { while clients.join_next().await.is_some() {} };
    let in_time = tokio::time::timeout_at(end + GRACE, all).await.is_ok();
    let missing = clients.len() as u64;
    let ended = Instant::now().min(end);
    let mut tally = run.tally();
    if !in_time {
        tally.errors += missing;
        tally.first_error.get_or_insert(format!("{missing} requests without an answer"));
    }
    Ok(Report {
        seconds: ended.saturating_duration_since(start).as_secs_f64().max(1e-9),
        answered: tally.answered,
        answered_in_all: tally.answered_in_all,
        errors: tally.errors,
        first_error: tally.first_error.clone(),
        latency_us: tally.latency_us.clone(),
        slowest_ms: tally.slowest_ms.clone(),
    })
}

async fn connect(spec: &Spec) -> Outcome<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(spec.clients);
    for _ in 0..spec.clients {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, spec.port)).await;
        let stream = stream.context(|| format!("cannot connect to port {}", spec.port))?;
        stream.set_nodelay(true).context(|| "cannot set TCP_NODELAY".to_owned())?;
        streams.push(stream);
    }
    Ok(streams)
}

/// One connection's life. It ends at its first failure: the run's figures are void then anyway, and must
/// not hammer a broken server.
async fn client(run: Arc<Run>, mut stream: TcpStream, number: u64) {
    let mut request = Request::new(&run.spec);
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    // Any odd number will do as a seed; one for each connection makes every run draw the same keys.
    let mut random = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while let Some((due, key)) = run.next().await {
        request.set_key(key.unwrap_or_else(|| next_random(&mut random) % run.spec.keys));
        if let Err(e) = stream.write_all(&request.bytes).await {
            run.tally().failed(format!("cannot send: {e}"));
            return;
        }
        let status = match read_answer(&mut stream, &mut answer).await {
            Ok(status) => status,
            Err(e) => {
                run.tally().failed(e.to_string());
                return;
            }
        };
        let now = Instant::now();
        let mut tally = run.tally();
        if !(200..300).contains(&status) {
            tally.failed(format!("status {status}"));
        } else if now < run.end || run.spec.rate.is_some() {
            // Open: what was due in time counts, however late its answer. Closed: what was answered in time counts.
            let counted = if run.spec.rate.is_some() { due } else { now };
            tally.answered(now - due, counted.checked_duration_since(run.start));
        }
    }
}

/// xorshift64: as random as a choice of keys needs, in three instructions.
fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// The bytes of a request, and where its key's digits are.
struct Request {
    bytes: Vec<u8>,
    digits: usize,
}

impl Request {
    fn new(spec: &Spec) -> Request {
        let verb = match spec.method {
            Method::Put => "PUT",
            Method::Get => "GET",
        };
        let head = format!("{verb} /v1/kv/bench-");
        let digits = head.len();
        let mut bytes = head.into_bytes();
        bytes.resize(digits + KEY_DIGITS, b'0');
        bytes.extend_from_slice(format!(" HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n", spec.port).as_bytes());
        if spec.method == Method::Put {
            bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", spec.value_bytes).as_bytes());
            // Printable and not all the same, so that a value is a value to every layer below.
            bytes.extend((0..spec.value_bytes).map(|i| b'a' + (i % 23) as u8));
        } else {
            bytes.extend_from_slice(b"\r\n");
        }
        Request { bytes, digits }
    }

    fn set_key(&mut self, mut key: u64) {
        for digit in self.bytes[self.digits..self.digits + KEY_DIGITS].iter_mut().rev() {
            *digit = b'0' + (key % 10) as u8;
            key /= 10;
        }
    }
}

/// Reads one whole answer and returns its status.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> Outcome<u16> {
    let mut filled = 0;
    loop {
        if filled == buffer.len() {
            return Err(Failure::new(format!("an answer of more than {ANSWER_BYTES_MAX} bytes")));
        }
        let read = stream.read(&mut buffer[filled..]).await.context(|| "cannot receive".to_owned())?;
        if read == 0 {
            return Err(Failure::new("the server closed the connection"));
        }
        filled += read;
        let Some((status, length)) = answer_head(&buffer[..filled])? else { continue };
        match filled.cmp(&length) {
            std::cmp::Ordering::Equal => return Ok(status),
            std::cmp::Ordering::Greater => return Err(Failure::new("more bytes than one answer has")),
            std::cmp::Ordering::Less => {}
        }
    }
}

/// Status and length in bytes, head and body, of the answer that starts here; none while its head is not all there.
fn answer_head(bytes: &[u8]) -> Outcome<Option<(u16, usize)>> {
    let Some(head_end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let head = &bytes[..head_end];
    let status = head.get(9..12).and_then(|s| std::str::from_utf8(s).ok()).and_then(|s| s.parse().ok());
    let status: u16 = status.context(|| "the answer is no HTTP".to_owned())?;
    let mut body = None;
    for line in head.split(|b| *b == b'\n').skip(1) {
        const NAME: &[u8] = b"content-length:";
        if line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            let text = std::str::from_utf8(&line[NAME.len()..]).unwrap_or_default();
            body = text.trim().parse::<usize>().ok();
        }
    }
    // These carry no body and may say no length; any other answer must, or it could not be told where it ends.
    let bodiless = matches!(status, 204 | 304);
    let body = body.or(bodiless.then_some(0)).context(|| "an answer without a content-length".to_owned())?;
    Ok(Some((status, head_end + 4 + body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(port: u16) -> Spec {
        Spec {
            port,
            method: Method::Put,
            clients: 3,
            value_bytes: 5,
            keys: 20,
            order: Order::EachOnce,
            rate: None,
            warm_up: Duration::ZERO,
            duration: Duration::from_secs(20),
        }
    }

    async fn echo() -> u16 {
        let [port] = crate::process::free_ports().unwrap();
        tokio::spawn(crate::echo::serve(port, 5));
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::task::yield_now().await;
        }
        port
    }

    #[test]
    fn a_request_is_a_template_whose_key_is_overwritten() {
        let mut request = Request::new(&spec(80));
        request.set_key(907);
        let text = String::from_utf8(request.bytes.clone()).unwrap();
        assert_eq!(
            text,
            "PUT /v1/kv/bench-0000000907 HTTP/1.1\r\nhost: 127.0.0.1:80\r\ncontent-length: 5\r\n\r\nabcde"
        );
    }

    #[test]
    fn an_answer_is_as_long_as_its_head_says() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(answer_head(head).unwrap(), Some((200, head.len() + 3)));
        assert_eq!(answer_head(&head[..20]).unwrap(), None);
        assert!(answer_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert_eq!(answer_head(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap(), Some((204, 27)));
    }

    #[tokio::test]
    async fn every_key_is_written_once() {
        let report = run(&spec(echo().await)).await.unwrap();
        assert_eq!((report.answered, report.errors), (20, 0), "{report:?}");
    }

    #[tokio::test]
    async fn an_open_load_keeps_its_rate() {
        let open = Spec {
            order: Order::Random,
            rate: Some(200.0),
            duration: Duration::from_millis(500),
            method: Method::Get,
            ..spec(echo().await)
        };
        let report = run(&open).await.unwrap();
        assert_eq!((report.answered, report.errors), (100, 0), "{report:?}");
    }

    #[tokio::test]
    async fn an_answer_that_is_no_success_is_an_error() {
        let missing = Spec { method: Method::Get, ..spec(echo().await) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let app = axum::Router::new();
            axum::serve(listener, app).await
        });
        let report = run(&Spec { port, ..missing }).await.unwrap();
        assert_eq!((report.answered, report.errors), (0, 20), "{report:?}");
        assert_eq!(report.first_error.as_deref(), Some("status 404"));
    }
}
