//! Doing what was planned: the objects by server-side apply, then the leader's label, then at most one step.
//!
//! Owns every write to the API server but the status, and every request that changes a cluster. Decides nothing.
//!
//! Before: [`crate::plan`], [`crate::build`]. After: [`crate::status`], which tells what went wrong here.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;

use crate::build::{self, Objects};
use crate::crd::KVCluster;
use crate::names::{self, Set};
use crate::node::{Credentials, NodeError, Nodes};
use crate::observe::Observed;
use crate::plan::{Growth, Step};
use crate::validate::Wanted;
use crate::whose::{self, NotOurs};

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused or did not answer.
    #[error("{what}: {}", plain(error))]
    Api {
        /// What was tried.
        what: String,
        /// Its answer.
        error: Box<kube::Error>,
    },
    /// A node refused or did not answer.
    #[error("{what}: {error}")]
    Node {
        /// What was tried.
        what: String,
        /// Its answer.
        error: NodeError,
    },
    /// There is no leader any more.
    #[error("{0}: there is no leader to ask")]
    NoLeader(String),
    /// An object that is needed is another's.
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
    /// The nodes do not know the operator's token: they read theirs when they started.
    #[error(
        "{what}: the nodes have another token than Secret {secret} has now: delete the pods one by one, each once all others are ready"
    )]
    OtherToken {
        /// What was tried.
        what: String,
        /// Where the operator's is.
        secret: String,
    },
    /// Somebody emptied the Secret.
    #[error("Secret {0} has no {key}: delete it, and the pods after it", key = names::TOKEN_KEY)]
    NoToken(String),
}

/// What the API server says, without what the library adds for programmers: a person reads it in a condition.
fn plain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// Turns an answer of the API server into an error that says what was tried.
fn failed(what: impl Into<String>) -> impl FnOnce(kube::Error) -> ApplyError {
    let what = what.into();
    move |error| ApplyError::Api { what, error: Box::new(error) }
}

/// Whether every object that is about to be made or changed is this KVCluster's; the StatefulSets that were seen have been looked at then, and the Secret is when it
/// is read. Before any is changed, so that nothing is half made beside what is another's.
///
/// # Errors
/// At the first that is not, or cannot be looked at.
pub async fn all_ours(client: &Client, wanted: &Wanted, objects: &Objects, seen: &Observed) -> Result<(), ApplyError> {
    if let Some(not_ours) = &seen.not_ours {
        return Err(not_ours.clone().into());
    }
    ours(client, wanted, &objects.service_account).await?;
    ours(client, wanted, &objects.config_map).await?;
    for service in &objects.services {
        ours(client, wanted, service).await?;
    }
    if let Some(budget) = &objects.disruption_budget {
        ours(client, wanted, budget).await?;
    }
    for set in Set::ALL.into_iter().filter(|set| seen.set(*set).is_none()) {
        let name = set.name(&wanted.name);
        if let Some(set) = objects.sets.iter().find(|s| s.name_any() == name) {
            ours(client, wanted, set).await?;
        }
    }
    Ok(())
}

/// Whether an object is this KVCluster's, if it exists.
async fn ours<K>(client: &Client, wanted: &Wanted, object: &K) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &wanted.namespace);
    let (kind, name) = (K::kind(&()), object.name_any());
    match api.get_metadata_opt(&name).await.map_err(failed(format!("{kind} {name}")))? {
        Some(found) => Ok(whose::check(&kind, &found.metadata, &wanted.name, &wanted.uid)?),
        None => Ok(()),
    }
}

/// Makes the objects as planned. Whether the controllers of the StatefulSets have seen them as they are now.
///
/// # Errors
/// At the first that cannot be made.
pub async fn apply(client: &Client, wanted: &Wanted, objects: &Objects) -> Result<bool, ApplyError> {
    let namespace = &wanted.namespace;
    one(client, namespace, &objects.service_account).await?;
    one(client, namespace, &objects.config_map).await?;
    for service in &objects.services {
        one(client, namespace, service).await?;
    }
    match &objects.disruption_budget {
        Some(budget) => drop(one(client, namespace, budget).await?),
        None => no_disruption_budget(client, wanted).await?,
    }
    let mut noticed = true;
    for set in &objects.sets {
        let applied = one(client, namespace, set).await?;
        noticed &= applied.status.and_then(|s| s.observed_generation) == applied.metadata.generation;
    }
    Ok(noticed)
}

/// The object as it is then.
async fn one<K>(client: &Client, namespace: &str, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let name = object.name_any();
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    // Forced: a field the operator sets is the operator's, whoever wrote it last.
    let params = PatchParams::apply(names::MANAGER).force();
    api.patch(&name, &params, &Patch::Apply(object)).await.map_err(failed(format!("{} {name}", K::kind(&()))))
}

/// A cluster that became a single pod has none; one of that name that is another's stays.
async fn no_disruption_budget(client: &Client, wanted: &Wanted) -> Result<(), ApplyError> {
    let api: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), &wanted.namespace);
    let what = || format!("PodDisruptionBudget {}", wanted.name);
    let found = api.get_metadata_opt(&wanted.name).await.map_err(failed(what()))?;
    let is_ours = |found: kube::core::PartialObjectMeta<PodDisruptionBudget>| {
        whose::check("PodDisruptionBudget", &found.metadata, &wanted.name, &wanted.uid).is_ok()
    };
    if found.is_some_and(is_ours) {
        ignore_missing(api.delete(&wanted.name, &DeleteParams::default()).await.map(drop)).map_err(failed(what()))?;
    }
    Ok(())
}

fn ignore_missing(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

/// The admin token; made at the first call.
///
/// # Errors
/// When it can be neither read nor made.
pub async fn credentials(client: &Client, wanted: &Wanted) -> Result<Credentials, ApplyError> {
    let name = names::secret(&wanted.name);
    let api: Api<Secret> = Api::namespaced(client.clone(), &wanted.namespace);
    let what = || format!("Secret {name}");
    let secret = match api.get_opt(&name).await.map_err(failed(what()))? {
        Some(secret) => {
            whose::check("Secret", &secret.metadata, &wanted.name, &wanted.uid)?;
            secret
        }
        None => {
            // 122 random bits, from the system's source.
            let token = uuid::Uuid::new_v4().simple().to_string();
            api.create(&PostParams::default(), &build::secret(wanted, &token)).await.map_err(failed(what()))?
        }
    };
    let token =
        secret.data.as_ref().and_then(|d| d.get(names::TOKEN_KEY)).and_then(|t| String::from_utf8(t.0.clone()).ok());
    let token = token.filter(|t| !t.is_empty()).ok_or(ApplyError::NoToken(name))?;
    Ok(Credentials { token, managed_by: names::managed_by(&wanted.name, &wanted.namespace) })
}

/// Puts the leader's label on the pod that leads, and takes it from others. Without a leader nothing changes: a Service that points to where it was is of more
/// use than one that points nowhere, for any node passes a write on.
///
/// # Errors
/// When a pod cannot be labelled; one that is gone is no error.
pub async fn label_leader(client: &Client, wanted: &Wanted, seen: &Observed) -> Result<(), ApplyError> {
    let Some(leader) = seen.led() else { return Ok(()) };
    let api: Api<Pod> = Api::namespaced(client.clone(), &wanted.namespace);
    for pod in &seen.pods {
        let leads = pod.name == leader.node.name;
        if leads == pod.labelled_leader {
            continue;
        }
        let value = leads.then_some(names::ROLE_LEADER);
        let patch = json!({"metadata": {"uid": pod.uid, "labels": {names::ROLE_LABEL: value}}});
        let done = api.patch(&pod.name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop);
        ignore_missing(done).map_err(failed(format!("label of pod {}", pod.name)))?;
    }
    Ok(())
}

/// Does a step.
///
/// # Errors
/// When it was refused; it may have been done if nobody answered. The next pass looks.
pub async fn step(
    client: &Client,
    nodes: &Nodes,
    who: &Credentials,
    wanted: &Wanted,
    seen: &Observed,
    step: &Step,
) -> Result<(), ApplyError> {
    let namespace = &wanted.namespace;
    let at_node = |what: String| {
        let secret = names::secret(&wanted.name);
        move |error| match error {
            NodeError::Refused { code, .. } if code == "unauthorized" => ApplyError::OtherToken { what, secret },
            error => ApplyError::Node { what, error },
        }
    };
    match step {
        Step::ChangeConfig { change, version, why } => {
            let url = seen.leader_url().ok_or_else(|| ApplyError::NoLeader(why.clone()))?;
            nodes
                .change_config(url, who, *version, change)
                .await
                .map_err(at_node(format!("change of the configuration ({why})")))
        }
        Step::Transfer { to, .. } => {
            let what = format!("transfer of leadership to {to}");
            let url = seen.leader_url().ok_or_else(|| ApplyError::NoLeader(what.clone()))?;
            nodes.transfer(url, who, to).await.map_err(at_node(what))
        }
        Step::Campaign { on } => {
            let what = format!("campaign of {on}");
            let url = seen.pod(on).and_then(|p| p.url.as_deref()).ok_or_else(|| ApplyError::NoLeader(what.clone()))?;
            nodes.campaign(url, who).await.map_err(at_node(what))
        }
        Step::ForgetTransfer { .. } => {
            let api: Api<KVCluster> = Api::namespaced(client.clone(), namespace);
            let patch = json!({"metadata": {"annotations": {names::TRANSFER_ANNOTATION: null}}});
            api.patch(&wanted.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
                .map(drop)
                .map_err(failed(format!("KVCluster {}", wanted.name)))
        }
        Step::DeletePod { pod, uid, .. } => {
            let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
            let only_it = Preconditions { uid: Some(uid.clone()), resource_version: None };
            let params = DeleteParams { preconditions: Some(only_it), ..DeleteParams::default() };
            ignore_missing(api.delete(pod, &params).await.map(drop)).map_err(failed(format!("deletion of pod {pod}")))
        }
        Step::RecreateSet { set } => recreate(client, wanted, *set).await,
    }
}

/// Asks for a larger volume.
///
/// # Errors
/// When it was refused, as by a storage class whose volumes cannot grow.
pub async fn grow(client: &Client, wanted: &Wanted, growth: &Growth) -> Result<(), ApplyError> {
    let Growth { claim, size } = growth;
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &wanted.namespace);
    let patch = json!({"spec": {"resources": {"requests": {"storage": size}}}});
    let done = api.patch(claim, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop);
    done.map_err(failed(format!("growth of volume claim {claim}")))
}

/// Deletes a StatefulSet and leaves its pods; the next pass applies it anew, and it adopts them.
async fn recreate(client: &Client, wanted: &Wanted, set: Set) -> Result<(), ApplyError> {
    let name = set.name(&wanted.name);
    let api: Api<StatefulSet> = Api::namespaced(client.clone(), &wanted.namespace);
    ignore_missing(api.delete(&name, &DeleteParams::orphan()).await.map(drop))
        .map_err(failed(format!("StatefulSet {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_api_servers_words_alone() {
        let status = kube::core::Status::failure("the quota is used up", "Forbidden").with_code(403);
        let error = failed("growth of volume claim data-demo-leader-0")(kube::Error::Api(Box::new(status)));
        assert_eq!(error.to_string(), "growth of volume claim data-demo-leader-0: the quota is used up");
    }
}
