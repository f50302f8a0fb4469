//! Between real sockets: what the driver may rely on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quorum::{Body, ClusterId, Head, Index, Kind, Member, Message, NodeId, Position, Term};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::connection::GUEST_ATTEMPTS;
use super::*;
use crate::metrics::Metrics;
use crate::storage::record::{self, RecordKind};
use crate::testing::member;

/// No wait in these tests is longer: it is for a machine under load, not for a condition.
const PATIENCE: Duration = Duration::from_secs(20);

type Event = PeerEvent<Vec<u8>>;

/// A log of records with indexes from 1, all of term 1.
struct Log;

impl LogSource for Log {
    fn read(&self, from: Index, to: Index, _: usize) -> Result<Vec<Bytes>, String> {
        Ok((from.0..=to.0).map(|index| record(index, 10)).collect())
    }
}

/// Keeps what is received in memory; says when a transfer was given up.
#[derive(Clone, Default)]
struct Snapshots {
    aborted: Arc<AtomicBool>,
}

struct Sink {
    got: Vec<u8>,
    finished: bool,
    aborted: Arc<AtomicBool>,
}

impl SnapshotStore for Snapshots {
    type Imported = Vec<u8>;
    type Sink = Sink;

    fn begin_import(&self) -> Result<Sink, String> {
        Ok(Sink { got: Vec::new(), finished: false, aborted: self.aborted.clone() })
    }
}

impl SnapshotSink for Sink {
    type Imported = Vec<u8>;

    fn write(&mut self, chunk: Bytes) -> Result<(), String> {
        self.got.extend_from_slice(&chunk);
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>, String> {
        self.finished = true;
        Ok(std::mem::take(&mut self.got))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.aborted.fetch_or(!self.finished, Ordering::SeqCst);
    }
}

/// Chunks of 64 KiB, so many, then the end or a failure.
struct Source {
    left: usize,
    fails: bool,
}

impl SnapshotSource for Source {
    fn last(&self) -> Index {
        Index(77)
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>, String> {
        if self.left == 0 {
            return if self.fails { Err("the disk is gone".into()) } else { Ok(None) };
        }
        self.left -= 1;
        Ok(Some(Bytes::from(vec![self.left as u8; 64 << 10])))
    }
}

struct Node {
    net: Network,
    events: mpsc::Receiver<Event>,
    member: Member,
    metrics: Arc<Metrics>,
    snapshots: Snapshots,
}

struct Spec {
    id: u16,
    incarnation: u64,
    cluster: Option<u128>,
    port: u16,
    /// Where it says that it is, if not where it listens.
    announces: Option<String>,
    events: usize,
}

fn spec(id: u16) -> Spec {
    Spec { id, incarnation: 1, cluster: Some(9), port: 0, announces: None, events: 1024 }
}

impl Node {
    async fn start(spec: Spec, adjust: impl FnOnce(&mut NetworkOptions)) -> Node {
        let listener = TcpListener::bind(("127.0.0.1", spec.port)).await.expect("port");
        let peer = listener.local_addr().expect("address").to_string();
        let member = Member { peer: spec.announces.unwrap_or(peer), ..member(spec.id) };
        let mut options = NetworkOptions::default();
        adjust(&mut options);
        let cluster = spec.cluster.map(ClusterId);
        let identity = Identity { id: member.id, incarnation: spec.incarnation, cluster, member: member.clone() };
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let (sender, events) = mpsc::channel(spec.events);
        let snapshots = Snapshots::default();
        let net =
            Network::start(identity, listener, options, metrics.clone(), sender, Arc::new(Log), snapshots.clone());
        Node { net, events, member, metrics, snapshots }
    }

    fn id(&self) -> NodeId {
        self.member.id
    }

    async fn next(&mut self) -> Event {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("running")
    }

    /// The next message, whatever else happens before.
    async fn message(&mut self) -> (NodeId, Message, Vec<Record>) {
        loop {
            if let Event::Message { from, message, records, .. } = self.next().await {
                return (from, message, records);
            }
        }
    }

    /// Says so to another, again and again, until that one has heard it.
    async fn is_heard_by(&self, other: &mut Node, round: u64, otherwise: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.net.send(other.id(), heartbeat(round), Records::None);
            if tokio::time::timeout(Duration::from_millis(20), other.message()).await.is_ok() {
                return;
            }
            assert!(Instant::now() < deadline, "{otherwise}");
        }
    }

    async fn unreachable(&mut self) -> NodeId {
        loop {
            if let Event::Unreachable { peer } = self.next().await {
                return peer;
            }
        }
    }

    /// Waits until a connection of this node was refused or failed, and says why.
    async fn trouble(&self, with: NodeId) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(trouble) = self.net.trouble(with) {
                return trouble;
            }
            assert!(Instant::now() < deadline, "no trouble");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn echo(mut self) {
        while let Some(event) = self.events.recv().await {
            if let Event::Call { body, reply, .. } = event {
                let _ = reply.send(body);
            }
        }
    }
}

async fn pair() -> (Node, Node) {
    let (a, b) = (Node::start(spec(1), |_| {}).await, Node::start(spec(2), |_| {}).await);
    a.net.set_members(&[a.member.clone(), b.member.clone()]);
    (a, b)
}

fn record(index: u64, bytes: usize) -> Bytes {
    let mut out = BytesMut::new();
    record::encode(&mut out, Term(1), Index(index), RecordKind::Command, &vec![index as u8; bytes]);
    out.freeze()
}

fn append(first: u64, records: &[Bytes]) -> Message {
    let head = |r: &Bytes| Head { term: Term(1), kind: Kind::Command, bytes: r.len() as u32 };
    let entries = records.iter().map(head).collect();
    message(Body::Append { prev: Position::new(first - 1, 1), entries, commit: Index(0) })
}

fn message(body: Body) -> Message {
    Message { term: Term(1), body }
}

fn heartbeat(round: u64) -> Message {
    message(Body::Heartbeat { round, commit: Index(0) })
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_every_kind_arrive_with_their_records_intact() {
    let (a, mut b) = pair().await;
    let at = Position::new(3, 2);
    for body in [
        Body::PreVote { last: at },
        Body::PreVoteReply { granted: true },
        Body::Vote { last: at, transfer: true },
        Body::VoteReply { granted: false },
        Body::Appended { durable: Index(4) },
        Body::Rejected { prev: Index(8), hint: at },
        Body::Heartbeat { round: 5, commit: Index(6) },
        Body::HeartbeatReply { round: 5 },
        Body::TransferNow { by_hand: true },
        Body::Append { prev: at, entries: Vec::new(), commit: Index(2) },
    ] {
        a.net.send(b.id(), message(body.clone()), Records::None);
        let (from, got, records) = b.message().await;
        assert_eq!((from, got.body, records.len()), (a.id(), body, 0));
    }
    // Small ones in one piece, large ones on their own.
    let records = [record(1, 10), record(2, 0), record(3, 200_000), record(4, 9_000)];
    let together = Bytes::from([&records[0][..], &records[1][..]].concat());
    let pieces = vec![together, records[2].clone(), records[3].clone()];
    a.net.send(b.id(), append(1, &records), Records::Cached(pieces));
    let (_, got, arrived) = b.message().await;
    assert_eq!(got, append(1, &records));
    assert_eq!(arrived.iter().map(Record::frame).collect::<Vec<_>>(), records.iter().collect::<Vec<_>>());
    assert!(a.metrics.peer_sent_bytes.get() > 209_000);
    a.net.stop().await;
    b.net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_keep_their_order_whether_cached_or_read_from_the_log() {
    let (a, mut b) = pair().await;
    a.net.set_leading(Some(Term(1)));
    for index in 1..=500 {
        let record = record(index, 10);
        let records = match index % 7 {
            0 => Records::FromLog { from: Index(index), to: Index(index), bytes: record.len() },
            _ => Records::Cached(vec![record.clone()]),
        };
        a.net.send(b.id(), append(index, &[record]), records);
    }
    for index in 1..=500 {
        assert_eq!(b.message().await.2[0].frame(), &record(index, 10));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_of_a_lost_term_is_not_read_from_the_log_any_more() {
    let (mut a, mut b) = pair().await;
    let from_log = Records::FromLog { from: Index(1), to: Index(1), bytes: 100 };
    a.net.set_leading(Some(Term(2)));
    a.net.send(b.id(), append(1, &[record(1, 10)]), from_log);
    let (next, cached) = (record(2, 10), Records::Cached(vec![record(2, 10)]));
    a.net.send(b.id(), append(2, &[next]), cached);
    assert_eq!(b.message().await.2[0].index, Index(2));
    assert_eq!(a.unreachable().await, b.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_overtakes_a_saturated_bulk_lane() {
    let (a, mut b) = pair().await;
    a.net.send(b.id(), heartbeat(0), Records::None);
    b.message().await;
    let large = record(1, 4 << 20);
    for _ in 0..20 {
        a.net.send(b.id(), append(1, std::slice::from_ref(&large)), Records::Cached(vec![large.clone()]));
    }
    a.net.send(b.id(), heartbeat(1), Records::None);
    let mut before = 0;
    while !matches!(b.message().await.1.body, Body::Heartbeat { round: 1, .. }) {
        before += 1;
    }
    assert!(before < 20, "the heartbeat came last");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulated_delay_holds_every_append_back_but_not_the_throughput() {
    let delay = (Duration::from_millis(50), Duration::from_millis(60));
    let a = Node::start(spec(1), |options| options.delay = delay).await;
    let mut b = Node::start(spec(2), |_| {}).await;
    a.net.set_members(std::slice::from_ref(&b.member));
    a.net.send(b.id(), heartbeat(0), Records::None);
    b.message().await;
    let empty = append(1, &[]);
    a.net.send(b.id(), empty.clone(), Records::None);
    assert_eq!(b.message().await.1, empty, "the bulk lane is up");

    let start = Instant::now();
    for index in 1..=1000 {
        a.net.send(b.id(), append(index, &[record(index, 100)]), Records::Cached(vec![record(index, 100)]));
    }
    a.net.send(b.id(), append(1001, &[]), Records::None);
    a.net.send(b.id(), heartbeat(1), Records::None);
    assert!(matches!(b.message().await.1.body, Body::Heartbeat { .. }), "heartbeats are not delayed");
    for index in 1..=1000 {
        assert_eq!(b.message().await.2[0].index, Index(index));
        assert!(start.elapsed() >= delay.0, "{index} came after {:?}", start.elapsed());
    }
    assert_eq!(b.message().await.1, append(1001, &[]), "an empty append stays behind the others");
    // One after the other they would have taken 50 s.
    assert!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
    a.net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_and_told_why() {
    let mut b = Node::start(spec(2), |_| {}).await;
    let other = Node::start(Spec { cluster: Some(8), ..spec(1) }, |_| {}).await;
    other.net.set_members(std::slice::from_ref(&b.member));
    assert!(other.trouble(b.id()).await.ends_with("node 2 belongs to cluster 9, not to cluster 8"));

    let wrong = Node::start(spec(3), |_| {}).await;
    wrong.net.set_members(&[Member { id: NodeId(4), ..b.member.clone() }]);
    assert!(wrong.trouble(NodeId(4)).await.ends_with("this is node 2, not node 4"));

    let copy = Node::start(spec(2), |_| {}).await;
    copy.net.set_members(&[Member { id: NodeId(5), ..b.member.clone() }]);
    assert!(copy.trouble(NodeId(5)).await.ends_with("a data directory was copied"));

    let first = Node::start(Spec { incarnation: 7, ..spec(6) }, |_| {}).await;
    first.net.set_members(std::slice::from_ref(&b.member));
    first.net.send(b.id(), heartbeat(1), Records::None);
    b.message().await;
    let twin = Node::start(Spec { incarnation: 7, ..spec(6) }, |_| {}).await;
    twin.net.set_members(std::slice::from_ref(&b.member));
    assert!(twin.trouble(b.id()).await.ends_with("another process is connected as node 6, incarnation 7"));
    let old = Node::start(Spec { incarnation: 6, ..spec(6) }, |_| {}).await;
    old.net.set_members(std::slice::from_ref(&b.member));
    assert!(old.trouble(b.id()).await.ends_with("node 6 was seen in incarnation 7: incarnation 6 is outdated"));
    assert!(b.events.try_recv().is_err(), "nothing of theirs arrived");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_version_is_refused_in_words_it_can_read() {
    let b = Node::start(spec(2), |_| {}).await;
    let mut stream = TcpStream::connect(&b.member.peer).await.expect("connect");
    stream.write_all(b"qrpeer\x63\x00").await.expect("write");
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.expect("closed");
    assert!(reply.starts_with(b"qrpeer\x01\x00"));
    assert!(String::from_utf8_lossy(&reply).contains("version 99 of the peer protocol is not spoken here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn binding_ends_connections_of_other_clusters_only() {
    let mut blank = Node::start(Spec { cluster: None, ..spec(1) }, |_| {}).await;
    let mut stranger = Node::start(Spec { cluster: Some(8), ..spec(2) }, |_| {}).await;
    stranger.net.set_members(std::slice::from_ref(&blank.member));
    stranger.net.send(blank.id(), heartbeat(1), Records::None);
    assert_eq!(blank.message().await.0, stranger.id(), "the first cluster that comes is heard");
    blank.net.send(stranger.id(), message(Body::HeartbeatReply { round: 1 }), Records::None);
    assert_eq!(stranger.message().await.0, blank.id(), "and answered, although it is no member");
    blank.net.bind(ClusterId(9));
    assert_eq!(stranger.unreachable().await, blank.id());
    assert!(stranger.trouble(blank.id()).await.ends_with("node 1 belongs to cluster 9, not to cluster 8"));
    let friend = Node::start(spec(3), |_| {}).await;
    friend.net.set_members(std::slice::from_ref(&blank.member));
    friend.net.send(blank.id(), heartbeat(1), Records::None);
    assert_eq!(blank.message().await.0, friend.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_oversized_frames_close_their_connection_and_nothing_else() {
    let (a, mut b) = pair().await;
    a.net.send(b.id(), heartbeat(1), Records::None);
    b.message().await;
    let mut good = b"qrpeer\x01\x00".to_vec();
    good.extend_from_slice(&[0xff; 64]);
    for garbage in [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), vec![0; 100], good] {
        let mut stream = TcpStream::connect(&b.member.peer).await.expect("connect");
        stream.write_all(&garbage).await.expect("write");
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "closed at once");
    }
    a.net.send(b.id(), heartbeat(2), Records::None);
    assert_eq!(b.message().await.1, heartbeat(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_say_nothing_or_a_byte_at_a_time_keep_no_place_and_disturb_nobody_who_is_there() {
    const PLACES: usize = 8;
    let short = Duration::from_millis(300);
    let mut b = Node::start(spec(2), |options| {
        options.connections = PLACES;
        options.handshake_timeout = short;
    })
    .await;
    let a = Node::start(spec(1), |_| {}).await;
    a.net.set_members(std::slice::from_ref(&b.member));
    a.net.send(b.id(), heartbeat(1), Records::None);
    b.message().await;
    let mut strangers = Vec::new();
    for _ in 0..3 * PLACES {
        strangers.push(TcpStream::connect(&b.member.peer).await.expect("the system accepts"));
    }
    // Who is there is heard while every place is taken,
    a.net.send(b.id(), heartbeat(2), Records::None);
    assert_eq!(b.message().await.1, heartbeat(2));
    // the silent and the slow are sent away,
    for (n, mut stranger) in strangers.into_iter().enumerate() {
        let ended = async {
            let mut byte = [0; 1];
            for next in b"qrpeer".iter().cycle() {
                let heard = tokio::time::timeout(Duration::from_millis(50), stranger.read(&mut byte)).await;
                if heard.is_ok() || n % 2 == 0 && stranger.write_all(&[*next]).await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("within the time of a handshake");
    }
    // and a node that comes finds a place.
    let c = Node::start(spec(3), |_| {}).await;
    c.net.set_members(std::slice::from_ref(&b.member));
    let coming = async {
        loop {
            c.net.send(b.id(), heartbeat(3), Records::None);
            if let Ok(Some(Event::Message { from, .. })) =
                tokio::time::timeout(Duration::from_millis(50), b.events.recv()).await
                && from == c.id()
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, coming).await.expect("a place is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_bounds_the_senders_memory_and_is_reported() {
    let mut a = Node::start(spec(1), |options| options.queue_bytes = 1 << 20).await;
    let mut b = Node::start(Spec { events: 1, ..spec(2) }, |_| {}).await;
    a.net.set_members(std::slice::from_ref(&b.member));
    a.net.send(b.id(), append(1, &[]), Records::None);
    b.message().await;
    // Nobody takes events at b from here on: its sockets fill, then a's queue.
    let large = record(1, 500_000);
    for _ in 0..200 {
        a.net.send(b.id(), append(1, std::slice::from_ref(&large)), Records::Cached(vec![large.clone()]));
        tokio::task::yield_now().await;
    }
    assert_eq!(a.unreachable().await, b.id());
    let mut arrived = 0;
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(2), b.events.recv()).await {
        arrived += usize::from(matches!(event, Event::Message { .. }));
    }
    assert!((1..200).contains(&arrived), "{arrived} arrived");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_restarts_on_its_port_is_reconnected() {
    let port = crate::testing::ports::nobody().port();
    let mut a = Node::start(spec(1), |_| {}).await;
    let mut b = Node::start(Spec { port, ..spec(2) }, |_| {}).await;
    a.net.set_members(std::slice::from_ref(&b.member));
    a.net.send(b.id(), heartbeat(1), Records::None);
    b.message().await;
    b.net.stop().await;
    drop(b);
    assert_eq!(a.unreachable().await, NodeId(2));
    let mut b = Node::start(Spec { incarnation: 2, port, ..spec(2) }, |_| {}).await;
    a.is_heard_by(&mut b, 2, "never again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_connected_here_is_dialed_until_it_can_be_answered() {
    // The way to `a` is broken for longer than a guest is given: one connection after another is closed at once.
    let way = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let announces = Some(way.local_addr().expect("address").to_string());
    let port = crate::testing::ports::nobody().port();
    let mut a = Node::start(Spec { announces, port, ..spec(1) }, |_| {}).await;
    let b = Node::start(spec(2), |_| {}).await;
    a.net.set_members(std::slice::from_ref(&b.member));
    let opened = tokio::spawn(async move {
        for _ in 0..2 * (GUEST_ATTEMPTS + 1) {
            drop(way.accept().await);
        }
        loop {
            let (mut near, _) = way.accept().await.expect("a connection");
            let mut far = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    b.is_heard_by(&mut a, 1, "the guest was given up while it was connected").await;
    opened.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_address_is_dialed_at_once() {
    let a = Node::start(spec(1), |_| {}).await;
    let mut b = Node::start(spec(2), |_| {}).await;
    let closed = crate::testing::ports::nobody().to_string();
    a.net.set_members(&[Member { peer: closed, ..b.member.clone() }]);
    a.trouble(b.id()).await;
    a.net.set_members(std::slice::from_ref(&b.member));
    let deadline = Instant::now() + PATIENCE;
    while a.net.trouble(b.id()).is_some() {
        assert!(Instant::now() < deadline, "still not connected");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    a.net.send(b.id(), append(1, &[]), Records::None);
    a.net.send(b.id(), heartbeat(2), Records::None);
    b.message().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_get_their_own_answers() {
    let (a, b) = pair().await;
    let to = b.id();
    tokio::spawn(b.echo());
    let calls: Vec<_> = (0..2000u32).map(|n| (n, a.net.call(to, Bytes::from(n.to_le_bytes().to_vec())))).collect();
    for (n, call) in calls {
        assert_eq!(call.await.expect("answered").expect("answer"), n.to_le_bytes()[..]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_never_left_is_not_sent_and_one_that_did_is_lost() {
    let (a, mut b) = pair().await;
    assert_eq!(a.net.call(NodeId(99), Bytes::new()).await, Ok(Err(CallError::NotSent)), "nobody by that id");
    let dropped = a.net.call(b.id(), Bytes::from_static(b"dropped"));
    let Event::Call { reply, .. } = b.next().await else { panic!("not a call") };
    drop(reply);
    assert_eq!(dropped.await, Ok(Err(CallError::Lost)), "the other side dropped it");

    let lost = a.net.call(b.id(), Bytes::from_static(b"lost"));
    let Event::Call { reply, .. } = b.next().await else { panic!("not a call") };
    b.net.stop().await;
    drop(b);
    assert_eq!(lost.await, Ok(Err(CallError::Lost)));
    drop(reply);
    a.trouble(NodeId(2)).await;
    assert_eq!(a.net.call(NodeId(2), Bytes::new()).await, Ok(Err(CallError::NotSent)), "no connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_an_answer_times_out_and_one_too_many_is_refused() {
    let a = Node::start(spec(1), |options| options.call_timeout = Duration::from_secs(2)).await;
    let b = Node::start(spec(2), |options| options.calls = 1).await;
    a.net.set_members(std::slice::from_ref(&b.member));
    let (first, second) = (a.net.call(b.id(), Bytes::new()), a.net.call(b.id(), Bytes::new()));
    assert_eq!(second.await, Ok(Err(CallError::Refused)));
    assert_eq!(first.await, Ok(Err(CallError::Timeout)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_which_the_queue_has_no_room_is_refused_and_not_taken_for_one_without_a_connection() {
    let a = Node::start(spec(1), |options| options.queue_messages = 1).await;
    let mut b = Node::start(spec(2), |_| {}).await;
    a.net.set_members(std::slice::from_ref(&b.member));
    let first = a.net.call(b.id(), Bytes::from_static(b"first"));
    assert_eq!(a.net.call(b.id(), Bytes::new()).await, Ok(Err(CallError::Refused)));
    let Event::Call { body, reply, .. } = b.next().await else { panic!("not a call") };
    reply.send(body).expect("waited for");
    assert_eq!(first.await, Ok(Ok(Bytes::from_static(b"first"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_ten_megabytes_arrives_whole() {
    let (a, mut b) = pair().await;
    let sent = a.net.send_snapshot(b.id(), Term(3), Source { left: 160, fails: false });
    let again = a.net.send_snapshot(b.id(), Term(3), Source { left: 1, fails: false });
    assert!(again.await.expect("answered").expect_err("one at a time").contains("on its way"));
    loop {
        let Event::Snapshot { from, term, imported, done, .. } = b.next().await else { continue };
        assert_eq!((from, term, imported.len()), (a.id(), Term(3), 160 * (64 << 10)));
        assert!(imported.chunks(64 << 10).zip((0..160u8).rev()).all(|(chunk, n)| chunk.iter().all(|byte| *byte == n)));
        done.send(true).expect("awaited");
        break;
    }
    assert_eq!(sent.await.expect("answered"), Ok(Index(77)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_breaks_off_leaves_nothing_behind() {
    let (a, mut b) = pair().await;
    let sent = a.net.send_snapshot(b.id(), Term(3), Source { left: 20, fails: true });
    assert_eq!(sent.await.expect("answered"), Err("the disk is gone".into()));
    let deadline = Instant::now() + PATIENCE;
    while !b.snapshots.aborted.load(Ordering::SeqCst) {
        assert!(Instant::now() < deadline, "the import was not dropped");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Nothing is in the way of the next one, and one that is not wanted is not reported as installed.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let sent = a.net.send_snapshot(b.id(), Term(3), Source { left: 1, fails: false });
        let answer = tokio::spawn(sent);
        let event = tokio::time::timeout(Duration::from_millis(500), b.events.recv()).await;
        if let Ok(Some(Event::Snapshot { done, .. })) = event {
            done.send(false).expect("awaited");
            assert!(answer.await.expect("task").expect("answered").expect_err("unwanted").contains("not wanted"));
            return;
        }
        assert!(Instant::now() < deadline, "no snapshot");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_snapshot_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let a = Node::start(spec(1), |options| {
        options.snapshot_stall = Duration::from_millis(200);
        options.handshake_timeout = Duration::from_millis(200);
    })
    .await;
    let peer = listener.local_addr().expect("address").to_string();
    a.net.set_members(&[Member { peer, ..member(2) }]);
    let sent = a.net.send_snapshot(NodeId(2), Term(1), Source { left: 1, fails: false });
    let ended = tokio::time::timeout(PATIENCE, sent).await.expect("in time").expect("answered");
    assert!(ended.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_introduces_itself_and_is_told_where_to_go() {
    let newcomer = Node::start(Spec { cluster: None, ..spec(7) }, |_| {}).await;
    let mut leader = Node::start(spec(1), |_| {}).await;
    let welcome = Welcome {
        cluster: Some(ClusterId(9)),
        accepted: true,
        leader_peer: Some("elsewhere:7400".into()),
        message: "welcome".into(),
    };
    let address = leader.member.peer.clone();
    let (told, newcomer_member) = (welcome.clone(), newcomer.member.clone());
    let answering = async {
        let Event::Introduced { member, blank, reply } = leader.next().await else { panic!("not introduced") };
        assert_eq!((member, blank), (newcomer_member, true));
        reply.send(told).expect("awaited");
    };
    let introduction = Introduction { member: newcomer.member.clone(), blank: true };
    let (got, ()) = tokio::join!(newcomer.net.introduce(&address, introduction.clone()), answering);
    assert_eq!(got, Ok(welcome));

    let own = newcomer.net.introduce(&newcomer.member.peer, introduction.clone()).await;
    assert!(matches!(own, Err(IntroduceError::Refused { .. })), "{own:?}");
    leader.net.stop().await;
    let gone = newcomer.net.introduce(&address, introduction).await;
    assert!(matches!(gone, Err(IntroduceError::Unreachable { .. })), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_sends_what_is_queued_and_answers_every_call() {
    let (a, mut b) = pair().await;
    a.net.send(b.id(), append(1, &[]), Records::None);
    b.message().await;
    a.net.send(b.id(), heartbeat(0), Records::None);
    b.message().await;
    let call = a.net.call(b.id(), Bytes::new());
    a.net.send(b.id(), message(Body::TransferNow { by_hand: true }), Records::None);
    a.net.stop().await;
    assert!(matches!(call.await, Ok(Err(CallError::Lost | CallError::NotSent))));
    assert!(matches!(b.message().await.1.body, Body::TransferNow { .. }));
}
