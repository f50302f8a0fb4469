//! What the nodes are told through their environment, in a ConfigMap: a change of it alone starts nothing anew.
//!
//! Settings that a node reads only when it starts are also hashed into the pods' template, so that changing them rolls the pods. The cluster's id and the
//! addresses of the others are not: they matter to a node that starts, and one that runs has them from its log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::names;
use crate::validate::Wanted;

/// What only the operator tells a node, beside what its containers and its ConfigMap name: the ports that Services and probes go to, and whom a node joins.
const FIXED: [&str; 4] = ["HTTP_PORT", "TCP_PORT", "PEER_PORT", "LEADER_URL"];

/// The environment of the nodes, and the digest of what a change of must restart.
pub(super) struct Settings {
    /// Name to value.
    pub(super) data: BTreeMap<String, String>,
    /// Changes when a setting does that only a start reads.
    pub(super) digest: String,
    /// The names that are the operator's, whether or not it has a value for them: nobody else gives them one, for Kubernetes would prefer that to ours.
    pub(super) names: BTreeSet<&'static str>,
}

pub(super) fn settings(wanted: &Wanted, cluster_id: Option<&str>) -> Settings {
    let all = read_at_start(wanted);
    let names = all.iter().map(|(name, _)| *name).chain(FIXED).chain(["PEERS", "CLUSTER_ID"]).collect();
    let mut data: BTreeMap<String, String> =
        all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
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
    Settings { data, digest, names }
}

/// Every one there is, with its value if the spec gives one.
fn read_at_start(wanted: &Wanted) -> Vec<(&'static str, Option<String>)> {
    let (min, max) = wanted.spec.replication_delay.clone().map_or((None, None), |d| (Some(d.min), d.max));
    let election = wanted.spec.election.clone().unwrap_or_default();
    let limits = wanted.spec.limits.clone().unwrap_or_default();
    let count = |n: Option<i32>| n.map(|n| n.to_string());
    vec![
        ("MANAGED_BY", Some(names::managed_by(&wanted.name, &wanted.namespace))),
        ("LOG_FORMAT", Some("json".to_owned())),
        ("MIN_DELAY", min),
        ("MAX_DELAY", max),
        ("HEARTBEAT_INTERVAL", election.heartbeat),
        ("ELECTION_TIMEOUT", election.timeout),
        ("KEY_MAX", limits.key_max),
        ("VALUE_MAX", limits.value_max),
        ("BATCH_KEYS", count(limits.batch_keys)),
        ("PAGE_KEYS", count(limits.page_keys)),
        ("IN_FLIGHT_WRITES", count(limits.in_flight_writes)),
        ("IN_FLIGHT_BYTES", limits.in_flight_bytes),
        ("HTTP_CONNECTIONS", count(limits.http_connections)),
        ("TCP_CONNECTIONS", count(limits.tcp_connections)),
        ("OVERLAY_SIZE", limits.overlay_size),
        ("CACHE_SIZE", limits.cache_size),
        ("DISK_RESERVE", limits.disk_reserve),
        ("LOG_KEEP", limits.log_keep),
    ]
}

/// FNV-1a of 64 bits (Fowler, Noll, Vo): the same on every machine and in every version, which the standard library's hasher does not promise.
fn fnv1a(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}
