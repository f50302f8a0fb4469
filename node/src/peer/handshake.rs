//! Who is at the other end, and who is refused.
//!
//! The dialing side opens with a magic number, the protocol version and a [`Hello`]; the other side answers
//! with a [`Reply`]. Both check. What is refused here never reaches the driver: another version, another
//! cluster, a node that is not the one that was dialed, this very identity (a copied disk), an older process or
//! a second one of the same node.
//!
//! Before: a bare socket. After: [`super::connection`] and [`super::accept`], which trust the
//! identities established here.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use parking_lot::Mutex;
use quorum::{ClusterId, Member, NodeId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Identity;
use super::frame::{Frame, Framed};
use super::wire::{self, HELLO, HELLO_REPLY, WireError};
use crate::kv::GENERATION;

const MAGIC: &[u8; 6] = b"qrpeer";

/// The version of what is said after the magic number. Frames of other versions are never parsed.
pub(super) const VERSION: u16 = 1;

const OPENING: usize = MAGIC.len() + 2;

/// Bound of a hello and its reply: an identity, three addresses and a sentence. Nothing larger is read from a stranger.
const HELLO_MAX: usize = 4 << 10;

/// Nodes remembered. Far beyond any cluster with all its replaced nodes; a stranger cannot make this grow further.
const SEEN_MAX: usize = 1_024;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LaneKind {
    Control,
    Bulk,
    Snapshot,
    Introduce,
}

/// What the dialing side says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub cluster: Option<ClusterId>,
    pub id: NodeId,
    pub incarnation: u64,
    /// Drawn at start: tells two processes of one disk apart.
    pub process: u128,
    pub lane: LaneKind,
    /// Who should be at the other end, if that is known.
    pub expects: Option<NodeId>,
    pub member: Member,
    /// The generation of commands that it knows: behind the rest, where versions before did not write
    /// anything and do not look.
    #[serde(skip)]
    pub generation: u16,
}

/// What the accepting side says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Accepted {
    pub cluster: Option<ClusterId>,
    pub id: NodeId,
    pub incarnation: u64,
    pub process: u128,
    /// As in [`Hello`].
    #[serde(skip)]
    pub generation: u16,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Reply {
    Accepted(Accepted),
    Refused(String),
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("not in time")]
    Timeout,
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Garbage(String),
}

/// Another node as far as it was seen.
#[derive(Debug)]
struct Seen {
    incarnation: u64,
    process: u128,
    generation: u16,
    cluster: Option<ClusterId>,
    /// Of the control and the bulk lane: dropped to end the connection that holds the other half.
    lanes: [Option<watch::Sender<()>>; 2],
}

impl Seen {
    fn is_live(&self) -> bool {
        self.lanes.iter().flatten().any(|lane| lane.receiver_count() > 0)
    }
}

/// Held by an accepted connection for as long as it lives.
#[derive(Debug)]
pub(super) struct Ticket(watch::Receiver<()>);

impl Ticket {
    /// Resolves when a newer connection took this one's place.
    pub(super) async fn superseded(&mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

/// This node's identity, and what is known of those of others.
#[derive(Debug)]
pub(super) struct Registry {
    pub me: Identity,
    pub process: u128,
    cluster: watch::Sender<Option<ClusterId>>,
    /// The generation of commands below which nobody is let in.
    required: AtomicU16,
    seen: Mutex<HashMap<NodeId, Seen>>,
}

impl Registry {
    pub(super) fn new(me: Identity) -> Registry {
        let cluster = watch::Sender::new(me.cluster);
        Registry {
            me,
            process: uuid::Uuid::new_v4().as_u128(),
            cluster,
            required: AtomicU16::new(0),
            seen: Mutex::new(HashMap::new()),
        }
    }

    pub(super) fn cluster(&self) -> Option<ClusterId> {
        *self.cluster.borrow()
    }

    /// Changes when the node is bound.
    pub(super) fn binding(&self) -> watch::Receiver<Option<ClusterId>> {
        self.cluster.subscribe()
    }

    /// From now on only this cluster.
    pub(super) fn bind(&self, cluster: ClusterId) {
        self.cluster.send_if_modified(|current| current.replace(cluster) != Some(cluster));
    }

    /// From now on nobody who does not know commands of this generation.
    pub(super) fn require(&self, generation: u16) {
        self.required.fetch_max(generation, Ordering::Relaxed);
    }

    /// The first of these nodes that was not heard to know commands of this generation.
    pub(super) fn behind(&self, generation: u16, nodes: &[NodeId]) -> Option<NodeId> {
        let seen = self.seen.lock();
        let knows = |id: &NodeId| seen.get(id).is_some_and(|known| known.generation >= generation);
        nodes.iter().copied().find(|id| !knows(id))
    }

    fn check_generation(&self, id: NodeId, generation: u16) -> Result<(), String> {
        let required = self.required.load(Ordering::Relaxed);
        if generation >= required {
            return Ok(());
        }
        Err(format!(
            "node {id} runs a version of quorate that knows commands of generation {generation}, and this cluster's data holds some of \
             generation {required}: start it with a newer version"
        ))
    }

    /// Whether this node is connected here to send messages.
    pub(super) fn is_connected(&self, id: NodeId) -> bool {
        self.seen.lock().get(&id).is_some_and(Seen::is_live)
    }

    fn hello(&self, lane: LaneKind, expects: Option<NodeId>) -> Hello {
        Hello {
            cluster: self.cluster(),
            id: self.me.id,
            incarnation: self.me.incarnation,
            process: self.process,
            lane,
            expects,
            member: self.me.member.clone(),
            generation: GENERATION,
        }
    }

    fn check_cluster(&self, theirs: Option<ClusterId>) -> Result<(), String> {
        match (self.cluster(), theirs) {
            (Some(mine), Some(theirs)) if mine != theirs => {
                Err(format!("node {} belongs to cluster {mine}, not to cluster {theirs}", self.me.id))
            }
            _ => Ok(()),
        }
    }

    fn check_identity(&self, id: NodeId, process: u128) -> Result<(), String> {
        if id != self.me.id {
            return Ok(());
        }
        Err(if process == self.process {
            format!("this is node {id} itself")
        } else {
            format!("two processes claim to be node {id}: a data directory was copied")
        })
    }

    fn check_seen(seen: &Seen, id: NodeId, incarnation: u64, process: u128) -> Result<(), String> {
        if incarnation < seen.incarnation {
            let newer = seen.incarnation;
            return Err(format!("node {id} was seen in incarnation {newer}: incarnation {incarnation} is outdated"));
        }
        if incarnation == seen.incarnation && process != seen.process && seen.is_live() {
            return Err(format!("another process is connected as node {id}, incarnation {incarnation}"));
        }
        Ok(())
    }

    /// The accepting side's checks. The ticket belongs to the connection.
    fn admit(&self, hello: &Hello) -> Result<Ticket, String> {
        self.check_identity(hello.id, hello.process)?;
        if hello.member.id != hello.id {
            return Err(format!("node {} presented itself as node {}", hello.id, hello.member.id));
        }
        if let Some(expected) = hello.expects.filter(|expected| *expected != self.me.id) {
            return Err(format!("this is node {}, not node {expected}", self.me.id));
        }
        self.check_cluster(hello.cluster)?;
        self.check_generation(hello.id, hello.generation)?;
        let mut seen = self.seen.lock();
        if let Some(known) = seen.get(&hello.id) {
            Registry::check_seen(known, hello.id, hello.incarnation, hello.process)?;
        }
        let slot = match hello.lane {
            LaneKind::Control => 0,
            LaneKind::Bulk => 1,
            // These come and go: they are bounded by their own timeouts and leave no trace.
            LaneKind::Snapshot | LaneKind::Introduce => return Ok(Ticket(watch::Sender::new(()).subscribe())),
        };
        // Not bound yet: the first cluster that comes has the say until its connections are gone or the driver binds.
        if self.cluster().is_none()
            && let Some(theirs) = hello.cluster
            && let Some(first) = seen.values().filter(|s| s.is_live()).find_map(|s| s.cluster.filter(|c| *c != theirs))
        {
            return Err(format!("node {} is about to join cluster {first}, not cluster {theirs}", self.me.id));
        }
        if seen.len() >= SEEN_MAX && !seen.contains_key(&hello.id) {
            seen.retain(|_, s| s.is_live());
            if seen.len() >= SEEN_MAX {
                return Err(format!("more than {SEEN_MAX} nodes are connected"));
            }
        }
        let fresh = || Seen {
            incarnation: hello.incarnation,
            process: hello.process,
            generation: hello.generation,
            cluster: hello.cluster,
            lanes: [None, None],
        };
        let known = seen.entry(hello.id).or_insert_with(fresh);
        if (known.incarnation, known.process) != (hello.incarnation, hello.process) {
            // A newer process: whatever the older one has open is over.
            *known = fresh();
        }
        known.cluster = hello.cluster;
        let (sender, receiver) = watch::channel(());
        known.lanes[slot] = Some(sender);
        Ok(Ticket(receiver))
    }

    /// The dialing side's checks.
    fn approve(&self, expects: Option<NodeId>, accepted: &Accepted) -> Result<(), String> {
        self.check_identity(accepted.id, accepted.process)?;
        if let Some(expected) = expects.filter(|expected| *expected != accepted.id) {
            return Err(format!("node {} answers in place of node {expected}", accepted.id));
        }
        self.check_cluster(accepted.cluster)?;
        self.check_generation(accepted.id, accepted.generation)?;
        match self.seen.lock().get(&accepted.id) {
            Some(known) => Registry::check_seen(known, accepted.id, accepted.incarnation, accepted.process),
            None => Ok(()),
        }
    }
}

/// Socket options of every connection: small messages leave at once, and a peer whose machine is gone is noticed
/// within `dead_after` (what was sent and not acknowledged) or about three seconds (an idle connection: the
/// system counts in seconds).
pub(super) fn tune(stream: &TcpStream, dead_after: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let second = Duration::from_secs(1);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(second).with_interval(second).with_retries(2))?;
    socket.set_tcp_user_timeout(Some(dead_after))
}

pub(super) fn opening() -> BytesMut {
    let mut out = BytesMut::from(&MAGIC[..]);
    out.put_u16_le(VERSION);
    out
}

async fn read_opening(framed: &mut Framed) -> Result<u16, HandshakeError> {
    framed.fill(OPENING).await?;
    let mut opening = framed.buf.split_to(OPENING);
    if opening[..MAGIC.len()] != MAGIC[..] {
        return Err(HandshakeError::Garbage("what answers there is not a node's peer port".into()));
    }
    opening.advance(MAGIC.len());
    Ok(opening.get_u16_le())
}

fn garbage(error: impl ToString) -> HandshakeError {
    HandshakeError::Garbage(error.to_string())
}

/// What one side says of itself, and behind it the generation of commands that it knows: a version that knows of
/// none does not look there.
fn greeting<T: Serialize>(kind: u8, said: &T) -> Result<BytesMut, WireError> {
    wire::value(kind, &(said, GENERATION))
}

/// What was said, and the generation; 0 from a version that says none.
fn heard<T: DeserializeOwned>(frame: &Frame, kind: u8) -> Result<(T, u16), WireError> {
    wire::get_value(frame, kind).or_else(|_| Ok((wire::get_value(frame, kind)?, 0)))
}

fn heard_hello(frame: &Frame) -> Result<Hello, WireError> {
    heard::<Hello>(frame, HELLO).map(|(hello, generation)| Hello { generation, ..hello })
}

fn heard_reply(frame: &Frame) -> Result<Reply, WireError> {
    heard(frame, HELLO_REPLY).map(|(reply, generation)| match reply {
        Reply::Accepted(accepted) => Reply::Accepted(Accepted { generation, ..accepted }),
        refused @ Reply::Refused(_) => refused,
    })
}

/// Connects, and finds out who is there.
pub(super) async fn dial(
    registry: &Registry,
    address: &str,
    lane: LaneKind,
    expects: Option<NodeId>,
    timeout: Duration,
    dead_after: Duration,
) -> Result<(Framed, Accepted), HandshakeError> {
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        tune(&stream, dead_after)?;
        let mut framed = Framed::new(stream);
        let mut out = opening();
        out.unsplit(greeting(HELLO, &registry.hello(lane, expects)).map_err(garbage)?);
        framed.send(&out).await?;
        let version = read_opening(&mut framed).await?;
        if version != VERSION {
            return Err(HandshakeError::Refused(format!(
                "it speaks version {version} of the peer protocol, not {VERSION}"
            )));
        }
        let reply = framed.next(HELLO_MAX).await?;
        match heard_reply(&reply).map_err(garbage)? {
            Reply::Refused(why) => Err(HandshakeError::Refused(why)),
            Reply::Accepted(accepted) => {
                registry.approve(expects, &accepted).map_err(HandshakeError::Refused)?;
                Ok((framed, accepted))
            }
        }
    };
    tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(HandshakeError::Timeout))
}

/// Finds out who dialed, and answers.
pub(super) async fn accept(
    registry: &Registry,
    stream: TcpStream,
    timeout: Duration,
    dead_after: Duration,
) -> Result<(Framed, Hello, Ticket), HandshakeError> {
    let exchange = async {
        tune(&stream, dead_after)?;
        let mut framed = Framed::new(stream);
        let version = read_opening(&mut framed).await?;
        let admitted = if version == VERSION {
            let hello = heard_hello(&framed.next(HELLO_MAX).await?).map_err(garbage)?;
            registry.admit(&hello).map(|ticket| (hello, ticket))
        } else {
            Err(format!("version {version} of the peer protocol is not spoken here, only {VERSION}"))
        };
        let reply = match &admitted {
            Ok(_) => Reply::Accepted(Accepted {
                cluster: registry.cluster(),
                id: registry.me.id,
                incarnation: registry.me.incarnation,
                process: registry.process,
                generation: GENERATION,
            }),
            Err(why) => Reply::Refused(why.clone()),
        };
        let mut out = opening();
        out.unsplit(greeting(HELLO_REPLY, &reply).map_err(garbage)?);
        framed.send(&out).await?;
        let (hello, ticket) = admitted.map_err(HandshakeError::Refused)?;
        Ok((framed, hello, ticket))
    };
    tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(HandshakeError::Timeout))
}

/// What a greeting and its answer promise, for [`super::fuzzing`]: whoever says whatever is admitted or refused.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(registry: &Registry, frame: &Frame) {
    if let Ok(hello) = heard_hello(frame) {
        let _admitted = registry.admit(&hello);
        let _again = registry.admit(&hello);
    }
    if let Ok(Reply::Accepted(accepted)) = heard_reply(frame) {
        let _approved = registry.approve(None, &accepted);
    }
}

/// A greeting of each kind, and both answers.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz_seeds(registry: &Registry) -> Vec<Result<BytesMut, wire::WireError>> {
    let hello = |lane| Hello {
        id: NodeId(2),
        process: 7,
        member: crate::testing::member(2),
        ..registry.hello(lane, Some(NodeId(1)))
    };
    let accepted = Accepted { cluster: None, id: NodeId(2), incarnation: 3, process: 7, generation: 0 };
    vec![
        wire::value(HELLO, &hello(LaneKind::Control)),
        greeting(HELLO, &hello(LaneKind::Bulk)),
        wire::value(HELLO, &hello(LaneKind::Introduce)),
        wire::value(HELLO_REPLY, &Reply::Accepted(accepted)),
        wire::value(HELLO_REPLY, &Reply::Refused("no".to_owned())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::member;

    fn registry(n: u16, cluster: Option<u128>) -> Registry {
        let id = NodeId(u128::from(n));
        let cluster = cluster.map(ClusterId);
        Registry::new(Identity { id, incarnation: 5, cluster, member: member(n) })
    }

    fn refusal(at: &Registry, hello: &Hello) -> String {
        at.admit(hello).expect_err("refused")
    }

    #[test]
    fn strangers_are_refused_with_the_reason() {
        let me = registry(1, Some(9));
        let other = registry(2, Some(9));
        let hello = other.hello(LaneKind::Control, Some(NodeId(1)));
        let ticket = me.admit(&hello).expect("a member");

        let elsewhere = Hello { cluster: Some(ClusterId(8)), ..hello.clone() };
        assert_eq!(refusal(&me, &elsewhere), "node 1 belongs to cluster 9, not to cluster 8");
        let moved = Hello { expects: Some(NodeId(3)), ..hello.clone() };
        assert_eq!(refusal(&me, &moved), "this is node 1, not node 3");
        let copied = Hello { id: NodeId(1), ..hello.clone() };
        assert_eq!(refusal(&me, &copied), "two processes claim to be node 1: a data directory was copied");
        let old = Hello { incarnation: 4, ..hello.clone() };
        assert_eq!(refusal(&me, &old), "node 2 was seen in incarnation 5: incarnation 4 is outdated");
        let second = Hello { process: 0, ..hello.clone() };
        assert_eq!(refusal(&me, &second), "another process is connected as node 2, incarnation 5");
        drop(ticket);
        me.admit(&second).expect("the first one is gone");
    }

    /// The frame as the other side reads it.
    fn sent(bytes: BytesMut) -> Frame {
        super::super::frame::parse(&mut bytes.clone(), HELLO_MAX).expect("a frame").expect("whole")
    }

    #[test]
    fn versions_that_know_nothing_of_generations_are_understood_and_understand() {
        let hello = registry(2, Some(9)).hello(LaneKind::Control, None);
        assert_eq!(heard_hello(&sent(greeting(HELLO, &hello).expect("written"))).expect("read").generation, GENERATION);
        let old = sent(wire::value(HELLO, &hello).expect("written"));
        assert_eq!(heard_hello(&old).expect("read").generation, 0);
        let new = sent(greeting(HELLO, &hello).expect("written"));
        assert_eq!(wire::get_value::<Hello>(&new, HELLO).expect("what an old version does").id, NodeId(2));
    }

    #[test]
    fn a_node_is_behind_until_it_was_heard_to_know_and_once_it_matters_it_is_refused() {
        let me = registry(1, Some(9));
        let (two, three) = (NodeId(2), NodeId(3));
        let hello = registry(2, Some(9)).hello(LaneKind::Control, None);
        assert_eq!(me.behind(1, &[two]), Some(two), "never heard from");
        let ticket = me.admit(&hello).expect("a member");
        assert_eq!((me.behind(1, &[two]), me.behind(1, &[two, three])), (None, Some(three)));
        drop(ticket);
        assert_eq!(me.behind(1, &[two]), None, "it said so, though it is away now");
        let older = Hello { incarnation: 6, generation: 0, ..hello };
        me.admit(&older).expect("nothing has been written that it does not know");
        assert_eq!(me.behind(1, &[two]), Some(two));
        me.require(1);
        assert!(refusal(&me, &older).contains("start it with a newer version"));
        let accepted = Accepted { cluster: Some(ClusterId(9)), id: two, incarnation: 7, process: 0, generation: 0 };
        assert!(me.approve(None, &accepted).is_err());
        me.approve(None, &Accepted { generation: 1, ..accepted }).expect("of this version");
    }

    #[tokio::test]
    async fn a_newer_process_ends_the_connections_of_the_older_one() {
        let me = registry(1, Some(9));
        let hello = registry(2, Some(9)).hello(LaneKind::Bulk, None);
        let mut old = me.admit(&hello).expect("older");
        let _new = me.admit(&Hello { incarnation: 6, process: 0, ..hello }).expect("newer");
        old.superseded().await;
    }

    #[test]
    fn an_unbound_node_listens_to_the_first_cluster_only() {
        let me = registry(1, None);
        let first = me.admit(&registry(2, Some(8)).hello(LaneKind::Control, None)).expect("first");
        let rival = registry(3, Some(9)).hello(LaneKind::Control, None);
        assert_eq!(refusal(&me, &rival), "node 1 is about to join cluster 8, not cluster 9");
        drop(first);
        me.admit(&rival).expect("the first is gone");
        me.bind(ClusterId(8));
        assert_eq!(refusal(&me, &rival), "node 1 belongs to cluster 8, not to cluster 9");
    }
}
