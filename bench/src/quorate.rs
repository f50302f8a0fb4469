//! The store itself: three `quorate serve` processes, W = 2, with their defaults.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::failure::{Context, Outcome};
use crate::process::{self, Member, Members};
use crate::web;

/// How long three nodes may take to form a cluster.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long followers and stores may take to catch up after a load.
const DRAIN_LIMIT: Duration = Duration::from_secs(180);
/// What may be left in the overlay of a drained node: the one table that a node at rest keeps in memory
/// (`--overlay-size`, as it is by default). More is a table on its way into the engine: work that the load left behind.
const DRAINED_BYTES: f64 = (64_u32 << 20) as f64;

/// Three nodes.
pub(crate) struct Quorate {
    pub(crate) members: Members,
    http: Vec<u16>,
    /// The leader's HTTP port.
    pub(crate) leader_http: u16,
    /// The leader's port for the Redis protocol.
    pub(crate) leader_tcp: u16,
}

impl Quorate {
    /// Starts three nodes with empty disks and waits until writes are open and everyone is a voter in step.
    pub(crate) async fn start(program: &Path, dir: &Path) -> Outcome<Quorate> {
        let ports: [u16; 9] = process::free_ports()?;
        let (http, rest) = ports.split_at(3);
        let (tcp, peer) = rest.split_at(3);
        let mut members = Members(Vec::new());
        for i in 0..3 {
            let name = format!("q{i}");
            let mut server = process::server(program);
            server.arg("serve").args(["--http-port", &http[i].to_string(), "--tcp-port", &tcp[i].to_string()]);
            server.args(["--peer-port", &peer[i].to_string()]);
            server.env("ID", &name).env("ADDRESS", "127.0.0.1").env("DATA_DIR", dir.join(&name));
            if i == 0 {
                server.env("NODE_TYPE", "leader").env("REPLICAS", "3").env("WRITE_QUORUM", "2");
            } else {
                server.env("NODE_TYPE", "follower").env("LEADER_URL", format!("http://127.0.0.1:{}", http[0]));
            }
            members.0.push(Member::start(&name, server, dir)?);
        }
        let mut leader = None;
        process::wait_until("Quorate forms a cluster", READY_LIMIT, &mut members, async || {
            leader = leader_of(http).await;
            leader.is_some()
        })
        .await?;
        let leader = leader.context(|| "Quorate has no leader".to_owned())?;
        Ok(Quorate { members, http: http.to_vec(), leader_http: http[leader], leader_tcp: tcp[leader] })
    }

    /// Waits until every node has applied all that is committed and no more than one table of it is outside the engine,
    /// and says how long that took.
    pub(crate) async fn drained(&mut self) -> Outcome<f64> {
        let start = Instant::now();
        let http = self.http.clone();
        process::wait_until("Quorate's followers and stores catch up", DRAIN_LIMIT, &mut self.members, async || {
            caught_up(&http).await.unwrap_or(false)
        })
        .await?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// The place of the node that leads, once all of them are ready and agree.
async fn leader_of(http: &[u16]) -> Option<usize> {
    let mut leader = None;
    for (i, port) in http.iter().enumerate() {
        let status = web::get_json(*port, "/v1/status").await.ok()?;
        let ready =
            status["formed"] == true && status["node"]["membership"] == "voter" && status["node"]["ready"] == true;
        if !ready {
            return None;
        }
        if status["node"]["role"] == "leader" {
            leader = Some(i);
        }
    }
    leader
}

/// Whether all nodes have applied the same, all of it, and handed it to their engines as far as
/// they do without being asked.
async fn caught_up(http: &[u16]) -> Outcome<bool> {
    let mut applied = Vec::new();
    let mut commit = 0;
    for port in http {
        let status = web::get_json(*port, "/v1/status").await?;
        applied.push(status["applied"].as_u64().unwrap_or(0));
        commit = commit.max(status["commit"].as_u64().unwrap_or(u64::MAX));
        let overlay = metric(&web::get(*port, "/metrics").await?, "quorate_overlay_bytes");
        if overlay.context(|| "no quorate_overlay_bytes at /metrics".to_owned())? > DRAINED_BYTES {
            return Ok(false);
        }
    }
    Ok(applied.iter().all(|a| *a >= commit))
}

/// A metric without labels, out of the Prometheus text.
fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# HELP quorate_overlay_bytes x\nquorate_overlay_bytes_total 7\nquorate_overlay_bytes 512\n";
        assert_eq!(metric(text, "quorate_overlay_bytes"), Some(512.0));
        assert_eq!(metric(text, "quorate_wal_bytes"), None);
    }
}
