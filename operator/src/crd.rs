//! The resource `KVCluster`: what a person may ask for, and what is told back.
//!
//! Owns names, defaults and the rules by which the API server refuses a manifest, each with the sentence a person sees. Decides nothing and reads nothing.
//! `quorate-operator crd` prints what this file generates; `crds/` and the chart carry copies.
//!
//! Before: the API server. After: [`crate::validate`], which repeats the rules that matter for objects older than them.

// The derive of the schema repeats every struct, as public as it is, inside a function.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, EnvVar, ResourceRequirements, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest name of a KVCluster. A StatefulSet's name may have 52 characters (its revisions carry it in a label of 63), and `-follower` takes nine.
pub const NAME_MAX: usize = 43;

/// A replicated key-value store: `replicas` copies of the data, of which `writeQuorum` must hold a write durably before it is acknowledged.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quorate.dev",
    version = "v1alpha1",
    kind = "KVCluster",
    plural = "kvclusters",
    singular = "kvcluster",
    shortname = "kvc",
    category = "all",
    namespaced,
    status = "KVClusterStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A replicated key-value store: replicas copies of the data, of which writeQuorum must hold a write durably before it is acknowledged.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicas", description = "Copies asked for"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas", description = "Pods that have caught up"),
    printcolumn(name = "Quorum", type_ = "integer", json_path = ".status.writeQuorum", description = "Copies that acknowledge a write, as the cluster reports it"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader", description = "The pod that leads"),
    printcolumn(name = "Term", type_ = "integer", json_path = ".status.term", description = "The leader's term"),
    printcolumn(name = "Available", type_ = "string", json_path = ".status.conditions[?(@.type=='Available')].status", description = "Whether writes are taken"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Progressing')].reason", description = "What is being done", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 43").message("metadata.name: at most 43 characters, so that the names of its pods fit"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name: lower-case letters, digits and '-', beginning with a letter, for it names Services too"),
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.writeQuorum) || self.writeQuorum <= self.replicas").message("spec.writeQuorum: more copies than spec.replicas could never hold a write: lower writeQuorum or raise replicas"))]
pub struct KVClusterSpec {
    /// Copies of the data, which is the number of pods, the leader included: 1 to 9.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: i32,

    /// How many copies, the leader's included, must hold a write on their disks before it is acknowledged. More than half of the replicas if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9))]
    pub write_quorum: Option<i32>,

    /// Whether a failed leader is replaced by election at once, or only when a person says so.
    #[serde(default)]
    pub failover: FailoverPolicy,

    /// The image of the nodes. The operator's own default if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// When the image is pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,

    /// The volume of each node.
    #[serde(default)]
    pub storage: Storage,

    /// CPU and memory of each node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// What is added to the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,

    /// A simulated network: every append to a follower arrives this much later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_delay: Option<ReplicationDelay>,

    /// Bounds of each node; what is not given stays at the node's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,

    /// How soon a silent leader is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub election: Option<Election>,

    /// The operator watches and reports, and changes nothing.
    #[serde(default)]
    pub paused: bool,

    /// No pods; the volumes are kept, and the data with them.
    #[serde(default)]
    pub hibernated: bool,

    /// What becomes of volumes that no pod uses any more.
    #[serde(default)]
    pub persistent_volume_claim_retention: Retention,
}

fn three() -> i32 {
    3
}

/// What happens when the leader fails.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailoverPolicy {
    /// The others elect one of themselves.
    #[default]
    Automatic,
    /// Nobody leads until a person names the successor.
    Manual,
}

/// When an image is pulled.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// Only if the machine does not have it.
    IfNotPresent,
    /// Never.
    Never,
}

impl PullPolicy {
    /// As the Kubernetes API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            PullPolicy::Always => "Always",
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Never => "Never",
        }
    }
}

/// The volume of a node.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, x_kube(cel))]
#[x_kube(validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)").message("spec.storage.storageClassName: volumes cannot move to another class: make a second KVCluster and copy the data"))]
pub struct Storage {
    /// Its size. It can grow, and does not shrink.
    #[serde(default = "one_gibibyte")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))").message("spec.storage.size: a quantity such as 10Gi"))]
    #[x_kube(validation = Rule::new("!isQuantity(self) || !isQuantity(oldSelf) || quantity(self).compareTo(quantity(oldSelf)) >= 0").message("spec.storage.size: volumes grow only: a smaller size is refused"))]
    pub size: String,

    /// The storage class; the cluster's default if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

fn one_gibibyte() -> String {
    "1Gi".to_owned()
}

impl Default for Storage {
    fn default() -> Storage {
        Storage { size: one_gibibyte(), storage_class_name: None }
    }
}

/// What is added to the pods.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// More labels. Those of the operator win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// More annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Where pods may or would rather run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints the pods bear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Labels a machine must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// How pods are spread. If it is not given: over machines and zones, where that can be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// The priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// More environment variables. Those of the operator win.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
}

/// A simulated network delay, drawn uniformly between the two.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, x_kube(cel))]
#[x_kube(validation = Rule::new("!has(self.max) || duration(self.min) <= duration(self.max)").message("spec.replicationDelay: min must not be above max"))]
pub struct ReplicationDelay {
    /// At least this much, as in 0.1ms.
    #[schemars(regex(pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?(us|ms|s)$"))]
    pub min: String,
    /// At most this much; the same as min if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?(us|ms|s)$"))]
    pub max: Option<String>,
}

/// Bounds of a node. Sizes are written as 64MiB, 1GiB or a number of bytes.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Longest key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]{1,15}([KMG]i?B|[KMG]i|B)?$"))]
    pub key_max: Option<String>,
    /// Largest value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]{1,15}([KMG]i?B|[KMG]i|B)?$"))]
    pub value_max: Option<String>,
    /// Most keys in one command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub batch_keys: Option<i32>,
    /// Most keys in one page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub page_keys: Option<i32>,
    /// Most writes under way at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub in_flight_writes: Option<i32>,
    /// Most bytes of writes under way at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]{1,15}([KMG]i?B|[KMG]i|B)?$"))]
    pub in_flight_bytes: Option<String>,
    /// Most connections over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub http_connections: Option<i32>,
    /// Most connections of the Redis and line protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub tcp_connections: Option<i32>,
    /// Applied data held in memory before the engine has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]{1,15}([KMG]i?B|[KMG]i|B)?$"))]
    pub overlay_size: Option<String>,
    /// The engine's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]{1,15}([KMG]i?B|[KMG]i|B)?$"))]
    pub cache_size: Option<String>,
    /// Free space on the volume below which writes are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]{1,15}([KMG]i?B|[KMG]i|B)?$"))]
    pub disk_reserve: Option<String>,
    /// Log kept for followers that lag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]{1,15}([KMG]i?B|[KMG]i|B)?$"))]
    pub log_keep: Option<String>,
}

/// How soon a silent leader is given up.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, x_kube(cel))]
#[x_kube(validation = Rule::new("!has(self.timeout) || duration(self.timeout.split('-')[0]) <= duration(self.timeout.split('-')[1])").message("spec.election.timeout: the smaller time comes first, as in 500ms-1s"))]
#[x_kube(validation = Rule::new("duration(has(self.heartbeat) ? self.heartbeat : '100ms') + duration(has(self.heartbeat) ? self.heartbeat : '100ms') <= duration(has(self.timeout) ? self.timeout.split('-')[0] : '500ms')").message("spec.election: the heartbeat must be at most half of the shortest timeout"))]
pub struct Election {
    /// Time between a leader's heartbeats; 100ms if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,8}(ms|s)$"))]
    pub heartbeat: Option<String>,
    /// The range a follower draws its patience from; 500ms-1s if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,8}(ms|s)-[1-9][0-9]{0,8}(ms|s)$"))]
    pub timeout: Option<String>,
}

/// What becomes of volumes that no pod uses any more.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Of pods that a smaller number of replicas took away.
    #[serde(default)]
    pub when_scaled: RetentionPolicy,
    /// Of a KVCluster that was deleted.
    #[serde(default)]
    pub when_deleted: RetentionPolicy,
}

/// Whether a volume is kept.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetentionPolicy {
    /// It stays, with its data.
    #[default]
    Retain,
    /// It goes.
    Delete,
}

impl RetentionPolicy {
    /// As the Kubernetes API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RetentionPolicy::Retain => "Retain",
            RetentionPolicy::Delete => "Delete",
        }
    }
}

/// What the operator saw last.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KVClusterStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods there are.
    #[serde(default)]
    pub replicas: i32,
    /// Pods that have caught up since they started.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Selects the pods, for `kubectl scale` and autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The identity of the data, recorded when the cluster was formed. Nodes that have it never form another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The numbers the cluster was formed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub formation: Option<Formation>,
    /// The write quorum in force, as the cluster reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_quorum: Option<i32>,
    /// The members, as the cluster reports them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Member>,
    /// The pod that leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The leader's term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<i64>,
    /// How many more failures are survived from where the cluster stands now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerates: Option<Tolerates>,
    /// The image of the spec that the pods were last all brought to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Available, Quorate, Progressing, Degraded, Paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The numbers a cluster was formed with.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Formation {
    /// N.
    pub replicas: i32,
    /// W.
    pub write_quorum: i32,
}

/// One member of the cluster.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The identity of its disk.
    pub id: String,
    /// Its pod.
    pub pod: String,
    /// `leader`, `follower` or `learner`.
    pub role: String,
    /// `InSync`, `CatchingUp`, `Unreachable` or `Unknown`.
    pub state: String,
    /// Entries it is behind, roughly: 0 up to 1,000, then the next power of two, so that the status rests while the cluster works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
}

/// Failures still survived.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tolerates {
    /// Until acknowledged writes stop.
    pub writes: i32,
    /// Until no leader can be elected.
    pub failover: i32,
}

#[cfg(test)]
#[path = "crd_tests.rs"]
mod tests;
