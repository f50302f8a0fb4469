//! The table of N and W by experiment: for every N up to 7 and every W, clusters of real replicas in memory lose one
//! node after the other until something no longer works. What is measured is the table in `docs/protocol.md`;
//! nothing here computes it.
//!
//! `UPDATE_GOLDENFILES=1` writes the table into the page anew.
#![allow(clippy::expect_used)]

mod host;

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

use host::{Host, member, node};
use quorum::{Config, NodeId, Quorum, Settings};

const VOTERS: usize = 7;

/// Time passes in steps of half a heartbeat.
const STEP_MS: u64 = 50;

/// Four of the longest election timeouts: whoever could be elected has been, and whoever must step down has.
const PATIENCE_MS: u64 = 4_000;

const FROM: &str = "<!-- measured by quorum/tests/table.rs -->\n";
const TO: &str = "<!-- end of what is measured -->";

/// Which nodes are stopped first when there is a choice.
#[derive(Clone, Copy)]
enum Order {
    LowestFirst,
    HighestFirst,
}

/// A cluster with a leader that has acknowledged a write.
struct Cluster {
    host: Host,
    leader: NodeId,
    n: usize,
}

impl Cluster {
    fn new(n: usize, w: usize) -> Cluster {
        let mut host = Host::new();
        let config = Config::first((1..=n as u64).map(member).collect(), w, None).expect("legal");
        host.add_formed(&config, &Settings::default());
        wait(&mut host, |host| host.leader().is_some());
        let leader = host.leader().expect("a whole cluster elects a leader");
        let mut cluster = Cluster { host, leader, n };
        assert!(cluster.acknowledges(), "a whole cluster acknowledges");
        cluster
    }

    fn stop_followers(&mut self, count: usize, order: Order) {
        let mut others: Vec<NodeId> = (1..=self.n as u64).map(node).filter(|id| *id != self.leader).collect();
        if let Order::HighestFirst = order {
            others.reverse();
        }
        others.truncate(count);
        for id in others {
            self.host.crash(id, 0);
        }
    }

    /// Whether a write handed to the leader is acknowledged.
    fn acknowledges(&mut self) -> bool {
        let before = self.host.oracle.acknowledgements;
        self.host.propose(self.leader, 1);
        wait(&mut self.host, |host| host.oracle.acknowledgements > before)
    }

    /// Whether a write handed to the leader commits. Only before the leader notices that too few are
    /// there: later it refuses it.
    fn commits(&mut self) -> bool {
        let (leader, before) = (self.leader, self.host.replica(self.leader).commit());
        self.host.propose(leader, 1);
        wait(&mut self.host, |host| host.replica(leader).commit() > before)
    }

    fn reads(&mut self) -> bool {
        let before = self.host.oracle.reads_served;
        self.host.read(self.leader);
        wait(&mut self.host, |host| host.oracle.reads_served > before)
    }
}

fn pass(host: &mut Host) {
    host.pass(STEP_MS);
    host.settle();
}

fn wait(host: &mut Host, until: impl Fn(&Host) -> bool) -> bool {
    host.settle();
    for _ in 0..PATIENCE_MS / STEP_MS {
        if until(host) {
            return true;
        }
        pass(host);
    }
    until(host)
}

/// The leader is up and `down` followers are not.
struct WithLeader {
    acknowledges: bool,
    commits_and_reads: bool,
}

fn with_leader(n: usize, w: usize, down: usize, order: Order) -> WithLeader {
    // A write just after the loss, when the leader still takes it …
    let mut early = Cluster::new(n, w);
    early.stop_followers(down, order);
    let commits = early.commits();
    // … and a write and a read long after it, when the leader has stepped down or stays for good.
    let mut late = Cluster::new(n, w);
    late.stop_followers(down, order);
    for _ in 0..PATIENCE_MS / STEP_MS {
        pass(&mut late.host);
    }
    let leads = late.host.leader() == Some(late.leader);
    let reads = late.reads();
    assert_eq!(
        (commits, reads),
        (leads, leads),
        "N={n} W={w}, {down} down: to commit, read and lead takes the same voters"
    );
    let at_once = {
        let mut early = Cluster::new(n, w);
        early.stop_followers(down, order);
        early.acknowledges()
    };
    let acknowledges = late.acknowledges();
    assert_eq!(at_once, acknowledges, "N={n} W={w}, {down} down: a write at once and a later one fare alike");
    WithLeader { acknowledges, commits_and_reads: leads }
}

/// The leader and `down - 1` others are stopped: whether another takes over, serves reads, and (if W are left) writes.
fn takes_over(n: usize, w: usize, down: usize, order: Order) -> bool {
    let mut cluster = Cluster::new(n, w);
    let old = cluster.leader;
    cluster.stop_followers(down - 1, order);
    cluster.host.crash(old, 0);
    if !wait(&mut cluster.host, |host| host.leader().is_some()) {
        return false;
    }
    cluster.leader = cluster.host.leader().expect("just seen");
    assert!(cluster.reads(), "N={n} W={w}, {down} down: who takes over serves reads");
    assert_eq!(cluster.acknowledges(), n - down >= w, "N={n} W={w}, {down} down: who takes over writes with W nodes");
    true
}

/// The highest count of nodes down with which it still works; panics if it works again with more.
fn survived(most: usize, works: impl Fn(usize) -> bool) -> usize {
    let outcomes: Vec<bool> = (0..=most).map(works).collect();
    let count = outcomes.iter().take_while(|works| **works).count();
    assert!(count > 0 && outcomes[count..].iter().all(|works| !works), "more down, and it works again: {outcomes:?}");
    count - 1
}

fn row(n: usize, w: usize) -> String {
    let [low, high] = [Order::LowestFirst, Order::HighestFirst].map(|order| {
        let writes = survived(n - 1, |down| with_leader(n, w, down, order).acknowledges);
        let reads = survived(n - 1, |down| with_leader(n, w, down, order).commits_and_reads);
        let takeover = survived(n, |down| down == 0 || takes_over(n, w, down, order));
        (writes, reads, takeover)
    });
    assert_eq!(low, high, "N={n} W={w}: it does not matter which nodes are down");
    let (writes, reads, takeover) = low;
    let quorum = Quorum::new(n, w).expect("legal");
    let (e, c) = (quorum.election(), quorum.commit());
    assert_eq!((writes, reads, takeover), (n - w, n - c, n - e), "N={n} W={w}: as the arithmetic has it");
    assert_eq!(
        (writes, takeover),
        (quorum.writes_survive(), quorum.failover_survives()),
        "N={n} W={w}: as users are told"
    );
    format!("| {n} | {w} | {e} | {c} | {writes} | {reads} | {takeover} |")
}

#[test]
fn the_table_of_n_and_w_is_what_clusters_survive() {
    let mut table = String::from("| N | W | E | C | writes | reads | takeover |\n|---|---|---|---|---|---|---|\n");
    for (n, w) in (1..=VOTERS).flat_map(|n| (1..=n).map(move |w| (n, w))) {
        writeln!(table, "{}", row(n, w)).expect("into memory");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let page = fs::read_to_string(&path).expect("the page of the protocol");
    let (before, rest) = page.split_once(FROM).expect("where the table begins");
    let (written, after) = rest.split_once(TO).expect("where the table ends");
    if env::var_os("UPDATE_GOLDENFILES").is_some() {
        fs::write(&path, format!("{before}{FROM}\n{table}\n{TO}{after}")).expect("write the page");
        return;
    }
    assert_eq!(
        written.trim(),
        table.trim(),
        "docs/protocol.md tells users something else (UPDATE_GOLDENFILES=1 writes it anew)"
    );
}
