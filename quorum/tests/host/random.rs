//! Random runs: faults of every kind for a while, then none, and the cluster must come back.
//!
//! A seed names a run on every machine. What fails is run again with a trace, one line per event, whose end
//! is printed with the seed.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use quorum::{Config, Failover, Input, NodeId, Settings};

use super::{Host, member, node};

/// How many members a run may have at once, learners included.
const NODES_MAX: usize = 8;

/// Packets under way at once; what is beyond is lost, the oldest first.
const PACKETS_MAX: usize = 150;

/// Lines of the trace that are shown when a run fails.
const TRACE_LINES: usize = 250;

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len() as u64) as usize]) }
    }
}

/// What a run went through; a suite of runs that never does something proves nothing about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub elections: u64,
    pub acknowledgements: u64,
    pub reads: u64,
    pub snapshots: u64,
    pub configurations: u64,
    pub wiped: u64,
}

pub struct Run {
    pub host: Host,
    pub rng: Rng,
    settings: Settings,
    next_id: u64,
    wiped: u64,
    /// What is on its way to this node stays on its way.
    held: Option<NodeId>,
    /// Whether clients and operators are busy too.
    formed: bool,
}

/// Runs a seed; if it fails, again with a trace.
pub fn check(name: &str, seed: u64, body: impl Fn(u64, bool, &mut Vec<String>) -> Tally) -> Tally {
    let mut trace = Vec::new();
    match catch_unwind(AssertUnwindSafe(|| body(seed, false, &mut trace))) {
        Ok(tally) => tally,
        Err(_) => {
            let mut trace = Vec::new();
            let _ = catch_unwind(AssertUnwindSafe(|| body(seed, true, &mut trace)));
            for line in &trace[trace.len().saturating_sub(TRACE_LINES)..] {
                eprintln!("{line}");
            }
            panic!("{name}: seed {seed} fails (QUORUM_SEED={seed} runs it alone)");
        }
    }
}

/// Writes the trace out even when the run panics.
struct Traced<'a>(Run, &'a mut Vec<String>);

impl Drop for Traced<'_> {
    fn drop(&mut self) {
        self.1.append(self.0.host.trace.as_mut().unwrap_or(&mut Vec::new()));
    }
}

fn settings(rng: &mut Rng, seed: u64) -> Settings {
    Settings {
        seed,
        window: 1 + rng.below(3) as usize,
        long_lines: rng.chance(50),
        append_entries_max: [1, 3, 1000][rng.below(3) as usize],
        append_bytes_max: [150, 1 << 20][rng.below(2) as usize],
        promotion_lag_max: 3,
        hand_back_after: 1_000_000,
        lease_reads: rng.chance(50),
        ..Settings::default()
    }
}

/// A formed cluster of random numbers under faults, then without.
pub fn formed(seed: u64, traced: bool, trace: &mut Vec<String>, steps: u64) -> Tally {
    let mut rng = Rng(seed);
    let settings = settings(&mut rng, seed);
    let n = 1 + rng.below(5);
    let w = 1 + rng.below(n) as usize;
    let mut host = Host::new();
    host.trace = traced.then(Vec::new);
    let preferred = rng.chance(50).then(|| node(1));
    let config = Config::first((1..=n).map(member).collect(), w, preferred).expect("legal");
    host.add_formed(&config, &settings);
    let run = Run { host, rng, settings, next_id: n + 1, wiped: 0, held: None, formed: true };
    let mut run = Traced(run, trace);
    for _ in 0..steps {
        run.0.fault_or_work();
    }
    run.0.recover();
    run.0.tally()
}

/// What a search for a deliberate bug makes likelier than the plain runs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hunt {
    /// Nothing.
    Plain,
    /// Clusters that are only being formed.
    Forming,
    /// Three to five nodes, small appends, and leaders that are cut off soon after they were elected.
    Elections,
    /// Leaders that are cut off or hear everything late, and many reads.
    Reads,
    /// The same with leases, followers that restart at once, and transfers whose old leader hears late.
    Leases,
    /// Changes of members and W whose leader is cut off right after.
    Changes,
}

/// A run that makes likelier what the hunt is about, without a trace.
pub fn hunted(hunt: Hunt, seed: u64, steps: u64) -> Tally {
    if hunt == Hunt::Forming {
        return forming(seed, false, &mut Vec::new(), steps / 4);
    }
    let mut rng = Rng(seed);
    let mut settings = settings(&mut rng, seed);
    let (mut n, mut w) = (1 + rng.below(5), None);
    match hunt {
        Hunt::Plain | Hunt::Forming => {}
        Hunt::Elections => {
            (settings.append_entries_max, settings.window) = (1, 1);
            (n, w) = (3, Some(2));
        }
        Hunt::Reads | Hunt::Leases => {
            settings.lease_reads = hunt == Hunt::Leases;
            (n, w) = (3, Some(2));
        }
        Hunt::Changes => n = 3 + rng.below(3),
    }
    let w = w.unwrap_or(1 + rng.below(n) as usize);
    let mut host = Host::new();
    host.add_formed(&Config::first((1..=n).map(member).collect(), w, None).expect("legal"), &settings);
    let mut run = Run { host, rng, settings, next_id: n + 1, wiped: 0, formed: true, held: None };
    for _ in 0..steps {
        run.hunt(hunt);
    }
    run.recover();
    run.tally()
}

/// One or two founders among blank nodes, under faults: at most one cluster opens. With one founder, one must, whatever
/// stopped and came back on the way.
pub fn forming(seed: u64, traced: bool, trace: &mut Vec<String>, steps: u64) -> Tally {
    let mut rng = Rng(seed);
    let settings = settings(&mut rng, seed);
    let n = 1 + rng.below(5);
    let w = 1 + rng.below(n) as usize;
    let founders = 1 + rng.below(2).min(n - 1);
    let mut host = Host::new();
    host.trace = traced.then(Vec::new);
    for id in 1..=n {
        host.add_blank(id, settings.clone());
    }
    let run = Run { host, rng, settings, next_id: n + 1, wiped: 0, held: None, formed: false };
    let mut run = Traced(run, trace);
    let crashes = founders == 2 || run.0.rng.chance(50);
    for step in 0..steps {
        let founder = node(1 + run.0.rng.below(founders));
        let again = step == 0 || (crashes && run.0.rng.chance(2));
        if again && run.0.host.nodes[&founder].up() && run.0.host.replica(founder).is_blank() {
            let config = Config::first((1..=n).map(member).collect(), w, None).expect("legal");
            run.0.host.form(founder, config);
        }
        match run.0.rng.below(100) {
            // A founder's host tells nobody before the first configuration is on its own disk; one that
            // stopped earlier begins anew.
            0 if crashes && (founders == 2 || run.0.host.nodes[&founder].disk.store.last().index.0 > 0) => {
                run.0.crash_or_restart();
            }
            1..=3 => run.0.say_and_propose(),
            _ => run.0.ordinary(),
        }
    }
    run.0.heal();
    if founders == 1 {
        for _ in 0..200 {
            run.0.host.run(100);
        }
        assert_eq!(run.0.host.oracle.opened(), 1, "the cluster does not form");
    }
    run.0.tally()
}

impl Run {
    fn tally(&self) -> Tally {
        let o = &self.host.oracle;
        Tally {
            elections: o.elections,
            acknowledgements: o.acknowledgements,
            reads: o.reads_served,
            snapshots: o.snapshots,
            configurations: o.changes,
            wiped: self.wiped,
        }
    }

    fn ids(&self, which: impl Fn(&super::Node) -> bool) -> Vec<NodeId> {
        self.host.nodes.values().filter(|n| which(n)).map(|n| n.id).collect()
    }

    fn any(&mut self, which: impl Fn(&super::Node) -> bool) -> Option<NodeId> {
        let ids = self.ids(which);
        self.rng.pick(&ids)
    }

    fn running(&mut self) -> Option<NodeId> {
        self.any(|n| n.up() && !n.paused)
    }

    fn fault_or_work(&mut self) {
        match self.rng.below(1000) {
            0..=5 => self.crash_or_restart(),
            6..=12 => self.cut(),
            13 => self.slow_or_pause(),
            14..=17 => self.transfer(),
            18..=33 => self.reconfigure(),
            34 => self.wipe(),
            35 => self.slow_or_pause(),
            36..=45 => self.compact(),
            46..=49 => self.unreachable(),
            50 => {
                if let Some(id) = self.running() {
                    self.host.step(id, Input::Campaign, &[]);
                }
            }
            51..=130 => self.say_and_propose(),
            131..=180 => {
                if let Some(id) = self.any(|n| n.up() && !n.paused && n.leads()) {
                    self.host.read(id);
                }
            }
            _ => self.ordinary(),
        }
    }

    /// One step of a hunt: mostly ordinary life, some of what the hunt is about, and few faults besides. Time passes by
    /// some 4 ms a step, so that what happens twice in a thousand steps happens every two seconds.
    fn hunt(&mut self, hunt: Hunt) {
        self.seize_the_moment(hunt);
        match (hunt, self.rng.below(1000)) {
            (Hunt::Leases, 0..=49) if !self.host.cuts.is_empty() => self.ordinary(),
            (Hunt::Plain | Hunt::Forming, _) | (_, 0..=49) => self.fault_or_work(),
            (_, 50..=51) => self.host.cuts.clear(),
            (_, 52..=53) => self.release(),
            (Hunt::Reads | Hunt::Leases, 54..=55) => self.isolate_a_leader(),
            (Hunt::Reads, 56..=58) => {
                // Stopped, as by SIGSTOP: what is said to it waits in its sockets.
                self.held = self.held.or(self.any(|n| n.up() && n.leads()));
                if let Some(n) = self.held.and_then(|id| self.host.nodes.get_mut(&id)) {
                    n.paused = true;
                }
            }
            (Hunt::Reads | Hunt::Leases, 60..=160) => {
                if let Some(id) = self.any(|n| n.up() && !n.paused && n.leads()) {
                    self.host.read(id);
                    if hunt == Hunt::Reads && self.rng.chance(20) {
                        self.host.propose(id, 1);
                    }
                }
            }
            (Hunt::Leases, 161..=164) => self.transfer(),
            (Hunt::Elections, 54..=56) => self.unreachable(),
            (Hunt::Elections, 57..=60) => self.compact(),
            (Hunt::Changes, 54..=59) => {
                self.change_write_quorum();
                if self.rng.chance(70) {
                    self.isolate_a_leader();
                }
            }
            (Hunt::Changes, 60..=65) => self.reconfigure(),
            // Who is cut off falls behind by every write, and could not be elected.
            (Hunt::Leases, 200..=279) if !self.host.cuts.is_empty() => self.ordinary(),
            (_, 200..=279) => self.say_and_propose(),
            _ => self.ordinary(),
        }
    }

    /// Some faults hurt at one moment only.
    fn seize_the_moment(&mut self, hunt: Hunt) {
        use super::Cargo::Message as Mail;
        use quorum::Body;
        let young = |n: &super::Node| {
            n.up() && n.leads() && n.replica.as_ref().is_some_and(|r| r.term_at(r.commit()) != Some(r.term()))
        };
        if hunt == Hunt::Elections && self.any(young).is_some() && self.rng.chance(5) {
            self.isolate_a_leader();
        }
        if hunt != Hunt::Leases {
            return;
        }
        // An old leader that hears of nothing once it has told another to campaign.
        let told = |p: &&super::Packet| matches!(&p.cargo, Mail(m, _) if matches!(m.body, Body::TransferNow { .. }));
        if let Some(packet) = self.host.net.iter().find(told) {
            self.held = Some(packet.from);
        }
        // A voter that is asked for its vote right after its start; what it was writing is written.
        let asks = |p: &&super::Packet| matches!(&p.cargo, Mail(m, _) if matches!(m.body, Body::PreVote { .. } | Body::Vote { transfer: false, .. }));
        let follows = |id: &NodeId| self.host.nodes.get(id).is_some_and(|n| n.up() && !n.paused && !n.leads());
        let voter = self.host.net.iter().filter(asks).map(|p| p.to).find(follows);
        if let Some(id) = voter.filter(|_| self.rng.chance(20)) {
            self.host.crash(id, 1_000);
            self.host.restart(id);
            for leader in self.ids(|n| n.leads()) {
                self.host.cuts.extend([(leader, id), (id, leader)]);
            }
        }
    }

    /// The node that heard nothing hears everything again; if it was stopped, it is asked for a read
    /// before its clock is looked at.
    fn release(&mut self) {
        let Some(id) = self.held.take() else { return };
        let n = self.host.nodes.get_mut(&id).expect("known");
        if n.paused && n.up() {
            n.paused = false;
            if n.leads() {
                self.host.read(id);
            }
        }
    }

    fn change_write_quorum(&mut self) {
        let Some(leader) = self.any(|n| n.up() && !n.paused && n.leads()) else { return };
        let Some(config) = self.host.replica(leader).config().cloned() else { return };
        let voters: Vec<NodeId> = config.voters.iter().map(|m| m.id).collect();
        let learners: Vec<NodeId> = config.learners.iter().map(|m| m.id).collect();
        let w = 1 + self.rng.below(voters.len() as u64) as usize;
        if voters.iter().all(|id| !self.host.nodes[id].gone) {
            self.host.change(leader, &voters, &learners, w, None);
        }
    }

    /// Cuts a leader off from all others, or from all but one; or one other node from it.
    fn isolate_a_leader(&mut self) {
        let Some(leader) = self.any(|n| n.up() && n.leads()) else { return };
        let others = self.ids(|n| !n.gone && n.id != leader);
        let spared = self.rng.pick(&others).filter(|_| self.rng.chance(50));
        for other in others.into_iter().filter(|o| Some(*o) != spared) {
            self.host.cuts.insert((leader, other));
            self.host.cuts.insert((other, leader));
        }
    }

    fn say_and_propose(&mut self) {
        let leads = self.any(|n| n.up() && !n.paused && n.leads());
        if let Some(id) = leads {
            let count = 1 + self.rng.below(4) as usize;
            self.host.propose(id, count);
        }
    }

    /// The network, the disks and the clock get on.
    fn ordinary(&mut self) {
        match self.rng.below(100) {
            0..=54 => self.network(),
            55..=84 => {
                let busy = self.any(|n| n.up() && !n.paused && !n.queue.is_empty());
                if let Some(id) = busy.filter(|id| !self.host.nodes[id].slow || self.rng.chance(3)) {
                    let count = 1 + self.rng.below(4) as usize;
                    self.host.persist(id, count);
                }
            }
            _ => {
                let millis = 1 + self.rng.below(60);
                self.host.now += millis * 1000;
                // Not everyone notices at the same time.
                for id in self.ids(|n| n.up() && !n.paused) {
                    if self.rng.chance(70) && self.host.nodes[&id].up() {
                        self.host.tick(id);
                    }
                }
            }
        }
    }

    fn network(&mut self) {
        let held = self.held;
        let moving = |packet: &super::Packet| Some(packet.to) != held;
        while self.host.net.len() > PACKETS_MAX {
            let oldest = self.host.net.iter().position(moving).unwrap_or(0);
            if let Some(packet) = self.host.net.remove(oldest) {
                self.host.lose(packet);
            }
        }
        let len = self.host.net.iter().filter(|p| moving(p)).count() as u64;
        if len == 0 {
            return;
        }
        let nth = if self.rng.chance(80) { self.rng.below(len.min(3)) } else { self.rng.below(len) } as usize;
        let at = self.host.net.iter().enumerate().filter(|(_, p)| moving(p)).nth(nth).map_or(0, |(at, _)| at);
        match self.rng.below(100) {
            0..=3 => {
                if let Some(packet) = self.host.net.remove(at) {
                    self.host.lose(packet);
                }
            }
            4..=6 => {
                let copy = self.host.net[at].clone();
                self.host.net.push_back(copy);
            }
            _ => self.host.deliver(at),
        }
    }

    fn crash_or_restart(&mut self) {
        let down = self.any(|n| !n.gone && n.replica.is_none());
        match down {
            Some(id) if self.rng.chance(65) => self.host.restart(id),
            _ => {
                if let Some(id) = self.any(super::Node::up) {
                    let kept = self.rng.below(4) as usize;
                    self.host.crash(id, kept);
                }
            }
        }
    }

    fn cut(&mut self) {
        if self.rng.chance(50) {
            self.host.cuts.clear();
            return;
        }
        let ids = self.ids(|n| !n.gone);
        let (Some(a), Some(b)) = (self.rng.pick(&ids), self.rng.pick(&ids)) else { return };
        if self.rng.chance(50) {
            self.host.cuts.insert((a, b));
        } else {
            let both = self.rng.chance(50);
            for other in ids.iter().filter(|o| **o != a) {
                self.host.cuts.insert((a, *other));
                if both {
                    self.host.cuts.insert((*other, a));
                }
            }
        }
        let text = format!("{:?}", self.host.cuts);
        self.host.say(|| format!("CUT {text}"));
    }

    fn slow_or_pause(&mut self) {
        let Some(id) = self.any(super::Node::up) else { return };
        let pauses = self.rng.chance(50);
        let n = self.host.nodes.get_mut(&id).expect("known");
        if pauses {
            n.paused = !n.paused;
        } else {
            n.slow = !n.slow;
        }
        let text = format!("n{id} slow={} paused={}", n.slow, n.paused);
        self.host.say(|| text);
    }

    fn transfer(&mut self) {
        let Some(leader) = self.any(|n| n.up() && !n.paused && n.leads()) else { return };
        let to = if self.rng.chance(50) { self.any(|n| !n.gone) } else { None };
        let by_hand = self.rng.chance(50);
        self.host.step(leader, Input::Transfer { to, by_hand }, &[]);
    }

    fn compact(&mut self) {
        let Some(id) = self.running() else { return };
        let keep = self.rng.below(4);
        let upto = self.host.nodes[&id].applied.saturating_sub(keep);
        self.host.compact(id, upto);
    }

    fn unreachable(&mut self) {
        let Some(id) = self.running() else { return };
        if let Some(peer) = self.any(|_| true) {
            let (lost, kept): (VecDeque<super::Packet>, _) =
                self.host.net.drain(..).partition(|p| p.from == id && p.to == peer);
            self.host.net = kept;
            for packet in lost {
                self.host.lose(packet);
            }
            self.host.step(id, Input::Unreachable { peer }, &[]);
        }
    }

    /// Whether the cluster could still elect a leader without this node's disk, by every
    /// configuration that anyone knows.
    fn can_spare(&self, victim: NodeId) -> bool {
        let left = |id: NodeId| id != victim && self.host.nodes.get(&id).is_some_and(|n| !n.gone);
        let known = self
            .host
            .nodes
            .values()
            .filter(|n| !n.gone)
            .flat_map(|n| [n.disk.store.config_at(u64::MAX), n.memory.config_at(u64::MAX)].into_iter().flatten());
        known.into_iter().all(|c| c.elects(left))
    }

    fn wipe(&mut self) {
        if let Some(id) = self.any(|n| !n.gone).filter(|id| self.can_spare(*id)) {
            self.wiped += 1;
            self.host.wipe(id);
        }
    }

    /// An operator at work: keeps a few blank nodes at hand, and asks some leader for something else.
    fn reconfigure(&mut self) {
        if self.ids(|n| !n.gone).len() < 3.min(NODES_MAX)
            || (self.rng.chance(10) && self.ids(|n| !n.gone).len() < NODES_MAX)
        {
            let id = self.next_id;
            self.next_id += 1;
            self.host.add_blank(id, self.settings.clone());
        }
        let Some(leader) = self.any(|n| n.up() && !n.paused && n.leads()) else { return };
        let Some(config) = self.host.replica(leader).config().cloned() else { return };
        let mut voters: Vec<NodeId> = config.voters.iter().map(|m| m.id).collect();
        let mut learners: Vec<NodeId> = config.learners.iter().map(|m| m.id).collect();
        let mut w = config.write_quorum;
        let mut failover = None;
        let lost: Vec<NodeId> = voters.iter().copied().filter(|id| self.host.nodes[id].gone).collect();
        learners.retain(|id| !self.host.nodes[id].gone);
        match self.rng.below(10) {
            0..=2 => {
                let outside = self.any(|n| n.up() && config.member(n.id).is_none());
                learners.extend(outside.filter(|_| learners.len() < 2));
            }
            3..=5 => {
                // A replacement for a lost disk in one change, or one more copy.
                if let Some(new) = self.rng.pick(&learners) {
                    if let Some(old) = self.rng.pick(&lost) {
                        voters.retain(|id| *id != old);
                    }
                    if voters.len() < 5 {
                        voters.push(new);
                    }
                }
            }
            6 | 7 => {
                if let Some(old) = self.rng.pick(&voters).filter(|_| voters.len() > 1) {
                    voters.retain(|id| *id != old);
                    if self.rng.chance(30) && !self.host.nodes[&old].gone {
                        learners.push(old);
                    }
                }
            }
            8 => w = 1 + self.rng.below(voters.len() as u64) as usize,
            _ => failover = Some(if self.rng.chance(30) { Failover::Manual } else { Failover::Automatic }),
        }
        let w = w.min(voters.len());
        // Asking for numbers that the disks lost cannot meet any more is an operator's error, and final.
        let left = voters.iter().filter(|id| !self.host.nodes[id].gone).count();
        if left < quorum::Quorum::new(voters.len(), w).expect("legal").election() {
            return;
        }
        self.host.change(leader, &voters, &learners, w, failover);
    }

    fn heal(&mut self) {
        self.host.say(|| "HEALED".to_owned());
        self.host.cuts.clear();
        let ids = self.ids(|n| !n.gone);
        for id in ids {
            let n = self.host.nodes.get_mut(&id).expect("known");
            n.slow = false;
            n.paused = false;
            if n.replica.is_none() {
                self.host.restart(id);
            }
        }
    }

    /// No more faults: within a minute there is a leader, lost voters are replaced, a write is
    /// acknowledged, and everyone has it.
    fn recover(&mut self) {
        assert!(self.formed);
        self.heal();
        self.host.settle();
        for second in 0..60 {
            self.host.run(1000);
            let Some(leader) = self.host.leader() else {
                if second % 3 == 2 {
                    // The policy may be to wait for a word.
                    let voters = self.ids(|n| n.replica.as_ref().is_some_and(|r| !r.is_blank()));
                    if !voters.is_empty() {
                        self.host.step(voters[second / 3 % voters.len()], Input::Campaign, &[]);
                    }
                }
                continue;
            };
            if self.is_well(leader) {
                return;
            }
            let config = self.host.replica(leader).config().cloned().expect("configured");
            let left: Vec<NodeId> = config.voters.iter().map(|m| m.id).filter(|id| !self.host.nodes[id].gone).collect();
            if left.len() < config.voters.len() && !left.is_empty() {
                self.host.change(leader, &left, &[], config.write_quorum.min(left.len()), Some(Failover::Automatic));
            }
            self.host.propose(leader, 1);
        }
        panic!("the cluster does not recover: {}", self.describe());
    }

    fn is_well(&self, leader: NodeId) -> bool {
        let r = self.host.replica(leader);
        let last = r.last().index;
        let members = r.config().expect("configured").clone();
        let caught_up = members.members().all(|m| {
            let n = &self.host.nodes[&m.id];
            n.gone && members.is_learner(m.id)
                || n.replica.as_ref().is_some_and(|p| p.commit() == last && p.durable() == last)
        });
        caught_up && !members.is_joint() && r.acknowledged() == last && last.0 > 1
    }

    pub fn describe(&self) -> String {
        let one = |n: &super::Node| match &n.replica {
            None => format!("n{} gone={}", n.id, n.gone),
            Some(r) => {
                let config = r.config().map_or("blank".into(), |c| super::show::config(c));
                format!(
                    "n{} {} t{} start={} last={} commit={} {config}",
                    n.id,
                    r.role(),
                    r.term(),
                    r.start(),
                    r.last(),
                    r.commit()
                )
            }
        };
        self.host.nodes.values().map(one).collect::<Vec<_>>().join("\n")
    }
}
