//! The settings of a node as flags and environment name them, and their way to checked [`NodeOptions`].
//!
//! Owns names, units, defaults and every sentence about a setting that cannot be. Reads no file and starts nothing:
//! what stands in a settings file comes in as defaults through [`super::file`], before clap sees the command line.
//!
//! Before: `mod` (the command line). After: [`crate::node::Node::start`], which trusts what it is given.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use quorum::{ClusterId, Quorum, QuorumError};

use super::units::{self, show_duration, show_size};
use crate::options::{Formation, Limits, NodeOptions};

/// Below this a request would time out before a disk has answered: in practice a number of seconds that lost its unit.
const REQUEST_TIMEOUT_MIN: Duration = Duration::from_millis(20);
/// A heartbeat must be lost a few times before anyone stands for election; twice is the least that is not noise.
const HEARTBEATS_PER_ELECTION_MIN: u32 = 2;
/// Longest node name: it is a DNS label on Kubernetes.
const NAME_MAX: usize = 63;
/// The smallest log segment: below it the files are more work than the log.
const SEGMENT_MIN: u64 = 1 << 20;

/// A setting, or two that do not fit together. Each text is one sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("{0}: change --write-quorum (WRITE_QUORUM) or --replicas (REPLICAS)")]
    Quorum(#[from] QuorumError),
    #[error("a delay of at least {} and at most {} cannot be: raise --max-delay (MAX_DELAY) or lower --min-delay (MIN_DELAY)", show_duration(*.min), show_duration(*.max))]
    Delay { min: Duration, max: Duration },
    #[error("a heartbeat every {} is too slow for an election timeout from {}: give --heartbeat-interval (HEARTBEAT_INTERVAL) at most half of it", show_duration(*.heartbeat), show_duration(*.election))]
    Heartbeat { heartbeat: Duration, election: Duration },
    #[error(
        "a heartbeat interval of 0 would never rest: give --heartbeat-interval (HEARTBEAT_INTERVAL) something like 100ms"
    )]
    NoHeartbeat,
    #[error("a request timeout of {} is too short for any disk: a bare number is milliseconds, so say 2s for two seconds (--request-timeout, REQUEST_TIMEOUT)", show_duration(*.0))]
    RequestTimeout(Duration),
    #[error("{0:?} is no name for a node: use 1 to 63 letters, digits, '-', '_' or '.' for --id (ID)")]
    Name(String),
    #[error("other nodes cannot connect to {0}: give --address (ADDRESS) the name or address they reach this node by")]
    Wildcard(String),
    #[error("{0:?} is no host: give --address (ADDRESS) a name or address such as node1.example or 10.0.0.7")]
    Host(String),
    #[error("port {port} is given to both {first} and {second}: choose another for one of them")]
    PortTwice { port: u16, first: &'static str, second: &'static str },
    #[error("ports from {first} up for {nodes} nodes pass 65535: lower {flag}")]
    PortRange { first: u16, nodes: usize, flag: &'static str },
    #[error(
        "the ports of {first} and {second} overlap for {nodes} nodes: move one of them so that they are {nodes} or more apart"
    )]
    PortsOverlap { first: &'static str, second: &'static str, nodes: usize },
    #[error("{} is empty and nobody is named to ask for the cluster: give --leader-url or --peers to join one, or --node-type leader to form one", .0.display())]
    NobodyToAsk(PathBuf),
    #[error("{0:?} is no node to ask: write http://host:8000 or host:7400 in --leader-url and --peers")]
    Peer(String),
    #[error("{flag} of 0 would refuse everything: give at least 1")]
    Zero { flag: &'static str },
    #[error("log segments of {} cannot hold values of {}: give --segment-size (SEGMENT_SIZE) at least {}", show_size(*.segment), show_size(*.value), show_size(*.needed))]
    Segment { segment: u64, value: u64, needed: u64 },
    #[error("{} of writes under way cannot hold one value of {}: raise --in-flight-bytes (IN_FLIGHT_BYTES)", show_size(*.in_flight), show_size(*.value))]
    InFlight { in_flight: u64, value: u64 },
}

/// What a node is at formation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NodeType {
    /// Forms the cluster if its disk is empty, and is preferred as leader.
    #[value(alias = "primary")]
    Leader,
    /// Joins; takes over by election.
    #[value(alias = "secondary")]
    Follower,
}

/// A log line's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where settings may also stand, and how much is logged.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// A file of NAME=VALUE lines with the environment names below; the environment and flags win over it.
    #[arg(long, value_name = "FILE", env = "QUORATE_CONFIG", hide_env_values = true, help_heading = "General")]
    pub(crate) config: Option<PathBuf>,
    /// What is logged on stderr: error, warn, info, debug, trace, or filters by module [default: info; warn in local].
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG", hide_env_values = true, help_heading = "General")]
    pub(crate) log_level: Option<String>,
    /// Shape of the log lines.
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        env = "LOG_FORMAT",
        hide_env_values = true,
        default_value = "text",
        help_heading = "General"
    )]
    pub(crate) log_format: LogFormat,
    /// Where traces of writes are sent: an OpenTelemetry collector that speaks OTLP over plain HTTP, as
    /// in http://127.0.0.1:4318.
    #[cfg(feature = "otel")]
    #[arg(
        long,
        value_name = "URL",
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        hide_env_values = true,
        help_heading = "General"
    )]
    pub(crate) otlp_endpoint: Option<String>,
}

/// `serve`: one node.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Checks the settings, prints what they come to, and ends.
    #[arg(long, help_heading = "General")]
    pub(crate) check: bool,

    /// leader: forms the cluster if the disk is empty, and is preferred as leader. follower: joins it.
    #[arg(
        long,
        value_enum,
        value_name = "TYPE",
        env = "NODE_TYPE",
        hide_env_values = true,
        default_value = "follower",
        help_heading = "Cluster"
    )]
    pub(crate) node_type: NodeType,
    /// The same as --node-type leader.
    #[arg(long, help_heading = "Cluster")]
    pub(crate) primary: bool,
    /// A node to ask for the cluster: http://host:8000.
    #[arg(long, value_name = "URL", env = "LEADER_URL", hide_env_values = true, help_heading = "Cluster")]
    pub(crate) leader_url: Option<String>,
    /// More nodes to ask, separated by commas: URLs, or host:peer-port.
    #[arg(
        long,
        value_name = "LIST",
        env = "PEERS",
        hide_env_values = true,
        value_delimiter = ',',
        help_heading = "Cluster"
    )]
    pub(crate) peers: Vec<String>,
    /// N, all nodes of a cluster to be formed, the leader included (1 to 9).
    #[arg(
        long,
        value_name = "N",
        env = "REPLICAS",
        hide_env_values = true,
        default_value_t = 3,
        help_heading = "Cluster"
    )]
    pub(crate) replicas: usize,
    /// W, durable copies that acknowledge a write, the leader's included [default: more than half of N].
    #[arg(long, value_name = "W", env = "WRITE_QUORUM", hide_env_values = true, help_heading = "Cluster")]
    pub(crate) write_quorum: Option<usize>,
    /// The only cluster to belong to (a UUID); with it the node joins and never forms.
    #[arg(long, value_name = "UUID", env = "CLUSTER_ID", hide_env_values = true, help_heading = "Cluster")]
    pub(crate) cluster_id: Option<ClusterId>,
    /// Who alone changes members and write quorum, such as "KVCluster default/demo": anyone else
    /// is refused and sent there.
    #[arg(long, value_name = "NAME", env = "MANAGED_BY", hide_env_values = true, help_heading = "Cluster")]
    pub(crate) managed_by: Option<String>,

    /// The node's name, unique in the cluster and kept when its disk is replaced [default: the host name;
    /// node-<http port> on loopback].
    #[arg(
        long,
        visible_alias = "node-id",
        value_name = "NAME",
        env = "ID",
        hide_env_values = true,
        help_heading = "Node"
    )]
    pub(crate) id: Option<String>,
    /// The folder that holds everything the node knows [default: quorate-data/<id>].
    #[arg(long, value_name = "DIR", env = "DATA_DIR", hide_env_values = true, help_heading = "Node")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The name or address others reach this node by; of a URL, its host [default: the bind address, or the host name].
    #[arg(long, value_name = "HOST", env = "ADDRESS", hide_env_values = true, help_heading = "Node")]
    pub(crate) address: Option<String>,
    /// The address to listen on [default: 0.0.0.0 if --address names this machine to others, 127.0.0.1 otherwise].
    #[arg(long, value_name = "IP", env = "BIND", hide_env_values = true, help_heading = "Node")]
    pub(crate) bind: Option<IpAddr>,
    /// Port of the HTTP API, the page and the metrics.
    #[arg(
        long,
        value_name = "PORT",
        env = "HTTP_PORT",
        hide_env_values = true,
        default_value_t = 8000,
        help_heading = "Node"
    )]
    pub(crate) http_port: u16,
    /// Port of the Redis protocol and the line protocol.
    #[arg(
        long,
        visible_alias = "port",
        value_name = "PORT",
        env = "TCP_PORT",
        hide_env_values = true,
        default_value_t = 6379,
        help_heading = "Node"
    )]
    pub(crate) tcp_port: u16,
    /// Port for other nodes.
    #[arg(
        long,
        value_name = "PORT",
        env = "PEER_PORT",
        hide_env_values = true,
        default_value_t = 7400,
        help_heading = "Node"
    )]
    pub(crate) peer_port: u16,

    #[command(flatten)]
    pub(crate) timing: Timing,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

/// Times and switches that `serve` and `local` share.
#[derive(Args, Clone, Debug)]
pub(crate) struct Timing {
    /// Changes of the cluster need this token (Authorization: Bearer) [default: none needed].
    #[arg(
        long,
        value_name = "TOKEN",
        env = "ADMIN_TOKEN",
        hide_env_values = true,
        hide_default_value = true,
        help_heading = "Access"
    )]
    pub(crate) admin_token: Option<String>,

    /// Simulated network: each append to each follower arrives at least this much later.
    #[arg(long, value_name = "TIME", env = "MIN_DELAY", hide_env_values = true, value_parser = units::duration, help_heading = "Timing")]
    pub(crate) min_delay: Option<Duration>,
    /// … and at most this much later, drawn uniformly; heartbeats and votes are never delayed [default: the smallest].
    #[arg(long, value_name = "TIME", env = "MAX_DELAY", hide_env_values = true, value_parser = units::duration, help_heading = "Timing")]
    pub(crate) max_delay: Option<Duration>,
    /// Time between a leader's heartbeats.
    #[arg(
        long, value_name = "TIME", env = "HEARTBEAT_INTERVAL", hide_env_values = true, value_parser = units::duration,
        default_value = "100ms", help_heading = "Timing"
    )]
    pub(crate) heartbeat_interval: Duration,
    /// Range that a follower draws its patience from before it stands for election.
    #[arg(
        long, value_name = "RANGE", env = "ELECTION_TIMEOUT", hide_env_values = true, value_parser = units::range,
        default_value = "500ms-1s", help_heading = "Timing"
    )]
    pub(crate) election_timeout: (Duration, Duration),
    /// How long a request may take before its outcome is reported as unknown.
    #[arg(
        long, value_name = "TIME", env = "REQUEST_TIMEOUT", hide_env_values = true, value_parser = units::duration,
        default_value = "5s", help_heading = "Timing"
    )]
    pub(crate) request_timeout: Duration,
    /// Linearizable reads rely on the leader's lease instead of asking a quorum: faster, and as right as the clocks.
    #[arg(
        long, value_name = "BOOL", env = "LEASE_READS", hide_env_values = true, value_parser = units::switch,
        num_args = 0..=1, default_value = "false", default_missing_value = "true", help_heading = "Timing"
    )]
    pub(crate) lease_reads: bool,
}

/// Every bound of a node. Absent: the default named in the text.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct LimitArgs {
    /// Longest key [default: 4KiB].
    #[arg(long, value_name = "SIZE", env = "KEY_MAX", hide_env_values = true, value_parser = units::size_in_memory, help_heading = "Limits")]
    pub(crate) key_max: Option<usize>,
    /// Largest value [default: 1MiB].
    #[arg(long, value_name = "SIZE", env = "VALUE_MAX", hide_env_values = true, value_parser = units::size_in_memory, help_heading = "Limits")]
    pub(crate) value_max: Option<usize>,
    /// Most keys in one command [default: 1000].
    #[arg(long, value_name = "COUNT", env = "BATCH_KEYS", hide_env_values = true, help_heading = "Limits")]
    pub(crate) batch_keys: Option<usize>,
    /// Most keys in one page of a listing [default: 1000].
    #[arg(long, value_name = "COUNT", env = "PAGE_KEYS", hide_env_values = true, help_heading = "Limits")]
    pub(crate) page_keys: Option<usize>,
    /// Most writes under way at once; one more is refused as overload [default: 16384].
    #[arg(long, value_name = "COUNT", env = "IN_FLIGHT_WRITES", hide_env_values = true, help_heading = "Limits")]
    pub(crate) in_flight_writes: Option<usize>,
    /// Most bytes of writes under way at once [default: 64MiB].
    #[arg(long, value_name = "SIZE", env = "IN_FLIGHT_BYTES", hide_env_values = true, value_parser = units::size_in_memory, help_heading = "Limits")]
    pub(crate) in_flight_bytes: Option<usize>,
    /// Most connections on the HTTP port [default: 16384].
    #[arg(long, value_name = "COUNT", env = "HTTP_CONNECTIONS", hide_env_values = true, help_heading = "Limits")]
    pub(crate) http_connections: Option<usize>,
    /// Most connections on the TCP port [default: 16384].
    #[arg(long, value_name = "COUNT", env = "TCP_CONNECTIONS", hide_env_values = true, help_heading = "Limits")]
    pub(crate) tcp_connections: Option<usize>,
    /// Applied data held in memory before the engine has it [default: 64MiB; 16MiB in local].
    #[arg(long, value_name = "SIZE", env = "OVERLAY_SIZE", hide_env_values = true, value_parser = units::size_in_memory, help_heading = "Limits")]
    pub(crate) overlay_size: Option<usize>,
    /// The engine's cache [default: 64MiB; 16MiB in local].
    #[arg(long, value_name = "SIZE", env = "CACHE_SIZE", hide_env_values = true, value_parser = units::size, help_heading = "Limits")]
    pub(crate) cache_size: Option<u64>,
    /// Free disk space below which writes are refused, deletes still taken [default: 256MiB].
    #[arg(long, value_name = "SIZE", env = "DISK_RESERVE", hide_env_values = true, value_parser = units::size, help_heading = "Limits")]
    pub(crate) disk_reserve: Option<u64>,
    /// Size of one file of the log [default: 64MiB; 16MiB in local].
    #[arg(long, value_name = "SIZE", env = "SEGMENT_SIZE", hide_env_values = true, value_parser = units::size, help_heading = "Limits")]
    pub(crate) segment_size: Option<u64>,
    /// Log kept for followers that lag; beyond it they get a snapshot [default: 256MiB].
    #[arg(long, value_name = "SIZE", env = "LOG_KEEP", hide_env_values = true, value_parser = units::size, help_heading = "Limits")]
    pub(crate) log_keep: Option<u64>,
}

/// What the machine says of itself, as far as defaults depend on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    /// The host name, if it has one.
    pub(crate) host_name: Option<String>,
}

impl Machine {
    /// Asks the environment and the system.
    pub(crate) fn ask() -> Machine {
        let given = std::env::var("HOSTNAME").ok();
        let files = ["/proc/sys/kernel/hostname", "/etc/hostname"];
        let host_name = given.into_iter().chain(files.iter().filter_map(|f| std::fs::read_to_string(f).ok()));
        Machine { host_name: host_name.map(|n| n.trim().to_owned()).find(|n| !n.is_empty()) }
    }
}

impl Timing {
    /// Puts the times and switches into the options, checked.
    pub(crate) fn put_into(&self, options: &mut NodeOptions) -> Result<(), SettingsError> {
        let min = self.min_delay.unwrap_or_default();
        let max = self.max_delay.unwrap_or(min);
        if min > max {
            return Err(SettingsError::Delay { min, max });
        }
        let (heartbeat, election) = (self.heartbeat_interval, self.election_timeout);
        if heartbeat.is_zero() {
            return Err(SettingsError::NoHeartbeat);
        }
        if heartbeat * HEARTBEATS_PER_ELECTION_MIN > election.0 {
            return Err(SettingsError::Heartbeat { heartbeat, election: election.0 });
        }
        if self.request_timeout < REQUEST_TIMEOUT_MIN {
            return Err(SettingsError::RequestTimeout(self.request_timeout));
        }
        options.delay = (min, max);
        options.heartbeat = heartbeat;
        options.election = election;
        options.request_timeout = self.request_timeout;
        options.lease_reads = self.lease_reads;
        // An empty token, as compose files pass for a variable that is not set, means none.
        options.admin_token = self.admin_token.clone().filter(|t| !t.is_empty());
        Ok(())
    }
}

impl LimitArgs {
    /// The limits: what is given here, the rest from `defaults`; checked.
    pub(crate) fn over(&self, defaults: Limits) -> Result<Limits, SettingsError> {
        let limits = Limits {
            key_bytes: self.key_max.unwrap_or(defaults.key_bytes),
            value_bytes: self.value_max.unwrap_or(defaults.value_bytes),
            batch_keys: self.batch_keys.unwrap_or(defaults.batch_keys),
            page_keys: self.page_keys.unwrap_or(defaults.page_keys),
            in_flight_writes: self.in_flight_writes.unwrap_or(defaults.in_flight_writes),
            in_flight_bytes: self.in_flight_bytes.unwrap_or(defaults.in_flight_bytes),
            http_connections: self.http_connections.unwrap_or(defaults.http_connections),
            tcp_connections: self.tcp_connections.unwrap_or(defaults.tcp_connections),
            overlay_bytes: self.overlay_size.unwrap_or(defaults.overlay_bytes),
            cache_bytes: self.cache_size.unwrap_or(defaults.cache_bytes),
            disk_reserve_bytes: self.disk_reserve.unwrap_or(defaults.disk_reserve_bytes),
            segment_bytes: self.segment_size.unwrap_or(defaults.segment_bytes),
            log_keep_bytes: self.log_keep.unwrap_or(defaults.log_keep_bytes),
            ..defaults
        };
        for (flag, value) in [
            ("--key-max (KEY_MAX)", limits.key_bytes),
            ("--value-max (VALUE_MAX)", limits.value_bytes),
            ("--batch-keys (BATCH_KEYS)", limits.batch_keys),
            ("--page-keys (PAGE_KEYS)", limits.page_keys),
            ("--in-flight-writes (IN_FLIGHT_WRITES)", limits.in_flight_writes),
            ("--http-connections (HTTP_CONNECTIONS)", limits.http_connections),
            ("--tcp-connections (TCP_CONNECTIONS)", limits.tcp_connections),
            ("--overlay-size (OVERLAY_SIZE)", limits.overlay_bytes),
        ] {
            if value == 0 {
                return Err(SettingsError::Zero { flag });
            }
        }
        let value = limits.value_bytes as u64;
        // Room for one largest value with its frame, twice over, so that a segment is never a single record.
        let needed = SEGMENT_MIN.max(value.saturating_mul(2));
        if limits.segment_bytes < needed {
            return Err(SettingsError::Segment { segment: limits.segment_bytes, value, needed });
        }
        if (limits.in_flight_bytes as u64) < value {
            return Err(SettingsError::InFlight { in_flight: limits.in_flight_bytes as u64, value });
        }
        Ok(limits)
    }
}

impl ServeArgs {
    /// The settings of the node, checked and complete.
    pub(crate) fn options(&self, machine: &Machine) -> Result<NodeOptions, SettingsError> {
        let ports = [("--http-port", self.http_port), ("--tcp-port", self.tcp_port), ("--peer-port", self.peer_port)];
        distinct(&ports)?;
        let (bind, host) = self.where_reached(machine)?;
        let name = match &self.id {
            Some(id) => id.clone(),
            None if bind.is_loopback() => format!("node-{}", self.http_port),
            None => machine.host_name.clone().unwrap_or_else(|| format!("node-{}", self.http_port)),
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(allowed) || name.starts_with('.') {
            return Err(SettingsError::Name(name));
        }
        let data_dir = self.data_dir.clone().unwrap_or_else(|| Path::new("quorate-data").join(&name));
        let at = |port| SocketAddr::new(bind, port);
        let mut options = NodeOptions::new(&name, data_dir, at(self.http_port), at(self.tcp_port), at(self.peer_port));
        options.host = host;
        options.cluster_id = self.cluster_id;
        options.managed_by = self.managed_by.clone().filter(|m| !m.is_empty());
        self.timing.put_into(&mut options)?;
        options.limits = self.limits.over(Limits::default())?;
        options.join = self.leader_url.iter().chain(&self.peers).filter(|p| !p.is_empty()).cloned().collect();
        for peer in &options.join {
            check_peer(peer)?;
        }
        let write_quorum = self.write_quorum.unwrap_or(self.replicas / 2 + 1);
        Quorum::new(self.replicas, write_quorum)?;
        if self.primary || self.node_type == NodeType::Leader {
            options.form = Some(Formation { replicas: self.replicas, write_quorum });
        } else if options.join.is_empty() && is_blank(&options.data_dir) {
            return Err(SettingsError::NobodyToAsk(options.data_dir));
        }
        Ok(options)
    }

    /// Where to listen, and the host that others are told.
    fn where_reached(&self, machine: &Machine) -> Result<(IpAddr, String), SettingsError> {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let named = self.address.as_deref().filter(|a| !a.is_empty()).map(host_of).transpose()?;
        let bind = match (self.bind, &named) {
            (Some(bind), _) => bind,
            (None, Some(host)) if !is_loopback(host) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            _ => loopback,
        };
        let host = match named {
            Some(host) => host,
            None if bind.is_unspecified() => {
                machine.host_name.clone().ok_or_else(|| SettingsError::Wildcard(bind.to_string()))?
            }
            None => bind.to_string(),
        };
        match host.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => Err(SettingsError::Wildcard(host)),
            _ => Ok((bind, host)),
        }
    }
}

/// The names of earlier systems that no longer mean anything, with what took their place.
pub(crate) fn retired(set: impl Fn(&str) -> bool) -> Vec<String> {
    [
        ("HEARTBEAT_TIMEOUT", "ELECTION_TIMEOUT (a range such as 500ms-1s)"),
        ("CHECK_INTERVAL", "ELECTION_TIMEOUT (a range such as 500ms-1s)"),
        ("CONTROLLER", "LEADER_URL or PEERS"),
        ("WORKERS", "PEERS"),
    ]
    .iter()
    .filter(|(old, _)| set(old))
    .map(|(old, new)| format!("{old} is set but has no meaning here: use {new}"))
    .collect()
}

/// Whether nothing was ever stored in the folder.
pub(crate) fn is_blank(folder: &Path) -> bool {
    std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

/// The ports of `local`'s nodes: so many from each first one, none twice.
pub(crate) fn port_ranges(firsts: &[(&'static str, u16); 3], nodes: usize) -> Result<(), SettingsError> {
    for (flag, first) in firsts {
        if usize::from(*first) + nodes - 1 > usize::from(u16::MAX) {
            return Err(SettingsError::PortRange { first: *first, nodes, flag });
        }
    }
    for (i, (first, a)) in firsts.iter().enumerate() {
        for (second, b) in &firsts[i + 1..] {
            if usize::from(a.abs_diff(*b)) < nodes {
                return Err(SettingsError::PortsOverlap { first, second, nodes });
            }
        }
    }
    Ok(())
}

fn distinct(ports: &[(&'static str, u16); 3]) -> Result<(), SettingsError> {
    for (i, (first, a)) in ports.iter().enumerate() {
        // Port 0 asks the system for a free one, each time another.
        if let Some((second, _)) = ports[i + 1..].iter().find(|(_, b)| a == b && *a != 0) {
            return Err(SettingsError::PortTwice { port: *a, first, second });
        }
    }
    Ok(())
}

/// The host in `host`, `host:port` or `http://host:port`.
fn host_of(address: &str) -> Result<String, SettingsError> {
    let wrong = || SettingsError::Host(address.to_owned());
    let rest = address.strip_prefix("http://").or_else(|| address.strip_prefix("https://")).unwrap_or(address);
    let rest = rest.trim_end_matches('/');
    if let Ok(ip) = rest.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(ip.to_string());
    }
    let host = match rest.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host.trim_start_matches('[').trim_end_matches(']'),
        Some(_) => return Err(wrong()),
        None => rest,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if host.parse::<IpAddr>().is_ok() || (!host.is_empty() && host.chars().all(plain)) {
        return Ok(host.to_owned());
    }
    Err(wrong())
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn check_peer(peer: &str) -> Result<(), SettingsError> {
    let wrong = || SettingsError::Peer(peer.to_owned());
    let url = peer.strip_prefix("http://");
    host_of(peer).map_err(|_| wrong())?;
    // A URL may leave out its port (80); an address of a peer port may not.
    let has_port = peer.rsplit_once(':').is_some_and(|(_, port)| port.trim_end_matches('/').parse::<u16>().is_ok());
    if peer.starts_with("https://") || (url.is_none() && !has_port) {
        return Err(wrong());
    }
    Ok(())
}

/// What the settings come to, one line each, for `serve --check`.
pub(crate) fn show(options: &NodeOptions) -> String {
    let form = options
        .form
        .as_ref()
        .map_or("no, joins".to_owned(), |f| format!("yes, {} nodes, write quorum {}", f.replicas, f.write_quorum));
    let limits = &options.limits;
    let range = |(a, b): (Duration, Duration)| format!("{}-{}", show_duration(a), show_duration(b));
    let lines = [
        ("id", options.name.clone()),
        ("data-dir", options.data_dir.display().to_string()),
        ("address", options.host.clone()),
        ("http", options.http.to_string()),
        ("tcp", options.tcp.to_string()),
        ("peer", options.peer.to_string()),
        ("forms", form),
        ("asks", if options.join.is_empty() { "nobody".into() } else { options.join.join(", ") }),
        ("cluster-id", options.cluster_id.map_or("any".into(), |id| id.to_string())),
        ("admin-token", if options.admin_token.is_some() { "set".into() } else { "none".to_owned() }),
        ("delay", range(options.delay)),
        ("heartbeat-interval", show_duration(options.heartbeat)),
        ("election-timeout", range(options.election)),
        ("request-timeout", show_duration(options.request_timeout)),
        ("lease-reads", options.lease_reads.to_string()),
        ("key-max", show_size(limits.key_bytes as u64)),
        ("value-max", show_size(limits.value_bytes as u64)),
        ("batch-keys", limits.batch_keys.to_string()),
        ("page-keys", limits.page_keys.to_string()),
        ("in-flight-writes", limits.in_flight_writes.to_string()),
        ("in-flight-bytes", show_size(limits.in_flight_bytes as u64)),
        ("http-connections", limits.http_connections.to_string()),
        ("tcp-connections", limits.tcp_connections.to_string()),
        ("overlay-size", show_size(limits.overlay_bytes as u64)),
        ("cache-size", show_size(limits.cache_bytes)),
        ("disk-reserve", show_size(limits.disk_reserve_bytes)),
        ("segment-size", show_size(limits.segment_bytes)),
        ("log-keep", show_size(limits.log_keep_bytes)),
    ];
    lines.iter().map(|(name, value)| format!("{name:<19} {value}\n")).collect()
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
