//! Everything that can be set about a node, checked and with units: what `serve` and `local` hand to
//! [`crate::node::Node::start`].
//!
//! Parsing of flags, environment and file is `cli`'s; this module never reads any of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use quorum::ClusterId;

/// One node's settings.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The node's name (`ID`): unique in the cluster, kept when its disk is replaced.
    pub name: String,
    /// The folder that holds everything the node knows. Locked while it runs.
    pub data_dir: PathBuf,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where the line protocol and the Redis protocol are served.
    pub tcp: SocketAddr,
    /// Where other nodes connect.
    pub peer: SocketAddr,
    /// The host name or address that others reach this node by (`ADDRESS`).
    pub host: String,
    /// Forms the cluster if the disk is empty, and is preferred as leader (`NODE_TYPE=leader`).
    pub form: Option<Formation>,
    /// URLs or `host:peer-port` addresses of nodes to ask for the cluster (`LEADER_URL`, `PEERS`).
    pub join: Vec<String>,
    /// The only cluster to belong to (`CLUSTER_ID`). With it set the node never forms one.
    pub cluster_id: Option<ClusterId>,
    /// What changes the cluster needs this token, where set.
    pub admin_token: Option<String>,
    /// Who alone changes members and numbers, where set: anyone else is sent there.
    pub managed_by: Option<String>,
    /// Time between a leader's heartbeats.
    pub heartbeat: Duration,
    /// The range that election timeouts are drawn from.
    pub election: (Duration, Duration),
    /// How long a request may take before its outcome is reported as unknown.
    pub request_timeout: Duration,
    /// Simulated delay of each append of entries to each follower: uniform in this range.
    pub delay: (Duration, Duration),
    /// Whether linearizable reads may rely on a lease instead of a round of confirmation.
    pub lease_reads: bool,
    /// What is bounded, and by how much.
    pub limits: Limits,
}

/// How a cluster is formed.
#[derive(Clone, Debug)]
pub struct Formation {
    /// N.
    pub replicas: usize,
    /// W.
    pub write_quorum: usize,
}

/// Room in every cap for framing, names and options.
pub(crate) const OVERHEAD_BYTES: usize = 64 << 10;

/// Every bound of a node, shown by `/v1/status`; but for the last two, which have no flag:
/// nobody has needed to set them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest key, bytes.
    pub key_bytes: usize,
    /// Largest value, bytes.
    pub value_bytes: usize,
    /// Most keys in one command (MSET, DEL, MGET).
    pub batch_keys: usize,
    /// Most keys in one page of a listing.
    pub page_keys: usize,
    /// Most writes under way at once; one more is refused as overload.
    pub in_flight_writes: usize,
    /// Most bytes of writes under way at once.
    pub in_flight_bytes: usize,
    /// Most connections on the HTTP port.
    pub http_connections: usize,
    /// Most connections on the TCP port.
    pub tcp_connections: usize,
    /// Bytes of applied state held in memory before the engine has them: twice this is the bound.
    pub overlay_bytes: usize,
    /// The engine's cache, bytes.
    pub cache_bytes: u64,
    /// Free disk space below which writes are refused, bytes.
    pub disk_reserve_bytes: u64,
    /// Size of one WAL segment, bytes.
    pub segment_bytes: u64,
    /// Log kept behind the applied state for followers that lag, bytes: beyond it the log is cut
    /// and they get a snapshot.
    pub log_keep_bytes: u64,
    /// Most entries in one append.
    pub append_entries: usize,
    /// How far behind the log's end a learner may be when it becomes a voter, in entries.
    pub promotion_lag: u64,
}

impl Limits {
    /// Longest command of the Redis protocol: what one connection buffers at most, and an MSET has.
    #[must_use]
    pub fn command_bytes(&self) -> usize {
        /// So many of the largest keys and values.
        const VALUES: usize = 4;
        self.value_bytes.saturating_add(self.key_bytes).saturating_mul(VALUES).saturating_add(OVERHEAD_BYTES)
    }
}

impl Default for Limits {
    fn default() -> Limits {
        let core = quorum::Settings::default();
        Limits {
            key_bytes: 4 << 10,
            value_bytes: 1 << 20,
            batch_keys: 1_000,
            page_keys: 1_000,
            in_flight_writes: 16_384,
            in_flight_bytes: 64 << 20,
            http_connections: 16_384,
            tcp_connections: 16_384,
            overlay_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            disk_reserve_bytes: 256 << 20,
            segment_bytes: 64 << 20,
            log_keep_bytes: 256 << 20,
            append_entries: core.append_entries_max,
            promotion_lag: core.promotion_lag_max,
        }
    }
}

impl NodeOptions {
    /// Settings with every default for a node of this name, folder and ports on loopback.
    #[must_use]
    pub fn new(name: &str, data_dir: PathBuf, http: SocketAddr, tcp: SocketAddr, peer: SocketAddr) -> NodeOptions {
        NodeOptions {
            name: name.to_owned(),
            data_dir,
            http,
            tcp,
            peer,
            host: peer.ip().to_string(),
            form: None,
            join: Vec::new(),
            cluster_id: None,
            admin_token: None,
            managed_by: None,
            heartbeat: Duration::from_millis(100),
            election: (Duration::from_millis(500), Duration::from_millis(1000)),
            request_timeout: Duration::from_secs(5),
            delay: (Duration::ZERO, Duration::ZERO),
            lease_reads: false,
            limits: Limits::default(),
        }
    }
}
