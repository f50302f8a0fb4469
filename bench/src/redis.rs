//! Redis: a master and two replicas that each fsync every write to their log, and redis-benchmark,
//! for Redis and for us alike.
//!
//! `appendfsync always` makes Redis answer when its *own* copy is durable; it does not wait for its replicas. So the
//! figure that the store's W = 2 is held against is that of one copy. How far the replicas are behind when a load ends
//! is taken down, but not charged.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use crate::failure::{Context, Failure, Outcome};
use crate::process::{self, Member, Members};
use crate::results::Figures;

/// How long replicas may take to attach to an empty master.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Keys that are written, as many as the other systems get.
const KEYS: u64 = 100_000;

/// A master and its two replicas.
pub(crate) struct Redis {
    pub(crate) members: Members,
    pub(crate) master: u16,
}

impl Redis {
    /// Starts three servers with empty disks and waits until the replicas are attached.
    pub(crate) async fn start(dir: &Path) -> Outcome<Redis> {
        let ports: [u16; 3] = process::free_ports()?;
        let mut members = Members(Vec::new());
        for (i, port) in ports.iter().enumerate() {
            let name = format!("r{i}");
            let data = dir.join(&name);
            std::fs::create_dir_all(&data).context(|| format!("cannot create {}", data.display()))?;
            let mut server = process::server("redis-server");
            server.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"]).arg(&data);
            server.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
            // Only so that an empty master does not wait five seconds for further replicas.
            server.args(["--repl-diskless-sync-delay", "0"]);
            if i > 0 {
                server.args(["--replicaof", "127.0.0.1", &ports[0].to_string()]);
            }
            members.0.push(Member::start(&name, server, dir)?);
        }
        let master = ports[0];
        process::wait_until("Redis's replicas attach", READY_LIMIT, &mut members, async || {
            replication(master).await.is_ok_and(|r| r.replicas.len() == 2)
        })
        .await?;
        Ok(Redis { members, master })
    }

    /// How far the slower of the replicas is behind the master, MiB; a replica that lost its master
    /// counts as having nothing.
    pub(crate) async fn behind_mib(&self) -> Outcome<f64> {
        let found = replication(self.master).await?;
        let slowest = if found.replicas.len() == 2 { found.replicas.iter().copied().min() } else { None };
        Ok(found.offset.saturating_sub(slowest.unwrap_or(0)) as f64 / f64::from(1 << 20))
    }
}

/// What a master says of its replication.
#[derive(Debug, PartialEq, Eq)]
struct Replication {
    offset: u64,
    /// Offsets of the replicas that are attached and in step.
    replicas: Vec<u64>,
}

async fn replication(port: u16) -> Outcome<Replication> {
    let mut cli = Command::new("redis-cli");
    cli.args(["-h", "127.0.0.1", "-p", &port.to_string(), "info", "replication"]);
    Ok(parse_replication(&process::run(cli, Duration::from_secs(10)).await?))
}

fn parse_replication(text: &str) -> Replication {
    let mut found = Replication { offset: 0, replicas: Vec::new() };
    for (name, value) in text.lines().filter_map(|l| l.trim().split_once(':')) {
        if name == "master_repl_offset" {
            found.offset = value.parse().unwrap_or(0);
        } else if name.starts_with("slave") && value.contains("state=online") {
            let offset = value.split(',').find_map(|f| f.strip_prefix("offset="));
            found.replicas.push(offset.and_then(|o| o.parse().ok()).unwrap_or(0));
        }
    }
    found
}

/// redis-benchmark's SET for about so many seconds, on any server that speaks the protocol.
pub(crate) async fn set(
    port: u16,
    clients: usize,
    pipeline: usize,
    value_bytes: usize,
    seconds: f64,
) -> Outcome<Figures> {
    let pilot = process::pilot_requests(clients) * pipeline as u64;
    let pilot = benchmark(port, clients, pipeline, value_bytes, pilot).await?;
    let total = (pilot.per_second * seconds).max(1.0) as u64;
    let figures = benchmark(port, clients, pipeline, value_bytes, total).await?;
    Ok(Figures { served: pilot.requests + figures.requests, ..figures })
}

async fn benchmark(port: u16, clients: usize, pipeline: usize, value_bytes: usize, total: u64) -> Outcome<Figures> {
    let mut tool = Command::new("redis-benchmark");
    tool.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-t", "set", "--csv"]);
    tool.args(["-c", &clients.to_string(), "-P", &pipeline.to_string(), "-d", &value_bytes.to_string()]);
    tool.args(["-r", &KEYS.to_string(), "-n", &total.to_string()]);
    parse_benchmark(&process::run(tool, process::TOOL_LIMIT).await?, total)
}

/// Reads the one line of figures that redis-benchmark prints.
fn parse_benchmark(text: &str, total: u64) -> Outcome<Figures> {
    // It goes on after an error and counts it as an answer.
    if let Some(error) = text.lines().find(|l| l.contains("Error from server") || l.contains("-ERR")) {
        return Err(Failure::new(format!("redis-benchmark saw an error: {}", error.trim())));
    }
    let line = text.lines().find(|l| l.starts_with("\"SET\""));
    let line = line.context(|| format!("redis-benchmark printed no figures:\n{text}"))?;
    let fields: Vec<f64> = line.split(',').skip(1).map(|f| f.trim_matches('"').parse().unwrap_or(f64::NAN)).collect();
    match fields.as_slice() {
        [rate, _average, _least, p50, _p95, p99, max] if *rate > 0.0 => Ok(Figures {
            seconds: total as f64 / rate,
            requests: total,
            per_second: *rate,
            p50_ms: *p50,
            p99_ms: *p99,
            max_ms: Some(*max),
            ..Figures::default()
        }),
        _ => Err(Failure::new(format!("redis-benchmark printed strange figures: {line}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_csv_of_redis_benchmark_is_understood() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
                    \"SET\",\"50000.00\",\"0.071\",\"0.024\",\"0.070\",\"0.119\",\"0.183\",\"1.311\"\n";
        let figures = parse_benchmark(text, 100_000).unwrap();
        assert_eq!((figures.seconds, figures.per_second, figures.p99_ms), (2.0, 50_000.0, 0.183));
        assert_eq!(figures.max_ms, Some(1.311));
    }

    #[test]
    fn an_error_of_the_server_is_a_failure() {
        let text = "Error from server 127.0.0.1:1: BUSY\n\"SET\",\"1.0\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\"\n";
        assert!(parse_benchmark(text, 1).is_err());
        assert!(parse_benchmark("", 1).is_err());
    }

    #[test]
    fn only_replicas_that_are_online_count() {
        let text = "role:master\r\nslave0:ip=127.0.0.1,port=1,state=online,offset=70,lag=0\r\n\
                    slave1:ip=127.0.0.1,port=2,state=wait_bgsave,offset=0,lag=0\r\nmaster_repl_offset:84\r\n";
        assert_eq!(parse_replication(text), Replication { offset: 84, replicas: vec![70] });
    }
}
