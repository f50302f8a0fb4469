//! The life of a process on a host: how it is brought up on what the disk holds, how it is
//! killed, how it ends by itself.
//!
//! Before: the loop of events, the nemesis. After: [`super::turn`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use quorate::options::{Formation, Limits, NodeOptions};
use quorate::stepped::{self, Ended, Grounds, Machine};
use quorum::{Index, Member};

use super::turn::note_overwritten;
use super::{Cluster, Event, INTRODUCE_EVERY};
use crate::host::{Host, Process, SimWorld, folder};
use crate::invariants::{Seen, configuration_safety, no_forgetful_voter};
use crate::truth::Violation;

impl Cluster {
    pub(super) fn options(&self, host: usize) -> NodeOptions {
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
            append_entries: plan.append_entries,
            promotion_lag: plan.promotion_lag,
            overlay_bytes: plan.overlay_bytes,
            ..Limits::default()
        };
        options
    }

    /// Brings up the process of a host, if it is to run.
    pub(super) fn start(&mut self, host: usize) -> Result<(), Violation> {
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
            reports: VecDeque::new(),
            taken_in: 0,
            draining: false,
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
                h.disk.lose_power(&mut h.dice);
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
            // Nobody is left to hear of it.
            drop(process.machine.finish_wal());
        }
        if process.draining && h.dice.chance(500) {
            // The batch and its sync; what was written and not synced is at the mercy of the power.
            h.engine.fail_after(h.dice.below(3));
            // An error is what is wanted, and nobody is left to hear of it.
            drop(process.machine.store().drain_piece());
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
            h.disk.lose_power(&mut h.dice);
            let kept = h.dice.below(h.engine.at_risk() as u64 + 1) as usize;
            h.engine.lose_power(kept);
        } else {
            h.disk.restart();
            h.engine.restart();
        }
        self.clients_lost(host);
    }

    /// A process has ended by itself.
    pub(super) fn ended(&mut self, host: usize, why: &Ended) -> Result<(), Violation> {
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

    pub(super) fn may_leave(&self, host: usize, why: &Ended) -> Result<(), Violation> {
        let (Ended::Removed { version }, Some(p)) = (why, &self.hosts[host].process) else { return Ok(()) };
        let cluster = p.machine.state().cluster.map_or(0, |c| c.0);
        let Some(chronicle) = self.chronicles.get(&cluster) else { return Ok(()) };
        configuration_safety::left(chronicle, &self.hosts[host].name, p.machine.replica().id(), *version)
    }
}
