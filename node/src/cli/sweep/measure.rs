//! One round: what writes cost at one W, with so many nodes down.
//!
//! Three loads, one after another: a warm-up that is not shown, waves at a fixed rate whose latencies count
//! from when a write was due, and a closed loop for the throughput. After the waves: how long until every
//! copy shows the last of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use quorum::Quorum;
use serde::Serialize;
use tokio::time::Instant;

use super::super::bench::load::{self, Client as LoadClient, Reads, Tally, Until};
use super::super::bench::wire::Protocol;
use super::super::bench::{Latency, address, connect, phase};
use super::super::client::{Ask, AskError, Client};
use super::super::output::Failure;
use super::cluster::Cluster;

/// How long the slowest copy may take to show the last write.
const CONVERGE_MAX: Duration = Duration::from_secs(60);
/// A key of the load: asked for when only the revision matters.
const SOME_KEY: &str = "/v1/kv/bench-0000000000?consistency=local";
/// Codes by which a write certainly had no effect. Whatever else goes wrong leaves its outcome open.
const REFUSALS: [&str; 8] =
    ["no_leader", "no_quorum", "overloaded", "forming", "stopping", "no_space", "not_leader", "connection refused"];
/// Of a distribution the steps of a hundredth, and these beyond.
const TAIL: [f64; 3] = [0.995, 0.999, 1.0];

/// What every round sends.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) clients: usize,
    pub(super) writes: u64,
    pub(super) keys: u64,
    pub(super) value_bytes: usize,
    pub(super) rate: f64,
    pub(super) timeout: Duration,
}

/// What became of all writes so far, warm-up included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    pub(super) acknowledged: u64,
    pub(super) unknown: u64,
}

impl Ledger {
    fn note(&mut self, tally: &Tally) {
        self.acknowledged += tally.done();
        self.unknown += unknown(tally);
    }
}

/// Copies that held a write when it was acknowledged.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Copies {
    pub(super) min: u32,
    pub(super) mean: f64,
    pub(super) max: u32,
}

/// A point of a distribution.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Point {
    /// This share of the writes …
    pub(super) share: f64,
    /// … took at most so long.
    pub(super) ms: f64,
}

/// The figures of one round. What there are no figures for, because no write succeeded, is absent.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Round {
    pub(super) write_quorum: usize,
    pub(super) nodes_down: usize,
    /// Nodes that may fail besides until acknowledged writes stop; absent where they have stopped already.
    pub(super) writes_survive: Option<usize>,
    /// Nodes that may fail besides, the leader first, and a new one is elected; absent where none could be even now.
    pub(super) failover_survives: Option<usize>,
    pub(super) writes: u64,
    pub(super) succeeded: u64,
    /// Writes whose outcome nobody knows.
    pub(super) unknown: u64,
    pub(super) success_rate: f64,
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) latency: Option<Latency>,
    pub(super) distribution: Vec<Point>,
    pub(super) throughput: Option<f64>,
    pub(super) copies: Option<Copies>,
    /// From the last acknowledgement until every node that is up showed everything.
    pub(super) converged_ms: Option<f64>,
}

/// Sends what a round sends, and shows nothing of it: the first round would otherwise pay for files, connections and
/// memory that every later one finds there.
pub(super) async fn warm_up(cluster: &Cluster, load: &Load, ledger: &mut Ledger) -> Result<(), Failure> {
    let leader = cluster.leader().await?;
    let (n, w) = (leader.config.replicas, leader.config.write_quorum);
    round(cluster, load, (n, w, 0), "warming up", ledger).await.map(drop)
}

/// Measures a round of `(N, W, nodes down)`.
pub(super) async fn round(
    cluster: &Cluster,
    load: &Load,
    (n, w, down): (usize, usize, usize),
    label: &str,
    ledger: &mut Ledger,
) -> Result<Round, Failure> {
    let leader = cluster.leader().await?;
    let live: Vec<Client> = cluster.live().await?.iter().map(|url| cluster.client.at(url)).collect();
    let at = address(&leader.node.http, Protocol::Http).map_err(Failure::Error)?;
    let (closed, paced) = (Arc::new(load.on(&at, None)), Arc::new(load.on(&at, Some(load.rate))));

    let warm_up = Until::Requests(load.clients as u64);
    let (_, tally) = run(&closed, warm_up, &format!("{label}, connecting"), ledger).await?;
    show(&live, tally.revision).await?;

    let (_, waves) = run(&paced, Until::Requests(load.writes), label, ledger).await?;
    let began = Instant::now();
    let converged = show(&live, waves.revision).await?.map(|at| at.saturating_duration_since(began));

    let mut throughput = None;
    if waves.done() > 0 {
        let (elapsed, tally) =
            run(&closed, Until::Requests(load.writes), &format!("{label}, closed loop"), ledger).await?;
        throughput = Some((tally.done() as f64 / elapsed.as_secs_f64()).round());
        show(&live, tally.revision).await?;
    }
    let quorum = Quorum::new(n, w).map_err(|e| Failure::Error(e.to_string()))?;
    let up = n - down;
    Ok(Round {
        write_quorum: w,
        nodes_down: down,
        writes_survive: up.checked_sub(w),
        failover_survives: up.checked_sub(quorum.election()),
        writes: load.writes,
        succeeded: waves.done(),
        unknown: unknown(&waves),
        success_rate: waves.done() as f64 / load.writes as f64,
        latency: Latency::of(&waves.writes),
        distribution: distribution(&waves),
        throughput,
        copies: copies(&waves.copies),
        converged_ms: converged.filter(|_| waves.done() > 0).map(|d| (d.as_secs_f64() * 1e5).round() / 1e2),
        errors: waves.errors,
    })
}

impl Load {
    /// This load against the node at `address`, at a rate or in a closed loop.
    fn on(&self, address: &str, rate: Option<f64>) -> load::Load {
        load::Load {
            addresses: vec![address.to_owned()],
            protocol: Protocol::Http,
            query: "",
            clients: self.clients,
            pipeline: 1,
            reads: Reads(0),
            keys: self.keys,
            value_bytes: self.value_bytes,
            rate,
            wave: self.clients as u64,
            timeout: self.timeout,
        }
    }
}

async fn run(
    load: &Arc<load::Load>,
    until: Until,
    label: &str,
    ledger: &mut Ledger,
) -> Result<(Duration, Tally), Failure> {
    let clients: Vec<LoadClient> = connect(load).await?;
    let (_, tally, elapsed, _) = phase(clients, load, until, label.to_owned()).await?;
    ledger.note(&tally);
    Ok((elapsed, tally))
}

/// Waits until every one of these nodes shows at least `revision`. When the last one did; `None` if
/// there is nothing to wait for.
async fn show(nodes: &[Client], revision: u64) -> Result<Option<Instant>, Failure> {
    if revision == 0 {
        return Ok(None);
    }
    let deadline = Instant::now() + CONVERGE_MAX;
    let path = format!("{SOME_KEY}&min_revision={revision}");
    let one = async |node: &Client| loop {
        match node.ask(&Ask::get(path.as_str())).await {
            // The key may not be among those written so far; the node has applied the revision all the same.
            Ok(_) | Err(AskError::Answered { status: 404, .. }) => return Ok(Instant::now()),
            Err(error) if Instant::now() >= deadline => return Err(Failure::from(error)),
            Err(_) => {}
        }
    };
    let shown = join_all(nodes.iter().map(one)).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(shown.into_iter().max())
}

fn unknown(tally: &Tally) -> u64 {
    tally.errors.iter().filter(|(code, _)| !REFUSALS.contains(&code.as_str())).map(|(_, count)| count).sum()
}

fn distribution(tally: &Tally) -> Vec<Point> {
    if tally.writes.is_empty() {
        return Vec::new();
    }
    let ms = |share: f64| tally.writes.value_at_quantile(share) as f64 / 1e3;
    let steps = (0..100).map(|percent| f64::from(percent) / 100.0);
    steps.chain(TAIL).map(|share| Point { share, ms: ms(share) }).collect()
}

fn copies(counts: &BTreeMap<u32, u64>) -> Option<Copies> {
    let (min, max) = (*counts.first_key_value()?.0, *counts.last_key_value()?.0);
    let writes: u64 = counts.values().sum();
    let sum: u64 = counts.iter().map(|(copies, writes)| u64::from(*copies) * writes).sum();
    Some(Copies { min, mean: (sum as f64 / writes as f64 * 100.0).round() / 100.0, max })
}

#[cfg(test)]
mod tests {
    use super::super::super::bench::load::Tally;
    use super::*;

    #[test]
    fn a_refusal_is_certain_and_every_other_error_leaves_the_outcome_open() {
        let mut tally = Tally::new();
        for (code, count) in [("no_quorum", 3), ("connection refused", 2), ("outcome_unknown", 5), ("timeout", 7)] {
            tally.error(code.to_owned(), count);
        }
        let mut ledger = Ledger::default();
        ledger.note(&tally);
        assert_eq!(ledger, Ledger { acknowledged: 0, unknown: 12 });
    }

    #[test]
    fn copies_are_those_of_the_writes_not_of_the_kinds() {
        let copies = copies(&BTreeMap::from([(3, 3), (6, 1)])).expect("copies");
        assert_eq!((copies.min, copies.max), (3, 6));
        assert!((copies.mean - 3.75).abs() < 1e-9, "{}", copies.mean);
    }
}
