//! A turn of a host's driver and what it asks of the disk, with the invariants that look at a node from outside.
//!
//! Before: whatever happened at the host. After: [`super::network`] for what it sends,
//! [`super::answers`] for what it owes.

use std::collections::BTreeMap;

use quorate::storage::{Job, WalEvent, record};
use quorum::Role;

use super::{Cluster, Event};
use crate::host::{Host, Out};
use crate::invariants::{
    Durable, Seen, configuration_safety, identical_state, leader_completeness, leader_in_contact, log_matching,
    monotone_commit, one_leader_per_term,
};
use crate::truth::{Entry, Violation};

impl Cluster {
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
        self.drain_on(host);
        self.settle(host)
    }

    /// Has the next piece of a store's table drained, as a thread of its own would do it: beside writes, and
    /// as long as the disk takes.
    fn drain_on(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        let Some(p) = h.process.as_mut().filter(|p| !p.draining && p.machine.store().must_drain()) else { return };
        p.draining = true;
        let number = p.number;
        let stalled = h.stalled_until.saturating_sub(self.now);
        let slow = h.slow;
        let took = self.dice.within(self.plan.fsync.0, self.plan.fsync.1) * slow + stalled;
        self.after(took, Event::Drained(host, number));
    }

    pub(super) fn drained(&mut self, host: usize) -> Result<(), Violation> {
        let Some(p) = &mut self.hosts[host].process else { return Ok(()) };
        p.draining = false;
        // The store keeps a failure, and the driver looks for it.
        drop(p.machine.store().drain_piece());
        self.pump(host, false)
    }

    pub(super) fn begin_wal(&mut self, host: usize) -> Result<(), Violation> {
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
        let longest = self.plan.election.1;
        let hiccups = self.plan.hiccups > 0 && self.dice.chance(self.plan.hiccups);
        let hiccup = if hiccups { self.dice.within(longest / 2, longest * 3) } else { 0 };
        self.after(took + hiccup, Event::WalDone(host, number));
        if emptied {
            self.tempt(host);
        }
        Ok(())
    }

    /// Something happened at a host that a fault is likely to spoil.
    pub(crate) fn tempt(&mut self, host: usize) {
        // A script has these faults among its own.
        if self.plan.fault_soon_after > 0 && self.plan.script.is_none() {
            let at_once = self.plan.fault_at_once > 0 && self.dice.chance(self.plan.fault_at_once);
            let next = self.dice.within(0, self.plan.fault_soon_after / if at_once { 20 } else { 1 });
            self.after(next, Event::Strike(host));
        }
    }

    pub(super) fn wal_done(&mut self, host: usize) -> Result<(), Violation> {
        let h = &mut self.hosts[host];
        let Some(p) = &mut h.process else { return Ok(()) };
        p.wal_busy = false;
        let jobs: Vec<Job> = p.machine.wal().under_way().to_vec();
        let event = p.machine.finish_wal();
        let failed = matches!(event, Some(WalEvent::Failed { .. }));
        for job in jobs {
            if failed {
                // What the disk holds now is not certain any more: what was overwritten may be gone, though the
                // write was reported as failed.
                note_overwritten(&mut h.durable, &job);
            } else {
                note_durable(&mut h.durable, job);
            }
        }
        p.reports.extend(event);
        if !failed
            && p.preparation.is_none()
            && let Some(preparation) = p.machine.wal().preparation()
        {
            p.preparation = Some(preparation);
            let number = p.number;
            let took = self.dice.within(self.plan.fsync.0, self.plan.fsync.1);
            self.after(took, Event::Prepared(host, number));
        }
        let (low, high) = self.plan.report;
        if high == 0 {
            return self.reported(host);
        }
        // The log's thread takes what is queued; its driver hears of it when it gets to it.
        let late = self.dice.within(low, high);
        let number = self.hosts[host].process.as_ref().map_or(0, |p| p.number);
        self.after(late, Event::Reported(host, number));
        self.begin_wal(host)
    }

    pub(super) fn reported(&mut self, host: usize) -> Result<(), Violation> {
        let Some(p) = &mut self.hosts[host].process else { return Ok(()) };
        if let Some(event) = p.reports.pop_front() {
            p.machine.report_wal(event);
        }
        self.pump(host, false)
    }

    pub(super) fn prepared(&mut self, host: usize, number: u64) -> Result<(), Violation> {
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
            p.machine.report_wal(event);
        }
        self.pump(host, false)
    }

    /// Looks at a node after a turn.
    pub(super) fn observe(&mut self, host: usize) -> Result<(), Violation> {
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
        self.look_at_new_voters(host)
    }

    fn look_at_new_voters(&mut self, host: usize) -> Result<(), Violation> {
        let h = &self.hosts[host];
        let Some(p) = h.process.as_ref().filter(|p| p.machine.replica().role() == Role::Leader) else { return Ok(()) };
        if p.machine.replica().config().is_none_or(|c| c.version <= p.taken_in) {
            return Ok(());
        }
        let seen = Seen { name: &h.name, process: p.number, replica: p.machine.replica(), durable: &h.durable };
        let newest = configuration_safety::taken_in(&seen, &self.disks(), p.taken_in, self.plan.promotion_lag)?;
        if let Some(p) = &mut self.hosts[host].process {
            p.taken_in = newest;
        }
        Ok(())
    }

    /// Looks whether a node still may lead, after a tick.
    pub(super) fn look_at_leader(&self, host: usize) -> Result<(), Violation> {
        let h = &self.hosts[host];
        let Some(p) = h.process.as_ref().filter(|p| p.machine.replica().role() == Role::Leader) else { return Ok(()) };
        let seen = Seen { name: &h.name, process: p.number, replica: p.machine.replica(), durable: &h.durable };
        // The product's bound is the longest timeout by its own clock; what arrives late confirms
        // what was true a while ago.
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

    pub(super) fn compare(&self, host: usize) -> Result<(), Violation> {
        let Some(p) = &self.hosts[host].process else { return Ok(()) };
        let Some(chronicle) = p.machine.state().cluster.and_then(|c| self.chronicles.get(&c.0)) else { return Ok(()) };
        if p.machine.store().failed().is_some() {
            return Ok(());
        }
        identical_state::check(chronicle, &self.hosts[host].name, p.machine.store())
    }

    pub(super) fn carry_out(&mut self, host: usize, out: Out) -> Result<(), Violation> {
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
}

/// Notes what a turn of the log that may be done in part leaves uncertain.
pub(super) fn note_overwritten(durable: &mut Durable, job: &Job) {
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
