//! A deterministic simulator of whole clusters.
//!
//! The nodes are the product's own: protocol core, driver, log, recovery, state machine, snapshots, forming and
//! joining. Around each is a simulated disk, network and clock, and all of it happens in one thread, in an order that
//! follows from a seed alone. First a *safety phase*, in which things go wrong; then a *liveness phase*: faults end,
//! and within a bound the cluster must be whole, take writes, and agree.
//!
//! - [`run`] runs a [`Plan`]; [`Plan::draw`] makes one of a seed. `sim run --seeds 1000`, `sim trace SEED`, `sim shrink
//!   SEED` are the command line.
//! - [`invariants`] holds what is checked after every turn, one file each; [`truth`] what they are checked against.
//! - A trace has one line an event: true time, host, role and term (`L3`: leads term 3; `f`: follows; `C`: campaigns),
//!   what. Reproducing a failure needs the seed and the commit, nothing else.
#![allow(clippy::missing_panics_doc)]

#[cfg(feature = "bugs")]
pub mod bugs;
pub mod clients;
pub mod cluster;
pub mod host;
pub mod invariants;
pub mod nemesis;
pub mod plan;
pub mod script;
pub mod show;
pub mod shrink;
pub mod trace;
pub mod truth;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use quorate::kv::{Command, Condition, Value};
use quorate::metrics::Metrics;

use clients::{Tally, Want};
use cluster::Cluster;
pub use plan::{Fault, Plan, Strike};
pub use quorate::dice;
pub use script::Script;
pub use truth::Violation;

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What must never be, and was.
    pub violation: Option<Violation>,
    /// One line an event, if asked for.
    pub trace: Vec<String>,
    /// Events that happened.
    pub events: u64,
    /// Faults by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// The faults one by one, those included that found nothing to hurt.
    pub struck: Vec<Strike>,
    /// When it ended, in microseconds.
    pub ended: u64,
    /// What clients were told.
    pub tally: Tally,
    /// Simulated seconds times nodes.
    pub node_seconds: u64,
    /// Leaders seen.
    pub reigns: u64,
    /// Snapshots sent.
    pub snapshots: u64,
    /// A hash of the committed history: equal for equal runs.
    pub digest: u64,
}

thread_local! {
    /// Every run of a thread shares them: nobody looks at them, and making them takes as long as simulating a second.
    static METRICS: Arc<Metrics> = Arc::new(Metrics::new().unwrap_or_else(|e| panic!("the metrics contradict each other: {e}")));
}

/// Runs a plan with the chance of a seed. With `traced` the trace is kept.
#[must_use]
pub fn run(seed: u64, plan: Plan, traced: bool) -> Outcome {
    let metrics = METRICS.with(Arc::clone);
    let mut cluster = Cluster::new(seed, plan, metrics, traced);
    // The product's own assertions are invariants, too.
    let result = catch_unwind(AssertUnwindSafe(|| live(&mut cluster)));
    let violation = match result {
        Ok(result) => result.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Some(Violation { invariant: "assertion", what: text.unwrap_or_else(|| "a panic without words".into()) })
        }
    };
    let digest = cluster.chronicle().map_or(0, |c| {
        c.committed.iter().fold(c.last(), |h, e| (h ^ e.state ^ e.term).wrapping_mul(0x0000_0100_0000_01b3))
    });
    Outcome {
        violation,
        events: cluster.trace.events,
        faults: std::mem::take(&mut cluster.nemesis.faults),
        struck: std::mem::take(&mut cluster.nemesis.struck),
        ended: cluster.now,
        tally: cluster.clients.tally,
        node_seconds: cluster.now / 1_000_000 * cluster.hosts.len() as u64,
        reigns: cluster.nemesis.reigns,
        snapshots: cluster.nemesis.snapshots,
        digest,
        trace: std::mem::take(&mut cluster.trace).lines(),
    }
}

fn live(cluster: &mut Cluster) -> Result<(), Violation> {
    // Forming and the first writes are part of the safety phase; the nemesis waits a moment now and then.
    cluster.rouse_nemesis();
    cluster.run_until(cluster.plan.safety)?;
    cluster.calm();
    let deadline = cluster.now + cluster.plan.recovery;
    // Clients go on for a moment, so that what is to be whole is alive.
    cluster.run_until(cluster.now + 1_000_000)?;
    cluster.clients.quiet = true;
    while let Some(missing) = cluster.missing() {
        if cluster.now >= deadline {
            let after = cluster.plan.recovery / 1_000_000;
            let what = format!("the cluster is not whole {after} s after the last fault: {missing}");
            return Violation::of("liveness", what);
        }
        cluster.run_until(cluster.now + 200_000)?;
    }
    let before = cluster.clients.tally.written;
    // A write through every node; one that hits a change of leadership is repeated.
    let mut wanted = cluster.hosts.len() as u64;
    while cluster.clients.tally.written < before + wanted || !cluster.is_whole() {
        if cluster.now >= deadline {
            return Violation::of("liveness", "the cluster is whole and takes no writes");
        }
        if cluster.clients.tally.written < before + wanted {
            for host in 0..cluster.hosts.len() {
                let key = Bytes::from(format!("last{host}"));
                let value = Value::bytes(Bytes::from(cluster.now.to_string()));
                let put = Command::Put { key, value, condition: Condition::None };
                cluster.ask(usize::MAX, host, Want::Write(put, None))?;
            }
            wanted = wanted.min(cluster.hosts.len() as u64);
        }
        cluster.run_until(cluster.now + 500_000)?;
    }
    cluster.last_words()
}

impl Cluster {
    /// What clients saw is judged once more by who knows nothing of nodes: it must be what one linearizable
    /// store could have answered.
    fn judge(&mut self) -> Result<(), Violation> {
        self.clients.end_history();
        let mut history = std::mem::take(&mut self.clients.history);
        if let Some(chronicle) = self.chronicle() {
            let held = |key: &str| chronicle.value(key.as_bytes());
            let held = |key: &str| held(key).map(|s| (String::from_utf8_lossy(&s.value).into_owned(), s.revision));
            history.ends_with(held);
        }
        match history.check() {
            // Very many unknown outcomes can make the search too long; the other invariants have seen the run.
            Err(v) if v.kind != quorate_history::Kind::Undecided => Violation::of("linearizability", v.to_string()),
            _ => Ok(()),
        }
    }

    /// At the end all nodes agree, and everything that was ever acknowledged is there.
    ///
    /// # Errors
    /// When they do not, or it is not.
    pub fn last_words(&mut self) -> Result<(), Violation> {
        for host in 0..self.hosts.len() {
            self.compare_now(host)?;
        }
        self.judge()?;
        let Some(chronicle) = self.chronicle() else { return Ok(()) };
        for (index, command) in &chronicle.acknowledged {
            if chronicle.at(*index).map(|c| &c.payload) != Some(command) {
                return Violation::of("durability", format!("the write acknowledged at {index} is lost"));
            }
        }
        Ok(())
    }
}
