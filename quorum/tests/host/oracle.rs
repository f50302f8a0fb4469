//! What must hold after every step, judged from outside: the oracle sees all disks at once.

use std::collections::{BTreeMap, BTreeSet};

use quorum::{Body, Config, Index, Kind, Message, NodeId, Position, Quorum, Role, Term};

use super::{ClusterNo, Entry, Node};

#[derive(Default)]
struct Cluster {
    /// Who led each term, and in which run of its process.
    leaders: BTreeMap<Term, (NodeId, u64)>,
    /// When each of these reigns began.
    reigns: BTreeMap<Term, u64>,
    /// Every entry ever written, with the term before it: index and term name one entry and one past.
    written: BTreeMap<(u64, Term), (Entry, Term)>,
    /// The committed entries, from index 1.
    history: Vec<Entry>,
    acknowledged: u64,
    /// The highest index that a linearizable read has shown.
    shown: u64,
    opened: bool,
}

/// Knows everything, forgets nothing.
#[derive(Default)]
pub struct Oracle {
    clusters: BTreeMap<ClusterNo, Cluster>,
    reads: BTreeMap<u64, u64>,
    commits: BTreeMap<(NodeId, u64), u64>,
    pub elections: u64,
    pub acknowledgements: u64,
    pub reads_served: u64,
    pub snapshots: u64,
    pub changes: u64,
    set_aside: BTreeSet<NodeId>,
}

impl Oracle {
    fn of(&mut self, n: &Node) -> &mut Cluster {
        self.clusters.entry(n.cluster.unwrap_or(0)).or_default()
    }

    pub fn acknowledged_upto(&self, cluster: ClusterNo) -> u64 {
        self.clusters.get(&cluster).map_or(0, |c| c.acknowledged)
    }

    pub fn opened(&self) -> usize {
        self.clusters.values().filter(|c| c.opened).count()
    }

    pub fn committed_before(&mut self, cluster: ClusterNo, entry: Entry) {
        let c = self.clusters.entry(cluster).or_default();
        c.opened = true;
        c.written.insert((1, entry.term), (entry.clone(), Term(0)));
        c.history.push(entry);
    }

    pub fn read_begins(&mut self, cluster: ClusterNo, _at: NodeId, read: u64) {
        let floor = self.clusters.get(&cluster).map_or(0, |c| c.acknowledged.max(c.shown));
        self.reads.insert(read, floor);
    }

    pub fn read_refused(&mut self, read: u64) {
        self.reads.remove(&read);
    }

    pub fn read_ready(&mut self, n: &Node, read: u64, index: Index) {
        let floor = self.reads.remove(&read).expect("a read is answered once");
        assert!(
            index.0 >= floor,
            "STALE READ at n{}: read {read} sees {index}, but {floor} was known when it began",
            n.id
        );
        let committed = n.replica.as_ref().expect("up").commit();
        assert!(index <= committed, "read {read} at n{} waits for {index}, commit is {committed}", n.id);
        let c = self.of(n);
        c.shown = c.shown.max(index.0);
        self.reads_served += 1;
    }

    pub fn written(&mut self, n: &Node, first: Index, entries: &[Entry]) {
        let mut before = n.memory.term_at(first.0 - 1).expect("no gap");
        let applied = n.applied;
        let c = self.of(n);
        assert!(first.0 > applied, "n{} overwrites {first}, applied up to {applied}", n.id);
        for (entry, index) in entries.iter().zip(first.0..) {
            let known = c.written.entry((index, entry.term)).or_insert_with(|| (entry.clone(), before));
            assert_eq!(*known, (entry.clone(), before), "LOG MATCHING broken at {index}@{} on n{}", entry.term, n.id);
            before = entry.term;
        }
    }

    pub fn installed(&mut self, n: &Node, last: Position, config: &Config) {
        self.snapshots += 1;
        let c = self.of(n);
        let at = usize::try_from(last.index.0).expect("small");
        assert_eq!(c.history.get(at - 1).map(|e| e.term), Some(last.term), "a snapshot of committed entries");
        let mut configs =
            c.history[..at].iter().filter_map(|e| if let Kind::Config(c) = &e.kind { Some(c) } else { None });
        assert_eq!(
            configs.next_back().map(|c| Config::clone(c)).as_ref(),
            Some(config),
            "the snapshot's configuration"
        );
    }

    /// What leaves a node must already be on its disk, if it promises that.
    pub fn sent(&mut self, n: &Node, to: NodeId, message: &Message) {
        let durable_term = n.disk.term >= message.term;
        let blank = n.replica.as_ref().is_none_or(|r| r.is_blank());
        match message.body {
            Body::Vote { .. } => {
                assert!(
                    !blank && durable_term && n.disk.voted_for == Some(n.id),
                    "n{} campaigns before its vote is durable",
                    n.id
                );
            }
            Body::VoteReply { granted: true } => {
                assert!(
                    durable_term && n.disk.voted_for == Some(to),
                    "n{} says so before its vote for n{to} is durable",
                    n.id
                );
            }
            Body::HeartbeatReply { round } => {
                assert!(
                    durable_term || round == 0,
                    "n{} confirms a leader in term {} before that is durable",
                    n.id,
                    message.term
                );
            }
            Body::Appended { durable } => {
                let agrees = n.disk.store.start.index >= durable
                    || n.disk.store.term_at(durable.0).is_some()
                        && n.disk.store.term_at(durable.0) == n.memory.term_at(durable.0)
                    || n.memory.start.index > durable && n.disk.store.last().index >= durable;
                assert!(durable_term && agrees, "n{} acknowledges {durable} before it is durable", n.id);
            }
            _ => {}
        }
    }

    pub fn committed(&mut self, n: &Node, index: Index, nodes: &BTreeMap<NodeId, Node>) {
        let before = self.commits.insert((n.id, n.epoch), index.0).unwrap_or(0);
        assert!(index.0 > before && index.0 > n.applied, "commit of n{} falls to {index}", n.id);
        let c = self.of(n);
        for i in n.applied + 1..=index.0 {
            let entry = n.memory.get(i).expect("committed entries are in the log");
            match c.history.get(usize::try_from(i - 1).expect("small")) {
                Some(known) => assert_eq!(known, entry, "COMMITTED TWICE: {i} on n{}", n.id),
                None => {
                    assert_eq!(c.history.len() as u64, i - 1, "no gap in history");
                    c.history.push(entry.clone());
                }
            }
        }
        if n.leads() {
            let term = n.memory.term_at(index.0).expect("in the log");
            held(n, Position { term, index }, nodes, "COMMITTED", Quorum::commit);
        }
    }

    pub fn acknowledged(&mut self, n: &Node, index: Index, nodes: &BTreeMap<NodeId, Node>) {
        self.acknowledgements += 1;
        assert!(index.0 <= n.applied, "n{} acknowledges {index} before it is committed", n.id);
        let c = self.of(n);
        let term = c.history[usize::try_from(index.0 - 1).expect("small")].term;
        held(n, Position { term, index }, nodes, "ACKNOWLEDGED", Quorum::write);
        c.acknowledged = c.acknowledged.max(index.0);
    }

    pub fn became(&mut self, n: &Node, role: Role, term: Term, now: u64) {
        if role != Role::Leader {
            return;
        }
        self.elections += 1;
        let c = self.of(n);
        c.reigns.entry(term).or_insert(now);
        let before = c.leaders.entry(term).or_insert((n.id, n.epoch));
        assert_eq!(*before, (n.id, n.epoch), "TWO LEADERS of term {term}");
        for (entry, index) in c.history.iter().zip(1u64..).skip(usize::try_from(n.memory.start.index.0).expect("small"))
        {
            assert_eq!(n.memory.get(index), Some(entry), "LEADER n{} of term {term} LACKS committed {index}", n.id);
        }
    }

    pub fn reconfigured(&mut self, n: &Node, config: &Config) {
        self.changes += 1;
        if config.formed {
            self.of(n).opened = true;
            assert!(self.opened() <= 1, "TWO CLUSTERS open");
        }
    }

    /// A leader has been answered by C voters within the longest election timeout, unless it was elected
    /// more recently than that.
    pub fn keeps_office(&mut self, n: &Node, now: u64) {
        let r = n.replica.as_ref().expect("up");
        let began = self.of(n).reigns.get(&r.term()).copied().unwrap_or(now);
        if r.role() != Role::Leader || now - began < n.settings.election_max {
            return;
        }
        // A member that came in later has that long from the leader's election on, too, and need not have answered.
        let answered = |id| id == n.id || r.peers().any(|p| p.id == id && p.live);
        let config = r.config().expect("a leader has a configuration");
        assert!(config.confirms(answered), "n{} STAYS IN OFFICE of term {} and hears too few voters", n.id, r.term());
    }

    /// Whoever becomes a voter holds nearly all of the log: writes must not have to wait for it.
    pub fn promoted(&mut self, n: &Node, entries: &[Entry], nodes: &BTreeMap<NodeId, Node>) {
        let joint = entries
            .iter()
            .filter_map(|e| if let Kind::Config(c) = &e.kind { c.outgoing.as_ref().zip(Some(c)) } else { None });
        for (old, config) in joint.filter(|_| n.leads()) {
            for new in config.voters.iter().filter(|m| !old.voters.iter().any(|o| o.id == m.id)) {
                let Some(voter) = nodes.get(&new.id).filter(|v| !v.gone) else { continue };
                let reached = voter.disk.store.last().index.0 + n.settings.promotion_lag_max;
                assert!(reached >= n.memory.last().index.0 - 1, "n{} becomes a voter and is FAR BEHIND", new.id);
            }
        }
    }

    /// Only who was a member by a committed configuration, and is not by a later committed one,
    /// may throw its data away.
    pub fn set_aside(&mut self, n: &Node) {
        let id = n.id;
        let c = self.of(n);
        let configs: Vec<_> =
            c.history.iter().filter_map(|e| if let Kind::Config(c) = &e.kind { Some(c) } else { None }).collect();
        let member = configs.iter().position(|c| c.member(id).is_some());
        let Some(member) = member else { panic!("n{id} was never a member and sets itself aside") };
        let left = configs[member..].iter().any(|c| c.member(id).is_none());
        assert!(left, "n{id} SETS ITSELF ASIDE, and no committed configuration does without it");
        self.set_aside.insert(id);
    }

    pub fn after_step(&mut self, n: &Node) {
        let r = n.replica.as_ref().expect("up");
        assert_eq!(r.last(), n.memory.last(), "core and host agree on the log of n{}", n.id);
        assert_eq!(r.start(), n.memory.start);
        let newest = n.memory.config_at(u64::MAX);
        assert_eq!(
            r.config().map(|c| Config::clone(c)),
            newest,
            "n{} is not under its log's newest CONFIGURATION",
            n.id
        );
        assert!(r.commit().0 == n.applied, "n{}: commit {} but applied {}", n.id, r.commit(), n.applied);
        assert!(
            r.durable() <= n.disk.store.last().index.max(n.disk.store.start.index),
            "n{} claims {} durable",
            n.id,
            r.durable()
        );
        let at = r.durable().0;
        let same = n.disk.store.term_at(at) == n.memory.term_at(at) || at <= n.disk.store.start.index.0;
        assert!(same, "n{} claims {at} durable, and its disk has ANOTHER ENTRY there", n.id);
    }
}

/// Whether enough disks hold the very entry that is at `at` in the log of the leader `n`.
fn held(n: &Node, at: Position, nodes: &BTreeMap<NodeId, Node>, what: &str, count: fn(Quorum) -> usize) {
    let config = n.replica.as_ref().expect("up").config().expect("a leader has a configuration");
    let Position { term, index } = at;
    for (voters, quorum) in config.halves() {
        let holds = |id: NodeId| {
            nodes.get(&id).is_some_and(|v| {
                let store = &v.disk.store;
                v.disk.cluster == n.cluster && (store.start.index >= index || store.term_at(index.0) == Some(term))
            })
        };
        // A disk that held it and was lost since counts: the leader cannot know, and the quorums allow for it.
        let lost = |id: NodeId| nodes.get(&id).is_some_and(|v| v.gone);
        let copies = voters.iter().filter(|m| holds(m.id) || lost(m.id)).count();
        assert!(copies >= count(quorum), "{what} {index} at n{} with {copies} copies: {quorum:?}", n.id);
    }
}
