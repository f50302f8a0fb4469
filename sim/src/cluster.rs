//! The run of a seed: one queue of events, ordered by time and number, and what each of them does.
//!
//! How processes live and end is in `life`, a turn of a driver in `turn`, what travels in `network`, what is owed in
//! `answers`. Every event ends with [`Cluster::pump`] on the host it concerned: a turn of the driver there, whatever
//! that asked of the world, and the invariants.

mod answers;
mod life;
mod network;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quorate::metrics::Metrics;
use quorate::peer::{PeerEvent, Welcome};
use quorate::stepped::Machine;
use quorum::{ClusterId, Member, NodeId, Role, Term};

use crate::clients::{Clients, Reply};
use crate::dice::Dice;
use crate::host::Host;
use crate::nemesis::Nemesis;
use crate::plan::Plan;
use crate::trace::Trace;
use crate::truth::{Chronicle, Violation};

/// What goes from host to host.
pub enum Cargo {
    /// A message of the protocol, as on the wire.
    Message {
        /// It.
        bytes: Bytes,
        /// Whether it goes by the connection for what must not wait behind entries.
        control: bool,
    },
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
    /// A driver gets to hear of one.
    Reported(usize, u64),
    /// A step towards the next segment is done.
    Prepared(usize, u64),
    /// A piece of a store's table is in its engine.
    Drained(usize, u64),
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
    /// It has a node killed and started again at once.
    Bounce(usize),
    /// It takes back what it did under this number.
    Heal(u64),
    /// Whole states are compared.
    Compare,
}

/// One of the two connections by which a node talks to another, while what is said there is held back.
pub struct HeldBack {
    /// Who talks.
    pub from: usize,
    /// To whom.
    pub to: usize,
    /// Whether it is the one for what must not wait behind entries.
    pub control: bool,
    /// Until when.
    pub until: u64,
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
    /// Hosts that hear everything late, by the fault that does it: by so many microseconds.
    pub lags: BTreeMap<u64, (usize, u64)>,
    /// Connections that are held back, by the fault that does it.
    pub held_back: BTreeMap<u64, HeldBack>,
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

/// Within so many microseconds a process that goes on gets to what has come in meanwhile. It finds all of it at once,
/// and which connection it reads first is chance: no more than it takes to look into some dozens of them.
const WAKING: u64 = 5_000;

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
            lags: BTreeMap::new(),
            held_back: BTreeMap::new(),
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
            | Event::Reported(h, n)
            | Event::Prepared(h, n)
            | Event::Drained(h, n)
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
            self.when_it_goes_on(host, event);
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
            Event::Reported(host, _) => self.reported(host),
            Event::Prepared(host, number) => self.prepared(host, number),
            Event::Drained(host, _) => self.drained(host),
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
            Event::Bounce(host) => {
                self.bounce(host);
                Ok(())
            }
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

    /// Has something that came in at a paused process be looked at when that goes on: what came from one place in
    /// order, and before or after what came from others.
    pub(crate) fn when_it_goes_on(&mut self, host: usize, event: Event) {
        let until = self.hosts[host].paused_until;
        let from = match &event {
            Event::Arrive(packet) => packet.from as u64,
            Event::Asked(op) => WAKING + op,
            _ => WAKING,
        };
        let its_turn = Dice::new(until ^ (from << 32)).within(1, WAKING);
        self.after(until + its_turn - self.now, event);
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

fn role_letter(role: Role) -> char {
    match role {
        Role::Leader => 'L',
        Role::Candidate => 'C',
        Role::Follower => 'f',
    }
}
