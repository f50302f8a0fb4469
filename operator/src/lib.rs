//! The operator: from KVClusters to pods, volumes and clusters that are as they ask.
//!
//! A pass over one KVCluster is a pipeline, one module each:
//!
//! 1. [`observe`]: what there is, read anew each time, and what every live pod says of itself.
//! 2. [`validate`]: what is wanted, with every default filled in.
//! 3. [`plan`]: how many pods, and at most one step. Pure.
//! 4. [`build`]: the objects. Pure.
//! 5. [`apply`]: objects, leader label, step.
//! 6. [`status`]: what is told, and the Events of what changed. Pure.
//!
//! What holds throughout:
//!
//! - The nodes rule themselves. They elect, commit and replace lost disks with or without an operator; it proposes, through the same API as anyone, and every
//!   change names the version it is based on. An operator that is gone, late or doubled costs no write.
//! - Nothing is decided from a cache, and nothing is remembered between passes that a decision rests on, but what stands in the KVCluster's status.
//! - A pass takes at most one step, and never waits for its effect.
//! - When nothing changes, nothing is written.

pub mod apply;
pub mod build;
pub mod cli;
pub mod controller;
pub mod crd;
pub mod lease;
pub mod metrics;
pub mod names;
pub mod node;
pub mod observe;
pub mod plan;
pub mod probes;
pub mod reconcile;
pub mod run;
pub mod status;
pub mod validate;
pub mod watch;
pub mod whose;

use kube::CustomResourceExt;

/// The CustomResourceDefinition as YAML, as it lies in `crds/` and in the chart.
///
/// # Errors
/// When it cannot be written as YAML, which a test rules out.
pub fn crd_yaml() -> Result<String, String> {
    serde_saphyr::to_string(&crd::KVCluster::crd()).map_err(|e| e.to_string())
}
