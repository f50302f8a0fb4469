//! One connection: read, carry out, answer, in that order, until it ends.
//!
//! Owns the socket and its buffers. All that has arrived is carried out as one batch: consecutive writes are handed in without waiting
//! in between (so that they share a batch of the log), reads wait for the writes before them and share one confirmation of leadership,
//! and the answers leave together. Nothing more is read until a batch is answered: a slow reader slows itself alone.
//!
//! An idle connection holds no buffers to speak of. Before: the listener in [`super`]. After: [`super::lines`] and [`super::commands`]
//! for the grammar, [`crate::handle`] for everything else.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::detect::Protocol;
use super::lines::{self, Line, LineError};
use super::meters::Route;
use super::resp::{self, Parser, Version};
use super::{Face, stopped};
use crate::handle::{Consistency, Held, PendingWrite, ReadError, WriteError, WriteOptions, Written};
use crate::kv::{Command, Condition, Outcome, Value};
use crate::options::OVERHEAD_BYTES;

/// Writes of one connection under way at once: enough to fill a batch of the log, and a fraction of what the whole node takes.
const PENDING_MAX: usize = 1024;

/// A peer that does not complete its command within this is given up, and one that takes less than [`FLUSH_BYTES`] of its answers in such a time. A byte
/// now and then does not keep it: the largest command takes so long at 70 kB a second.
pub(super) const STALL_MAX: Duration = Duration::from_secs(60);

/// Space offered to one read; the larger after a read that filled the smaller, as pipelines and large values do.
pub(super) const READ_BYTES: (usize, usize) = (4 << 10, 64 << 10);

/// Buffers up to this size stay with an idle connection, larger ones are freed: ten thousand of them take 80 MiB at most.
const IDLE_BYTES: usize = 4 << 10;

/// Answers that have piled up to this size are sent before the batch goes on.
const FLUSH_BYTES: usize = 64 << 10;

/// After a fatal error the connection is closed for writing, and what the peer still sends is dropped for this long and up to so many
/// bytes: closing with unread bytes would make the system throw the error message away.
const LINGER: (Duration, usize) = (Duration::from_millis(500), 4 << 20);

/// What comes next after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// The next command.
    Next,
    /// More must be read.
    Starved,
    /// The end: answers are sent, then the connection is closed.
    Close,
    /// The same after an error that left unread bytes.
    Linger,
    /// The same, and the node stops.
    Shutdown,
}

/// How a write's result is answered.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// `+OK`, or null if the condition did not hold.
    Ok,
    /// 1, or 0 if the condition did not hold.
    Flag,
    /// How many keys are gone.
    Count,
    /// The number now.
    Number,
    /// `Key '…' set`.
    LineSet(Bytes),
    /// A bare OK, or that the key was not found.
    LineDelete(Bytes),
}

struct Pending {
    write: PendingWrite,
    shape: Shape,
    route: Route,
}

/// What the node knows of the client.
pub(super) struct Client {
    pub id: u64,
    pub address: SocketAddr,
    pub name: Bytes,
    pub version: Version,
    pub authenticated: bool,
    /// Whether reads are served from this node's own copy.
    pub readonly: bool,
    /// Revision of its last acknowledged write, and the followers that held it then.
    pub last_write: Option<(u64, usize)>,
    pub since: Instant,
}

/// A connection.
pub(super) struct Session {
    pub(super) face: Arc<Face>,
    pub(super) client: Client,
    /// Answers not sent yet.
    pub(super) out: Vec<u8>,
    stream: TcpStream,
    protocol: Option<Protocol>,
    input: BytesMut,
    parser: Parser,
    /// Bytes of the input known to hold no line end.
    searched: usize,
    pending: VecDeque<Pending>,
    /// When the batch under way was read.
    arrived: Instant,
    /// Whether leadership was confirmed after that.
    confirmed: bool,
    /// Whether the last read filled the space it was given.
    filled: bool,
    /// When the command that is still incomplete was first waited for.
    incomplete: Option<Instant>,
    /// Its part of what the node holds of such.
    held: Held,
}

impl Session {
    pub(super) fn new(face: Arc<Face>, stream: TcpStream, address: SocketAddr, id: u64) -> Session {
        let now = Instant::now();
        let client = Client {
            id,
            address,
            name: Bytes::new(),
            version: Version::Two,
            authenticated: false,
            readonly: false,
            last_write: None,
            since: now,
        };
        Session {
            held: face.handle.intake(),
            face,
            client,
            out: Vec::new(),
            stream,
            protocol: None,
            input: BytesMut::new(),
            parser: Parser::default(),
            searched: 0,
            pending: VecDeque::new(),
            arrived: now,
            confirmed: false,
            filled: false,
            incomplete: None,
        }
    }

    /// Serves the connection until either side ends it or the node stops.
    pub(super) async fn run(mut self) -> io::Result<()> {
        let mut stop = self.face.handle.stopping();
        while self.fill(&mut stop).await? {
            self.face.handle.awake().await;
            let flow = self.carry_out().await?;
            self.settle().await?;
            self.flush().await?;
            match flow {
                // A client that sends without a pause would keep the thread for dozens of batches in a row, and so would the next one like it: on a
                // machine of two cores there is no other thread for the driver, and its heartbeats came too late to keep it in office.
                Flow::Next | Flow::Starved if self.filled => tokio::task::yield_now().await,
                Flow::Next | Flow::Starved => {}
                Flow::Close => break,
                Flow::Linger => return self.linger().await,
                Flow::Shutdown => {
                    self.stream.shutdown().await?;
                    self.face.handle.request_stop();
                    return Ok(());
                }
            }
        }
        self.stream.shutdown().await
    }

    /// Waits for bytes and reads them; `false` if there will be none.
    async fn fill(&mut self, stop: &mut watch::Receiver<bool>) -> io::Result<bool> {
        if self.input.is_empty() {
            self.release_buffers();
        }
        let complete_by = self.incomplete.map(|since| since + self.face.stall);
        loop {
            let ready = async {
                tokio::select! {
                    biased;
                    ready = self.stream.readable() => ready.map(|()| true),
                    () = stopped(stop) => Ok(false),
                }
            };
            let ready = match complete_by {
                // Asked here, too: of a timeout that has passed, what is ready comes first.
                Some(by) if Instant::now() >= by => return Err(io::ErrorKind::TimedOut.into()),
                Some(by) => tokio::time::timeout_at(by.into(), ready).await.map_err(|_| io::ErrorKind::TimedOut)?,
                None => ready.await,
            };
            // A client that never pauses must not keep the node from stopping.
            if !ready? || *stop.borrow() {
                return Ok(false);
            }
            let room = if self.filled { READ_BYTES.1 } else { READ_BYTES.0 };
            if self.input.capacity() - self.input.len() < room / 4 {
                self.input.reserve(room);
            }
            // Polled once, rather than waited for: a false alarm must not park the session here, past the stop signal.
            let (stream, input) = (&mut self.stream, &mut self.input);
            let space = input.capacity() - input.len();
            let read = poll_fn(|cx| {
                let read = pin!(stream.read_buf(input)).poll(cx);
                Poll::Ready(if let Poll::Ready(read) = read { Some(read) } else { None })
            });
            if let Some(read) = read.await {
                let count = read?;
                self.filled = count == space;
                self.arrived = Instant::now();
                self.confirmed = false;
                return Ok(count > 0);
            }
        }
    }

    fn release_buffers(&mut self) {
        self.held.hold(0);
        if self.input.capacity() > IDLE_BYTES {
            self.input = BytesMut::new();
        }
        if self.out.capacity() > IDLE_BYTES {
            self.out = Vec::new();
        }
        if self.pending.capacity() > 64 {
            self.pending = VecDeque::new();
        }
    }

    /// Carries out every complete command that has arrived.
    async fn carry_out(&mut self) -> io::Result<Flow> {
        loop {
            if self.pending.len() >= PENDING_MAX {
                self.settle().await?;
            }
            let Some(&first) = self.input.first() else { return Ok(Flow::Starved) };
            let flow = match *self.protocol.get_or_insert_with(|| Protocol::of(first)) {
                Protocol::Redis => self.next_request().await?,
                Protocol::Lines => self.next_line().await?,
            };
            if flow != Flow::Next {
                return Ok(flow);
            }
            self.flush_if_large().await?;
        }
    }

    async fn next_request(&mut self) -> io::Result<Flow> {
        match self.parser.parse(&self.input, &self.face.caps) {
            Ok(Some(length)) => {
                self.incomplete = None;
                let request = self.parser.finish(self.input.split_to(length).freeze());
                let flow = self.execute(&request).await?;
                self.parser.recycle(request);
                Ok(flow)
            }
            Ok(None) => self.starved(Protocol::Redis).await,
            Err(error) => {
                self.settle().await?;
                resp::error(&mut self.out, &format!("ERR {error}"));
                Ok(Flow::Linger)
            }
        }
    }

    /// The rest of a command is waited for, if there is room for what has come of it.
    async fn starved(&mut self, protocol: Protocol) -> io::Result<Flow> {
        const WHY: &str = "this node holds as much of commands that are still arriving as it allows now";
        self.incomplete.get_or_insert_with(Instant::now);
        if self.held.hold(self.input.len()) {
            return Ok(Flow::Starved);
        }
        self.settle().await?;
        match protocol {
            Protocol::Redis => resp::error(&mut self.out, &format!("BUSY {WHY}")),
            Protocol::Lines => lines::error(&mut self.out, WHY, None),
        }
        Ok(Flow::Linger)
    }

    async fn next_line(&mut self) -> io::Result<Flow> {
        let limits = &self.face.handle.options().limits;
        let line_bytes_max = limits.key_bytes + limits.value_bytes + OVERHEAD_BYTES;
        let end = memchr::memchr(b'\n', &self.input[self.searched..]).map(|n| self.searched + n);
        if end.unwrap_or(self.input.len()) > line_bytes_max {
            self.settle().await?;
            lines::error(&mut self.out, &format!("the line is longer than {line_bytes_max} bytes"), None);
            return Ok(Flow::Linger);
        }
        let Some(end) = end else {
            self.searched = self.input.len();
            return self.starved(Protocol::Lines).await;
        };
        (self.searched, self.incomplete) = (0, None);
        let frame = self.input.split_to(end + 1).freeze();
        self.execute_line(&frame.slice(..end)).await
    }

    async fn execute_line(&mut self, frame: &Bytes) -> io::Result<Flow> {
        let line = match lines::parse(frame) {
            Ok(line) => line,
            Err(error) => {
                self.settle().await?;
                lines::error(&mut self.out, &error.to_string(), None);
                return Ok(if error == LineError::Http { Flow::Linger } else { Flow::Next });
            }
        };
        match line {
            Line::Set { key, value } => {
                let value = Value::from_line(value);
                if let Err(text) = self.check_line(key, value.data.len()) {
                    self.settle().await?;
                    lines::error(&mut self.out, &text, None);
                    return Ok(Flow::Next);
                }
                let key = frame.slice_ref(key.as_bytes());
                let command = Command::Put { key: key.clone(), value, condition: Condition::None };
                self.face.handle.prepare(&command).await;
                self.submit(&command, Shape::LineSet(key), Route::Set, false);
            }
            Line::Delete(key) => {
                let key = frame.slice_ref(key.as_bytes());
                let command = Command::Delete { key: key.clone(), condition: Condition::None };
                self.face.handle.prepare(&command).await;
                self.submit(&command, Shape::LineDelete(key), Route::Delete, false);
            }
            other => {
                self.settle().await?;
                return Ok(self.answer_line(other).await);
            }
        }
        Ok(Flow::Next)
    }

    fn check_line(&self, key: &str, value_bytes: usize) -> Result<(), String> {
        let limits = &self.face.handle.options().limits;
        if key.len() > limits.key_bytes {
            return Err(format!("the key is longer than {} bytes", limits.key_bytes));
        }
        if value_bytes > limits.value_bytes {
            return Err(format!("the value is larger than {} bytes", limits.value_bytes));
        }
        Ok(())
    }

    async fn answer_line(&mut self, line: Line<'_>) -> Flow {
        match line {
            Line::Get(key) => {
                let found = match self.fresh(false).await {
                    Ok(()) => self.face.handle.item(key.as_bytes()).await,
                    Err(error) => Err(error),
                };
                let outcome = match found {
                    Ok(Some(item)) => {
                        lines::value(&mut self.out, &item.value);
                        "ok"
                    }
                    Ok(None) => {
                        lines::error(&mut self.out, &format!("Key '{key}' not found"), None);
                        "ok"
                    }
                    Err(error) => {
                        let leader = if let ReadError::NotLeader { leader } = &error { leader.as_ref() } else { None };
                        lines::error(&mut self.out, &line_text(&error), leader.map(|m| m.tcp.as_str()));
                        read_code(&error).1
                    }
                };
                self.face.meters.observe(Route::Get, outcome, self.arrived);
            }
            Line::Ping => lines::message(&mut self.out, "PONG"),
            Line::Status => {
                let state = self.face.handle.state();
                let leads = state.role == quorum::Role::Leader;
                lines::status(&mut self.out, &self.face.handle.options().name, leads, state.term.0);
            }
            Line::Auth(token) => match self.authenticate(token.as_bytes()) {
                Some(true) => lines::ok(&mut self.out),
                Some(false) => lines::error(&mut self.out, "wrong token", None),
                None => lines::error(&mut self.out, "no token is set on this node", None),
            },
            Line::Shutdown if self.may_shut_down() => {
                lines::message(&mut self.out, "Shutting down");
                return Flow::Shutdown;
            }
            Line::Shutdown => {
                let text = "SHUTDOWN is taken from this machine only, or after AUTH with the admin token";
                lines::error(&mut self.out, text, None);
            }
            Line::Quit => {
                lines::ok(&mut self.out);
                return Flow::Close;
            }
            // Handed in by the caller.
            Line::Set { .. } | Line::Delete(_) => {}
        }
        Flow::Next
    }

    /// Checks the admin token and remembers the outcome; `None` if the node has none.
    pub(super) fn authenticate(&mut self, token: &[u8]) -> Option<bool> {
        let expected = self.face.handle.options().admin_token.as_deref()?.as_bytes();
        // Every byte is compared, so that the time taken tells nothing about how many were right.
        let difference =
            expected.iter().zip(token).fold(expected.len() ^ token.len(), |d, (a, b)| d | usize::from(a ^ b));
        self.client.authenticated = difference == 0;
        Some(self.client.authenticated)
    }

    /// Whether this client may stop the node.
    pub(super) fn may_shut_down(&self) -> bool {
        may_shut_down(self.client.address.ip(), self.client.authenticated)
    }

    /// Hands a write in; its answer follows when the batch is settled.
    pub(super) fn submit(&mut self, command: &Command, shape: Shape, route: Route, forward: bool) {
        let write = self.face.handle.submit(command, WriteOptions { copies: None, forward });
        self.pending.push_back(Pending { write, shape, route });
    }

    /// Waits for every write under way and answers it. Whatever else is answered must come after.
    pub(super) async fn settle(&mut self) -> io::Result<()> {
        while let Some(Pending { write, shape, route }) = self.pending.pop_front() {
            let result = write.await;
            let outcome = match &result {
                Ok(written) => {
                    self.client.last_write = Some((written.revision, written.followers));
                    "ok"
                }
                Err(error) => write_code(error).1,
            };
            self.answer_write(&shape, &result);
            self.face.meters.observe(route, outcome, self.arrived);
            self.flush_if_large().await?;
        }
        Ok(())
    }

    fn answer_write(&mut self, shape: &Shape, result: &Result<Written, WriteError>) {
        let out = &mut self.out;
        match (shape, result) {
            (Shape::LineSet(_) | Shape::LineDelete(_), Err(error)) => {
                let leader = if let WriteError::NotLeader { leader } = error { leader.as_ref() } else { None };
                lines::error(out, &line_write_text(error), leader.map(|m| m.tcp.as_str()));
            }
            (_, Err(error)) => resp::error(out, &format!("{} {error}", write_code(error).0)),
            (shape, Ok(written)) => match (shape, &written.outcome) {
                (Shape::LineSet(key), Outcome::Put { .. }) => {
                    lines::message(out, &format!("Key '{}' set", String::from_utf8_lossy(key)));
                }
                (Shape::LineDelete(key), Outcome::Deleted { count: 0 }) => {
                    lines::error(out, &format!("Key '{}' not found", String::from_utf8_lossy(key)), None);
                }
                (Shape::LineDelete(_), Outcome::Deleted { .. }) => lines::ok(out),
                (Shape::LineSet(_) | Shape::LineDelete(_), _) => lines::error(out, UNREADABLE, None),
                (Shape::Ok, Outcome::Put { .. }) => resp::simple(out, "OK"),
                (Shape::Ok, Outcome::ConditionFailed { .. }) => resp::null(out, self.client.version),
                (Shape::Flag, Outcome::Put { .. }) => resp::integer(out, 1),
                (Shape::Flag, Outcome::ConditionFailed { .. }) => resp::integer(out, 0),
                (Shape::Count, Outcome::Deleted { count }) => {
                    resp::integer(out, i64::try_from(*count).unwrap_or(i64::MAX))
                }
                (Shape::Number, Outcome::Incremented { value, .. }) => resp::integer(out, *value),
                (_, Outcome::NotANumber) => resp::error(out, "ERR value is not an integer or out of range"),
                _ => resp::error(out, &format!("ERR {UNREADABLE}")),
            },
        }
    }

    /// Waits until reads from the store may be answered: as fresh as the client wants, its own writes included.
    ///
    /// One confirmation serves all reads of a batch: they had all arrived before it began, and the client's own writes in between are
    /// waited for by their revision.
    pub(super) async fn fresh(&mut self, forward: bool) -> Result<(), ReadError> {
        let own = self.client.last_write.map(|(revision, _)| revision);
        if self.client.readonly || self.confirmed {
            return self.face.handle.barrier(Consistency::Local, forward, own).await;
        }
        self.face.handle.barrier(Consistency::Linearizable, forward, own).await?;
        self.confirmed = true;
        Ok(())
    }

    /// Counts a read that was answered.
    pub(super) fn observe(&self, route: Route, outcome: &str) {
        self.face.meters.observe(route, outcome, self.arrived);
    }

    /// Sends what has piled up if it is much.
    pub(super) async fn flush_if_large(&mut self) -> io::Result<()> {
        if self.out.len() >= FLUSH_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Answers with text of any length, and copies only what is short.
    pub(super) async fn answer_with(&mut self, text: &[u8]) -> io::Result<()> {
        if text.len() < FLUSH_BYTES {
            self.out.extend_from_slice(text);
            return Ok(());
        }
        self.flush().await?;
        send(&mut self.stream, text, self.face.stall).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        send(&mut self.stream, &self.out, self.face.stall).await?;
        self.out.clear();
        Ok(())
    }

    async fn linger(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        self.input = BytesMut::new();
        let dropping = async {
            let mut dropped = 0;
            while dropped < LINGER.1 {
                self.input.clear();
                self.input.reserve(READ_BYTES.1);
                match self.stream.read_buf(&mut self.input).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => dropped += count,
                }
            }
        };
        // Whether the peer ended the connection in time makes no difference: it is dropped now.
        let _ = tokio::time::timeout(LINGER.0, dropping).await;
        Ok(())
    }
}

/// Sends all of it to a peer that takes [`FLUSH_BYTES`] at least within each such time: a byte now and then does not keep what waits behind it.
async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8], stall: Duration) -> io::Result<()> {
    for piece in bytes.chunks(FLUSH_BYTES) {
        tokio::time::timeout(stall, stream.write_all(piece)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
    Ok(())
}

/// Whoever is on this machine could end the process anyway; from elsewhere it takes the token.
fn may_shut_down(address: IpAddr, authenticated: bool) -> bool {
    authenticated || address.to_canonical().is_loopback()
}

const UNREADABLE: &str = "the command is not known to this version of the cluster";

/// The first word of a Redis error reply, and the outcome as metrics name it.
fn write_code(error: &WriteError) -> (&'static str, &'static str) {
    match error {
        WriteError::NoLeader | WriteError::NotLeader { .. } | WriteError::NotFormed { .. } => ("NOLEADER", "no_leader"),
        WriteError::Stopping => ("NOLEADER", "stopping"),
        WriteError::Forming => ("NOQUORUM", "forming"),
        WriteError::NoQuorum { .. } => ("NOQUORUM", "no_quorum"),
        WriteError::Overloaded => ("BUSY", "overloaded"),
        WriteError::NoSpace => ("NOSPACE", "no_space"),
        WriteError::TooManyCopies { .. } => ("ERR", "too_many_copies"),
        WriteError::NotTaken(_) => ("ERR", "bad_request"),
        WriteError::Unknown(_) => ("UNKNOWN", "outcome_unknown"),
        WriteError::MixedVersions { .. } => ("ERR", "mixed_versions"),
    }
}

/// The same for reads.
pub(super) fn read_code(error: &ReadError) -> (&'static str, &'static str) {
    match error {
        ReadError::NoLeader | ReadError::NotLeader { .. } => ("NOLEADER", "no_leader"),
        ReadError::Stopping => ("NOLEADER", "stopping"),
        ReadError::Timeout => ("NOQUORUM", "no_quorum"),
        ReadError::Overloaded => ("BUSY", "overloaded"),
    }
}

const SECONDARY: &str = "this node is a secondary: reads and writes are answered by the primary";
const NO_PRIMARY: &str = "no primary is known at the moment: try again";

fn line_text(error: &ReadError) -> String {
    match error {
        ReadError::NotLeader { leader: Some(_) } => SECONDARY.into(),
        ReadError::NotLeader { leader: None } | ReadError::NoLeader => NO_PRIMARY.into(),
        other => other.to_string(),
    }
}

fn line_write_text(error: &WriteError) -> String {
    match error {
        WriteError::NotLeader { leader: Some(_) } => SECONDARY.into(),
        WriteError::NotLeader { leader: None } | WriteError::NoLeader => NO_PRIMARY.into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_and_who_knows_the_token_may_stop_the_node() {
        for (address, authenticated, may) in [
            ("127.0.0.1", false, true),
            ("127.8.9.10", false, true),
            ("::1", false, true),
            ("::ffff:127.0.0.1", false, true),
            ("10.0.0.1", false, false),
            ("0.0.0.0", false, false),
            ("::", false, false),
            ("::ffff:10.0.0.1", false, false),
            ("fe80::1", false, false),
            ("10.0.0.1", true, true),
        ] {
            let ip = address.parse().expect("an address");
            assert_eq!(may_shut_down(ip, authenticated), may, "{address}, authenticated: {authenticated}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_takes_an_answer_byte_by_byte_is_given_up() {
        let (mut ours, mut theirs) = tokio::io::duplex(1);
        let dripping = async {
            while theirs.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let answer = vec![0; FLUSH_BYTES];
        tokio::select! {
            sent = send(&mut ours, &answer, Duration::from_millis(100)) => {
                assert_eq!(sent.expect_err("it would take minutes").kind(), io::ErrorKind::TimedOut);
            }
            () = dripping => panic!("nobody closed it"),
        }
    }
}
