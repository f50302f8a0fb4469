//! What a run is to be: drawn from its seed as a swarm, or narrowed by whoever looks for something in particular.

use crate::dice::Dice;

/// What the nemesis may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process dies and is started again.
    Crash,
    /// A machine loses power: what was not synced may be gone.
    PowerLoss,
    /// All machines lose power at once.
    Blackout,
    /// A node is asked to stop, hands over, and is started again.
    Leave,
    /// A process stands still for a while.
    Pause,
    /// The nodes are split in two.
    Split,
    /// Some directed links are cut.
    Cut,
    /// The leader is cut off from everybody.
    Isolate,
    /// A leader hears everything late, by about the time an election takes, while it is mute or just handing over.
    Lag,
    /// A node that is cut off from the leader wants to lead, and the others, who stood by the leader, restart at once.
    Bounce,
    /// The leader is cut off together with another node whose disk does not finish anything; then they
    /// are back, the disk later.
    Strand,
    /// What one node says to another on one of their two connections is held back for a while, and then arrives.
    HoldBack,
    /// Messages get lost, doubled and late.
    BadNetwork,
    /// A disk is slow for a while.
    SlowDisk,
    /// A disk does not finish anything for a while.
    StalledDisk,
    /// A disk fails at some operation, and either at every later one or at none; the node stops, and is started again.
    DiskError,
    /// The engine's disk fails at some operation.
    EngineError,
    /// A disk is nearly full for a while.
    FullDisk,
    /// A machine comes back with an empty disk.
    Wipe,
    /// A byte somewhere on a disk changes while its node is down.
    Rot,
    /// A clock leaps ahead.
    ClockJump,
    /// Leadership is handed over by hand.
    Transfer,
    /// A node is told to campaign.
    Campaign,
    /// W is changed.
    ChangeW,
    /// A voter is taken out.
    Remove,
    /// A learner becomes a voter.
    Promote,
}

/// Every kind of fault; new ones come last.
pub const FAULTS: [Fault; 26] = [
    Fault::Crash,
    Fault::PowerLoss,
    Fault::Blackout,
    Fault::Leave,
    Fault::Pause,
    Fault::Split,
    Fault::Cut,
    Fault::Lag,
    Fault::Bounce,
    Fault::Strand,
    Fault::BadNetwork,
    Fault::SlowDisk,
    Fault::StalledDisk,
    Fault::DiskError,
    Fault::EngineError,
    Fault::FullDisk,
    Fault::Wipe,
    Fault::Rot,
    Fault::ClockJump,
    Fault::Transfer,
    Fault::Campaign,
    Fault::ChangeW,
    Fault::Remove,
    Fault::Promote,
    Fault::Isolate,
    Fault::HoldBack,
];

/// So many of them have always been there.
const FIRST_FAULTS: usize = 24;

/// One fault, as it was, or as it is to be again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// When, in microseconds.
    pub at: u64,
    /// What.
    pub fault: Fault,
    /// The host it meets.
    pub host: usize,
    /// What everything else about it follows from.
    pub dice: u64,
}

/// See the module's description. Times are in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// N when the cluster is formed.
    pub nodes: usize,
    /// W when it is formed.
    pub write_quorum: usize,
    /// Nodes that come later, as learners.
    pub spares: usize,
    /// What may go wrong.
    pub faults: Vec<Fault>,
    /// The mean time between two faults.
    pub fault_every: u64,
    /// How long links are cut.
    pub cut_lasts: (u64, u64),
    /// How long a connection is held back.
    pub hold_lasts: (u64, u64),
    /// The very faults, in order, instead of drawn ones.
    pub script: Option<Vec<Strike>>,
    /// How long at most after an election, or after a snapshot or what was held back has come, there is one more fault,
    /// at the node it concerns; none for zero.
    pub fault_soon_after: u64,
    /// Of a thousand such faults, how many come within a twentieth of that: before anybody else
    /// has heard of what happened.
    pub fault_at_once: u64,
    /// How long faults go on.
    pub safety: u64,
    /// Within what time after the last fault the cluster must be whole again.
    pub recovery: u64,
    /// Clients, each with one request at a time.
    pub clients: usize,
    /// Keys they share.
    pub keys: usize,
    /// The mean time between an answer and the next request.
    pub think: u64,
    /// The delay of a message.
    pub delay: (u64, u64),
    /// Messages lost of a thousand, even in good times.
    pub loss: u64,
    /// Messages delivered twice of a thousand.
    pub duplicates: u64,
    /// How long a snapshot takes besides, and when its sender gives it up.
    pub snapshot_takes: (u64, u64),
    /// See there.
    pub snapshot_patience: u64,
    /// How long a turn of a log takes.
    pub fsync: (u64, u64),
    /// Turns of a log of a thousand that take as long as an election does, or several times that.
    pub hiccups: u64,
    /// How long after a turn of its log a driver gets to hear of it. The log goes on meanwhile.
    pub report: (u64, u64),
    /// Time between heartbeats.
    pub heartbeat: u64,
    /// Election timeouts.
    pub election: (u64, u64),
    /// Whether reads may rely on leases.
    pub lease_reads: bool,
    /// The most that clocks run fast or slow, of a thousand.
    pub drift: u64,
    /// Size of a segment.
    pub segment_bytes: u64,
    /// Log kept behind the applied state.
    pub log_keep_bytes: u64,
    /// Most entries in one append.
    pub append_entries: usize,
    /// How far behind a learner may be when it becomes a voter.
    pub promotion_lag: u64,
    /// Bytes of the overlay at which it is drained.
    pub overlay_bytes: usize,
    /// In pieces of so many bytes.
    pub piece_bytes: usize,
    /// When a client is told that the outcome is unknown.
    pub request_timeout: u64,
    /// The time between ticks.
    pub tick: u64,
    /// Whether clients give some of their writes idempotency keys, and ask again while the outcome is unknown.
    pub retries: bool,
}

impl Plan {
    /// The run of a seed.
    #[must_use]
    pub fn draw(seed: u64) -> Plan {
        let mut dice = Dice::new(seed ^ 0x706c_616e);
        let nodes = dice.pick(&[1, 2, 3, 3, 3, 3, 4, 4, 5, 5, 5, 6, 7]).unwrap_or(3);
        let write_quorum = dice.within(1, nodes as u64) as usize;
        // A swarm: few kinds of faults at a time reach depths that all of them together do not.
        let share = dice.pick(&[150, 300, 500, 800]).unwrap_or(300);
        let (first, later) = FAULTS.split_at(FIRST_FAULTS);
        let mut faults: Vec<Fault> = first.iter().copied().filter(|_| dice.chance(share)).collect();
        if faults.is_empty() {
            faults.push(Fault::Crash);
        }
        // What was thought of later has dice of its own, so that the rest of a seed's plan stays as it was.
        let mut more = Dice::new(seed ^ 0x6d6f_7265);
        faults.extend(later.iter().copied().filter(|_| more.chance(share)));
        let lease_reads = dice.chance(300);
        if lease_reads {
            // A lease relies on clocks that run at nearly the same rate.
            faults.retain(|f| *f != Fault::ClockJump);
        }
        let heartbeat = dice.pick(&[50_000, 100_000, 150_000]).unwrap_or(100_000);
        let shortest = heartbeat * dice.within(3, 6);
        let slowest = dice.pick(&[1_000, 5_000, 20_000]).unwrap_or(5_000);
        let fsync = dice.pick(&[500, 2_000, 10_000]).unwrap_or(2_000);
        Plan {
            nodes,
            write_quorum,
            spares: if dice.chance(300) { dice.within(1, 2) as usize } else { 0 },
            faults,
            fault_every: dice.pick(&[150_000, 400_000, 1_000_000]).unwrap_or(400_000),
            cut_lasts: (100_000, 4_000_000),
            hold_lasts: (50_000, 3_000_000),
            script: None,
            fault_soon_after: 0,
            fault_at_once: 0,
            safety: dice.within(6, 14) * 1_000_000,
            recovery: 90_000_000,
            clients: dice.within(2, 5) as usize,
            keys: dice.within(1, 6) as usize,
            think: dice.pick(&[5_000, 20_000, 60_000]).unwrap_or(20_000),
            delay: (100, slowest),
            loss: dice.pick(&[0, 0, 5, 30]).unwrap_or(0),
            duplicates: dice.pick(&[0, 0, 5, 30]).unwrap_or(0),
            snapshot_takes: (0, more.pick(&[0, 0, 2_000_000]).unwrap_or(0)),
            snapshot_patience: 3_000_000,
            fsync: (fsync / 5, fsync),
            hiccups: more.pick(&[0, 0, 0, 10]).unwrap_or(0),
            report: (0, more.pick(&[0, 0, 5_000]).unwrap_or(0)),
            heartbeat,
            election: (shortest, shortest * 2),
            lease_reads,
            drift: dice.pick(&[0, 10, 40]).unwrap_or(0),
            segment_bytes: dice.pick(&[16 << 10, 64 << 10]).unwrap_or(64 << 10),
            log_keep_bytes: dice.pick(&[4 << 10, 16 << 10, 256 << 10]).unwrap_or(16 << 10),
            append_entries: more.pick(&[4_096, 4_096, 1, 3]).unwrap_or(4_096),
            promotion_lag: more.pick(&[1_000, 10]).unwrap_or(1_000),
            overlay_bytes: dice.pick(&[400, 2_000, 1 << 20]).unwrap_or(2_000),
            piece_bytes: dice.pick(&[100, 1_000]).unwrap_or(1_000),
            request_timeout: dice.pick(&[500_000, 2_000_000]).unwrap_or(2_000_000),
            tick: 10_000,
            // Not drawn, so that every seed means what it always did: `Plan::with_retries`.
            retries: false,
        }
    }

    /// The same with logs, snapshots and appends as quick and as large as they can be.
    #[must_use]
    pub fn without_delays(mut self) -> Plan {
        (self.snapshot_takes, self.hiccups, self.report) = ((0, 0), 0, (0, 0));
        (self.append_entries, self.promotion_lag) = (4_096, 1_000);
        self
    }

    /// The same with other numbers of copies.
    #[must_use]
    pub fn with_quorum(mut self, nodes: usize, write_quorum: usize) -> Plan {
        (self.nodes, self.write_quorum) = (nodes, write_quorum);
        self
    }

    /// The same with clients that ask again.
    #[must_use]
    pub fn with_retries(mut self) -> Plan {
        self.retries = true;
        self
    }

    /// The same with these kinds of faults alone. Leases rely on clocks that run at nearly the same rate: there
    /// are none where clocks leap.
    #[must_use]
    pub fn with_faults(mut self, faults: &[Fault]) -> Plan {
        self.faults = faults.to_vec();
        self.lease_reads &= !faults.contains(&Fault::ClockJump);
        self
    }
}
