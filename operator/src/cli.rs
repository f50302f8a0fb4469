//! Flags and environment of the operator.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The image of clusters that name none, of the operator's own version.
const DEFAULT_IMAGE: &str = concat!("quorate:", env!("CARGO_PKG_VERSION"));

/// Runs Quorate clusters on Kubernetes.
#[derive(Parser, Debug)]
#[command(name = "quorate-operator", version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Verb>,
    /// How to serve.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What to do; serving, if nothing is named.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Prints the CustomResourceDefinition, as YAML.
    Crd,
}

/// Shape of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How to serve.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Namespaces whose KVClusters are served, separated by commas [default: all].
    #[arg(long, value_name = "LIST", env = "WATCH_NAMESPACES", hide_env_values = true, value_delimiter = ',')]
    pub namespace: Vec<String>,
    /// Image of KVClusters that name none.
    #[arg(long, value_name = "IMAGE", env = "DEFAULT_IMAGE", hide_env_values = true, default_value = DEFAULT_IMAGE)]
    pub default_image: String,
    /// Where probes and metrics are served.
    #[arg(long, value_name = "ADDRESS", env = "LISTEN", hide_env_values = true, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Acts without waiting for the lease: for one operator alone, at a desk.
    #[arg(long, env = "NO_LEADER_ELECTION", hide_env_values = true)]
    pub no_leader_election: bool,
    /// The lease that one of several operators holds.
    #[arg(long, value_name = "NAME", env = "LEASE_NAME", hide_env_values = true, default_value = "quorate-operator")]
    pub lease_name: String,
    /// The lease's namespace [default: that of the operator's pod].
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", hide_env_values = true)]
    pub lease_namespace: Option<String>,
    /// Who this operator is among several: its pod's name [default: drawn anew at each start].
    #[arg(long, value_name = "NAME", env = "POD_NAME", hide_env_values = true)]
    pub identity: Option<String>,
    /// What is logged on stderr: error, warn, info, debug, trace, or filters by module.
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG", hide_env_values = true, default_value = "info")]
    pub log_level: String,
    /// Shape of the log lines.
    #[arg(long, value_enum, value_name = "FORMAT", env = "LOG_FORMAT", hide_env_values = true, default_value = "json")]
    pub log_format: LogFormat,
}
