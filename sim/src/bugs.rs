//! The search for deliberate bugs (`quorum::bugs`): runs with a rule broken, until an invariant reports it.
//!
//! A seed shows a bug when its run fails with the bug and passes without it. Most bugs need something particular to
//! happen, so a [`Hunt`] narrows plans to what makes that likelier; it adds nothing that a plan could not be by chance.

use quorum::bugs::{self, Bug, Stated};

use crate::dice::Dice;
use crate::{Fault, Outcome, Plan, Violation, run};

/// What the runs of a search make likelier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hunt {
    /// Nothing: the runs of `sim run`.
    Plain,
    /// Processes and machines that die and come back soon, and a store that is drained in many pieces.
    Power,
    /// Disks that fail.
    Disks,
    /// Disks that rot, in nodes that stop and come back.
    Rot,
    /// Three to five nodes whose leaders are cut off, paused and replaced, often right after they were elected.
    Elections,
    /// The same with disks so slow that logs lag or stand still, in small segments, while stores are drained all the
    /// time; and losses of power.
    Slow,
    /// Three nodes with short patience whose leaders are cut off as soon as they are elected, and that send one entry
    /// at a time over slow lines.
    Reigns,
    /// Leaders that come and go since turns of their logs take as long as elections, and drivers hear late of them; of
    /// what is sent some is lost, and much comes twice.
    Overwrites,
    /// Leaders that hand over and get leadership back while what they said before is held back,
    /// and many impatient clients.
    Rounds,
    /// Leaders that are paused and replaced, and such clients.
    Pauses,
    /// Leaders that are cut off, paused and replaced, and many clients, all of them at one key or two.
    Reads,
    /// Reads by lease of leaders that hear late of their successors, or whose voters restart.
    Leases,
    /// Changes of members and W whose leader is cut off or dies.
    Changes,
    /// Logs that are cut soon, and nodes that were away so long that they need a snapshot.
    Snapshots,
    /// The same where most come late, so that their sender has given them up and sent others.
    Late,
    /// Clients that ask again under an idempotency key while nodes restart and get snapshots.
    Retries,
}

impl Hunt {
    /// All of them.
    pub const ALL: [Hunt; 16] = [
        Hunt::Plain,
        Hunt::Power,
        Hunt::Disks,
        Hunt::Rot,
        Hunt::Elections,
        Hunt::Slow,
        Hunt::Reigns,
        Hunt::Overwrites,
        Hunt::Rounds,
        Hunt::Pauses,
        Hunt::Reads,
        Hunt::Leases,
        Hunt::Changes,
        Hunt::Snapshots,
        Hunt::Late,
        Hunt::Retries,
    ];

    /// What it is called in tables and on command lines.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The hunt of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Hunt> {
        Hunt::ALL.into_iter().find(|hunt| hunt.name() == name)
    }

    /// The run of a seed.
    #[must_use]
    pub fn plan(self, seed: u64) -> Plan {
        let mut plan = Plan::draw(seed);
        let mut dice = Dice::new(seed ^ 0x6875_6e74);
        if self == Hunt::Plain {
            return plan;
        }
        plan = plan.without_delays();
        let nodes = dice.within(3, 5) as usize;
        let cut = [Fault::Split, Fault::Cut, Fault::Pause];
        (plan.fault_every, plan.think) = (150_000, 5_000);
        match self {
            Hunt::Plain => {}
            Hunt::Power => {
                plan.faults = vec![Fault::Crash, Fault::PowerLoss, Fault::Blackout, Fault::EngineError];
                plan.fault_every = 400_000;
                plan.log_keep_bytes = 4 << 10;
                (plan.overlay_bytes, plan.piece_bytes) = (2_000, 100);
            }
            Hunt::Disks => {
                plan.faults = vec![Fault::DiskError, Fault::PowerLoss];
                plan.fault_every = 400_000;
            }
            Hunt::Rot => {
                plan = plan.with_faults(&[Fault::Rot, Fault::Rot, Fault::Crash]).with_quorum(nodes, 2.max(nodes / 2));
                plan.fault_every = 400_000;
                // The first segment is what rots, so it must not be cut off.
                (plan.segment_bytes, plan.log_keep_bytes) = (64 << 10, 256 << 10);
            }
            Hunt::Elections => {
                plan = plan.with_faults(&cut).with_quorum(nodes, dice.within(1, nodes as u64) as usize);
                plan.faults.extend([Fault::Crash, Fault::Campaign, Fault::Transfer]);
                plan.fault_soon_after = 50_000;
            }
            Hunt::Slow => {
                plan = plan.with_faults(&cut).with_quorum(nodes, dice.within(1, nodes as u64) as usize);
                plan.faults.extend([
                    Fault::Crash,
                    Fault::PowerLoss,
                    Fault::Campaign,
                    Fault::StalledDisk,
                    Fault::Strand,
                ]);
                (plan.fsync, plan.fault_soon_after) = ((5_000, 150_000), 100_000);
                (plan.segment_bytes, plan.log_keep_bytes, plan.overlay_bytes) = (8 << 10, 4 << 10, 400);
                plan.clients = 10;
            }
            Hunt::Reigns => {
                plan = plan.with_faults(&[Fault::Isolate]).with_quorum(3, 2);
                (plan.delay, plan.append_entries) = ((5_000, 30_000), 1);
                (plan.fault_soon_after, plan.fault_at_once) = (150_000, 500);
                plan.cut_lasts = (200_000, 1_200_000);
                (plan.heartbeat, plan.election) = (50_000, (150_000, 300_000));
                (plan.fault_every, plan.clients, plan.safety) = (1_000_000, 2, 20_000_000);
            }
            Hunt::Overwrites => {
                plan = plan.with_faults(&[Fault::Campaign, Fault::Transfer]).with_quorum(nodes, nodes.div_ceil(2));
                (plan.delay, plan.loss, plan.duplicates) = ((1_000, 30_000), 150, 500);
                (plan.fsync, plan.hiccups, plan.report) = ((500, 5_000), 200, (0, 100_000));
                (plan.heartbeat, plan.election) = (50_000, (200_000, 400_000));
                (plan.append_entries, plan.fault_every, plan.safety) = (3, 300_000, 60_000_000);
            }
            Hunt::Rounds => {
                plan = plan.with_faults(&[Fault::HoldBack, Fault::Isolate, Fault::Transfer]).with_quorum(3, 2);
                (plan.delay, plan.fsync, plan.cut_lasts) = ((100, 2_000), (200, 1_000), (300_000, 1_000_000));
                (plan.hold_lasts, plan.fault_soon_after) = ((1_000_000, 6_000_000), 400_000);
                (plan.keys, plan.clients, plan.request_timeout) = (dice.within(1, 2) as usize, 16, 100_000);
                (plan.fault_every, plan.safety) = (400_000, 20_000_000);
            }
            Hunt::Pauses => {
                plan = plan.with_faults(&[Fault::Pause]).with_quorum(3, 2);
                (plan.delay, plan.heartbeat, plan.election) = ((1_000, 5_000), 50_000, (150_000, 300_000));
                (plan.keys, plan.clients, plan.request_timeout) = (1, 16, 200_000);
                (plan.fault_every, plan.fault_soon_after, plan.safety) = (1_500_000, 1_000_000, 20_000_000);
            }
            Hunt::Reads | Hunt::Leases => {
                plan = plan.with_faults(&cut).with_quorum(nodes, 2);
                plan.faults.extend([Fault::Transfer, Fault::Lag]);
                plan.lease_reads = self == Hunt::Leases;
                if plan.lease_reads {
                    plan.faults = vec![Fault::Lag, Fault::Bounce];
                    plan.fault_every = 1_000_000;
                    // Another leader must be elected and have a write acknowledged while the lease still lasts.
                    (plan.delay, plan.fsync) = ((100, 2_000), (200, 1_000));
                }
                (plan.keys, plan.clients, plan.request_timeout) = (dice.within(1, 2) as usize, 16, 500_000);
            }
            Hunt::Changes => {
                plan = plan.with_faults(&cut);
                plan.faults.extend([Fault::Crash, Fault::ChangeW, Fault::Remove, Fault::Promote, Fault::Campaign]);
                (plan.spares, plan.promotion_lag) = (dice.within(1, 2) as usize, 10);
            }
            Hunt::Snapshots => {
                plan = plan.with_faults(&cut).with_quorum(nodes, 2);
                plan.faults.extend([Fault::PowerLoss, Fault::ChangeW, Fault::BadNetwork]);
                (plan.segment_bytes, plan.log_keep_bytes) = (8 << 10, 1 << 10);
                plan.clients = 10;
            }
            Hunt::Late => {
                plan = plan.with_faults(&[Fault::Crash, Fault::PowerLoss, Fault::Split]).with_quorum(nodes, 2);
                (plan.segment_bytes, plan.log_keep_bytes, plan.overlay_bytes) = (8 << 10, 1 << 10, 400);
                (plan.snapshot_takes, plan.snapshot_patience) = ((0, 800_000), 300_000);
                (plan.fault_every, plan.clients) = (600_000, 10);
            }
            Hunt::Retries => {
                plan.faults = vec![Fault::Crash, Fault::Blackout, Fault::PowerLoss, Fault::Split, Fault::Wipe];
                plan = plan.with_quorum(3, 2).with_retries();
                (plan.segment_bytes, plan.log_keep_bytes) = (8 << 10, 4 << 10);
                plan.fault_every = 300_000;
            }
        }
        plan
    }
}

/// A seed that shows a bug.
#[derive(Debug)]
pub struct Found {
    /// Which.
    pub seed: u64,
    /// The how many-eth of the search it is, from one.
    pub nth: u64,
    /// What was reported.
    pub violation: Violation,
}

/// What the page says of a bug: where to look for it, within how many seeds it is found, and what reports it.
#[must_use]
pub fn stated(bug: Bug) -> Option<(Hunt, u64, &'static str)> {
    let row = bugs::table("bug").find(|row| row[0] == bug.name())?;
    let search = Stated::read(row[COLUMN])?;
    Some((Hunt::named(search.kind)?, search.within, row[COLUMN + 1]))
}

/// The page's column of what the simulator finds; the next is of what reports it.
const COLUMN: usize = 4;

/// A run with a rule broken.
#[must_use]
pub fn broken(bug: Bug, hunt: Hunt, seed: u64, traced: bool) -> Outcome {
    bugs::with(&[bug], || run(seed, hunt.plan(seed), traced))
}

/// Looks through seeds from `from` on for one that shows the bug; with `invariant`, only what that one reports counts.
#[must_use]
pub fn search(bug: Bug, hunt: Hunt, from: u64, seeds: u64, invariant: Option<&str>) -> Option<Found> {
    (0..seeds).find_map(|n| {
        let seed = from + n;
        let violation = broken(bug, hunt, seed, false).violation?;
        let wanted = invariant.is_none_or(|i| i == violation.invariant);
        (wanted && run(seed, hunt.plan(seed), false).violation.is_none()).then_some(Found {
            seed,
            nth: n + 1,
            violation,
        })
    })
}
