//! The cluster that is measured: one that sweep started, whose followers it may stop, or one that was there before.
//!
//! Everything but starting and stopping nodes goes over HTTP, so that both are asked in the same way.

use std::net::SocketAddr;
use std::time::Duration;

use quorate_api::{ConfigChange, Status};
use reqwest::Method;
use tempfile::TempDir;
use tokio::runtime::Handle as Runtime;
use tokio::time::Instant;

use super::super::client::{Ask, AskError, Client};
use super::super::local::limits_of_one_among_many;
use super::super::output::Failure;
use super::super::serve;
use super::super::verbs::read_status;
use crate::node::{Ended, Node};
use crate::options::{Formation, NodeOptions};

/// How long the cluster may take to be as the next round needs it: many election timeouts, and a
/// follower that catches up.
const SETTLE: Duration = Duration::from_secs(60);
/// How often it is looked at meanwhile.
const POLL: Duration = Duration::from_millis(20);

/// A cluster and the way to ask it.
pub(super) struct Cluster {
    /// Asks any node, the next one if one is down.
    pub(super) client: Client,
    own: Option<Own>,
    /// The write quorum that a cluster taken from others had.
    before: Option<usize>,
}

/// Nodes of our own, in a folder that goes when they end.
struct Own {
    nodes: Vec<Seat>,
    runtime: Runtime,
    // Last, so that it outlives the nodes.
    _folder: TempDir,
}

/// A node that runs, or may be started again.
struct Seat {
    options: NodeOptions,
    node: Option<Node>,
}

impl Cluster {
    /// A cluster of `n` nodes in a temporary folder and on free ports; its nodes run on `runtime`.
    pub(super) async fn start(
        n: usize,
        delay: (Duration, Duration),
        timeout: Duration,
        runtime: Runtime,
    ) -> Result<Cluster, Failure> {
        let folder = tempfile::Builder::new().prefix("quorate-sweep-").tempdir();
        let folder = folder.map_err(|e| Failure::Error(format!("cannot make a temporary folder: {e}; set TMPDIR")))?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut nodes: Vec<Seat> = Vec::with_capacity(n);
        for number in 0..n {
            let name = format!("node{}", number + 1);
            let mut options = NodeOptions::new(&name, folder.path().join(&name), any, any, any);
            options.form = (number == 0).then_some(Formation { replicas: n, write_quorum: n / 2 + 1 });
            options.join = nodes.first().map(|first| first.options.peer.to_string()).into_iter().collect();
            options.delay = delay;
            options.limits = limits_of_one_among_many();
            let node = start_node(&runtime, options.clone()).await?;
            // Where it is now is where it is to be found when it comes back.
            let me = &node.handle().shared.me;
            options.http = bound(me.http.trim_start_matches("http://"))?;
            options.tcp = bound(&me.tcp)?;
            options.peer = bound(&me.peer)?;
            nodes.push(Seat { options, node: Some(node) });
        }
        let urls: Vec<String> = nodes.iter().map(|s| format!("http://{}", s.options.http)).collect();
        let client = Client::new(&urls, timeout, None).map_err(Failure::Error)?;
        Ok(Cluster { client, own: Some(Own { nodes, runtime, _folder: folder }), before: None })
    }

    /// The cluster of these nodes.
    pub(super) fn take(urls: &[String], timeout: Duration, token: Option<String>) -> Result<Cluster, Failure> {
        let token = token.filter(|t| !t.is_empty());
        let client = Client::new(urls, timeout, token).map_err(Failure::Usage)?;
        Ok(Cluster { client, own: None, before: None })
    }

    /// Whether its nodes may be stopped.
    pub(super) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Waits until writes are open and everyone is there. N.
    pub(super) async fn open(&mut self) -> Result<usize, Failure> {
        let status = self.until("every node is up and has caught up", |s| s.formed && all_well(s, 0)).await?;
        self.before = (!self.is_own()).then_some(status.config.write_quorum);
        Ok(status.config.replicas)
    }

    /// What the leader says of itself and the others.
    pub(super) async fn leader(&self) -> Result<Status, Failure> {
        self.until("there is a leader", |_| true).await
    }

    /// URLs of the nodes that the leader hears from.
    pub(super) async fn live(&self) -> Result<Vec<String>, Failure> {
        let status = self.leader().await?;
        Ok(status.members.into_iter().filter(|m| m.healthy == Some(true)).map(|m| m.http).collect())
    }

    /// Waits until a leader says what is hoped for.
    async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Result<Status, Failure> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let seen = self.look().await;
            match seen {
                Ok(status) if status.node.role == "leader" && holds(&status) => return Ok(status),
                Err(failure) if Instant::now() >= deadline => return Err(failure),
                Ok(_) if Instant::now() >= deadline => {
                    let text = format!("waited {} s in vain until {what}: see `quorate status`", SETTLE.as_secs());
                    return Err(Failure::Error(text));
                }
                Ok(_) | Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    async fn look(&self) -> Result<Status, Failure> {
        let status = read_status(&self.client).await?;
        match status.leader_url.as_deref().filter(|_| status.node.role != "leader") {
            Some(leader) => read_status(&self.client.at(leader)).await,
            None => Ok(status),
        }
    }

    /// Changes W by the logged change, while everything runs, and waits until it is in force.
    pub(super) async fn set_write_quorum(&self, w: usize) -> Result<(), Failure> {
        let deadline = Instant::now() + SETTLE;
        let change = ConfigChange { write_quorum: Some(w), ..ConfigChange::default() };
        loop {
            let config = self.leader().await?.config;
            if config.write_quorum == w && !config.changing {
                return Ok(());
            }
            let ask = Ask::new(Method::PUT, "/v1/cluster/config").json(&change);
            let ask = ask.map_err(|e| Failure::Error(format!("cannot put the request together: {e}")))?;
            match self.client.ask(&ask.header("if-match", format!("\"{}\"", config.version))).await {
                // Another change is under way, or a node that was just started is not in contact yet.
                Ok(_) | Err(AskError::Answered { status: 409 | 412, .. } | AskError::Refused { .. })
                    if Instant::now() < deadline =>
                {
                    tokio::time::sleep(POLL).await;
                }
                Ok(_) => return Err(Failure::Error(format!("W={w} did not come into force"))),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Stops followers until `down` nodes are down, and waits until the leader has noticed.
    pub(super) async fn stop_until(&mut self, down: usize) -> Result<(), Failure> {
        let leader = self.leader().await?.node.name;
        let Some(own) = &mut self.own else {
            assert_eq!(down, 0, "nodes of others are not stopped");
            return Ok(());
        };
        let mut stopped = own.nodes.iter().filter(|s| s.node.is_none()).count();
        for seat in own.nodes.iter_mut().rev() {
            if stopped < down
                && seat.options.name != leader
                && let Some(node) = seat.node.take()
            {
                stop_node(&own.runtime, node).await?;
                stopped += 1;
            }
        }
        self.until("the leader misses the stopped nodes", |s| all_well(s, down)).await?;
        Ok(())
    }

    /// Starts what was stopped, and waits until it has caught up.
    pub(super) async fn start_stopped(&mut self) -> Result<(), Failure> {
        let Some(own) = &mut self.own else { return Ok(()) };
        for seat in own.nodes.iter_mut().filter(|s| s.node.is_none()) {
            seat.node = Some(start_node(&own.runtime, seat.options.clone()).await?);
        }
        self.until("every node is up again and has caught up", |s| all_well(s, 0)).await?;
        Ok(())
    }

    /// Gives a cluster of others its write quorum back; ends one of our own and removes its data.
    pub(super) async fn end(mut self) -> Result<(), Failure> {
        if let Some(w) = self.before {
            self.set_write_quorum(w).await?;
        }
        let Some(own) = self.own.take() else { return Ok(()) };
        let running: Vec<Node> = own.nodes.into_iter().filter_map(|seat| seat.node).collect();
        // All of them: an heir would be waited for in vain.
        running.iter().for_each(|node| node.handle().expect_no_heir());
        let ending: Vec<_> = running.into_iter().map(|node| own.runtime.spawn(node.stop())).collect();
        for node in ending {
            node.await.map_err(gone)?;
        }
        Ok(())
    }
}

/// Whether all but `down` of the voters are there and hold everything.
fn all_well(status: &Status, down: usize) -> bool {
    let voters = status.members.iter().filter(|m| m.role != "learner");
    let well = voters.filter(|m| m.healthy == Some(true) && m.lag == Some(0)).count();
    well + down == status.config.replicas
}

async fn start_node(runtime: &Runtime, options: NodeOptions) -> Result<Node, Failure> {
    runtime.spawn(Node::start(options)).await.map_err(gone)?.map_err(serve::start_failure)
}

async fn stop_node(runtime: &Runtime, node: Node) -> Result<(), Failure> {
    match runtime.spawn(node.stop()).await.map_err(gone)? {
        Ended::Asked => Ok(()),
        other => Err(Failure::Error(format!("a node that was to be stopped had ended: {other}"))),
    }
}

fn gone(error: tokio::task::JoinError) -> Failure {
    Failure::Error(format!("a node ended early: {error}"))
}

fn bound(address: &str) -> Result<SocketAddr, Failure> {
    address.parse().map_err(|e| Failure::Error(format!("a node says it is at {address:?}: {e}")))
}
