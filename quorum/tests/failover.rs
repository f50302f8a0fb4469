//! How long a cluster is without a leader when the leader dies, as a distribution over thousands of deaths in simulated
//! time: default timeouts, messages and syncs that take time, ticks that are not in step. What is measured ends when a
//! successor has committed an entry of its own.
#![allow(clippy::expect_used)]

mod host;

use std::collections::BTreeMap;
use std::env;

use host::random::Rng;
use host::{Host, Packet, member, node};
use quorum::{Config, NodeId, Settings};

/// Between two ticks of a node, as the driver has it, in microseconds.
const TICK: u64 = 10_000;

/// A cluster that has no leader after so long never will have one.
const PATIENCE: u64 = 60_000_000;

/// What a kind of machines and links takes, in microseconds from and to.
#[derive(Clone, Copy)]
struct Pace {
    name: &'static str,
    delay: (u64, u64),
    sync: (u64, u64),
}

/// Servers in a room.
const QUICK: Pace = Pace { name: "quick", delay: (100, 500), sync: (500, 3_000) };
/// Disks of laptops.
const SLOW_DISKS: Pace = Pace { name: "slow disks", delay: (100, 500), sync: (5_000, 30_000) };
/// Disks of which others want more than they can do.
const VERY_SLOW_DISKS: Pace = Pace { name: "very slow disks", delay: (100, 1_000), sync: (30_000, 150_000) };
/// From town to town.
const LONG_LINKS: Pace = Pace { name: "long links", delay: (15_000, 25_000), sync: (500, 3_000) };
/// Every process waits for its turn: what tests on a loaded machine see.
const BUSY: Pace = Pace { name: "busy machines", delay: (100, 120_000), sync: (1_000, 120_000) };

/// Failovers of one cluster, one after the other.
const IN_A_ROW: u64 = 20;

enum Event {
    Arrives(Packet),
    Synced(NodeId, u64, usize),
    Ticks(NodeId),
}

/// A cluster in which things take time.
struct Timed {
    host: Host,
    rng: Rng,
    pace: Pace,
    /// By time and number.
    events: BTreeMap<(u64, u64), Event>,
    number: u64,
    /// When the last message of a link arrives: links keep the order.
    links: BTreeMap<(NodeId, NodeId), u64>,
    syncing: BTreeMap<NodeId, u64>,
}

impl Timed {
    fn new(n: u64, w: usize, pace: Pace, seed: u64) -> Timed {
        let mut host = Host::new();
        let config = Config::first((1..=n).map(member).collect(), w, None).expect("legal");
        host.add_formed(&config, &Settings { seed, ..Settings::default() });
        let (events, links, syncing) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut timed = Timed { host, rng: Rng(seed), pace, events, number: 0, links, syncing };
        for id in (1..=n).map(node) {
            timed.begins_to_tick(id);
        }
        timed
    }

    fn at(&mut self, time: u64, event: Event) {
        self.number += 1;
        self.events.insert((time, self.number), event);
    }

    fn begins_to_tick(&mut self, id: NodeId) {
        let first = self.host.now + self.rng.below(TICK);
        self.at(first, Event::Ticks(id));
    }

    fn takes(&mut self, (from, to): (u64, u64)) -> u64 {
        from + self.rng.below(to - from + 1)
    }

    /// The next event, and what follows from it.
    fn turn(&mut self) {
        let ((now, _), event) = self.events.pop_first().expect("nodes tick for ever");
        self.host.now = now;
        match event {
            Event::Arrives(packet) => self.host.arrive(packet),
            Event::Synced(id, epoch, count) => {
                if self.host.nodes[&id].epoch == epoch && self.host.nodes[&id].up() {
                    self.syncing.remove(&id);
                    self.host.persist(id, count);
                }
            }
            Event::Ticks(id) => {
                self.host.tick(id);
                // A tick is asked for again once it is done, so they are never in step for long.
                let next = now + TICK + self.rng.below(1_000);
                self.at(next, Event::Ticks(id));
            }
        }
        for packet in std::mem::take(&mut self.host.net) {
            let link = (packet.from, packet.to);
            let arrives = (now + self.takes(self.pace.delay)).max(self.links.get(&link).copied().unwrap_or(0));
            self.links.insert(link, arrives);
            self.at(arrives, Event::Arrives(packet));
        }
        let idle = |id: &NodeId, syncing: &BTreeMap<NodeId, u64>| !syncing.contains_key(id);
        let busy: Vec<(NodeId, u64, usize)> = (self.host.nodes.values())
            .filter(|n| n.up() && !n.queue.is_empty() && idle(&n.id, &self.syncing))
            .map(|n| (n.id, n.epoch, n.queue.len()))
            .collect();
        for (id, epoch, count) in busy {
            self.syncing.insert(id, epoch);
            let done = now + self.takes(self.pace.sync);
            self.at(done, Event::Synced(id, epoch, count));
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&Host) -> bool) {
        let begun = self.host.now;
        while !done(&self.host) {
            self.turn();
            assert!(self.host.now - begun < PATIENCE, "{what} does not come about");
        }
    }

    fn passes(&mut self, micros: u64) {
        let until = self.host.now + micros;
        while self.host.now < until {
            self.turn();
        }
    }

    /// Kills the leader when all is well: how long nobody leads, and the terms it took.
    fn failover(&mut self) -> (u64, u64) {
        self.until("an even cluster", even);
        let wait = self.rng.below(200_000);
        self.passes(wait);
        self.until("an even cluster", even);
        let old = self.host.leader().expect("even");
        let term = self.host.replica(old).term().0;
        let killed = self.host.now;
        self.host.crash(old, 0);
        self.syncing.remove(&old);
        self.until("a successor", serves);
        let took = self.host.now - killed;
        let new = self.host.leader().expect("serves");
        let terms = self.host.replica(new).term().0 - term;
        self.host.restart(old);
        (took, terms)
    }
}

/// Whether somebody leads and has committed an entry of its reign.
fn serves(host: &Host) -> bool {
    host.leader().is_some_and(|id| {
        let r = host.replica(id);
        r.term_at(r.commit()) == Some(r.term())
    })
}

/// Whether somebody leads, and all have what it has.
fn even(host: &Host) -> bool {
    let Some(leader) = host.leader().filter(|_| serves(host)) else { return false };
    let last = host.replica(leader).last().index;
    host.nodes.values().all(|n| n.up() && host.replica(n.id).durable() == last && host.replica(n.id).commit() == last)
}

#[derive(Debug)]
struct Distribution {
    p50: u64,
    p99: u64,
    max: u64,
    /// Failovers in which a second term had to be entered.
    again: u64,
}

fn measure(n: u64, w: usize, pace: Pace, count: u64) -> Distribution {
    let (mut times, mut terms) = (Vec::new(), BTreeMap::<u64, u64>::new());
    for seed in 0..count.div_ceil(IN_A_ROW) {
        let mut timed = Timed::new(n, w, pace, seed);
        for _ in 0..IN_A_ROW {
            let (took, rounds) = timed.failover();
            times.push(took / 1_000);
            *terms.entry(rounds).or_default() += 1;
        }
    }
    times.sort_unstable();
    let at = |thousandths: usize| times[(times.len() * thousandths / 1_000).min(times.len() - 1)];
    let again = terms.iter().filter(|(rounds, _)| **rounds > 1).map(|(_, count)| count).sum();
    let d = Distribution { p50: at(500), p99: at(990), max: at(1_000), again };
    println!(
        "N={n} W={w} {:16} p50 {:4} ms, p99 {:4} ms, max {:5} ms, terms {terms:?}",
        pace.name, d.p50, d.p99, d.max
    );
    d
}

/// The shortest patience of any follower is drawn from 500 to 1,000 ms, and the votes, their syncs and the first entry
/// take a few milliseconds.
#[test]
fn a_dead_leader_is_replaced_within_one_timeout_and_a_tenth() {
    for (n, w) in [(3, 2), (6, 4)] {
        let d = measure(n, w, QUICK, 1_000);
        assert!(d.p50 <= 700 && d.p99 <= 1_000 && d.max <= 1_100 && d.again == 0, "N={n} W={w}: {d:?}");
    }
}

/// Before, two candidates in three failovers of ten got in each other's way when messages took as long as this, and
/// up to eleven terms passed.
#[test]
fn candidates_do_not_split_the_votes_when_messages_take_long() {
    for (n, w) in [(3, 2), (5, 2), (5, 3)] {
        let d = measure(n, w, BUSY, 300);
        assert!(d.p99 <= 2_000 && d.again <= 3, "N={n} W={w}: {d:?}");
    }
}

/// Everything, for a person to look at: `QUORUM_FAILOVERS=1000 cargo test -p quorum --test
/// failover table -- --nocapture`.
#[test]
fn table_of_failovers() {
    let count = env::var("QUORUM_FAILOVERS").ok().and_then(|s| s.parse().ok()).unwrap_or(IN_A_ROW);
    for (n, w) in [(3, 2), (3, 3), (4, 2), (5, 2), (5, 3), (6, 4), (7, 4)] {
        for pace in [QUICK, SLOW_DISKS, VERY_SLOW_DISKS, LONG_LINKS, BUSY] {
            let d = measure(n, w, pace, count);
            assert!(d.p50 <= 2_000, "N={n} W={w} {}: {d:?}", pace.name);
        }
    }
}
