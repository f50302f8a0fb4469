//! What goes wrong, and when.
//!
//! It may do anything the product promises to survive, and nothing else: a disk is taken away for good only while
//! enough of the others hold what is acknowledged (N − E of them at a time), and rot spares the last batch of a log,
//! which cannot be told from a torn tail.

use std::collections::{BTreeMap, BTreeSet};

use quorum::{Change, Config, Member, NodeId, Quorum};

use crate::cluster::{Cluster, Event, HeldBack};
use crate::dice::Dice;
use crate::host::Wait;
use crate::plan::{Fault, Strike};
use crate::truth::Violation;

/// Bytes before the end of the log, besides those of the last batch, in which no rot is: headers, and
/// the round-up to a sector.
const TAIL_SPARED: u64 = 4_096;

/// How a fault is taken back.
#[derive(Clone, Debug)]
enum Undo {
    Links,
    Lag,
    HeldBack,
    Network(u64),
    Slow(usize),
    Full(usize),
}

/// See the module's description.
pub struct Nemesis {
    dice: Dice,
    undo: BTreeMap<u64, Undo>,
    /// Its strikes so far.
    pub struck: Vec<Strike>,
    /// Whether it rests.
    pub quiet: bool,
    /// Faults so far, by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// Reigns seen.
    pub reigns: u64,
    /// Snapshots sent.
    pub snapshots: u64,
    /// Hosts whose folder was copied from another's: no fault of random runs, since nothing can be promised
    /// of it (docs/operating.md).
    pub copies: BTreeSet<usize>,
    engines: BTreeSet<usize>,
}

impl Nemesis {
    /// One that has done nothing yet.
    #[must_use]
    pub fn new(dice: Dice) -> Nemesis {
        Nemesis {
            dice,
            undo: BTreeMap::new(),
            struck: Vec::new(),
            quiet: false,
            faults: BTreeMap::new(),
            reigns: 0,
            snapshots: 0,
            copies: BTreeSet::new(),
            engines: BTreeSet::new(),
        }
    }

    /// Whether a host's engine was made to fail; asked once.
    pub fn engine_failed(&mut self, host: usize) -> bool {
        self.engines.remove(&host)
    }

    /// Whether a node there may have forgotten the end of its log without noticing: nobody but a copy of another one.
    #[must_use]
    pub fn may_forget(&self, host: usize) -> bool {
        self.copies.contains(&host)
    }
}

impl Cluster {
    /// Has the nemesis strike for the first time: a moment after the start, or when its script begins.
    pub(crate) fn rouse_nemesis(&mut self) {
        let first = self.dice.within(100_000, 3_000_000);
        let due = self.plan.script.as_ref().map(|script| script.first().map(|s| s.at));
        if let Some(at) = due.unwrap_or(Some(first)) {
            self.after(at, Event::Nemesis);
        }
    }

    /// The nemesis strikes once, and is due again.
    pub(crate) fn strike_now_and_then(&mut self) -> Result<(), Violation> {
        if self.nemesis.quiet {
            return Ok(());
        }
        let Some(strike) = self.next_strike() else { return Ok(()) };
        self.strike(strike)
    }

    /// The nemesis strikes once more, at this host.
    pub(crate) fn strike_at(&mut self, host: usize) -> Result<(), Violation> {
        if self.nemesis.quiet {
            return Ok(());
        }
        let Some(fault) = self.nemesis.dice.pick(&self.plan.faults) else { return Ok(()) };
        let dice = self.nemesis.dice.draw();
        self.strike(Strike { at: self.now, fault, host, dice })
    }

    fn strike(&mut self, strike: Strike) -> Result<(), Violation> {
        self.nemesis.struck.push(strike.clone());
        let number = self.nemesis.struck.len() as u64;
        let runs = self.hosts.get(strike.host).is_some_and(|h| h.process.is_some());
        if runs && self.inflict(number, &strike)? {
            *self.nemesis.faults.entry(strike.fault).or_default() += 1;
        }
        Ok(())
    }

    fn next_strike(&mut self) -> Option<Strike> {
        if let Some(script) = &self.plan.script {
            let at = self.nemesis.struck.len();
            let (strike, next) = (script.get(at).cloned()?, script.get(at + 1).map(|s| s.at));
            if let Some(next) = next {
                self.after(next.saturating_sub(self.now), Event::Nemesis);
            }
            return Some(strike);
        }
        let every = self.plan.fault_every;
        let next = self.nemesis.dice.within(every / 4, every * 7 / 4);
        self.after(next, Event::Nemesis);
        let fault = self.nemesis.dice.pick(&self.plan.faults)?;
        let host = self.pick_running()?;
        Some(Strike { at: self.now, fault, host, dice: self.nemesis.dice.draw() })
    }

    fn pick_running(&mut self) -> Option<usize> {
        let up: Vec<usize> = (0..self.hosts.len()).filter(|h| self.hosts[*h].process.is_some()).collect();
        // Leaders are worth more.
        match self.leader() {
            Some(leader) if self.nemesis.dice.chance(350) => Some(leader),
            _ => self.nemesis.dice.pick(&up),
        }
    }

    fn back_in(&mut self, host: usize, dice: &mut Dice) {
        let wait = if dice.chance(700) { dice.within(20_000, 600_000) } else { dice.within(500_000, 4_000_000) };
        self.after(wait, Event::Start(host));
    }

    fn undo_in(&mut self, number: u64, undo: Undo, micros: u64) {
        self.nemesis.undo.insert(number, undo);
        self.after(micros, Event::Heal(number));
    }

    /// Whether anything was done.
    fn inflict(&mut self, number: u64, strike: &Strike) -> Result<bool, Violation> {
        let (host, fault, dice) = (strike.host, strike.fault, &mut Dice::new(strike.dice));
        let note = format!("FAULT {number} {fault:?}");
        self.say(host, || note);
        let now = self.now;
        match fault {
            Fault::Crash | Fault::PowerLoss => {
                self.kill(host, fault == Fault::PowerLoss);
                self.back_in(host, dice);
            }
            Fault::Blackout => {
                for host in 0..self.hosts.len() {
                    self.kill(host, true);
                    self.back_in(host, dice);
                }
            }
            Fault::Leave => {
                if let Some(p) = &mut self.hosts[host].process {
                    p.leaving = true;
                    p.machine.leave();
                }
            }
            Fault::Pause => self.hosts[host].paused_until = now + dice.within(50_000, 3_000_000),
            Fault::Split | Fault::Cut => {
                let links = if fault == Fault::Split { self.split(dice) } else { self.some_links(dice) };
                self.cuts.insert(number, links);
                self.undo_in(number, Undo::Links, dice.within(self.plan.cut_lasts.0, self.plan.cut_lasts.1));
            }
            Fault::Isolate => {
                let Some(leader) = self.leader() else { return Ok(false) };
                let both_ways = |other| [(leader, other), (other, leader)];
                self.cuts.insert(number, (0..self.hosts.len()).flat_map(both_ways).collect());
                self.undo_in(number, Undo::Links, dice.within(self.plan.cut_lasts.0, self.plan.cut_lasts.1));
            }
            Fault::Lag => return self.lag(number, dice),
            Fault::Bounce => return Ok(self.bounce_others(number, dice)),
            Fault::Strand => return Ok(self.strand(number, dice)),
            Fault::HoldBack => return Ok(self.hold_back(number, host, dice)),
            Fault::BadNetwork => {
                let rate = dice.within(20, 400);
                self.bad += rate;
                self.undo_in(number, Undo::Network(rate), dice.within(200_000, 3_000_000));
            }
            Fault::SlowDisk => {
                self.hosts[host].slow = dice.within(5, 100);
                self.undo_in(number, Undo::Slow(host), dice.within(200_000, 3_000_000));
            }
            Fault::StalledDisk => self.hosts[host].stalled_until = now + dice.within(200_000, 3_000_000),
            Fault::DiskError if dice.chance(500) => self.hosts[host].disk.fail_once_after(dice.below(30)),
            Fault::DiskError => self.hosts[host].disk.fail_after(dice.below(30)),
            Fault::EngineError => {
                self.nemesis.engines.insert(host);
                self.hosts[host].engine.fail_after(dice.below(12));
            }
            Fault::FullDisk => {
                self.hosts[host].disk.set_free(1 << 20);
                self.undo_in(number, Undo::Full(host), dice.within(500_000, 3_000_000));
            }
            Fault::Wipe | Fault::Rot => return Ok(self.lose(host, fault, dice)),
            Fault::ClockJump => self.hosts[host].leapt += dice.within(10_000, 5_000_000),
            Fault::Transfer => {
                let Some(leader) = self.leader() else { return Ok(false) };
                self.hand_over(leader, dice)?;
            }
            Fault::Campaign => {
                if let Some(p) = &mut self.hosts[host].process {
                    let answer = p.machine.campaign();
                    p.waits.push(Wait::Leadership(answer));
                }
                self.pump(host, false)?;
            }
            Fault::ChangeW | Fault::Remove | Fault::Promote => return self.reconfigure(fault, dice),
        }
        Ok(true)
    }

    fn hand_over(&mut self, leader: usize, dice: &mut Dice) -> Result<(), Violation> {
        let to = self.machine(leader).and_then(|m| {
            let voters: Vec<_> = m.replica().config()?.voters.iter().map(|v| v.id).collect();
            dice.pick(&voters)
        });
        if let Some(p) = &mut self.hosts[leader].process {
            let answer = p.machine.transfer(to.filter(|_| dice.chance(700)));
            p.waits.push(Wait::Leadership(answer));
        }
        self.pump(leader, false)
    }

    /// Of what the leader does not know yet others have made a new leader: what it was told before
    /// that comes in meanwhile.
    fn lag(&mut self, number: u64, dice: &mut Dice) -> Result<bool, Violation> {
        let Some(leader) = self.leader() else { return Ok(false) };
        let (shortest, longest) = self.plan.election;
        let late = dice.within(shortest, longest);
        self.lags.insert(number, (leader, late));
        if dice.chance(500) {
            self.cuts.insert(number, (0..self.hosts.len()).map(|to| (leader, to)).collect());
        } else {
            self.hand_over(leader, dice)?;
        }
        self.undo_in(number, Undo::Lag, late + dice.within(0, longest));
        Ok(true)
    }

    fn bounce_others(&mut self, number: u64, dice: &mut Dice) -> bool {
        let Some(leader) = self.leader() else { return false };
        let others: Vec<usize> = (0..self.hosts.len()).filter(|h| *h != leader).collect();
        let Some(cut) = dice.pick(&others) else { return false };
        self.cuts.insert(number, [(leader, cut), (cut, leader)].into());
        let longest = self.plan.election.1;
        let impatient = dice.within(longest, 2 * longest);
        for host in others.into_iter().filter(|h| *h != cut) {
            self.after(impatient + dice.below(20_000), Event::Bounce(host));
        }
        self.undo_in(number, Undo::Links, impatient + dice.within(100_000, 1_000_000));
        true
    }

    /// Ends a process and starts it again before anybody misses it.
    pub(crate) fn bounce(&mut self, host: usize) {
        if !self.nemesis.quiet && self.hosts[host].process.is_some() {
            self.kill(host, false);
            self.after(1_000, Event::Start(host));
        }
    }

    fn strand(&mut self, number: u64, dice: &mut Dice) -> bool {
        let Some(leader) = self.leader() else { return false };
        let count = self.hosts.len();
        let others: Vec<usize> = (0..count).filter(|h| *h != leader).collect();
        let Some(with) = dice.pick(&others) else { return false };
        let inside = |h: usize| h == leader || h == with;
        let links = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
        self.cuts.insert(number, links.filter(|(a, b)| inside(*a) != inside(*b)).collect());
        let apart = self.plan.election.1 + dice.within(100_000, 1_000_000);
        self.hosts[with].stalled_until = self.now + apart + dice.within(50_000, 500_000);
        self.undo_in(number, Undo::Links, apart);
        true
    }

    fn hold_back(&mut self, number: u64, host: usize, dice: &mut Dice) -> bool {
        let from = self.leader().filter(|_| dice.chance(500)).unwrap_or(host);
        let others: Vec<usize> = (0..self.hosts.len()).filter(|h| *h != from).collect();
        let Some(to) = dice.pick(&others) else { return false };
        let (control, time) = (dice.chance(700), dice.within(self.plan.hold_lasts.0, self.plan.hold_lasts.1));
        self.held_back.insert(number, HeldBack { from, to, control, until: self.now + time });
        self.undo_in(number, Undo::HeldBack, time);
        true
    }

    fn split(&self, dice: &mut Dice) -> BTreeSet<(usize, usize)> {
        let count = self.hosts.len();
        let side: Vec<bool> = match self.leader() {
            // The leader alone, or with some.
            Some(leader) if dice.chance(500) => (0..count).map(|h| h == leader || dice.chance(200)).collect(),
            _ => (0..count).map(|_| dice.chance(500)).collect(),
        };
        let links = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
        let one_way = dice.chance(300);
        links.filter(|(a, b)| side[*a] != side[*b] && (!one_way || side[*a])).collect()
    }

    fn some_links(&self, dice: &mut Dice) -> BTreeSet<(usize, usize)> {
        let count = self.hosts.len();
        let share = dice.within(100, 600);
        let links = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
        links.filter(|(a, b)| a != b && dice.chance(share)).collect()
    }

    /// Takes a disk away, or lets it rot, if the cluster can bear it now.
    fn lose(&mut self, host: usize, fault: Fault, dice: &mut Dice) -> bool {
        if !self.may_lose(host) {
            return false;
        }
        if fault == Fault::Wipe {
            self.wipe(host);
        } else {
            self.kill(host, true);
            let rotten = self.rot(host, dice);
            let Some(rotten) = rotten else {
                self.back_in(host, dice);
                return false;
            };
            self.say(host, || format!("ROT in {rotten}"));
        }
        self.back_in(host, dice);
        true
    }

    /// Takes a machine's disk away and puts an empty one in.
    pub fn wipe(&mut self, host: usize) {
        self.kill(host, true);
        let h = &mut self.hosts[host];
        h.disk.wipe();
        h.engine.wipe();
        (h.hurt, h.replaced) = (true, true);
        self.lost.extend(h.identity);
        self.say(host, || "WIPED".into());
    }

    /// Has a byte change somewhere on a disk whose node is down: in any file, but not where the last batch of the log
    /// may lie, which cannot be told from a torn tail when it is damaged. Says where.
    pub fn rot(&mut self, host: usize, dice: &mut Dice) -> Option<String> {
        let h = &mut self.hosts[host];
        let spare = h.last_turn_bytes + TAIL_SPARED;
        let rotten = h.disk.rot(spare, dice);
        h.hurt |= rotten.is_some();
        rotten
    }

    /// Whether the cluster survives that this disk is lost, too: E of every half keep theirs, in the newest
    /// configuration of whoever has one.
    fn may_lose(&self, host: usize) -> bool {
        let Some(id) = self.hosts[host].identity else { return false };
        let replicas = self.hosts.iter().filter_map(|h| Some(h.process.as_ref()?.machine.replica()));
        let configs: Vec<&Config> = replicas.filter_map(|r| r.config().map(|c| &**c)).collect();
        // All that some node holds to be in force, formed and final: a cluster in the middle of
        // something is left alone.
        let settled = self.hosts.iter().all(|h| h.process.is_some()) && !configs.is_empty();
        let newest = configs.iter().map(|c| c.version).max();
        settled
            && configs.iter().all(|c| c.formed && !c.is_joint() && Some(c.version) == newest)
            && configs.iter().all(|c| !c.is_voter(id) || self.can_be_led(&c.voters, &c.quorum(), Some(id)))
            && self.leader().is_some()
    }

    /// Whether enough disks of these voters, without one of them, are left to elect a leader: replacing the others
    /// needs one, and its copies.
    fn can_be_led(&self, voters: &[Member], quorum: &Quorum, without: Option<NodeId>) -> bool {
        let has_its_disk = |voter: NodeId| {
            Some(voter) != without
                && !self.lost.contains(&voter)
                && self.hosts.iter().any(|h| h.identity == Some(voter) && !h.hurt)
        };
        let left = voters.iter().filter(|v| has_its_disk(v.id)).count();
        left >= quorum.election().max(quorum.commit())
    }

    fn reconfigure(&mut self, fault: Fault, dice: &mut Dice) -> Result<bool, Violation> {
        let Some(leader) = self.leader() else { return Ok(false) };
        let Some(config) = self.machine(leader).and_then(|m| m.replica().config().cloned()) else { return Ok(false) };
        let mut change = config.unchanged();
        match fault {
            Fault::ChangeW => change.write_quorum = dice.within(1, config.voters.len() as u64) as usize,
            Fault::Remove => {
                let at = dice.below((change.voters.len() + change.learners.len()) as u64) as usize;
                if change.voters.len() < 2 {
                    return Ok(false);
                }
                match at.checked_sub(change.voters.len()) {
                    Some(learner) => drop(change.learners.remove(learner)),
                    None => {
                        let gone = change.voters.remove(at);
                        change.preferred = change.preferred.filter(|id| *id != gone.id);
                        change.write_quorum = change.write_quorum.min(change.voters.len());
                    }
                }
            }
            _ => {
                let Some(learner) = dice.pick(&(0..change.learners.len()).collect::<Vec<_>>()) else {
                    return Ok(false);
                };
                let learner = change.learners.remove(learner);
                change.voters.push(learner);
                if dice.chance(300) {
                    change.write_quorum = dice.within(1, change.voters.len() as u64) as usize;
                }
            }
        }
        // The product refuses what the nodes in contact could not undo; a disk that was lost a moment ago looks in
        // contact still. Whoever takes a disk away and the last healthy voter right after cannot be helped.
        let quorum = Quorum::new(change.voters.len(), change.write_quorum);
        if !quorum.is_ok_and(|quorum| self.can_be_led(&change.voters, &quorum, None)) {
            return Ok(false);
        }
        self.change(leader, change)?;
        Ok(true)
    }

    /// Asks the node of a host for another configuration.
    ///
    /// # Errors
    /// When what follows at once must never be.
    pub fn change(&mut self, host: usize, change: Change) -> Result<(), Violation> {
        if let Some(p) = &mut self.hosts[host].process {
            let answer = p.machine.change(change);
            p.waits.push(Wait::Change(answer));
        }
        self.pump(host, false)
    }

    pub(crate) fn heal(&mut self, number: u64) {
        match self.nemesis.undo.remove(&number) {
            Some(Undo::Links) => drop(self.cuts.remove(&number)),
            Some(Undo::Lag) => {
                self.cuts.remove(&number);
                self.lags.remove(&number);
            }
            Some(Undo::HeldBack) => {
                if let Some(held) = self.held_back.remove(&number) {
                    self.tempt(held.from);
                }
            }
            Some(Undo::Network(rate)) => self.bad -= rate,
            Some(Undo::Slow(host)) => self.hosts[host].slow = 1,
            Some(Undo::Full(host)) => self.hosts[host].disk.set_free(u64::MAX),
            None => {}
        }
    }

    /// The end of all faults: everything works, and everyone is there.
    pub(crate) fn calm(&mut self) {
        self.nemesis.quiet = true;
        for number in std::mem::take(&mut self.nemesis.undo).into_keys().collect::<Vec<_>>() {
            self.heal(number);
        }
        self.cuts.clear();
        self.lags.clear();
        self.held_back.clear();
        self.bad = 0;
        // Of the first nodes none may be left: whoever has an empty one to be taken in has to say where a member is.
        self.all_named = true;
        let everyone = 0..self.hosts.len();
        for (host, p) in self.hosts.iter_mut().enumerate().filter_map(|(i, h)| Some((i, h.process.as_mut()?))) {
            p.targets = everyone.clone().filter(|to| *to != host).collect();
        }
        (self.plan.loss, self.plan.duplicates, self.plan.snapshot_takes) = (0, 0, (0, 0));
        (self.plan.hiccups, self.plan.report) = (0, (0, 0));
        for host in 0..self.hosts.len() {
            let h = &mut self.hosts[host];
            (h.slow, h.stalled_until) = (1, 0);
            h.paused_until = h.paused_until.min(self.now);
            h.disk.set_free(u64::MAX);
            if h.process.is_none() {
                self.after(10_000, Event::Start(host));
            }
        }
    }

    /// Whether a node leads that all others follow, with the same log and state.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.missing().is_none()
    }

    /// What is missing for the cluster to be whole.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let Some((host, leader)) = self.leader().and_then(|l| Some((l, self.machine(l)?))) else {
            return Some("nobody leads".into());
        };
        let Some(config) = leader.replica().config().cloned() else { return Some("the leader is blank".into()) };
        let (commit, last) = (leader.replica().commit(), leader.replica().last());
        if !config.formed || config.is_joint() || !leader.replica().config_committed() {
            return Some(format!("h{host} leads in the middle of configuration {}", config.version));
        }
        if last.index != commit {
            return Some(format!("h{host} leads, its log ends at {last}, committed is {commit}"));
        }
        self.hosts.iter().find_map(|h| {
            let Some(p) = &h.process else { return Some(format!("{} does not run", h.name)) };
            let (r, applied) = (p.machine.replica(), p.machine.applied());
            if config.member(r.id()).is_none() {
                return Some(format!("{} is no member", h.name));
            }
            let behind = r.commit() != commit || applied != commit;
            behind.then(|| format!("{} knows of {}, applied is {applied}, committed {commit}", h.name, r.commit()))
        })
    }
}
