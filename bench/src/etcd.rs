//! etcd: three members on this machine with their defaults, and etcd's own load tool at the leader's endpoint.
//!
//! gRPC is what etcd is made for; its JSON gateway, used here only to look and to store the one key that
//! is read, would flatter us.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;

use crate::failure::{Context, Failure, Outcome};
use crate::process::{self, Member, Members};
use crate::results::Figures;
use crate::tools::EtcdTools;
use crate::web;

/// How long three members may take to elect a leader; seconds in practice.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Connections that clients share, as etcd's documentation does it: HTTP/2 multiplexes.
const CONNECTIONS_MAX: usize = 16;
/// Keys that are written, as many as the other systems get.
const KEYS: u64 = 100_000;
/// The key that is read: 16 bytes, as in the writes.
const READ_KEY: &str = "bench-0000000001";
/// Base64 of [`READ_KEY`], as the gateway wants it.
const READ_KEY_BASE64: &str = "YmVuY2gtMDAwMDAwMDAwMQ==";

/// Three members.
pub(crate) struct Etcd {
    pub(crate) members: Members,
    benchmark: std::path::PathBuf,
    leader: u16,
}

impl Etcd {
    /// Starts three members with empty disks and waits for their leader.
    pub(crate) async fn start(tools: &EtcdTools, dir: &Path) -> Outcome<Etcd> {
        let ports: [u16; 6] = process::free_ports()?;
        let (client, peer) = ports.split_at(3);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> = (0..3).map(|i| format!("e{i}={}", url(peer[i]))).collect();
        let mut members = Members(Vec::new());
        for i in 0..3 {
            let name = format!("e{i}");
            let mut server = process::server(&tools.server);
            server.args(["--name", &name, "--log-level", "error", "--initial-cluster-state", "new"]);
            server.args(["--initial-cluster", &cluster.join(","), "--data-dir"]).arg(dir.join(&name));
            server.args(["--listen-peer-urls", &url(peer[i]), "--initial-advertise-peer-urls", &url(peer[i])]);
            server.args(["--listen-client-urls", &url(client[i]), "--advertise-client-urls", &url(client[i])]);
            members.0.push(Member::start(&name, server, dir)?);
        }
        let mut leader = None;
        process::wait_until("etcd elects a leader", READY_LIMIT, &mut members, async || {
            let mut all = true;
            for port in client {
                match web::post_json(*port, "/v3/maintenance/status", &json!({})).await {
                    Ok(status) if status["leader"].as_str().is_some_and(|l| l != "0") => {
                        if status["leader"] == status["header"]["member_id"] {
                            leader = Some(*port);
                        }
                    }
                    _ => all = false,
                }
            }
            all && leader.is_some()
        })
        .await?;
        let leader = leader.context(|| "etcd has no leader".to_owned())?;
        Ok(Etcd { members, benchmark: tools.benchmark.clone(), leader })
    }

    /// Durable puts for about so many seconds.
    pub(crate) async fn put(&mut self, clients: usize, value_bytes: usize, seconds: f64) -> Outcome<Figures> {
        let [keys, size] = [KEYS.to_string(), value_bytes.to_string()];
        self.measured(clients, seconds, &["put", "--key-size=16", "--key-space-size", &keys, "--val-size", &size]).await
    }

    /// Linearizable reads of one key for about so many seconds.
    pub(crate) async fn range(&mut self, clients: usize, value_bytes: usize, seconds: f64) -> Outcome<Figures> {
        // Base64 of zero bytes is a row of A's: a value of the right length without an encoder.
        let value = "A".repeat(value_bytes.div_ceil(3) * 4);
        web::post_json(self.leader, "/v3/kv/put", &json!({"key": READ_KEY_BASE64, "value": value})).await?;
        self.measured(clients, seconds, &["range", READ_KEY, "--consistency=l"]).await
    }

    /// A short run to warm up and to learn the speed, then one that is counted.
    async fn measured(&mut self, clients: usize, seconds: f64, what: &[&str]) -> Outcome<Figures> {
        let pilot = self.benchmark(clients, process::pilot_requests(clients), what).await?;
        let total = (pilot.per_second * seconds).max(1.0) as u64;
        let figures = self.benchmark(clients, total, what).await?;
        self.members.check()?;
        Ok(Figures { served: pilot.requests + figures.requests, ..figures })
    }

    async fn benchmark(&self, clients: usize, total: u64, what: &[&str]) -> Outcome<Figures> {
        let mut tool = Command::new(&self.benchmark);
        tool.arg(format!("--endpoints=127.0.0.1:{}", self.leader)).arg("--precise");
        tool.arg(format!("--conns={}", clients.min(CONNECTIONS_MAX))).arg(format!("--clients={clients}"));
        tool.args(what).arg(format!("--total={total}"));
        let text = process::run(tool, process::TOOL_LIMIT).await?;
        parse(&text, total)
    }
}

/// Reads the summary that etcd's tool prints.
fn parse(text: &str, total: u64) -> Outcome<Figures> {
    if let Some(at) = text.find("Error distribution") {
        return Err(Failure::new(format!("etcd's benchmark saw errors: {}", text[at..].trim())));
    }
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    // `Total: 2.9 secs.` and `99% in 0.01 secs.`: a name, and the number that follows it.
    let number = |name: &str, place: usize| {
        let line = text.lines().map(words).find(|w| w.first().is_some_and(|f| f == name));
        let found = line.and_then(|w| w.get(place)?.parse::<f64>().ok());
        found.context(|| format!("etcd's benchmark printed no {name}:\n{text}"))
    };
    Ok(Figures {
        seconds: number("Total:", 1)?,
        requests: total,
        per_second: number("Requests/sec:", 1)?,
        p50_ms: number("50%", 2)? * 1000.0,
        p99_ms: number("99%", 2)? * 1000.0,
        p999_ms: number("99.9%", 2).ok().map(|s| s * 1000.0),
        max_ms: number("Slowest:", 1).ok().map(|s| s * 1000.0),
        ..Figures::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: &str = "
Summary:
  Total:	0.3119 secs.
  Slowest:	0.0052 secs.
  Requests/sec:	6411.8616

Response time histogram:
  0.0003 [1]	|

Latency distribution:
  50% in 0.0011 secs.
  99% in 0.0036 secs.
  99.9% in 0.0050 secs.
";

    #[test]
    fn the_summary_of_etcds_tool_is_understood() {
        let figures = parse(SUMMARY, 2000).unwrap();
        assert_eq!((figures.requests, figures.per_second), (2000, 6411.8616));
        assert!((figures.p99_ms - 3.6).abs() < 1e-9 && (figures.p999_ms.unwrap() - 5.0).abs() < 1e-9, "{figures:?}");
    }

    #[test]
    fn errors_and_strange_output_are_failures() {
        assert!(parse("panic: no", 1).is_err());
        assert!(parse(&format!("{SUMMARY}\nError distribution:\n  [3]\ttimeout\n"), 1).is_err());
    }
}
