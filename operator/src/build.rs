//! The objects of a cluster, from what is wanted and planned.
//!
//! Pure, and needs no client: every object is complete here, with its owner and labels; golden files in `tests/golden` show them as YAML. What is in an object is
//! the operator's and is put back if somebody changes it; what is not in it (an annotation of another tool) is left alone.
//!
//! Before: [`crate::plan`]. After: [`crate::apply`], which applies them in the order of [`Objects`]: the StatefulSets last, so that no pod starts before what it reads.

mod pods;
mod services;
mod settings;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;

use crate::crd::{Formation, KVCluster, KVClusterStatus};
use crate::names::{self, Set};
use crate::observe::Observed;
use crate::plan::{Pods, must_stay};
use crate::validate::Wanted;

/// Everything that is applied, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// The identity of the pods, which may do nothing.
    pub service_account: ServiceAccount,
    /// What the nodes read from their environment.
    pub config_map: ConfigMap,
    /// How the nodes, the leader and any ready node are reached.
    pub services: Vec<Service>,
    /// How many pods an eviction leaves. None for a single pod, which it would only lock in.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// The pods.
    pub sets: Vec<StatefulSet>,
}

/// Makes all objects. A StatefulSet that exists keeps the size of its claims, which cannot be changed: it is made anew for that, by a step of the plan. One that is
/// being deleted is left out.
#[must_use]
pub fn objects(wanted: &Wanted, pods: Pods, recorded: &KVClusterStatus, seen: &Observed) -> Objects {
    let formation =
        recorded.formation.unwrap_or(Formation { replicas: wanted.replicas(), write_quorum: wanted.write_quorum() });
    let settings = settings::settings(wanted, recorded.cluster_id.as_deref());
    let set_of = |set: Set| {
        let size = seen.set(set).map(|s| s.claim_size.as_str()).filter(|size| !size.is_empty());
        pods::stateful_set(wanted, set, pods, formation, &settings, size.unwrap_or(&wanted.spec.storage.size))
    };
    Objects {
        service_account: ServiceAccount {
            metadata: meta(wanted, &wanted.name),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
        services: services::services(wanted),
        disruption_budget: disruption_budget(wanted),
        sets: Set::ALL.into_iter().filter(|set| !seen.leaving.contains(set)).map(set_of).collect(),
        config_map: ConfigMap {
            metadata: meta(wanted, &names::config_map(&wanted.name)),
            data: Some(settings.data.clone()),
            ..ConfigMap::default()
        },
    }
}

/// The Secret with the admin token. Made once: a token that changed under running nodes would lock the operator out.
#[must_use]
pub fn secret(wanted: &Wanted, token: &str) -> Secret {
    Secret {
        metadata: meta(wanted, &names::secret(&wanted.name)),
        string_data: Some(BTreeMap::from([(names::TOKEN_KEY.to_owned(), token.to_owned())])),
        ..Secret::default()
    }
}

fn disruption_budget(wanted: &Wanted) -> Option<PodDisruptionBudget> {
    if wanted.replicas() < 2 {
        return None;
    }
    let min_available = i32::try_from(must_stay(wanted)).unwrap_or(i32::MAX);
    Some(PodDisruptionBudget {
        metadata: meta(wanted, &wanted.name),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(min_available)),
            selector: Some(selector(wanted)),
            // A pod that is not ready protects nobody: it may always be evicted.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}

fn selector(wanted: &Wanted) -> LabelSelector {
    LabelSelector { match_labels: Some(names::selector(&wanted.name)), ..LabelSelector::default() }
}

/// Name, namespace, labels and owner.
fn meta(wanted: &Wanted, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(wanted.namespace.clone()),
        labels: Some(names::labels(&wanted.name)),
        owner_references: Some(vec![OwnerReference {
            api_version: KVCluster::api_version(&()).into_owned(),
            kind: KVCluster::kind(&()).into_owned(),
            name: wanted.name.clone(),
            uid: wanted.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}
