//! The run of a seed: one queue of events, ordered by time and number, and what each of them does.
//!
//! Every event ends with [`Cluster::pump`] on the host it concerned: a turn of the driver there, whatever that asked of the world, and the invariants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate::handle::{ReadError, WriteError, Written};
use quorate::metrics::Metrics;
use quorate::options::{Formation, Limits, NodeOptions};
use quorate::peer::{PeerEvent, Records, Welcome};
use quorate::stepped::{self, Ended, Grounds, Machine};
use quorate::storage::{Job, WalEvent, record};
use quorum::{ClusterId, Index, Member, NodeId, Role, Term};
use tokio::sync::oneshot;

use crate::clients::{Clients, Reply};
use crate::dice::Dice;
use crate::host::{Host, Out, Process, Sending, SimWorld, Wait, folder};
use crate::invariants::{
    Disks, Durable, Seen, configuration_safety, durability, identical_state, leader_completeness, leader_in_contact,
    log_matching, monotone_commit, no_forgetful_voter, one_leader_per_term,
};
use crate::nemesis::Nemesis;
use crate::plan::Plan;
use crate::trace::Trace;
use crate::truth::{Chronicle, Entry, Violation};

/// What goes from host to host.
pub enum Cargo {
    /// A message of the protocol, as on the wire.
    Message(Bytes),
    /// A whole snapshot.
    #[allow(missing_docs, reason = "the leader's term, the chunks, and the sender's number for it")]
    Snapshot { term: Term, chunks: Vec<Bytes>, number: u64 },
    /// What became of it.
    #[allow(missing_docs, reason = "the sender's number for it, and whether it was installed")]
    Installed { number: u64, installed: bool },
    /// A node says that it is there.
    Introduction(Member, bool),
    /// What it is told.
    Welcome(Welcome),
    /// A request passed on to the leader.
    Call(u64),
    /// What came of it.
    Answer(u64, Reply),
}

/// Who sends: id, incarnation, process, cluster.
type Sender = (NodeId, u64, u64, Option<ClusterId>);

/// Something on its way.
pub struct Packet {
    from: usize,
    sender: Sender,
    to: usize,
    /// Who should be there.
    to_id: Option<NodeId>,
    cargo: Cargo,
}

/// What can happen.
pub enum Event {
    /// A process's tick.
    Tick(usize, u64),
    /// Something arrives.
    Arrive(Box<Packet>),
    /// A connection turns out to be broken.
    Unreachable(usize, u64, NodeId),
    /// A turn of a log is done.
    WalDone(usize, u64),
    /// A step towards the next segment is done.
    Prepared(usize, u64),
    /// Work on a disk is done.
    Worked(usize, u64, u64),
    /// A snapshot was not heard of any more.
    SnapshotLost(usize, u64, u64),
    /// A node looks whether it must introduce itself.
    Introduce(usize, u64),
    /// A machine is switched on.
    Start(usize),
    /// A client goes on.
    Client(usize),
    /// A request that waited in the socket of a paused process is read.
    Asked(u64),
    /// A client has waited long enough.
    Patience(u64),
    /// The nemesis strikes, or takes back what it did.
    Nemesis,
    /// It strikes once more, at this host.
    Strike(usize),
    /// It takes back what it did under this number.
    Heal(u64),
    /// Whole states are compared.
    Compare,
}

/// Directed links that are cut, by the fault that cut them.
pub type Cuts = BTreeMap<u64, BTreeSet<(usize, usize)>>;

/// Everything there is.
pub struct Cluster {
    /// What the run is to be.
    pub plan: Plan,
    /// The true time.
    pub now: u64,
    /// The machines.
    pub hosts: Vec<Host>,
    /// What is true.
    pub chronicles: BTreeMap<u128, Chronicle>,
    /// The clients.
    pub clients: Clients,
    /// The nemesis.
    pub nemesis: Nemesis,
    /// Chance for the network and disks.
    pub dice: Dice,
    /// What happened.
    pub trace: Trace,
    /// Cut links.
    pub cuts: Cuts,
    /// Whether the network is bad just now: losses and duplicates of a thousand, added to the plan's.
    pub bad: u64,
    /// Identities whose disks are gone.
    pub lost: BTreeSet<NodeId>,
    /// Whether nodes are started with the addresses of all others, and not of the first ones alone.
    pub all_named: bool,
    queue: BTreeMap<(u64, u64), Event>,
    number: u64,
    processes: u64,
    origin: Instant,
    metrics: Arc<Metrics>,
}

/// How often whole states are compared.
const COMPARE_EVERY: u64 = 500_000;

/// How often a node that is no member introduces itself.
const INTRODUCE_EVERY: u64 = 500_000;

/// How long a snapshot may be on its way.
const SNAPSHOT_PATIENCE: u64 = 3_000_000;

impl Cluster {
    /// A cluster of empty machines.
    #[must_use]
    pub fn new(seed: u64, plan: Plan, metrics: Arc<Metrics>, traced: bool) -> Cluster {
        let mut dice = Dice::new(seed);
        let count = plan.nodes + plan.spares;
        let drift = plan.drift;
        let hosts = (0..count)
            .map(|number| Host::new(number, 1_000_000 + 1_000 * dice.within(0, 2 * drift) - 1_000 * drift, dice.fork()))
            .collect();
        let mut cluster = Cluster {
            now: 0,
            hosts,
            chronicles: BTreeMap::new(),
            clients: Clients::new(&plan, dice.fork()),
            nemesis: Nemesis::new(dice.fork()),
            dice,
            trace: Trace::new(traced),
            cuts: Cuts::new(),
            bad: 0,
            lost: BTreeSet::new(),
            all_named: false,
            queue: BTreeMap::new(),
            number: 0,
            processes: 0,
            // Read once, and only ever added to: no run can tell what it was.
            origin: Instant::now(),
            metrics,
            plan,
        };
        for host in 0..count {
            let late = if host < cluster.plan.nodes { 300_000 } else { 4_000_000 };
            let at = cluster.dice.below(late);
            cluster.after(at, Event::Start(host));
        }
        for client in 0..cluster.plan.clients {
            cluster.after(1_000_000, Event::Client(client));
        }
        cluster.after(COMPARE_EVERY, Event::Compare);
        cluster
    }

    /// The last lines of the trace, without heartbeats.
    #[must_use]
    pub fn recent(&self, lines: usize) -> String {
        self.trace.recent(lines).join("\n")
    }

    /// Has something happen in so many microseconds.
    pub fn after(&mut self, micros: u64, event: Event) {
        self.number += 1;
        self.queue.insert((self.now + micros, self.number), event);
    }

    /// Lets events happen until a time.
    ///
    /// # Errors
    /// When something must never be.
    pub fn run_until(&mut self, time: u64) -> Result<(), Violation> {
        while let Some(next) = self.queue.first_entry() {
            if next.key().0 > time {
                break;
            }
            let ((at, _), event) = next.remove_entry();
            self.now = at;
            self.happen(event)?;
        }
        self.now = time;
        Ok(())
    }

    fn is_running(&self, number: u64) -> bool {
        (0..self.hosts.len()).any(|host| self.runs(host, number))
    }

    fn runs(&self, host: usize, number: u64) -> bool {
        self.hosts[host].process.as_ref().is_some_and(|p| p.number == number)
    }

    /// Says something about a host.
    pub fn say(&mut self, host: usize, what: impl FnOnce() -> String) {
        let h = &self.hosts[host];
        let role = || match &h.process {
            None => "down".to_owned(),
            Some(p) => format!("{}{}", role_letter(p.machine.replica().role()), p.machine.replica().term()),
        };
        self.trace.say(self.now, &h.name, role, what);
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        // A paused process notices nothing until it goes on.
        let concerned = match &event {
            Event::Tick(h, n)
            | Event::WalDone(h, n)
            | Event::Prepared(h, n)
            | Event::Worked(h, n, _)
            | Event::SnapshotLost(h, n, _)
            | Event::Unreachable(h, n, _)
            | Event::Introduce(h, n) => {
                if !self.runs(*h, *n) {
                    return Ok(());
                }
                Some(*h)
            }
            Event::Arrive(packet) => Some(packet.to),
            _ => None,
        };
        if let Some(host) = concerned
            && self.hosts[host].paused_until > self.now
        {
            let rest = self.hosts[host].paused_until - self.now;
            self.after(rest, event);
            return Ok(());
        }
        match event {
            Event::Tick(host, number) => {
                self.after(self.plan.tick, Event::Tick(host, number));
                self.pump(host, true)
            }
            Event::Arrive(packet) => self.arrive(*packet),
            Event::Unreachable(host, _, peer) => {
                if let Some(p) = &mut self.hosts[host].process {
                    p.machine.arrive(PeerEvent::Unreachable { peer });
                }
                self.pump(host, false)
            }
            Event::WalDone(host, _) => self.wal_done(host),
            Event::Prepared(host, number) => self.prepared(host, number),
            Event::Worked(host, _, work) => {
                let work = self.hosts[host].process.as_mut().and_then(|p| p.work.remove(&work));
                if let Some(work) = work {
                    work();
                }
                self.pump(host, false)
            }
            Event::SnapshotLost(host, _, number) => {
                self.snapshot_ended(host, number, false);
                self.pump(host, false)
            }
            Event::Introduce(host, number) => {
                self.after(INTRODUCE_EVERY, Event::Introduce(host, number));
                self.connect(host);
                self.introduce(host);
                Ok(())
            }
            Event::Start(host) => self.start(host),
            Event::Client(client) => self.client(client),
            Event::Asked(op) => self.asked(op),
            Event::Patience(op) => {
                self.client_gives_up(op);
                Ok(())
            }
            Event::Nemesis => self.strike_now_and_then(),
            Event::Strike(host) => self.strike_at(host),
            Event::Heal(number) => {
                self.heal(number);
                Ok(())
            }
            Event::Compare => {
                self.after(COMPARE_EVERY, Event::Compare);
                (0..self.hosts.len()).try_for_each(|host| self.compare(host))
            }
        }
    }

    fn options(&self, host: usize) -> NodeOptions {
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let plan = &self.plan;
        let mut options = NodeOptions::new(&self.hosts[host].name, folder(), any, any, any);
        let founder = host == 0 && !self.hosts[host].replaced;
        options.form = founder.then_some(Formation { replicas: plan.nodes, write_quorum: plan.write_quorum });
        options.heartbeat = Duration::from_micros(plan.heartbeat);
        options.election = (Duration::from_micros(plan.election.0), Duration::from_micros(plan.election.1));
        options.request_timeout = Duration::from_micros(plan.request_timeout);
        options.lease_reads = plan.lease_reads;
        options.limits = Limits {
            segment_bytes: plan.segment_bytes,
            log_keep_bytes: plan.log_keep_bytes,
            overlay_bytes: plan.overlay_bytes,
            ..Limits::default()
        };
        options
    }

    /// Brings up the process of a host, if it is to run.
    fn start(&mut self, host: usize) -> Result<(), Violation> {
        if self.hosts[host].process.is_some() || !self.hosts[host].wanted {
            return Ok(());
        }
        let options = self.options(host);
        self.processes += 1;
        let number = self.processes;
        let now = self.now;
        let named = if self.all_named { self.hosts.len() } else { self.plan.nodes };
        let h = &mut self.hosts[host];
        h.disk.restart();
        h.engine.restart();
        let world = SimWorld::new(h.disk.clone());
        let grounds = Grounds {
            disk: Arc::new(h.disk.clone()),
            engine: h.engine.clone(),
            piece_bytes: self.plan.piece_bytes,
            world: world.clone(),
            metrics: self.metrics.clone(),
        };
        let name = h.name.clone();
        let place = |id| Member { id, name, peer: Host::address(host), http: String::new(), tcp: String::new() };
        let machine = match Machine::start(options, &grounds, place, h.clock(self.origin, now)) {
            Ok(machine) => machine,
            Err(error) => {
                return Violation::of("start", format!("h{host} cannot be started on a disk that works: {error}"));
            }
        };
        let id = machine.replica().id();
        let known: Vec<usize> = machine.known_peers().iter().filter_map(|a| Host::at(a)).collect();
        let everyone = (0..named).chain(known).filter(|t| *t != host);
        let targets: BTreeSet<usize> = everyone.collect();
        let process = Process {
            commit: machine.replica().commit().0.min(machine.replica().start().index.0),
            machine,
            world,
            number,
            addresses: BTreeMap::new(),
            heard: BTreeMap::new(),
            heard_at: BTreeMap::new(),
            leads_since: 0,
            waits: Vec::new(),
            work: BTreeMap::new(),
            sending: BTreeMap::new(),
            wal_busy: false,
            preparation: None,
            leaving: false,
            targets: targets.into_iter().collect(),
        };
        let replica = process.machine.replica();
        let before = std::mem::take(&mut h.durable);
        h.durable.vote = (replica.term().0, replica.voted_for());
        h.durable.start = replica.start().index.0;
        h.durable.terms = (h.durable.start + 1..=replica.last().index.0)
            .filter_map(|i| Some((i, replica.term_at(Index(i))?.0)))
            .collect();
        let same = h.identity == Some(id);
        let renewed = h.identity.filter(|old| *old != id);
        let unhurt = !h.hurt;
        h.hurt = false;
        h.identity = Some(id);
        h.process = Some(process);
        if let Some(old) = renewed {
            self.lost.insert(old);
            if unhurt {
                return Violation::of("no_forgetful_voter", format!("h{host} took a sound disk for damaged"));
            }
        }
        self.say(host, || format!("START as {id}"));
        if same {
            let h = &self.hosts[host];
            if let Some(p) = &h.process {
                let seen = Seen { name: &h.name, process: number, replica: p.machine.replica(), durable: &h.durable };
                no_forgetful_voter::restarted(&seen, &before)?;
            }
        }
        let first = self.dice.below(self.plan.tick);
        self.after(first, Event::Tick(host, number));
        self.after(INTRODUCE_EVERY / 5 + first, Event::Introduce(host, number));
        self.pump(host, false)
    }

    /// Ends the process of a host where it stands; of what it was just writing some may reach the disk.
    pub fn kill(&mut self, host: usize, power: bool) {
        self.say(host, || if power { "POWER LOST".into() } else { "KILLED".into() });
        let h = &mut self.hosts[host];
        let Some(mut process) = h.process.take() else {
            if power {
                h.disk.lose_power();
                let kept = h.dice.below(h.engine.at_risk() as u64 + 1) as usize;
                h.engine.lose_power(kept);
            }
            return;
        };
        if process.wal_busy {
            // Of a turn under way any number of its operations were done; what it overwrites may be gone already.
            for job in process.machine.wal().under_way() {
                note_overwritten(&mut h.durable, job);
            }
            let done = h.dice.below(8);
            h.disk.fail_after(done);
            process.machine.finish_wal();
        }
        for (_, work) in std::mem::take(&mut process.work) {
            if h.dice.chance(500) {
                h.disk.fail_after(h.dice.below(4));
                h.engine.fail_after(h.dice.below(6));
                work();
            }
        }
        h.paused_until = 0;
        drop(process);
        if power {
            h.disk.lose_power();
            let kept = h.dice.below(h.engine.at_risk() as u64 + 1) as usize;
            h.engine.lose_power(kept);
        } else {
            h.disk.restart();
            h.engine.restart();
        }
        self.clients_lost(host);
    }

    /// A process has ended by itself.
    fn ended(&mut self, host: usize, why: &Ended) -> Result<(), Violation> {
        self.say(host, || format!("ENDED: {why}"));
        self.may_leave(host, why)?;
        let failed = self.hosts[host].disk.has_failed() || self.nemesis.engine_failed(host);
        match why {
            Ended::Failed(what) if !failed => {
                return Violation::of("start", format!("h{host} gave up on a disk that works: {what}"));
            }
            Ended::Forgot { .. } if !self.nemesis.may_forget(host) => {
                return Violation::of("no_forgetful_voter", format!("h{host} noticed that it forgot: {why}"));
            }
            _ => {}
        }
        let h = &mut self.hosts[host];
        h.process = None;
        h.disk.restart();
        h.engine.restart();
        if matches!(why, Ended::Removed { .. } | Ended::Forgot { .. }) {
            stepped::tidy(&h.disk, &folder(), why);
            h.hurt = true;
            self.lost.extend(h.identity);
        }
        self.clients_lost(host);
        let wait = self.dice.within(50_000, 800_000);
        self.after(wait, Event::Start(host));
        Ok(())
    }

    fn may_leave(&self, host: usize, why: &Ended) -> Result<(), Violation> {
        let (Ended::Removed { version }, Some(p)) = (why, &self.hosts[host].process) else { return Ok(()) };
        let cluster = p.machine.state().cluster.map_or(0, |c| c.0);
        let Some(chronicle) = self.chronicles.get(&cluster) else { return Ok(()) };
        configuration_safety::left(chronicle, &self.hosts[host].name, p.machine.replica().id(), *version)
    }

    /// A turn of a host's driver, and all that follows.
    pub fn pump(&mut self, host: usize, ticks: bool) -> Result<(), Violation> {
        let (origin, now) = (self.origin, self.now);
        let h = &mut self.hosts[host];
        let clock = h.clock(origin, now);
        let Some(p) = &mut h.process else { return Ok(()) };
        let ended = p.machine.turn(clock, ticks);
        let outs = p.world.take();
        if let Some(why) = ended {
            // What was decided in this turn was, and is answered; but nothing leaves any more.
            self.observe(host)?;
            self.settle(host)?;
            return self.ended(host, &why);
        }
        // The log first: what is sent may be read from it, and the invariants want to know what is written.
        self.begin_wal(host)?;
        self.observe(host)?;
        if ticks {
            self.look_at_leader(host)?;
        }
        for out in outs {
            self.carry_out(host, out)?;
        }
        self.settle(host)
    }

    fn begin_wal(&mut self, host: usize) -> Result<(), Violation> {
        let h = &mut self.hosts[host];
        let Some(p) = &mut h.process else { return Ok(()) };
        if p.wal_busy || !p.machine.begin_wal() {
            return Ok(());
        }
        p.wal_busy = true;
        let number = p.number;
        let cluster = p.machine.state().cluster.map_or(0, |c| c.0);
        let chronicle = self.chronicles.entry(cluster).or_default();
        let mut syncs = 1;
        h.last_turn_bytes = 0;
        for job in p.machine.wal().under_way() {
            match job {
                Job::Write { frames, .. } => {
                    for frame in frames {
                        h.last_turn_bytes += frame.len() as u64;
                        let mut rest = frame.clone();
                        while let Ok(Some(record)) = record::decode(&mut rest, usize::MAX) {
                            let entry = Entry { kind: record.kind, payload: record.payload() };
                            log_matching::wrote(chronicle, &h.name, (record.index.0, record.term.0), entry)?;
                        }
                    }
                }
                Job::SaveVote { .. } | Job::Reset { .. } => syncs += 2,
                Job::Cut { .. } => {}
            }
        }
        let emptied = p.machine.wal().under_way().iter().any(|job| matches!(job, Job::Reset { .. }));
        let stalled = h.stalled_until.saturating_sub(self.now);
        let slow = h.slow;
        let took = self.dice.within(self.plan.fsync.0, self.plan.fsync.1) * syncs * slow + stalled;
        self.after(took, Event::WalDone(host, number));
        if emptied {
            self.tempt(host);
        }
        Ok(())
    }

    /// Something happened at a host that a fault is likely to spoil.
    fn tempt(&mut self, host: usize) {
        // A script has these faults among its own.
        if self.plan.fault_soon_after > 0 && self.plan.script.is_none() {
            let next = self.dice.within(0, self.plan.fault_soon_after);
            self.after(next, Event::Strike(host));
        }
    }

    fn wal_done(&mut self, host: usize) -> Result<(), Violation> {
        let h = &mut self.hosts[host];
        let Some(p) = &mut h.process else { return Ok(()) };
        p.wal_busy = false;
        let jobs: Vec<Job> = p.machine.wal().under_way().to_vec();
        let event = p.machine.finish_wal();
        if matches!(event, Some(WalEvent::Failed { .. })) {
            // What the disk holds now is not certain any more: what was overwritten may be gone, though the write was reported as failed.
            jobs.iter().for_each(|job| note_overwritten(&mut h.durable, job));
            return self.pump(host, false);
        }
        for job in jobs {
            note_durable(&mut h.durable, job);
        }
        if p.preparation.is_none()
            && let Some(preparation) = p.machine.wal().preparation()
        {
            p.preparation = Some(preparation);
            let number = p.number;
            let took = self.dice.within(self.plan.fsync.0, self.plan.fsync.1);
            self.after(took, Event::Prepared(host, number));
        }
        self.pump(host, false)
    }

    fn prepared(&mut self, host: usize, number: u64) -> Result<(), Violation> {
        let Some(p) = &mut self.hosts[host].process else { return Ok(()) };
        let Some(mut preparation) = p.preparation.take() else { return Ok(()) };
        let failed = match preparation.step() {
            Ok(false) => {
                p.preparation = Some(preparation);
                let took = self.dice.within(self.plan.fsync.0, self.plan.fsync.1);
                self.after(took, Event::Prepared(host, number));
                return Ok(());
            }
            Ok(true) => p.machine.wal().prepared(preparation, Ok(())),
            Err(error) => p.machine.wal().prepared(preparation, Err(error)),
        };
        if let Some(event) = failed {
            p.machine.wal_failed(event);
        }
        self.pump(host, false)
    }

    /// Looks at a node after a turn.
    fn observe(&mut self, host: usize) -> Result<(), Violation> {
        let h = &mut self.hosts[host];
        let Some(p) = &mut h.process else { return Ok(()) };
        let Some(cluster) = p.machine.state().cluster else { return Ok(()) };
        let chronicle = self.chronicles.entry(cluster.0).or_default();
        let seen = Seen { name: &h.name, process: p.number, replica: p.machine.replica(), durable: &h.durable };
        p.commit = monotone_commit::check(chronicle, &seen, p.commit)?;
        configuration_safety::in_force(chronicle, &seen)?;
        if one_leader_per_term::check(chronicle, &seen)? {
            p.leads_since = self.now;
            leader_completeness::check(chronicle, &seen)?;
            self.nemesis.reigns += 1;
            self.tempt(host);
            self.say(host, || "LEADS".into());
        }
        Ok(())
    }

    /// Looks whether a node still may lead, after a tick.
    fn look_at_leader(&self, host: usize) -> Result<(), Violation> {
        let h = &self.hosts[host];
        let Some(p) = h.process.as_ref().filter(|p| p.machine.replica().role() == Role::Leader) else { return Ok(()) };
        let seen = Seen { name: &h.name, process: p.number, replica: p.machine.replica(), durable: &h.durable };
        // The product's bound is the longest timeout by its own clock; what arrives late confirms what was true a while ago.
        let patience = 2 * self.plan.election.1 + 500_000;
        leader_in_contact::check(&seen, (self.now, p.leads_since), &p.heard_at, patience)
    }

    /// Compares the whole state of a node with the truth.
    ///
    /// # Errors
    /// When they differ.
    pub fn compare_now(&self, host: usize) -> Result<(), Violation> {
        self.compare(host)
    }

    fn compare(&self, host: usize) -> Result<(), Violation> {
        let Some(p) = &self.hosts[host].process else { return Ok(()) };
        let Some(chronicle) = p.machine.state().cluster.and_then(|c| self.chronicles.get(&c.0)) else { return Ok(()) };
        if p.machine.store().failed().is_some() {
            return Ok(());
        }
        identical_state::check(chronicle, &self.hosts[host].name, p.machine.store())
    }

    fn carry_out(&mut self, host: usize, out: Out) -> Result<(), Violation> {
        match out {
            Out::Send(to, message, records) => self.send(host, to, message, records),
            Out::Members(members) => {
                if let Some(p) = &mut self.hosts[host].process {
                    let places = members.iter().filter_map(|m| Some((m.id, Host::at(&m.peer)?)));
                    p.addresses.extend(places);
                }
                Ok(())
            }
            Out::Work(work) => {
                let took = self.dice.within(1_000, 30_000);
                self.number += 1;
                let number = self.number;
                if let Some(p) = &mut self.hosts[host].process {
                    p.work.insert(number, work);
                    let process = p.number;
                    self.after(took, Event::Worked(host, process, number));
                }
                Ok(())
            }
            Out::Snapshot(to, term, store, done) => {
                self.send_snapshot(host, to, term, &store, done);
                Ok(())
            }
        }
    }

    fn send(&mut self, host: usize, to: NodeId, message: quorum::Message, records: Records) -> Result<(), Violation> {
        let h = &self.hosts[host];
        let Some(p) = &h.process else { return Ok(()) };
        let cluster = p.machine.state().cluster;
        let seen = Seen { name: &h.name, process: p.number, replica: p.machine.replica(), durable: &h.durable };
        durability::promised(&seen, &message)?;
        no_forgetful_voter::sent(self.chronicles.entry(cluster.map_or(0, |c| c.0)).or_default(), &seen, to, &message)?;
        let Some(place) = p.addresses.get(&to).copied() else { return Ok(()) };
        let pieces = match records {
            Records::None => Vec::new(),
            Records::Cached(pieces) => pieces,
            Records::FromLog { from, to: last, bytes } => {
                let read = p.machine.log().read(from, last, bytes).unwrap_or_default();
                let whole = read.len() as u64 == last.0 - from.0 + 1;
                if !whole || p.world.leading() != Some(message.term) {
                    let number = p.number;
                    self.after(1_000, Event::Unreachable(host, number, to));
                    return Ok(());
                }
                read.into_iter().map(|r| r.frame().clone()).collect()
            }
        };
        if self.trace.is_kept() {
            let text = crate::show::message(&message);
            self.say(host, || format!("-> h{place}  {text}"));
        }
        let bytes = stepped::encode_message(&message, &pieces);
        self.ship(host, place, Some(to), Cargo::Message(bytes));
        Ok(())
    }

    /// Puts something on its way.
    pub fn ship(&mut self, from: usize, to: usize, to_id: Option<NodeId>, cargo: Cargo) {
        let Some(sender) = self.sender(from) else { return };
        let (low, high) = self.plan.delay;
        let mut delay = self.dice.within(low, high);
        if matches!(cargo, Cargo::Snapshot { .. }) && self.dice.chance(self.bad) {
            // It is large, and may arrive when its sender has given it up and sent another.
            delay += self.dice.within(high, 2 * SNAPSHOT_PATIENCE);
        }
        if self.dice.chance(self.bad) {
            delay += self.dice.within(high, high * 20 + 100_000);
        }
        if self.dice.chance(self.plan.loss + self.bad) {
            return;
        }
        if let Cargo::Message(bytes) = &cargo
            && self.dice.chance(self.plan.duplicates + self.bad)
        {
            let again = Packet { from, sender, to, to_id, cargo: Cargo::Message(bytes.clone()) };
            let later = delay + self.dice.within(low, high * 10);
            self.after(later, Event::Arrive(Box::new(again)));
        }
        self.after(delay, Event::Arrive(Box::new(Packet { from, sender, to, to_id, cargo })));
    }

    fn send_snapshot(
        &mut self,
        host: usize,
        to: NodeId,
        term: Term,
        store: &quorate::kv::Store,
        done: stepped::SnapshotEnd,
    ) {
        let exported = store.export().map_err(|e| e.to_string()).and_then(|mut export| {
            let mut chunks = Vec::new();
            while let Some(chunk) = export.next_chunk().map_err(|e| e.to_string())? {
                chunks.push(chunk);
            }
            Ok((export.position().index, chunks))
        });
        self.number += 1;
        let number = self.number;
        let Some(p) = &mut self.hosts[host].process else { return };
        let (last, chunks) = exported.unwrap_or((Index(0), Vec::new()));
        p.sending.insert(number, Sending { last, done });
        let (process, place) = (p.number, p.addresses.get(&to).copied());
        let lost = Event::SnapshotLost(host, process, number);
        match place {
            Some(place) if !chunks.is_empty() => {
                self.nemesis.snapshots += 1;
                self.say(host, || format!("-> h{place}  SNAPSHOT up to {last}"));
                self.after(SNAPSHOT_PATIENCE, lost);
                self.ship(host, place, Some(to), Cargo::Snapshot { term, chunks, number });
            }
            _ => self.after(20_000, lost),
        }
    }

    fn snapshot_ended(&mut self, host: usize, number: u64, installed: bool) {
        let sending = self.hosts[host].process.as_mut().and_then(|p| p.sending.remove(&number));
        if let Some(Sending { last, done }) = sending {
            done(installed.then_some(last));
        }
    }

    /// Whether a directed link is cut.
    #[must_use]
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.values().any(|cut| cut.contains(&(from, to)))
    }

    /// Whether a machine's node lets another one in: the handshake's rules.
    fn admits(&self, to: usize, (id, incarnation, process, theirs): Sender, expected: Option<NodeId>) -> bool {
        let Some(p) = &self.hosts[to].process else { return false };
        let (ours, me) = (p.machine.state().cluster, p.machine.replica().id());
        let other_cluster = matches!((ours, theirs), (Some(a), Some(b)) if a != b);
        // An older process of the node, or a second one of the same start while the first still runs: a copied folder.
        let outdated = p
            .heard
            .get(&id)
            .is_some_and(|(i, n, _)| *i > incarnation || (*i == incarnation && *n != process && self.is_running(*n)));
        // A node that is bound to no cluster goes with the first that comes, until nobody of that one is there any more.
        let courted = ours.is_none()
            && theirs.is_some()
            && p.heard.values().any(|(_, n, first)| first.is_some() && *first != theirs && self.is_running(*n));
        !other_cluster && !outdated && !courted && id != me && expected.is_none_or(|expected| expected == me)
    }

    fn sender(&self, host: usize) -> Option<Sender> {
        let p = self.hosts[host].process.as_ref()?;
        Some((p.machine.replica().id(), p.machine.incarnation(), p.number, p.machine.state().cluster))
    }

    /// A node keeps a connection to every other member, whether it has to say anything or not: so each knows which processes are there.
    fn connect(&mut self, host: usize) {
        let (Some(p), Some(sender)) = (&self.hosts[host].process, self.sender(host)) else { return };
        let Some(config) = p.machine.replica().config().cloned() else { return };
        for member in config.members().filter(|m| m.id != sender.0) {
            let Some(to) = Host::at(&member.peer).filter(|to| !self.is_cut(host, *to)) else { continue };
            if self.admits(to, sender, Some(member.id))
                && let Some(p) = &mut self.hosts[to].process
            {
                p.heard.insert(sender.0, (sender.1, sender.2, sender.3));
            }
        }
    }

    fn arrive(&mut self, packet: Packet) -> Result<(), Violation> {
        let Packet { from, sender: (id, incarnation, process, theirs), to, to_id, cargo } = packet;
        let cut = self.is_cut(from, to);
        let open = !cut && self.admits(to, (id, incarnation, process, theirs), to_id);
        if !open {
            // The sender notices now and then: a connection that breaks, but not every packet that is swallowed.
            if !cut || self.dice.chance(200) {
                let noticed = self.dice.within(500, 50_000);
                self.after(noticed, Event::Unreachable(from, process, id_of(&self.hosts[to], to_id)));
            }
            return Ok(());
        }
        let Some(p) = &mut self.hosts[to].process else { return Ok(()) };
        if !matches!(cargo, Cargo::Introduction(..) | Cargo::Welcome(_) | Cargo::Snapshot { .. }) {
            p.heard.insert(id, (incarnation, process, theirs));
        }
        p.heard_at.insert(id, self.now);
        // Whoever is heard from can be answered.
        p.addresses.insert(id, from);
        match cargo {
            Cargo::Message(bytes) => match stepped::decode_message(&bytes) {
                Ok((message, records)) => {
                    p.machine.arrive(PeerEvent::Message { from: id, cluster: theirs, message, records });
                }
                Err(error) => return Violation::of("wire", format!("h{to} cannot read what h{from} wrote: {error}")),
            },
            Cargo::Snapshot { term, chunks, number } => {
                let imported = p.machine.store().begin_import().and_then(|mut import| {
                    chunks.into_iter().try_for_each(|chunk| import.write(chunk))?;
                    import.finish()
                });
                match imported {
                    Ok(imported) => {
                        let (done, answer) = oneshot::channel();
                        p.machine.arrive(PeerEvent::Snapshot { from: id, term, cluster: theirs, imported, done });
                        p.waits.push(Wait::Installed(from, number, answer));
                    }
                    Err(_) => self.ship(to, from, Some(id), Cargo::Installed { number, installed: false }),
                }
            }
            Cargo::Installed { number, installed } => self.snapshot_ended(to, number, installed),
            Cargo::Introduction(member, blank) => {
                let (reply, answer) = oneshot::channel();
                p.machine.arrive(PeerEvent::Introduced { member, blank, reply });
                p.waits.push(Wait::Welcome(from, answer));
            }
            Cargo::Welcome(welcome) => {
                if let Some(leader) = welcome.leader_peer.as_deref().and_then(Host::at)
                    && !p.targets.contains(&leader)
                    && leader != to
                {
                    p.targets.push(leader);
                }
            }
            Cargo::Call(op) => self.serve(op, to, Some(from)),
            Cargo::Answer(op, reply) => self.answered(op, to, reply)?,
        }
        self.pump(to, false)
    }

    /// A node that its cluster does not know as it is says so to the others.
    fn introduce(&mut self, host: usize) {
        let Some(p) = &mut self.hosts[host].process else { return };
        if !p.machine.must_introduce() {
            return;
        }
        let (state, me) = (p.machine.state(), p.machine.me().clone());
        let blank = state.config.is_none();
        let members = state.config.iter().flat_map(|c| c.members()).filter_map(|m| Host::at(&m.peer));
        let targets: BTreeSet<usize> = p.targets.iter().copied().chain(members).filter(|t| *t != host).collect();
        for target in targets {
            self.ship(host, target, None, Cargo::Introduction(me.clone(), blank));
        }
    }

    /// Hands on every answer that has come.
    fn settle(&mut self, host: usize) -> Result<(), Violation> {
        let Some(p) = &mut self.hosts[host].process else { return Ok(()) };
        let mut still = Vec::new();
        for wait in std::mem::take(&mut p.waits) {
            match wait {
                Wait::Write(op, back, mut answer) => match answer.try_recv() {
                    Ok(result) => {
                        if let Ok(written) = &result {
                            self.acknowledged(host, op, written)?;
                        }
                        self.hand_on(host, op, back, Reply::Write(result))?;
                    }
                    Err(oneshot::error::TryRecvError::Empty) => still.push(Wait::Write(op, back, answer)),
                    Err(_) => {
                        let unknown = WriteError::Unknown("the node stopped".into());
                        self.hand_on(host, op, back, Reply::Write(Err(unknown)))?;
                    }
                },
                Wait::Barrier(op, back, mut answer) => match answer.try_recv() {
                    Ok(result) => self.hand_on(host, op, back, Reply::Barrier(result))?,
                    Err(oneshot::error::TryRecvError::Empty) => still.push(Wait::Barrier(op, back, answer)),
                    Err(_) => self.hand_on(host, op, back, Reply::Barrier(Err(ReadError::Stopping)))?,
                },
                Wait::Read(op, index) => {
                    let due = self.hosts[host].process.as_ref().is_some_and(|p| {
                        let readable = p.machine.store().readable_from().0;
                        p.machine.applied().0 >= index.max(readable)
                    });
                    if due {
                        self.read(host, op, index)?;
                    } else {
                        still.push(Wait::Read(op, index));
                    }
                }
                Wait::Change(mut answer) => {
                    if matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
                        still.push(Wait::Change(answer));
                    }
                }
                Wait::Leadership(mut answer) => {
                    if matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
                        still.push(Wait::Leadership(answer));
                    }
                }
                Wait::Welcome(from, mut answer) => match answer.try_recv() {
                    Ok(welcome) => self.ship(host, from, None, Cargo::Welcome(welcome)),
                    Err(oneshot::error::TryRecvError::Empty) => still.push(Wait::Welcome(from, answer)),
                    Err(_) => {}
                },
                Wait::Installed(from, number, mut answer) => match answer.try_recv() {
                    Err(oneshot::error::TryRecvError::Empty) => still.push(Wait::Installed(from, number, answer)),
                    result => {
                        let installed = matches!(result, Ok(true));
                        if installed {
                            self.say(host, || "INSTALLED a snapshot".into());
                        }
                        self.ship(host, from, None, Cargo::Installed { number, installed });
                    }
                },
            }
        }
        if let Some(p) = &mut self.hosts[host].process {
            // Whatever was added meanwhile comes behind.
            still.append(&mut p.waits);
            p.waits = still;
        }
        Ok(())
    }

    fn hand_on(&mut self, host: usize, op: u64, back: Option<usize>, reply: Reply) -> Result<(), Violation> {
        match back {
            Some(origin) => {
                self.ship(host, origin, None, Cargo::Answer(op, reply));
                Ok(())
            }
            None => self.answered(op, host, reply),
        }
    }

    /// A leader says that a write is done: before anybody hears of it.
    fn acknowledged(&mut self, host: usize, op: u64, written: &Written) -> Result<(), Violation> {
        let Some(p) = &self.hosts[host].process else { return Ok(()) };
        let (Some(cluster), Some(config)) = (p.machine.state().cluster, p.machine.replica().config().cloned()) else {
            return Ok(());
        };
        let Some(chronicle) = self.chronicles.get(&cluster.0) else { return Ok(()) };
        let mut disks = Disks::new();
        // A copied folder gives two machines one identity: the first one's is the original.
        for h in self.hosts.iter().rev() {
            disks.extend(h.identity.map(|id| (id, Some(&h.durable))));
        }
        disks.extend(self.lost.iter().map(|id| (*id, None)));
        let copies = self.clients.copies_of(op);
        durability::acknowledged(chronicle, &config, &disks, written.revision, copies)?;
        self.clients.check_outcome(op, chronicle, written)
    }

    /// The host whose node leads in the highest term, of those that run.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        let leads = |h: &Host| {
            let p = h.process.as_ref()?;
            (p.machine.replica().role() == Role::Leader).then(|| p.machine.replica().term())
        };
        let leaders = self.hosts.iter().enumerate().filter_map(|(i, h)| Some((leads(h)?, i)));
        leaders.max().map(|(_, i)| i)
    }

    /// The node on a host.
    #[must_use]
    pub fn machine(&self, host: usize) -> Option<&Machine> {
        self.hosts[host].process.as_ref().map(|p| &p.machine)
    }

    /// The truth about the cluster that clients talk to.
    #[must_use]
    pub fn chronicle(&self) -> Option<&Chronicle> {
        self.chronicles.values().max_by_key(|c| c.last())
    }

    /// The clock of a host.
    #[must_use]
    pub fn clock(&self, host: usize) -> Instant {
        self.hosts[host].clock(self.origin, self.now)
    }
}

fn id_of(host: &Host, expected: Option<NodeId>) -> NodeId {
    expected.or(host.identity).unwrap_or(NodeId(0))
}

fn role_letter(role: Role) -> char {
    match role {
        Role::Leader => 'L',
        Role::Candidate => 'C',
        Role::Follower => 'f',
    }
}

/// Notes what a turn of the log that may be done in part leaves uncertain.
fn note_overwritten(durable: &mut Durable, job: &Job) {
    match job {
        Job::Write { first, .. } => drop(durable.terms.split_off(&first.0)),
        Job::Reset { .. } => durable.terms.clear(),
        Job::Cut { .. } | Job::SaveVote { .. } => {}
    }
}

/// Notes what a turn of the log made durable.
fn note_durable(durable: &mut Durable, job: Job) {
    match job {
        Job::Write { first, frames, .. } => {
            drop(durable.terms.split_off(&first.0));
            for frame in frames {
                let mut rest = frame;
                while let Ok(Some(record)) = record::decode(&mut rest, usize::MAX) {
                    durable.terms.insert(record.index.0, record.term.0);
                }
            }
        }
        Job::Reset { last, .. } => (durable.start, durable.terms) = (last.index.0, BTreeMap::new()),
        Job::SaveVote { term, voted_for, .. } => durable.vote = (term.0, voted_for),
        // Only whole segments go; and what is cut is in the engine.
        Job::Cut { .. } => {}
    }
}
