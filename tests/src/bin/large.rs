//! `make large`: one node, more data than memory. How much memory it takes, how long reads wait for the disk, and
//! how long a restart takes.
//!
//! `KEYS` (1,000,000), `VALUE_BYTES` (1,000) and `MEMORY_MIB` (384) may be set. The memory, the system's cache of
//! its files included, is limited by a control group where one may be made (root); elsewhere only what the
//! process holds is watched.

// A check that fails ends the program, with what was wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use quorate_tests::{Cluster, Node, Resp, RespClient, Setup};

/// Keys of one MSET, and how many of them are under way at once.
const BATCH: u64 = 500;
const UNDER_WAY: usize = 4;

/// Keys read one after the other, at places that nothing relates.
const READS: u64 = 5_000;

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    if text.is_empty() { default } else { text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")) }
}

/// A control group of its own; gone, like the node in it, when dropped.
struct Group(PathBuf);

impl Group {
    fn limited_to(bytes: u64) -> Option<Group> {
        let name = format!("quorate-large-{}", std::process::id());
        let kinds = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        kinds.into_iter().find_map(|(root, file)| {
            let group = Group(PathBuf::from(root).join(&name));
            std::fs::create_dir(&group.0).ok()?;
            std::fs::write(group.0.join(file), bytes.to_string()).ok()?;
            Some(group)
        })
    }

    fn takes(&self, node: &Node) {
        std::fs::write(self.0.join("cgroup.procs"), node.id().to_string()).expect("the node joins the group");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its process may still be on its way out.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A value that no compression makes smaller.
fn value(key: u64, bytes: usize) -> String {
    let mut state = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + (state % 90) as u8)
    };
    std::iter::repeat_with(letter).take(bytes).collect()
}

fn name(key: u64) -> String {
    format!("key-{key:012}")
}

async fn fill(node: &Node, keys: u64, bytes: usize) -> u64 {
    let mut client = node.redis().await;
    let (mut peak, mut waiting) = (0, 0);
    for first in (0..keys).step_by(BATCH as usize) {
        let pairs = (first..(first + BATCH).min(keys)).flat_map(|key| [name(key), value(key, bytes)]);
        let arguments: Vec<String> = std::iter::once("MSET".to_owned()).chain(pairs).collect();
        client.send(&RespClient::frame(&arguments.iter().map(String::as_str).collect::<Vec<_>>())).await;
        waiting += 1;
        if waiting == UNDER_WAY {
            answered(&mut client, &mut waiting).await;
        }
        peak = peak.max(node.resident_bytes());
    }
    while waiting > 0 {
        answered(&mut client, &mut waiting).await;
    }
    peak
}

async fn answered(client: &mut RespClient, waiting: &mut usize) {
    assert_eq!(client.reply().await, Resp::ok());
    *waiting -= 1;
}

async fn up(cluster: &mut Cluster) -> Duration {
    let begun = Instant::now();
    cluster.nodes[0].start();
    cluster.all_ready().await;
    begun.elapsed()
}

#[tokio::main]
async fn main() {
    let (keys, bytes, mib) = (setting("KEYS", 1_000_000), setting("VALUE_BYTES", 1_000), setting("MEMORY_MIB", 384));
    let group = Group::limited_to(mib << 20);
    let mut cluster = Setup::new(1, 1).flag("--cache-size", "64MiB").flag("--segment-size", "64MiB").start().await;
    cluster.all_ready().await;
    match &group {
        Some(group) => group.takes(&cluster.nodes[0]),
        None => println!("no control group can be made here: memory is watched, not limited"),
    }
    let data = keys * (bytes + 16);
    println!("{keys} keys with values of {bytes} bytes, {} MiB in all, in {mib} MiB of memory", data >> 20);
    let begun = Instant::now();
    let peak = fill(&cluster.nodes[0], keys, bytes as usize).await;
    println!("written in {:.1} s; the process held {} MiB at most", begun.elapsed().as_secs_f64(), peak >> 20);
    assert!(peak < mib << 20, "more than it may hold");

    let mut client = cluster.nodes[0].redis().await;
    let mut took = Vec::new();
    for n in 0..READS {
        let key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys;
        let begun = Instant::now();
        assert_eq!(client.call(&["GET", &name(key)]).await, Resp::bulk(&value(key, bytes as usize)));
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    let at = |part: f64| took[(took.len() as f64 * part) as usize].as_secs_f64() * 1e3;
    println!(
        "{READS} keys read at random: median {:.2} ms, p99 {:.2} ms, longest {:.2} ms; the process holds {} MiB",
        at(0.5),
        at(0.99),
        at(0.999_9),
        cluster.nodes[0].resident_bytes() >> 20
    );

    cluster.nodes[0].kill();
    println!("killed, started again, ready and leading after {:.2} s", up(&mut cluster).await.as_secs_f64());
    if let Some(group) = &group {
        group.takes(&cluster.nodes[0]);
    }
    let mut client = cluster.nodes[0].redis().await;
    assert_eq!(client.call(&["DBSIZE"]).await, Resp::Integer(i64::try_from(keys).expect("a count")));
    cluster.nodes[0].stop().await;
    println!("stopped, started again, ready and leading after {:.2} s", up(&mut cluster).await.as_secs_f64());
    cluster.nodes[0].kill();
}
