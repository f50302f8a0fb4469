//! The JSON that crosses a process boundary, as types: what `/v1/status` says, what errors look like, what a
//! change of the configuration asks for. No behaviour: the node fills these in, the command line, the operator
//! and the tests read them.

use serde::{Deserialize, Serialize};

/// By which the manager of a cluster names itself when it changes the configuration; to be what the node was
/// given as `--managed-by`.
pub const MANAGER_HEADER: &str = "x-quorate-manager";

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// The node that answers.
    pub node: NodeStatus,
    /// The cluster's id; absent while the node belongs to none.
    pub cluster_id: Option<String>,
    /// Whether every node was seen to hold the first configuration, so that writes are open.
    pub formed: bool,
    /// The current term.
    pub term: u64,
    /// Name of the leader, if known.
    pub leader: Option<String>,
    /// Where the leader serves HTTP, if known.
    pub leader_url: Option<String>,
    /// Commit index.
    pub commit: u64,
    /// Applied index.
    pub applied: u64,
    /// The configuration in force at this node.
    pub config: ConfigStatus,
    /// Everyone in the configuration. Health and lag are known to the leader; elsewhere they are absent.
    pub members: Vec<MemberStatus>,
    /// How many more voters may fail.
    pub tolerates: Tolerates,
    /// The limits in force.
    pub limits: Limits,
    /// Whether writes are refused because the disk is nearly full.
    pub disk_full: bool,
}

/// The node that answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The UUID of its disk.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `leader`, `follower` or `candidate`.
    pub role: String,
    /// Whether it is a voter, a learner, or blank (no configuration yet).
    pub membership: Membership,
    /// How often it was started on this disk.
    pub incarnation: u64,
    /// Whether it has caught up once since it started: its readiness.
    pub ready: bool,
    /// URL of its HTTP interface.
    pub http: String,
    /// `host:port` of its line and Redis interface.
    pub tcp: String,
    /// `host:port` for other nodes.
    pub peer: String,
}

/// What a node is to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Membership {
    /// Belongs to no cluster yet.
    Blank,
    /// Receives the log, does not count.
    Learner,
    /// Votes and counts.
    Voter,
    /// Was taken out of the cluster.
    Removed,
}

/// The configuration, with what follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// Its version, for `If-Match`.
    pub version: u64,
    /// N.
    pub replicas: usize,
    /// W.
    pub write_quorum: usize,
    /// E: votes that elect.
    pub election_quorum: usize,
    /// C: copies that commit and confirm.
    pub commit_quorum: usize,
    /// Name of the preferred leader.
    pub preferred: Option<String>,
    /// `automatic` or `manual`.
    pub failover: String,
    /// Whether a change is under way; the leader takes no other then, and alone knows to the end.
    pub changing: bool,
    /// What these numbers survive, in a sentence.
    pub explanation: String,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// The UUID of its disk.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `leader`, `follower` or `learner`.
    pub role: String,
    /// URL of its HTTP interface.
    pub http: String,
    /// `host:port` of its line and Redis interface.
    pub tcp: String,
    /// `host:port` for other nodes.
    pub peer: String,
    /// Whether the leader has heard from it within an election timeout.
    pub healthy: Option<bool>,
    /// Milliseconds since the leader heard from it.
    pub last_heard_ms: Option<u64>,
    /// Entries it is behind the leader's log; absent until this leader has heard from it.
    pub lag: Option<u64>,
}

/// How many more failures are survived from where the cluster stands now. Known to the leader only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tolerates {
    /// Live voters, where known.
    pub live: Option<usize>,
    /// Failures until acknowledged writes stop.
    pub writes: Option<usize>,
    /// Failures until no leader can be elected.
    pub failover: Option<usize>,
}

/// The limits of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Longest key, bytes.
    pub key_bytes: usize,
    /// Largest value, bytes.
    pub value_bytes: usize,
    /// Most keys in one command.
    pub batch_keys: usize,
    /// Most keys in a page.
    pub page_keys: usize,
    /// Most writes under way at once.
    pub in_flight_writes: usize,
    /// Longest idempotency key, bytes. 0 from a version that takes none.
    #[serde(default)]
    pub idempotency_key_bytes: usize,
    /// How many writes with idempotency keys are remembered, the latest first.
    #[serde(default)]
    pub idempotency_keys: usize,
    /// How long each of them is remembered at least, if there are no more than that, seconds.
    #[serde(default)]
    pub idempotency_seconds: u64,
}

/// Body of `PUT /v1/cluster/config`: what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigChange {
    /// Names of the voters to be; each must be a voter or a caught-up learner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voters: Option<Vec<String>>,
    /// Names of learners to drop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_learners: Option<Vec<String>>,
    /// W.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_quorum: Option<usize>,
    /// Name of the preferred leader; `""` for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred: Option<String>,
    /// `automatic` or `manual`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<String>,
}

/// Body of `POST /v1/cluster/transfer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// Name of the leader to be; absent: the most caught-up voter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Body of `POST /v1/cluster/members`: one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MemberChange {
    /// Make the learner of this name a voter.
    Promote(String),
    /// Take the member of this name out.
    Remove(String),
}

/// `GET` and `PUT /v1/log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFilter {
    /// A level, and levels by module: `info,quorate::peer=debug`.
    pub filter: String,
}

/// Every error of the `/v1` API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// Stable, for programs: `no_quorum`, `outcome_unknown`, …
    pub code: String,
    /// For people.
    pub message: String,
    /// URL of the leader, where that helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
}

/// One key of `GET /v1/kv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// Text as a string, JSON as itself, bytes that are no UTF-8 as `{"base64":…}`.
    pub value: serde_json::Value,
    /// Log index of the last write.
    pub revision: u64,
    /// Writes since the key was created.
    pub version: u64,
}

/// `GET /v1/kv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// The revision the page shows.
    pub revision: u64,
    /// The keys, in order.
    pub items: Vec<KeyValue>,
    /// What to pass as `after` for the next page; absent on the last.
    pub next: Option<String>,
}
