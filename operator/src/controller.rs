//! When a KVCluster is looked at: when it or something of it changes, when its nodes say something new, and after a while anyway.
//!
//! One KVCluster that cannot be served never stops the others: passes run side by side, each object in order, and what fails is tried again less and less
//! often. Watches are restarted with backoff for as long as the process lives.
//!
//! Before: [`crate::run`], once the lease is held. After: [`crate::reconcile`].

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::Api;
use kube::runtime::controller::{Action, Config, Controller, Error};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use tokio::sync::mpsc;

use crate::crd::KVCluster;
use crate::names;
use crate::reconcile::{Context, ReconcileError, reconcile};
use crate::watch::CALLS_MAX;

/// Passes at once: each is a handful of requests, and the API server allows an account some tens a second.
const PASSES_AT_ONCE: u16 = 8;
/// Changes of one object within this time are one pass: making a StatefulSet is followed by a burst of them.
const GATHER: Duration = Duration::from_millis(100);
/// Retries of what fails: from here, doubled each time, up to there.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(60);

/// How often each object failed in a row.
#[derive(Debug, Default)]
struct Failures {
    counts: Mutex<HashMap<ObjectRef<KVCluster>, u32>>,
}

impl Failures {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<ObjectRef<KVCluster>, u32>) -> T) -> T {
        act(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn next(&self, cluster: &KVCluster) -> Duration {
        self.with(|counts| {
            let count = counts.entry(ObjectRef::from_obj(cluster)).or_default();
            *count = count.saturating_add(1);
            backoff(*count)
        })
    }

    fn clear(&self, cluster: &ObjectRef<KVCluster>) {
        self.with(|counts| counts.remove(cluster));
    }
}

fn backoff(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(RETRY_LAST)
}

struct Shared {
    context: Context,
    failures: Failures,
}

/// Serves the KVClusters of one namespace, or of all, until told to stop; passes that have begun are finished.
pub async fn run(context: Context, namespace: Option<String>, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let client = context.client.clone();
    let (calls, called) = mpsc::channel(CALLS_MAX);
    let watching = tokio::spawn(Arc::clone(&context.watched).run(context.nodes.clone(), calls));
    let called =
        stream::unfold(called, |mut called| async move { called.recv().await.map(|cluster| (cluster, called)) });
    let shared = Arc::new(Shared { context, failures: Failures::default() });

    let controller = Controller::new(api::<KVCluster>(&client, namespace.as_deref()), watcher::Config::default())
        .with_config(Config::default().concurrency(PASSES_AT_ONCE).debounce(GATHER))
        .owns(api::<StatefulSet>(&client, namespace.as_deref()), ours())
        .owns(api::<Service>(&client, namespace.as_deref()), ours())
        .owns(api::<ConfigMap>(&client, namespace.as_deref()), ours())
        .owns(api::<PodDisruptionBudget>(&client, namespace.as_deref()), ours())
        .watches(api::<Pod>(&client, namespace.as_deref()), ours(), |pod| cluster_of(&pod))
        .reconcile_on(called)
        .graceful_shutdown_on(stop);
    let passes = controller.run(pass, on_error, Arc::clone(&shared));
    passes.for_each(|result| forget_missing(result, &shared)).await;
    // The controller dropped the receiver: the watcher ends at its next tick.
    if let Err(error) = watching.await {
        tracing::error!(%error, "the watcher of nodes failed");
    }
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Only what bears the operator's label: other objects never reach its memory.
fn ours() -> watcher::Config {
    watcher::Config::default().labels(names::CLUSTER_LABEL)
}

/// A pod belongs to a StatefulSet, not to the KVCluster: its label names that.
fn cluster_of(pod: &Pod) -> Option<ObjectRef<KVCluster>> {
    let cluster = pod.labels().get(names::CLUSTER_LABEL)?;
    Some(ObjectRef::new(cluster).within(&pod.namespace()?))
}

async fn pass(cluster: Arc<KVCluster>, shared: Arc<Shared>) -> Result<Action, ReconcileError> {
    let outcome = reconcile(&cluster, &shared.context).await?;
    if outcome.troubled {
        return Ok(Action::requeue(shared.failures.next(&cluster)));
    }
    shared.failures.clear(&ObjectRef::from_obj(&cluster));
    Ok(Action::requeue(outcome.again))
}

fn on_error(cluster: Arc<KVCluster>, error: &ReconcileError, shared: Arc<Shared>) -> Action {
    let again = shared.failures.next(&cluster);
    shared.context.metrics.error();
    tracing::warn!(cluster = %cluster.name_any(), %error, again_seconds = again.as_secs(), "a pass was cut short");
    Action::requeue(again)
}

/// What is remembered of a KVCluster goes with it.
async fn forget_missing<T, Q>(result: Result<T, Error<ReconcileError, Q>>, shared: &Shared)
where
    Q: std::error::Error + 'static,
{
    match result {
        Err(Error::ObjectNotFound(gone)) => {
            let gone = gone.into_kind_unchecked::<KVCluster>(());
            shared.context.forget(&gone);
            shared.failures.clear(&gone);
        }
        Err(Error::QueueError(error)) => tracing::warn!(%error, "a watch was interrupted; it is started again"),
        Err(Error::RunnerError(error)) => tracing::error!(%error, "the controller's queue failed"),
        // Told by on_error.
        Err(Error::ReconcilerFailed(..)) | Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_again_less_and_less_often_and_never_given_up() {
        let seconds: Vec<u64> = [1, 2, 3, 4, 6, 7, 8, 1_000].map(|n| backoff(n).as_secs()).to_vec();
        assert_eq!(seconds, [1, 2, 4, 8, 32, 60, 60, 60]);
    }
}
