//! What a node is, told as it changes: `GET /v1/events`, server-sent events.
//!
//! One task a feed makes the events while anyone listens, and puts them on a [`Board`]: one place a subject, the newest event in it. A client is sent what
//! is new on the board whenever it takes something, so a slow one skips what is outdated, costs one number, and never holds up the others. Figures are sums since
//! the node started: whoever wants rates subtracts, and loses nothing by what was skipped.
//!
//! Never: asks the driver for anything; makes an event when nobody listens. The feed of the whole cluster is [`super::follow`]'s.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream;
use hyper::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::proto;
use quorum::{NodeId, Role};
use serde::Serialize;
use serde_json::{Value as Json, json};
use tokio::sync::watch;

use super::error::{Code, Failure};
use super::face::Answer;
use super::follow;
use super::request::Query;
use super::respond::{Body, full};
use super::status;
use crate::handle::{Handle, NodeState};
use crate::stage::Stage;

/// Clients of one feed: people before a browser, and the pages of other nodes. One more is told that there are too many.
const CLIENTS_MAX: usize = 64;

/// How often the state is looked at for something new, while anyone listens: as soon as a person notices.
const LOOK: Duration = Duration::from_millis(20);

/// How often everything is told even if nothing happened: the figures move, and silence means trouble.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// The feeds of a node.
pub(super) struct Events {
    own: Feed,
    cluster: Feed,
}

impl Events {
    /// Feeds that nobody follows yet.
    pub(super) fn new() -> Events {
        Events { own: Feed::new(), cluster: Feed::new() }
    }

    /// `GET /v1/events`: of this node, or with `?scope=cluster` of every member, as this node hears of them.
    pub(super) fn answer<B>(&self, handle: &Handle, request: &Request<B>) -> Answer {
        let scope = Query::of(request).text("scope")?;
        let own = handle.clone();
        match scope.as_deref() {
            None | Some("node") => self.own.subscribe(handle.stopping(), None, |board| publish(own, board)),
            Some("cluster") => {
                let hello = event("hello", &json!({ "page": "node", "node": handle.options().name }));
                self.cluster.subscribe(handle.stopping(), Some(hello), |board| follow::members(own, board))
            }
            Some(other) => Err(Failure::bad(format!("scope is node or cluster, not {other:?}"))),
        }
    }
}

/// One event in its form on the wire.
pub(super) fn event(kind: &str, data: &impl Serialize) -> Bytes {
    // JSON has no line breaks outside its strings, and escapes those within.
    format!("event: {kind}\ndata: {}\n\n", serde_json::to_string(data).unwrap_or_default()).into()
}

/// The newest event of every subject.
pub(super) struct Board {
    places: Mutex<Vec<Place>>,
    /// Counts the events ever put up. Its receivers are the clients.
    newest: watch::Sender<u64>,
}

struct Place {
    subject: String,
    number: u64,
    event: Bytes,
}

impl Board {
    fn new() -> Board {
        Board { places: Mutex::default(), newest: watch::Sender::new(0) }
    }

    /// Puts an event in its subject's place.
    pub(super) fn put(&self, subject: &str, event: Bytes) {
        let mut places = self.places.lock();
        let number = *self.newest.borrow() + 1;
        match places.iter_mut().find(|p| p.subject == subject) {
            Some(place) => (place.number, place.event) = (number, event),
            None => places.push(Place { subject: subject.to_owned(), number, event }),
        }
        self.newest.send_replace(number);
    }

    /// Takes a subject down.
    pub(super) fn remove(&self, subject: &str) {
        self.places.lock().retain(|p| p.subject != subject);
    }

    /// Everything newer than `seen`, in the order it came, and the number of the newest.
    fn since(&self, seen: u64) -> (Bytes, u64) {
        let places = self.places.lock();
        let mut fresh: Vec<&Place> = places.iter().filter(|p| p.number > seen).collect();
        fresh.sort_by_key(|p| p.number);
        let text: Vec<u8> = fresh.iter().flat_map(|p| p.event.iter().copied()).collect();
        (text.into(), *self.newest.borrow())
    }

    /// Whether anyone listens.
    pub(super) fn has_readers(&self) -> bool {
        self.newest.receiver_count() > 0
    }
}

/// A board, and the task that fills it while anyone reads it.
pub(super) struct Feed {
    board: Arc<Board>,
    running: Arc<Mutex<bool>>,
}

impl Feed {
    /// A feed that nobody follows yet.
    pub(super) fn new() -> Feed {
        Feed { board: Arc::new(Board::new()), running: Arc::default() }
    }

    /// A response that goes on until the client leaves or `stopping` turns true. `fill` makes the task that fills the board; it is started unless it runs, and
    /// dropped when nobody reads any more.
    pub(super) fn subscribe<F: Future<Output = ()> + Send + 'static>(
        &self,
        stopping: watch::Receiver<bool>,
        hello: Option<Bytes>,
        fill: impl FnOnce(Arc<Board>) -> F,
    ) -> Answer {
        let mut running = self.running.lock();
        if self.board.newest.receiver_count() >= CLIENTS_MAX {
            return Err(Failure::new(Code::Overloaded, format!("{CLIENTS_MAX} clients follow already")));
        }
        let reader = self.board.newest.subscribe();
        if !*running {
            *running = true;
            // What is left from an earlier time is outdated.
            self.board.places.lock().clear();
            tokio::spawn(run(fill(self.board.clone()), self.board.clone(), self.running.clone(), stopping.clone()));
        }
        drop(running);
        let board = self.board.clone();
        let next = stream::unfold((reader, 0, hello), move |(mut reader, seen, hello)| {
            let (board, mut stopping) = (board.clone(), stopping.clone());
            async move {
                if let Some(hello) = hello {
                    return Some((hello, (reader, seen, None)));
                }
                loop {
                    // Marked as seen before it is read: what comes in between is not missed, at worst looked for twice.
                    reader.borrow_and_update();
                    let (text, newest) = board.since(seen);
                    if !text.is_empty() {
                        return Some((text, (reader, newest, None)));
                    }
                    tokio::select! {
                        changed = reader.changed() => changed.ok()?,
                        _ = stopping.wait_for(|stop| *stop) => return None,
                    }
                }
            }
        });
        let mut response: Response<Body> =
            full(StatusCode::OK, HeaderValue::from_static("text/event-stream"), Bytes::new());
        *response.body_mut() = Body::Events(Box::pin(next));
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // Proxies that collect responses before they pass them on would collect this one for ever.
        headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        Ok(response)
    }
}

/// Runs what fills a board until nobody reads it.
async fn run(
    fill: impl Future<Output = ()>,
    board: Arc<Board>,
    running: Arc<Mutex<bool>>,
    mut stopping: watch::Receiver<bool>,
) {
    let abandoned = async {
        loop {
            tokio::time::sleep(EVERY).await;
            let mut running = running.lock();
            if !board.has_readers() {
                *running = false;
                return;
            }
        }
    };
    tokio::select! {
        () = fill => *running.lock() = false,
        () = abandoned => {}
        _ = stopping.wait_for(|stop| *stop) => {}
    }
}

/// Tells what this node is: at once when something changed, and every second.
pub(super) async fn publish(handle: Handle, board: Arc<Board>) {
    let mut told: Option<Gist> = None;
    let mut due = tokio::time::Instant::now();
    loop {
        handle.awake().await;
        let gist = Gist::of(&handle.state());
        let now = tokio::time::Instant::now();
        if now >= due || told.as_ref() != Some(&gist) {
            board.put(&handle.options().name, event("node", &report(&handle)));
            told = Some(gist);
            due = now + EVERY;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What makes a state worth telling at once.
#[derive(PartialEq, Eq)]
struct Gist {
    role: Role,
    term: u64,
    leader: Option<NodeId>,
    config: Option<(u64, bool)>,
    flags: [bool; 4],
    live: Vec<(NodeId, bool)>,
}

impl Gist {
    fn of(state: &NodeState) -> Gist {
        Gist {
            role: state.role,
            term: state.term.0,
            leader: state.leader.as_ref().map(|m| m.id),
            config: state.config.as_ref().map(|c| (c.version, c.formed)),
            flags: [state.ready, state.removed, state.disk_full, state.changing],
            live: state.peers.iter().map(|p| (p.id, p.live)).collect(),
        }
    }
}

/// One node: its status, and its figures since it started.
fn report(handle: &Handle) -> Json {
    let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    json!({
        "name": handle.options().name,
        "at_ms": at_ms,
        "keys": handle.store().count(),
        "status": status::status(handle),
        "figures": figures(handle),
    })
}

/// Requests that count as writes and as reads on the page: those of one key, and of a few that belong together.
const WRITES: [&str; 9] =
    ["v1_put", "v1_delete", "write", "kv_put", "kv_delete", "tcp_set", "tcp_delete", "tcp_increment", "tcp_many"];
const READS: [&str; 4] = ["v1_get", "read", "kv_get", "tcp_get"];

fn figures(handle: &Handle) -> Json {
    let metrics = handle.metrics();
    let (mut writes, mut reads) = (Sums::default(), Sums::default());
    for metric in metrics.request_seconds.collect().iter().flat_map(proto::MetricFamily::get_metric) {
        let label = |name| metric.get_label().iter().find(|l| l.name() == name).map_or("", |l| l.value());
        let (route, outcome) = (label("route"), label("outcome"));
        let sums = match route {
            _ if outcome != "ok" => continue,
            write if WRITES.contains(&write) => &mut writes,
            read if READS.contains(&read) => &mut reads,
            _ => continue,
        };
        sums.add(metric.get_histogram());
    }
    let stages = Stage::ALL.map(|stage| {
        let seconds = metrics.stage(stage);
        json!({ "stage": stage.label(), "count": seconds.get_sample_count(), "seconds": seconds.get_sample_sum() })
    });
    let refused = metrics.refused.collect();
    let refused = refused.iter().flat_map(proto::MetricFamily::get_metric).map(|m| m.get_counter().get_value() as u64);
    json!({
        "writes": writes,
        "reads": reads,
        "stages": stages,
        "refused": refused.sum::<u64>(),
        "unknown": metrics.unknown_outcomes.get(),
    })
}

/// A histogram, as sums since the start.
#[derive(Default, Serialize)]
struct Sums {
    count: u64,
    /// Each bucket's upper bound in seconds, and how many were at most that long.
    buckets: Vec<(f64, u64)>,
}

impl Sums {
    fn add(&mut self, histogram: &proto::Histogram) {
        self.count += histogram.get_sample_count();
        for (at, bucket) in histogram.get_bucket().iter().enumerate() {
            match self.buckets.get_mut(at) {
                Some((_, count)) => *count += bucket.cumulative_count(),
                None => self.buckets.push((bucket.upper_bound(), bucket.cumulative_count())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_was_away_gets_the_newest_of_each_subject_once() {
        let board = Board::new();
        board.put("a", "1".into());
        board.put("b", "2".into());
        board.put("a", "3".into());
        let (text, seen) = board.since(0);
        assert_eq!((&text[..], seen), (&b"23"[..], 3));
        assert!(board.since(seen).0.is_empty());
        board.remove("b");
        board.put("c", "4".into());
        assert_eq!(&board.since(1).0[..], b"34");
    }
}
