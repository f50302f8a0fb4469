//! Quorate on a real Kubernetes, for the tests in `tests/`.
//!
//! Owns the namespace that a test works in, the release of the chart in it, clients of its pods, and what befalls the
//! machines. It knows the cluster by its kubeconfig alone (`KUBECONFIG`; `make kind-up` starts one), and does what
//! people do by their own programs: `helm` and `kubectl`, found on the path. What the tests look at they read through
//! the Kubernetes API.
//!
//! Every test has a namespace of its own, with the level `restricted` of pod security enforced, and an operator of its
//! own that serves this namespace and no other: tests do not meet, and one may stop its operator. Only those in
//! `tests/machines` concern everybody, and run alone.
//!
//! Waits are for conditions, with deadlines, never for time.

// A harness that cannot go on ends its test, and the message is what is wanted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod arena;
pub mod clients;
pub mod command;
pub mod forward;
pub mod machine;

pub use arena::Arena;
pub use clients::Clients;
pub use forward::Forward;
pub use machine::Trouble;

/// The manifest of README: three copies, of which two hold a write before it is acknowledged.
pub const THREE_COPIES: &str = include_str!("../../../docs/kvcluster.yaml");

/// The manifest of a KVCluster of this spec.
#[must_use]
pub fn manifest(name: &str, spec: &str) -> String {
    format!("apiVersion: quorate.dev/v1alpha1\nkind: KVCluster\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}
