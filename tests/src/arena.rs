//! A cluster that is hurt on purpose: processes, the links between them, chance with a seed, and a
//! timeline of what was done.
//!
//! Owns the faults by name, how each is undone, and what is left behind for whoever reads a failure: the seed, the
//! timeline and the nodes' logs. What clients saw is the business of the [`crate::load`] that runs meanwhile.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use quorate_history::generate::Dice;
use tokio::time::sleep;

use crate::cluster::{Cluster, Setup};
use crate::links::{ADVERTISED, Links, Rule};
use crate::load::Load;
use crate::process::Node;
use crate::tracer::{Tracer, Trouble};
use crate::workload::{self, Workload};

/// Attempts to find ports that are free before the nodes and before the relays.
const STARTS_MAX: usize = 3;

/// How long a fault lasts, in milliseconds: from shorter than any election timeout to beyond the longest.
const LASTS_MS: RangeInclusive<u64> = 200..=2_500;

/// Acknowledged writes that show that a cluster is well again.
const AFTERWARDS: u64 = 30;

/// A link as slow as an old modem line: enough for heartbeats, not for much else.
const SLOW: Rule =
    Rule { silent: false, delay: Duration::from_millis(80), bytes_per_second: 64 << 10, loss_percent: 0 };

/// A link that loses one packet in ten.
const LOSSY: Rule = Rule { silent: false, delay: Duration::from_millis(2), bytes_per_second: 0, loss_percent: 10 };

/// A sync on a disk that is about to die: slower than a heartbeat, faster than an election.
const SLOW_SYNC: Duration = Duration::from_millis(150);

/// What can be done to a cluster, all of it undone after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of the leader, started again later.
    KillLeader,
    /// SIGKILL of a follower.
    KillFollower,
    /// SIGKILL of all at once.
    KillAll,
    /// SIGTERM of one after the other, each started again and ready before the next.
    RollingRestart,
    /// SIGSTOP of the leader, SIGCONT later.
    PauseLeader,
    /// SIGSTOP of a follower.
    PauseFollower,
    /// The leader and everybody else do not hear each other.
    IsolateLeader,
    /// A follower and everybody else do not hear each other.
    IsolateFollower,
    /// Nobody hears the leader, which hears everybody.
    MuteLeader,
    /// The leader hears nobody, everybody hears it.
    DeafenLeader,
    /// Nobody hears a follower.
    MuteFollower,
    /// A follower hears nobody.
    DeafenFollower,
    /// Two nodes do not hear each other, everybody else hears both.
    CutOneLink,
    /// Every link is slow.
    SlowLinks,
    /// Every link loses packets.
    LossyLinks,
    /// All connections of a node are reset.
    ResetConnections,
    /// The leader's disk takes long to sync.
    SlowLeaderDisk,
    /// A follower's disk takes long to sync.
    SlowFollowerDisk,
}

impl Fault {
    /// Everything that ends, pauses or restarts processes.
    pub const PROCESSES: [Fault; 6] = [
        Fault::KillLeader,
        Fault::KillFollower,
        Fault::KillAll,
        Fault::RollingRestart,
        Fault::PauseLeader,
        Fault::PauseFollower,
    ];
    /// Everything about links.
    pub const NETWORK: [Fault; 10] = [
        Fault::IsolateLeader,
        Fault::IsolateFollower,
        Fault::MuteLeader,
        Fault::DeafenLeader,
        Fault::MuteFollower,
        Fault::DeafenFollower,
        Fault::CutOneLink,
        Fault::SlowLinks,
        Fault::LossyLinks,
        Fault::ResetConnections,
    ];
    /// Everything about disks.
    pub const DISKS: [Fault; 2] = [Fault::SlowLeaderDisk, Fault::SlowFollowerDisk];
}

/// A cluster behind relays. On a failed test it tells what it did, and keeps the logs.
#[derive(Debug)]
pub struct Arena {
    /// The links between its nodes.
    pub links: Links,
    /// Its chance.
    pub dice: Dice,
    /// Its processes.
    pub cluster: Cluster,
    name: &'static str,
    seed: u64,
    begun: Instant,
    timeline: Vec<String>,
}

impl Arena {
    /// A cluster whose peer connections all pass relays, ready for writes.
    ///
    /// # Panics
    /// If it does not come up.
    pub async fn start(name: &'static str, setup: Setup) -> Arena {
        let seed = seed();
        println!("{name}: QUORATE_SEED={seed}");
        let setup = setup.own_elections().flag("--address", ADVERTISED).flag("--bind", "127.0.0.1");
        for attempt in 1.. {
            let mut cluster = setup.clone().prepare().await;
            let port = |node: &Node| node.peer.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
            let nodes: Vec<(String, u16)> = cluster.nodes.iter().map(|n| (n.name.clone(), port(n))).collect();
            let trouble = match Links::open(&nodes, seed).await {
                Ok(links) => {
                    cluster.start_all();
                    match cluster.opened().await {
                        Ok(()) => {
                            cluster.all_ready().await;
                            let (dice, begun) = (Dice::new(seed), Instant::now());
                            return Arena { links, dice, cluster, name, seed, begun, timeline: Vec::new() };
                        }
                        Err(node) => cluster.nodes[node].log_tail(),
                    }
                }
                Err(error) => error.to_string(),
            };
            assert!(attempt < STARTS_MAX, "{name} does not come up: {trouble}");
        }
        unreachable!("the last attempt returned or failed")
    }

    /// Writes down what is done, for the timeline and for the nodes' logs.
    pub fn note(&mut self, text: impl fmt::Display) {
        let text = format!("{:8.3} s  {text}", self.begun.elapsed().as_secs_f64());
        self.cluster.nodes.iter().for_each(|node| node.note(&text));
        self.timeline.push(text);
    }

    /// What the nodes logged since this was noted.
    #[must_use]
    pub fn logged_since(&self, noted: &str) -> String {
        let of = |node: &Node| {
            let log = node.log();
            let since = log.rfind(noted).unwrap_or(0);
            format!("==== {} ====\n{}\n", node.name, &log[since..])
        };
        self.cluster.nodes.iter().map(of).collect()
    }

    /// Lets one of these faults happen, for a while drawn by chance, and undoes it.
    pub async fn suffer_one_of(&mut self, faults: &[Fault]) {
        let fault = faults[self.dice.below(faults.len() as u64) as usize];
        self.suffer(fault).await;
    }

    /// Lets a fault happen, for a while drawn by chance, and undoes it.
    pub async fn suffer(&mut self, fault: Fault) {
        let span = LASTS_MS.end() - LASTS_MS.start();
        let lasts = Duration::from_millis(LASTS_MS.start() + self.dice.below(span + 1));
        let leader = self.cluster.leader_number().await;
        let nodes = self.cluster.nodes.len();
        let follower = (leader + 1 + self.dice.below(nodes as u64 - 1) as usize) % nodes;
        let (at, whom) = (lasts.as_millis(), |n: usize| format!("node{}", n + 1));
        self.note(format_args!("{fault:?} for {at} ms; {} leads, follower {}", whom(leader), whom(follower)));
        match fault {
            Fault::KillLeader => self.kill(&[leader], lasts).await,
            Fault::KillFollower => self.kill(&[follower], lasts).await,
            Fault::KillAll => self.kill(&(0..nodes).collect::<Vec<_>>(), lasts / 4).await,
            Fault::RollingRestart => self.roll().await,
            Fault::PauseLeader => self.pause(leader, lasts).await,
            Fault::PauseFollower => self.pause(follower, lasts).await,
            Fault::SlowLeaderDisk => self.slow_disk(leader, lasts).await,
            Fault::SlowFollowerDisk => self.slow_disk(follower, lasts).await,
            _ => {
                self.hurt_links(fault, leader, follower);
                sleep(lasts).await;
                self.links.heal();
            }
        }
        self.note("healed");
    }

    fn hurt_links(&self, fault: Fault, leader: usize, follower: usize) {
        match fault {
            Fault::IsolateLeader => self.links.isolate(leader),
            Fault::IsolateFollower => self.links.isolate(follower),
            Fault::MuteLeader => self.links.mute(leader),
            Fault::DeafenLeader => self.links.deafen(leader),
            Fault::MuteFollower => self.links.mute(follower),
            Fault::DeafenFollower => self.links.deafen(follower),
            Fault::CutOneLink => self.links.set_between(&[leader], &[follower], Rule::SILENT),
            Fault::SlowLinks => self.links.set_all(SLOW),
            Fault::LossyLinks => self.links.set_all(LOSSY),
            Fault::ResetConnections => self.links.reset(follower),
            other => unreachable!("{other:?} is not about links"),
        }
    }

    async fn kill(&mut self, whom: &[usize], lasts: Duration) {
        whom.iter().for_each(|n| self.cluster.nodes[*n].kill());
        sleep(lasts).await;
        whom.iter().for_each(|n| self.cluster.nodes[*n].start());
    }

    async fn roll(&mut self) {
        for n in 0..self.cluster.nodes.len() {
            self.cluster.nodes[n].stop().await;
            self.cluster.nodes[n].start();
            self.cluster.all_ready().await;
            self.note(format_args!("node{} was restarted", n + 1));
        }
    }

    async fn pause(&mut self, whom: usize, lasts: Duration) {
        self.cluster.nodes[whom].pause();
        sleep(lasts).await;
        self.cluster.nodes[whom].resume();
    }

    async fn slow_disk(&mut self, whom: usize, lasts: Duration) {
        let tracer = Tracer::attach(&self.cluster.nodes[whom], Trouble::SlowSync(SLOW_SYNC)).await;
        sleep(lasts).await;
        drop(tracer);
    }

    /// Ends all faults and waits until every node is a ready voter.
    pub async fn calm(&mut self) {
        self.links.heal();
        self.cluster.start_all();
        self.cluster.all_ready().await;
        self.note("calm");
    }

    /// Clients that write down what they see, on a few keys that all of them share: half of them over HTTP, the others
    /// over the Redis protocol.
    #[must_use]
    pub fn clients(&self) -> Workload {
        let settings =
            workload::Settings { http_clients: 4, redis_clients: 4, seed: self.seed, ..workload::Settings::default() };
        Workload::start(&self.cluster.targets(), &settings)
    }

    /// Ends all faults and all clients, and judges: the copies are the same, no acknowledged write is lost, no
    /// linearizable read was stale.
    ///
    /// # Panics
    /// If that is not so, with the operations concerned; the whole history is kept beside the nodes' logs.
    pub async fn judge(&mut self, clients: Workload, load: Load) {
        self.calm().await;
        load.more(AFTERWARDS).await;
        let (record, mut history) = (load.stop().await, clients.stop().await);
        let contents = self.cluster.converged().await;
        println!("{}: {}; {} operations judged", self.name, record.summary(), history.operations.len());
        record.verify(&contents);
        workload::add_end(&mut history, &contents);
        if let Err(violation) = history.check() {
            let file = self.folder().join("history.jsonl");
            let written = std::fs::create_dir_all(self.folder())
                .and_then(|()| std::fs::File::create(&file))
                .and_then(|out| history.write_to(std::io::BufWriter::new(out)));
            panic!("{violation}\nthe history: {} {written:?}", file.display());
        }
    }

    /// Where a failed test leaves what it has: `target/faults-failed`.
    fn folder(&self) -> PathBuf {
        // target/debug/deps/faults-…: three folders up is target.
        let own = std::env::current_exe().unwrap_or_default();
        let target = own.ancestors().nth(3).map_or_else(std::env::temp_dir, PathBuf::from);
        target.join("faults-failed").join(format!("{}-{}", self.name, std::process::id()))
    }

    fn keep(&self) {
        eprintln!("==== {}: QUORATE_SEED={} ====\n{}", self.name, self.seed, self.timeline.join("\n"));
        let folder = self.folder();
        let kept = std::fs::create_dir_all(&folder).and_then(|()| {
            std::fs::write(folder.join("timeline"), self.timeline.join("\n"))?;
            self.cluster.nodes.iter().try_for_each(|node| {
                std::fs::copy(node.log_file(), folder.join(format!("{}.log", node.name))).map(|_| ())
            })
        });
        eprintln!("the nodes' logs: {} {}", folder.display(), kept.err().map(|e| e.to_string()).unwrap_or_default());
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep();
        }
    }
}

/// A seed: `QUORATE_SEED` if given, or one from the clock and the process.
fn seed() -> u64 {
    match std::env::var("QUORATE_SEED").ok().filter(|text| !text.is_empty()) {
        Some(text) => text.parse().expect("QUORATE_SEED is a number"),
        None => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            (now.as_nanos() as u64 ^ u64::from(std::process::id()) << 40) % 1_000_000_007
        }
    }
}

/// How much of a test is done: a little in CI, much at night (`QUORATE_NIGHTLY=1`).
#[must_use]
pub fn amount(usual: usize, nightly: usize) -> usize {
    if std::env::var_os("QUORATE_NIGHTLY").is_some_and(|v| !v.is_empty() && v != "0") { nightly } else { usual }
}
