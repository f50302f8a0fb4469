//! A host for tests: real replicas, and around each what a driver would give it, all in memory and deterministic.
//!
//! Every node has a disk that keeps things in order and only when told to, a network that delivers what and when it is
//! told to, and applied state. A crash loses what the disk does not have. After every step [`Oracle`] checks what must
//! always hold. Random runs and golden scripts drive the very same host.
#![allow(dead_code, unreachable_pub, clippy::expect_used, clippy::unwrap_used)]

pub mod oracle;
pub mod random;
pub mod show;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use quorum::{
    Body, Change, Config, Effect, Failover, Head, Index, Input, Kind, Member, Message, NodeId, Position, Recovered,
    Refusal, Replica, Role, Settings, SharedConfig, Term, Time, Token,
};

use oracle::Oracle;

/// The clusters of a run: more than one only while several founders compete.
pub type ClusterNo = u64;

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub term: Term,
    pub kind: Kind,
    pub payload: u64,
}

impl Entry {
    fn head(&self) -> Head {
        Head { term: self.term, kind: self.kind.clone(), bytes: 100 }
    }
}

/// A log with its payloads, as memory or disk holds it.
#[derive(Clone, Debug, Default)]
pub struct Store {
    pub start: Position,
    pub start_config: Option<Config>,
    pub entries: Vec<Entry>,
}

impl Store {
    pub fn last(&self) -> Position {
        let index = Index(self.start.index.0 + self.entries.len() as u64);
        Position { term: self.entries.last().map_or(self.start.term, |e| e.term), index }
    }

    pub fn get(&self, index: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(index.checked_sub(self.start.index.0 + 1)?).ok()?)
    }

    pub fn term_at(&self, index: u64) -> Option<Term> {
        if index == self.start.index.0 { Some(self.start.term) } else { self.get(index).map(|e| e.term) }
    }

    fn write(&mut self, first: Index, entries: &[Entry]) {
        let skip = self.start.index.0.saturating_sub(first.0 - 1) as usize;
        let keep = (first.0 - 1).saturating_sub(self.start.index.0) as usize;
        assert!(keep <= self.entries.len(), "a write at {first} leaves a gap after {}", self.last());
        self.entries.truncate(keep);
        self.entries.extend(entries.iter().skip(skip).cloned());
    }

    pub fn config_at(&self, index: u64) -> Option<Config> {
        let newest = self.entries.iter().zip(self.start.index.0 + 1..).filter(|(_, i)| *i <= index);
        let configs =
            newest.filter_map(|(e, _)| if let Kind::Config(c) = &e.kind { Some(Config::clone(c)) } else { None });
        configs.last().or(self.start_config.clone())
    }

    fn compact(&mut self, upto: u64) {
        if upto <= self.start.index.0 {
            return;
        }
        let term = self.term_at(upto).expect("compacted entries exist");
        self.start_config = self.config_at(upto);
        self.entries.drain(..(upto - self.start.index.0) as usize);
        self.start = Position { term, index: Index(upto) };
    }
}

#[derive(Clone, Debug)]
pub enum DiskOp {
    Vote { term: Term, voted_for: Option<NodeId> },
    Write { first: Index, entries: Vec<Entry>, commit: u64 },
    Install { last: Position, config: Config },
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub term: Term,
    pub voted_for: Option<NodeId>,
    pub store: Store,
    pub commit: u64,
    pub cluster: Option<ClusterNo>,
}

pub struct Node {
    pub id: NodeId,
    /// `None` while crashed.
    pub replica: Option<Replica>,
    pub disk: Disk,
    pub queue: VecDeque<(Token, DiskOp)>,
    pub memory: Store,
    pub applied: u64,
    pub cluster: Option<ClusterNo>,
    pub settings: Settings,
    /// Lost for good: wiped, or set aside.
    pub gone: bool,
    pub slow: bool,
    pub paused: bool,
    received: Option<(Position, Config)>,
    /// Counts the starts, so that the oracle can tell one reign from another of the same node.
    pub epoch: u64,
}

impl Node {
    pub fn up(&self) -> bool {
        self.replica.is_some() && !self.gone
    }

    pub fn leads(&self) -> bool {
        self.replica.as_ref().is_some_and(|r| r.role() == Role::Leader)
    }
}

#[derive(Clone, Debug)]
pub enum Cargo {
    Message(Message, Vec<Entry>),
    Snapshot { term: Term, last: Position, config: Config },
}

#[derive(Clone, Debug)]
pub struct Packet {
    pub from: NodeId,
    pub to: NodeId,
    pub cluster: Option<ClusterNo>,
    pub cargo: Cargo,
}

pub struct Host {
    pub now: u64,
    pub nodes: BTreeMap<NodeId, Node>,
    pub net: VecDeque<Packet>,
    pub cuts: BTreeSet<(NodeId, NodeId)>,
    pub oracle: Oracle,
    pub trace: Option<Vec<String>>,
    pub refusals: Vec<(NodeId, Refusal)>,
    pub next_payload: u64,
    pub next_read: u64,
    next_cluster: ClusterNo,
}

pub fn member(id: u64) -> Member {
    Member {
        id: NodeId(id.into()),
        name: format!("n{id}"),
        peer: String::new(),
        http: String::new(),
        tcp: String::new(),
    }
}

pub fn node(id: u64) -> NodeId {
    NodeId(id.into())
}

impl Host {
    pub fn new() -> Host {
        Host {
            now: 1_000_000,
            nodes: BTreeMap::new(),
            net: VecDeque::new(),
            cuts: BTreeSet::new(),
            oracle: Oracle::default(),
            trace: None,
            refusals: Vec::new(),
            next_payload: 1,
            next_read: 1,
            next_cluster: 1,
        }
    }

    pub fn say(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        let _ = now;
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// A new identity with an empty disk, running.
    pub fn add_blank(&mut self, id: u64, settings: Settings) {
        self.add(id, settings, Disk::default());
    }

    pub fn add(&mut self, id: u64, mut settings: Settings, disk: Disk) {
        settings.seed = settings.seed.wrapping_add(id.wrapping_mul(0x1234_5678_9abc));
        let id = node(id);
        let fresh = Node {
            id,
            replica: None,
            memory: Store::default(),
            disk,
            queue: VecDeque::new(),
            applied: 0,
            cluster: None,
            settings,
            gone: false,
            slow: false,
            paused: false,
            received: None,
            epoch: 0,
        };
        assert!(self.nodes.insert(id, fresh).is_none());
        self.start(id);
    }

    /// Nodes that already form a cluster, as if all had been stopped cleanly.
    pub fn add_formed(&mut self, config: &Config, settings: &Settings) {
        let config = Config { formed: true, ..config.clone() };
        let first = Entry { term: Term(1), kind: Kind::Config(SharedConfig::new(config.clone())), payload: 0 };
        self.oracle.committed_before(1, first.clone());
        self.next_cluster = 2;
        for m in config.members() {
            let store = Store { entries: vec![first.clone()], ..Store::default() };
            let disk = Disk { term: Term(1), voted_for: None, store, commit: 1, cluster: Some(1) };
            self.add(u64::try_from(m.id.0).expect("small"), settings.clone(), disk);
        }
    }

    pub fn start(&mut self, id: NodeId) {
        let now = Time(self.now);
        let n = self.nodes.get_mut(&id).expect("known");
        assert!(n.replica.is_none() && !n.gone);
        n.epoch += 1;
        n.settings.seed = n.settings.seed.wrapping_add(n.epoch);
        n.memory = n.disk.store.clone();
        n.cluster = n.disk.cluster;
        let commit = n.disk.commit.max(n.memory.start.index.0);
        n.applied = commit.min(n.memory.last().index.0);
        let recovered = Recovered {
            term: n.disk.term,
            voted_for: n.disk.voted_for,
            start: n.memory.start,
            start_config: n.memory.start_config.clone(),
            heads: n.memory.entries.iter().map(Entry::head).collect(),
            commit: Index(commit),
        };
        n.replica = Some(Replica::new(id, n.settings.clone(), recovered, now));
    }

    /// The process dies: whatever the disk does not have is lost. `kept` of the queued operations still
    /// reach it, as may happen.
    pub fn crash(&mut self, id: NodeId, kept: usize) {
        self.say(|| format!("n{id} CRASH"));
        let n = self.nodes.get_mut(&id).expect("known");
        for _ in 0..kept {
            Self::disk_step(n);
        }
        n.replica = None;
        n.queue.clear();
        n.received = None;
        n.paused = false;
    }

    pub fn restart(&mut self, id: NodeId) {
        self.say(|| format!("n{id} RESTART"));
        self.start(id);
    }

    /// The disk is lost, and the identity with it.
    pub fn wipe(&mut self, id: NodeId) {
        if self.nodes[&id].replica.is_some() {
            self.crash(id, 0);
        }
        self.say(|| format!("n{id} WIPED"));
        let n = self.nodes.get_mut(&id).expect("known");
        n.gone = true;
        n.disk = Disk::default();
    }

    fn disk_step(n: &mut Node) -> Option<Token> {
        let (token, op) = n.queue.pop_front()?;
        match op {
            DiskOp::Vote { term, voted_for } => {
                n.disk.term = term;
                n.disk.voted_for = voted_for;
            }
            DiskOp::Write { first, entries, commit } => {
                n.disk.store.write(first, &entries);
                n.disk.commit = n.disk.commit.max(commit);
                n.disk.cluster = n.cluster;
            }
            DiskOp::Install { last, config } => {
                n.disk.store = Store { start: last, start_config: Some(config), entries: Vec::new() };
                n.disk.commit = n.disk.commit.max(last.index.0);
                n.disk.cluster = n.cluster;
            }
        }
        Some(token)
    }

    /// The disk gets on with `count` of its operations, and says so once.
    pub fn persist(&mut self, id: NodeId, count: usize) {
        let n = self.nodes.get_mut(&id).expect("known");
        let mut done = None;
        for _ in 0..count.min(n.queue.len()) {
            done = Self::disk_step(n).or(done);
        }
        if let Some(token) = done {
            self.step(id, Input::Persisted { token }, &[]);
        }
    }

    /// Delivers the packet at `at` of the network's queue.
    pub fn deliver(&mut self, at: usize) {
        let packet = self.net.remove(at).expect("in flight");
        self.arrive(packet);
    }

    pub fn arrive(&mut self, packet: Packet) {
        let Packet { from, to, cluster, cargo } = packet;
        let reachable = self
            .nodes
            .get(&to)
            .is_some_and(|n| n.up() && !n.paused && (n.cluster.is_none() || cluster.is_none() || n.cluster == cluster));
        if !reachable || self.cuts.contains(&(from, to)) {
            self.lose(Packet { from, to, cluster, cargo });
            return;
        }
        let n = self.nodes.get_mut(&to).expect("known");
        let unbound = n.cluster.is_none();
        match cargo {
            Cargo::Message(message, records) => {
                if unbound && !records.is_empty() && cluster.is_some() {
                    // Bound for good with the first configuration stored; whether it is stored shows below.
                    n.cluster = cluster;
                }
                self.step(to, Input::Receive { from, message }, &records);
            }
            Cargo::Snapshot { term, last, config } => {
                n.cluster = n.cluster.or(cluster);
                n.received = Some((last, config.clone()));
                self.step(to, Input::SnapshotReceived { from, term, last, config: Box::new(config) }, &[]);
                self.snapshot_ended(from, to, Some(last.index));
            }
        }
        let n = self.nodes.get_mut(&to).expect("known");
        if unbound && n.replica.as_ref().is_some_and(Replica::is_blank) {
            n.cluster = None;
        }
    }

    /// Loses a packet. Of a snapshot the sender's host notices and says so.
    pub fn lose(&mut self, packet: Packet) {
        if let Cargo::Snapshot { .. } = packet.cargo {
            self.snapshot_ended(packet.from, packet.to, None);
        }
    }

    fn snapshot_ended(&mut self, from: NodeId, to: NodeId, last: Option<Index>) {
        if self.nodes.get(&from).is_some_and(Node::up) {
            self.step(from, Input::SnapshotSent { to, last }, &[]);
        }
    }

    pub fn propose(&mut self, id: NodeId, count: usize) {
        let records: Vec<Entry> = (0..count as u64)
            .map(|i| Entry { term: Term(0), kind: Kind::Command, payload: self.next_payload + i })
            .collect();
        self.next_payload += count as u64;
        self.step(id, Input::Propose { sizes: vec![100; count] }, &records);
    }

    pub fn read(&mut self, id: NodeId) -> u64 {
        let read = self.next_read;
        self.next_read += 1;
        let cluster = self.nodes[&id].cluster.unwrap_or(0);
        self.oracle.read_begins(cluster, id, read);
        self.step(id, Input::Read { id: read }, &[]);
        read
    }

    /// Forms a cluster of `config` at `id`, under a cluster number of its own.
    pub fn form(&mut self, id: NodeId, config: Config) {
        let n = self.nodes.get_mut(&id).expect("known");
        if n.cluster.is_none() {
            n.cluster = Some(self.next_cluster);
            self.next_cluster += 1;
        }
        self.step(id, Input::Form(Box::new(config)), &[]);
    }

    /// Forgets log entries that are applied and durable here.
    pub fn compact(&mut self, id: NodeId, upto: u64) {
        let n = self.nodes.get_mut(&id).expect("known");
        let Some(r) = &n.replica else { return };
        let upto = upto.min(n.applied).min(r.durable().0).min(n.disk.store.last().index.0);
        if upto <= n.memory.start.index.0 || n.disk.store.term_at(upto) != n.memory.term_at(upto) {
            return;
        }
        n.memory.compact(upto);
        n.disk.store.compact(upto);
        n.disk.commit = n.disk.commit.max(upto);
        self.step(id, Input::Compacted { upto: Index(upto) }, &[]);
    }

    pub fn tick(&mut self, id: NodeId) {
        self.step(id, Input::Tick, &[]);
    }

    /// One step of a replica, with all that follows, and the checks after it.
    pub fn step(&mut self, id: NodeId, input: Input, records: &[Entry]) {
        let now = Time(self.now);
        let n = self.nodes.get_mut(&id).expect("known");
        let Some(replica) = &mut n.replica else { return };
        let mut effects = Vec::new();
        if self.trace.is_some() && !matches!(input, Input::Tick) {
            let line = show::input(id, &input);
            if let Some(trace) = &mut self.trace {
                trace.push(line);
            }
        }
        let ticked = input == Input::Tick;
        replica.step(now, input, &mut effects);
        for effect in effects {
            if self.nodes[&id].gone {
                return;
            }
            if self.trace.is_some() {
                let line = show::effect(id, &effect);
                if let Some(trace) = &mut self.trace {
                    trace.push(line);
                }
            }
            self.carry_out(id, effect, records);
        }
        if let Some(n) = self.nodes.get(&id).filter(|n| n.up()) {
            self.oracle.after_step(n);
            if ticked {
                self.oracle.keeps_office(n, self.now);
            }
        }
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect, records: &[Entry]) {
        let n = self.nodes.get_mut(&id).expect("known");
        match effect {
            Effect::SaveVote { token, term, voted_for } => n.queue.push_back((token, DiskOp::Vote { term, voted_for })),
            Effect::Write { token, first, entries } => {
                let records = &records[records.len().saturating_sub(entries.len())..];
                let entries: Vec<Entry> = entries
                    .into_iter()
                    .enumerate()
                    .map(|(i, head)| {
                        let payload = if head.kind == Kind::Command { records[i].payload } else { 0 };
                        Entry { term: head.term, kind: head.kind, payload }
                    })
                    .collect();
                n.memory.write(first, &entries);
                self.oracle.written(n, first, &entries);
                self.oracle.promoted(&self.nodes[&id], &entries, &self.nodes);
                let n = self.nodes.get_mut(&id).expect("known");
                n.queue.push_back((token, DiskOp::Write { first, entries, commit: n.applied }));
            }
            Effect::InstallSnapshot { token, last } => {
                let (received, config) = n.received.take().expect("a snapshot was received");
                assert_eq!(received, last);
                self.oracle.installed(n, last, &config);
                n.memory = Store { start: last, start_config: Some(config.clone()), entries: Vec::new() };
                n.applied = last.index.0;
                n.queue.push_back((token, DiskOp::Install { last, config }));
            }
            Effect::Send { to, message } => {
                let mut carried = Vec::new();
                if let Body::Append { prev, entries, .. } = &message.body {
                    for (i, head) in entries.iter().enumerate() {
                        let entry =
                            n.memory.get(prev.index.0 + 1 + i as u64).expect("an append sends what the log holds");
                        assert_eq!((entry.term, &entry.kind), (head.term, &head.kind), "heads and records agree");
                        carried.push(entry.clone());
                    }
                }
                self.oracle.sent(n, to, &message);
                let cluster = n.cluster;
                self.net.push_back(Packet { from: id, to, cluster, cargo: Cargo::Message(message, carried) });
            }
            Effect::SendSnapshot { to } => {
                let term = n.replica.as_ref().expect("up").term();
                let last = Position { index: Index(n.applied), term: n.memory.term_at(n.applied).expect("applied") };
                let config = n.memory.config_at(n.applied).expect("configured");
                let cluster = n.cluster;
                self.net.push_back(Packet { from: id, to, cluster, cargo: Cargo::Snapshot { term, last, config } });
            }
            Effect::Commit { index } => {
                let n = &self.nodes[&id];
                self.oracle.committed(n, index, &self.nodes);
                self.nodes.get_mut(&id).expect("known").applied = index.0;
            }
            Effect::Acknowledge { index } => self.oracle.acknowledged(&self.nodes[&id], index, &self.nodes),
            Effect::Refuse(refusal) => self.refusals.push((id, refusal)),
            Effect::ReadReady { id: read, index } => self.oracle.read_ready(&self.nodes[&id], read, index),
            Effect::ReadRefused { id: read, .. } => self.oracle.read_refused(read),
            Effect::Became { role, term, .. } => self.oracle.became(&self.nodes[&id], role, term, self.now),
            Effect::Reconfigured { config } => self.oracle.reconfigured(&self.nodes[&id], &config),
            Effect::Forgot { confirmed } => {
                panic!("node {id} lost what it confirmed up to {confirmed}; no disk here does")
            }
            Effect::SetAside => {
                self.oracle.set_aside(&self.nodes[&id]);
                self.wipe(id);
            }
        }
    }

    /// The node that leads in the highest term, of those up.
    pub fn leader(&self) -> Option<NodeId> {
        let leaders = self.nodes.values().filter(|n| n.up() && !n.paused && n.leads());
        leaders.max_by_key(|n| n.replica.as_ref().map(Replica::term)).map(|n| n.id)
    }

    pub fn replica(&self, id: NodeId) -> &Replica {
        self.nodes[&id].replica.as_ref().expect("up")
    }

    /// Delivers and persists until nothing is left to do. Time stands still.
    pub fn settle(&mut self) {
        for _ in 0..20_000 {
            if !self.net.is_empty() {
                self.deliver(0);
                continue;
            }
            let busy = self.nodes.values().find(|n| n.up() && !n.slow && !n.queue.is_empty()).map(|n| n.id);
            match busy {
                Some(id) => self.persist(id, self.nodes[&id].queue.len()),
                None => return,
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// Time passes in small steps, everything being delivered and persisted at once.
    pub fn run(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(10) {
            self.pass(10);
            self.settle();
        }
    }

    /// Time passes and every node notices.
    pub fn pass(&mut self, millis: u64) {
        self.now += millis * 1000;
        let ids: Vec<NodeId> = self.nodes.values().filter(|n| n.up() && !n.paused).map(|n| n.id).collect();
        for id in ids {
            if self.nodes[&id].up() {
                self.tick(id);
            }
        }
    }

    /// A change to these voters, learners and W, all else as `id` has it.
    pub fn change(&mut self, id: NodeId, voters: &[NodeId], learners: &[NodeId], w: usize, failover: Option<Failover>) {
        let Some(config) = self.replica(id).config().cloned() else { return };
        let members =
            |ids: &[NodeId]| ids.iter().map(|i| member(u64::try_from(i.0).expect("small"))).collect::<Vec<_>>();
        let change = Change {
            base_version: config.version,
            voters: members(voters),
            learners: members(learners),
            write_quorum: w,
            preferred: config.preferred.filter(|p| voters.contains(p)),
            failover: failover.unwrap_or(config.failover),
        };
        self.step(id, Input::ChangeConfig(Box::new(change)), &[]);
    }
}
