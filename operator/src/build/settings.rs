//! What the nodes are told through their environment, in a ConfigMap: a change of it alone starts nothing anew.
//!
//! Settings that a node reads only when it starts are also hashed into the pods' template, so that changing them rolls the pods. The cluster's id and the
//! addresses of the others are not: they matter to a node that starts, and one that runs has them from its log.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::names;
use crate::validate::Wanted;

/// The environment of the nodes, and the digest of what a change of must restart.
pub(super) struct Settings {
    /// Name to value.
    pub(super) data: BTreeMap<String, String>,
    /// Changes when a setting does that only a start reads.
    pub(super) digest: String,
}

pub(super) fn settings(wanted: &Wanted, cluster_id: Option<&str>) -> Settings {
    let mut data = read_at_start(wanted);
    let mut text = String::new();
    for (name, value) in &data {
        let _ = writeln!(text, "{name}={value}");
    }
    let digest = fnv1a(&text);
    // The preferred leader's comes last, which is asked first.
    let url =
        |pod: String| format!("http://{}:{}", names::host(&wanted.name, &wanted.namespace, &pod), names::HTTP_PORT);
    let mut peers: Vec<String> = names::pods(&wanted.name, wanted.replicas()).map(url).collect();
    peers.reverse();
    data.insert("PEERS".to_owned(), peers.join(","));
    if let Some(id) = cluster_id {
        data.insert("CLUSTER_ID".to_owned(), id.to_owned());
    }
    Settings { data, digest }
}

fn read_at_start(wanted: &Wanted) -> BTreeMap<String, String> {
    let mut data = BTreeMap::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            data.insert(name.to_owned(), value);
        }
    };
    put("MANAGED_BY", Some(names::managed_by(&wanted.name, &wanted.namespace)));
    put("LOG_FORMAT", Some("json".to_owned()));
    if let Some(delay) = &wanted.spec.replication_delay {
        put("MIN_DELAY", Some(delay.min.clone()));
        put("MAX_DELAY", delay.max.clone());
    }
    if let Some(election) = &wanted.spec.election {
        put("HEARTBEAT_INTERVAL", election.heartbeat.clone());
        put("ELECTION_TIMEOUT", election.timeout.clone());
    }
    if let Some(limits) = &wanted.spec.limits {
        let count = |n: Option<i32>| n.map(|n| n.to_string());
        put("KEY_MAX", limits.key_max.clone());
        put("VALUE_MAX", limits.value_max.clone());
        put("BATCH_KEYS", count(limits.batch_keys));
        put("PAGE_KEYS", count(limits.page_keys));
        put("IN_FLIGHT_WRITES", count(limits.in_flight_writes));
        put("IN_FLIGHT_BYTES", limits.in_flight_bytes.clone());
        put("HTTP_CONNECTIONS", count(limits.http_connections));
        put("TCP_CONNECTIONS", count(limits.tcp_connections));
        put("OVERLAY_SIZE", limits.overlay_size.clone());
        put("CACHE_SIZE", limits.cache_size.clone());
        put("DISK_RESERVE", limits.disk_reserve.clone());
        put("LOG_KEEP", limits.log_keep.clone());
    }
    data
}

/// FNV-1a of 64 bits (Fowler, Noll, Vo): the same on every machine and in every version, which the standard library's hasher does not promise.
fn fnv1a(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}
