//! Clusters of real processes over real sockets, for the tests in `tests/` and the programs behind `make check | quick | basic`.
//!
//! Owns the starting, hurting and ending of processes, clients small enough to be judged by reading them, and the comparison of what nodes
//! hold. It knows a node by its binary, its ports and its files alone, as any user does: nothing here links the node's code.
//!
//! Waits are for conditions, with deadlines, never for time. Every process that was started ends with the [`Cluster`] that stands for it.

// A harness that cannot go on ends its test, and the message is what is wanted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod arena;
pub mod binary;
pub mod client;
pub mod cluster;
pub mod damage;
pub mod dashboards;
pub mod links;
pub mod load;
pub mod loud;
pub mod pictures;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod rot;
pub mod tracer;
pub mod wait;
pub mod workload;

pub use arena::Arena;
pub use client::{Answer, Lines, Resp, RespClient};
pub use cluster::{Cluster, Setup};
pub use loud::loudly;
pub use process::Node;
pub use prometheus::Prometheus;
pub use wait::{eventually, eventually_in};
pub use workload::{Settings, Target, Workload};
