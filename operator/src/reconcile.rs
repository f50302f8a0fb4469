//! One pass over one KVCluster: observe, validate, plan, build, apply, status.
//!
//! The order is the whole of it. A pass never waits for anything to become true; it does one thing, tells the status, and says when to look again.
//!
//! Before: [`crate::controller`], which knows when. After: nothing; the next pass starts from nothing but what there is.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt};
use serde_json::json;

use crate::apply::{self, ApplyError};
use crate::build;
use crate::crd::{KVCluster, KVClusterStatus};
use crate::metrics::Metrics;
use crate::names;
use crate::node::Nodes;
use crate::observe::{self, Observed};
use crate::plan::{self, Phase, Plan, Step, plan};
use crate::status::{self, Happened, Pass};
use crate::validate::{Wanted, validate};
use crate::watch::Watched;
use crate::whose::NotOurs;

/// How soon a cluster is looked at again after a step, or when what is under way or broken has moved since the last look.
const BUSY: Duration = Duration::from_secs(1);
/// How soon while it has not: whatever moves pods, StatefulSets and nodes is heard of at once, and only volume claims are not watched. An image that cannot be pulled
/// stands still for days, and a pass is some twenty requests.
const STILL: Duration = Duration::from_secs(15);
/// How soon when all is as wanted and no watch says otherwise: only against what watches may have missed. Twelve passes an hour and cluster.
const QUIET: Duration = Duration::from_secs(300);

/// What every pass needs.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The nodes.
    pub nodes: Nodes,
    /// Who this operator is, for Events.
    pub identity: String,
    /// The image of clusters that name none.
    pub default_image: String,
    /// Counts.
    pub metrics: Metrics,
    /// Pods whose nodes are asked between passes.
    pub watched: Arc<Watched>,
}

impl Context {
    /// A KVCluster is gone: what is remembered of it goes, too.
    pub fn forget(&self, cluster: &ObjectRef<KVCluster>) {
        self.watched.forget(cluster);
        let namespace = cluster.namespace.as_deref().unwrap_or_default();
        self.metrics.forget(&format!("{namespace}/{}", cluster.name));
    }
}

/// What a pass came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// When to look again, if nothing happens before.
    pub again: Duration,
    /// Whether a part of it failed: those that do so repeatedly are looked at less and less often.
    pub troubled: bool,
}

const REST: Outcome = Outcome { again: QUIET, troubled: false };

/// Why a pass was cut short. What a step could not do is no such error: it stands in the status.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server could not be read or written.
    #[error("{what} of {cluster}: {error}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// Of which.
        cluster: String,
        /// Its answer.
        error: Box<kube::Error>,
    },
}

/// A pass.
///
/// # Errors
/// When the API server does not answer.
pub async fn reconcile(cluster: &KVCluster, context: &Context) -> Result<Outcome, ReconcileError> {
    let _timer = context.metrics.pass();
    let name = format!("{}/{}", cluster.namespace().unwrap_or_default(), cluster.name_any());
    let api: Api<KVCluster> = Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let failed = |what| {
        let cluster = name.clone();
        move |error| ReconcileError::Api { what, cluster, error: Box::new(error) }
    };
    // As it is now: what the watch delivered may lack what the last pass wrote.
    let Some(cluster) = &api.get_opt(&cluster.name_any()).await.map_err(failed("reading the KVCluster"))? else {
        context.forget(&ObjectRef::from_obj(cluster));
        return Ok(REST);
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        // Everything goes by its owner reference; volumes by the policy of the StatefulSets.
        context.forget(&ObjectRef::from_obj(cluster));
        return Ok(REST);
    }
    let before = cluster.status.clone().unwrap_or_default();
    let wanted = match validate(cluster, &context.default_image) {
        Ok(wanted) => wanted,
        Err(invalid) => {
            let after = status::refused("Invalid", &invalid.to_string(), cluster, &before, &now());
            // Its nodes are asked no more: whatever they say, there is nothing to be done until the spec changes.
            context.forget(&ObjectRef::from_obj(cluster));
            tell(cluster, context, &before, after).await?;
            return Ok(REST);
        }
    };
    let seen = match observe::observe(&context.client, &context.nodes, cluster).await {
        Ok(seen) => seen,
        Err(error) => {
            if let Some(refusal) = refusal(&error) {
                let message = format!("what belongs to it cannot be read: {refusal}");
                let after = status::refused("ApiRefused", &message, cluster, &before, &now());
                context.forget(&ObjectRef::from_obj(cluster));
                // If that is refused, too, the error that came first tells more.
                let _ = tell(cluster, context, &before, after).await;
            }
            return Err(failed("reading the objects")(error));
        }
    };
    // An id is recorded before anything acts on it: a cluster that was formed is never again taken for one that was not.
    let recorded =
        record_formation(cluster, context, &wanted, &seen, &before).await.map_err(failed("recording the identity"))?;
    let mut plan = plan(&wanted, &seen, &recorded);
    let mut acted = Acted::default();
    if let Err(error) = act(context, &wanted, &seen, &recorded, &plan, cluster, &mut acted).await {
        acted.trouble = Some(error);
    }
    if acted.unnoticed && matches!(plan.progress.phase, Phase::Settled | Phase::GrowingVolumes) {
        // Planned on StatefulSets that this pass has changed.
        plan.progress = plan::taking_over();
    }
    let mut troubled = acted.trouble.is_some() && !acted.stepped;
    match &acted.trouble {
        // Nothing failed: it goes by itself, and soon.
        Some(waits @ ApplyError::NotOurs(NotOurs::Earlier(_))) => {
            plan.progress.message = format!("{}; not yet: {waits}", plan.progress.message);
            troubled = false;
        }
        Some(trouble) => {
            context.metrics.trouble();
            tracing::warn!(cluster = name, error = %trouble, "a part of a pass failed; it is tried again");
            if is_waited_for(trouble) {
                plan.progress.message = format!("{}; refused for now: {trouble}", plan.progress.message);
            }
        }
        None => {}
    }
    let text = acted.trouble.as_ref().filter(|t| lasting(t)).map(ToString::to_string);
    let pass = Pass {
        wanted: &wanted,
        generation: cluster.metadata.generation,
        seen: &seen,
        progress: &plan.progress,
        trouble: text.as_deref(),
    };
    let after = status::status(&pass, &recorded, &now());
    context.watched.watch(cluster, &seen);
    let moved = before != after;
    tell(cluster, context, &before, after).await?;
    context.metrics.passed(&name, plan.progress.phase, cluster.metadata.generation, acted.stepped);
    let stepped = plan.step.is_some() || acted.stepped;
    let again = match plan.progress.phase.rests() {
        true if !stepped => QUIET,
        _ if stepped || moved => BUSY,
        _ => STILL,
    };
    Ok(Outcome { again, troubled })
}

/// What the API server says if it refuses for good, as without the right to. What is over at a later pass is not told, and one that does not answer would not take
/// a status either.
fn refusal(error: &kube::Error) -> Option<&str> {
    match error {
        kube::Error::Api(status) if matches!(status.code, 400..=499) && !matches!(status.code, 409 | 429) => {
            Some(&status.message)
        }
        _ => None,
    }
}

/// Whether an error is worth a person's attention: not one of a leader that changed on the way or of two writers that met, which the next pass gets over.
fn lasting(error: &ApplyError) -> bool {
    match error {
        ApplyError::Api { error, .. } => !matches!(&**error, kube::Error::Api(status) if status.code == 409),
        ApplyError::Node { error: crate::node::NodeError::Refused { code, .. }, .. } => code == "bad_request",
        ApplyError::Node { .. } | ApplyError::NoLeader(_) => false,
        ApplyError::NotOurs(not_ours) => matches!(not_ours, NotOurs::Strange { .. }),
        ApplyError::NoToken(_) | ApplyError::OtherToken { .. } => true,
    }
}

/// Whether an error that passes is told beside what is under way, for it may be why that does not come further: a node does not take the change. Two writers that met
/// and a leader that went are over at the next look.
fn is_waited_for(error: &ApplyError) -> bool {
    !lasting(error) && matches!(error, ApplyError::Node { .. })
}

/// Writes down the identity of a cluster that has just been formed.
async fn record_formation(
    cluster: &KVCluster,
    context: &Context,
    wanted: &Wanted,
    seen: &Observed,
    before: &KVClusterStatus,
) -> Result<KVClusterStatus, kube::Error> {
    let mut recorded = before.clone();
    let Some(id) = seen.formed_id().filter(|_| before.cluster_id.is_none()) else { return Ok(recorded) };
    recorded.cluster_id = Some(id.to_owned());
    let formation = crate::crd::Formation { replicas: wanted.replicas(), write_quorum: wanted.write_quorum() };
    recorded.formation = Some(formation);
    let api: Api<KVCluster> = Api::namespaced(context.client.clone(), &wanted.namespace);
    let patch = json!({"status": {"clusterId": id, "formation": formation}});
    api.patch_status(&cluster.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(recorded)
}

/// What came of a plan.
#[derive(Debug, Default)]
struct Acted {
    /// Kubernetes has yet to take over what the StatefulSets say.
    unnoticed: bool,
    /// A step was taken, or volumes asked to grow.
    stepped: bool,
    /// What could not be done.
    trouble: Option<ApplyError>,
}

/// Brings the objects about and takes the step.
async fn act(
    context: &Context,
    wanted: &Wanted,
    seen: &Observed,
    recorded: &KVClusterStatus,
    plan: &Plan,
    cluster: &KVCluster,
    acted: &mut Acted,
) -> Result<(), ApplyError> {
    // Where clients find the leader is kept right even while paused: it follows what the nodes did, and changes nothing of theirs.
    apply::label_leader(&context.client, wanted, seen).await?;
    if plan.progress.phase == Phase::Paused {
        return Ok(());
    }
    let objects = build::objects(wanted, plan.pods, recorded, seen);
    apply::all_ours(&context.client, wanted, &objects, seen).await?;
    let who = apply::credentials(&context.client, wanted).await?;
    acted.unnoticed = !apply::apply(&context.client, wanted, &objects).await?;
    for growth in &plan.growth {
        tracing::info!(cluster = %cluster.name_any(), namespace = %wanted.namespace, ?growth, "asking for a larger volume");
        match apply::grow(&context.client, wanted, growth).await {
            Ok(()) => {
                acted.stepped = true;
                let note = format!("{} was asked to grow to {}", growth.claim, growth.size);
                publish(cluster, context, &Happened { warning: false, reason: "VolumeGrown".to_owned(), note }).await;
            }
            // Whatever else there is to do goes on; the first refusal is told.
            Err(error) => acted.trouble = acted.trouble.take().or(Some(error)),
        }
    }
    let Some(step) = &plan.step else { return Ok(()) };
    tracing::info!(cluster = %cluster.name_any(), namespace = %wanted.namespace, ?step, "taking a step");
    apply::step(&context.client, &context.nodes, &who, wanted, seen, step).await?;
    acted.stepped = true;
    if let Some(happened) = of_step(step) {
        publish(cluster, context, &happened).await;
    }
    Ok(())
}

/// A step that was taken, as an Event. What a change of the configuration leads to, the status tells.
fn of_step(step: &Step) -> Option<Happened> {
    let (reason, note) = match step {
        Step::ChangeConfig { why, .. } => ("ConfigurationChanged", why.clone()),
        Step::Transfer { to, why } => ("LeadershipTransferred", format!("leadership was handed to {to}: {why}")),
        Step::Campaign { on } => ("FailoverByHand", format!("{on} was told to lead")),
        Step::ForgetTransfer { why } => ("TransferDone", why.clone()),
        Step::DeletePod { pod, why, .. } => ("PodReplaced", format!("{pod} was deleted to be made anew: {why}")),
        Step::RecreateSet { .. } => return None,
    };
    Some(Happened { warning: false, reason: reason.to_owned(), note })
}

/// Writes the status if it differs, and tells what changed.
async fn tell(
    cluster: &KVCluster,
    context: &Context,
    before: &KVClusterStatus,
    after: KVClusterStatus,
) -> Result<(), ReconcileError> {
    if *before == after {
        return Ok(());
    }
    let api: Api<KVCluster> = Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    // A merge patch leaves what is absent: what went must be named.
    let mut patch = serde_json::to_value(&after).unwrap_or_default();
    for gone in ["leader", "tolerates", "members"] {
        if patch.get(gone).is_none() {
            patch[gone] = serde_json::Value::Null;
        }
    }
    let written =
        api.patch_status(&cluster.name_any(), &PatchParams::default(), &Patch::Merge(&json!({"status": patch}))).await;
    match written {
        Ok(_) => {}
        // Deleted on the way.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => {
            return Err(ReconcileError::Api {
                what: "writing the status",
                cluster: cluster.name_any(),
                error: Box::new(error),
            });
        }
    }
    context.metrics.status_written();
    for happened in status::events(before, &after) {
        publish(cluster, context, &happened).await;
    }
    Ok(())
}

/// Events are for people: one that cannot be written is no reason to stop. Each is an object of its own: kube's recorder would count a second change of leader as
/// the first one again, and show the first one's text.
async fn publish(cluster: &KVCluster, context: &Context, happened: &Happened) {
    let namespace = cluster.namespace().unwrap_or_default();
    let event = Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", cluster.name_any())),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        type_: Some(if happened.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(happened.reason.clone()),
        note: Some(happened.note.clone()),
        action: Some("Reconcile".to_owned()),
        event_time: Some(MicroTime(Timestamp::now())),
        regarding: Some(cluster.object_ref(&())),
        reporting_controller: Some(names::MANAGER.to_owned()),
        reporting_instance: Some(context.identity.clone()),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(context.client.clone(), &namespace);
    if let Err(error) = api.create(&PostParams::default(), &event).await {
        tracing::warn!(cluster = %cluster.name_any(), %error, "an event could not be written");
    }
}

fn now() -> Time {
    // Conditions carry whole seconds.
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}
