//! The chart, the operator and clusters of pods on a real Kubernetes: `make kubernetes`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod change;
mod failover;
mod install;

/// The manifest of README: three copies, of which two hold a write before it is acknowledged.
const THREE_COPIES: &str = include_str!("../../../../docs/kvcluster.yaml");
