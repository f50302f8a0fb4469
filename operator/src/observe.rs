//! What there is: the objects of a cluster as the API server has them now, and what each live pod says of itself.
//!
//! Reads, and writes nothing. Nothing here comes from a cache: a decision about pods and members is made on what was true a moment ago, or not at all.
//!
//! Before: [`crate::reconcile`]. After: [`crate::plan`] and [`crate::status`].

use futures_util::stream::{self, StreamExt};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ListParams, ObjectMeta};
use kube::{Client, ResourceExt};
use quorate_api::{MemberStatus, Membership, Status};

use crate::crd::{KVCluster, RetentionPolicy};
use crate::names::{self, Set};
use crate::node::Nodes;
use crate::whose::{self, NotOurs};

/// Behind the leader by no more than this a node counts as caught up; the nodes themselves promote learners by the same number.
pub const IN_SYNC_LAG_MAX: u64 = 1_000;

/// Pods asked at once.
const ASKED_AT_ONCE: usize = 9;

/// Everything the operator knows of a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The pods, by name.
    pub pods: Vec<PodSeen>,
    /// The StatefulSets there are.
    pub sets: Vec<SetSeen>,
    /// StatefulSets that are being deleted, to be made anew with larger volumes: nothing can be applied to them any more.
    pub leaving: Vec<Set>,
    /// The volume claims, by name; those of pods that are gone, too.
    pub claims: Vec<ClaimSeen>,
    /// What bears the cluster's label and is not its own: nothing is changed then. While it is an earlier KVCluster's, nothing else is seen either.
    pub not_ours: Option<NotOurs>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodSeen {
    /// Its name, which is its node's.
    pub name: String,
    /// Its identity: a deletion names it, so that its successor is never deleted in its place.
    pub uid: String,
    /// Where its node can be asked.
    pub url: Option<String>,
    /// Whether Kubernetes holds it for ready.
    pub ready: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// When it was made, or is to have ended.
    pub since: Option<Time>,
    /// The revision of the template that it was made from.
    pub revision: Option<String>,
    /// Whether it bears the leader's label.
    pub labelled_leader: bool,
    /// Why it does not run, if it does not: `Unschedulable: …`, `ImagePullBackOff: …`.
    pub stuck: Option<String>,
    /// What its node says, if it answers.
    pub status: Option<Status>,
}

/// A StatefulSet.
#[derive(Clone, Debug, PartialEq)]
pub struct SetSeen {
    /// Which.
    pub set: Set,
    /// Pods it is to have.
    pub replicas: i32,
    /// The revision that new pods get; absent until its controller has seen the latest change.
    pub update_revision: Option<String>,
    /// The size of the volumes it would make.
    pub claim_size: String,
    /// What becomes of the volumes of pods that it scales away.
    pub when_scaled: RetentionPolicy,
}

/// A volume claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimSeen {
    /// Its name.
    pub name: String,
    /// The size asked for.
    pub size: String,
    /// The size of its volume; empty until it has one.
    pub capacity: String,
    /// What Kubernetes says of a change of its size.
    pub said: Option<String>,
    /// Whether it is being deleted.
    pub terminating: bool,
}

impl Observed {
    /// What the leader says. Of two that think they lead, the one of the higher term does.
    #[must_use]
    pub fn led(&self) -> Option<&Status> {
        let leaders = self.pods.iter().filter_map(|p| p.status.as_ref()).filter(|s| s.node.role == "leader");
        leaders.max_by_key(|s| s.term)
    }

    /// What the leader says, or the node that has seen the latest term.
    #[must_use]
    pub fn best_informed(&self) -> Option<&Status> {
        let members = || self.answering().map(|(_, s)| s).filter(|s| !s.members.is_empty());
        self.led().or_else(|| members().max_by_key(|s| s.term))
    }

    /// The URL of the leader's pod.
    #[must_use]
    pub fn leader_url(&self) -> Option<&str> {
        let leader = &self.led()?.node.name;
        self.pod(leader)?.url.as_deref()
    }

    /// The pod of this name.
    #[must_use]
    pub fn pod(&self, name: &str) -> Option<&PodSeen> {
        self.pods.iter().find(|p| p.name == name)
    }

    /// The StatefulSet of this kind.
    #[must_use]
    pub fn set(&self, set: Set) -> Option<&SetSeen> {
        self.sets.iter().find(|s| s.set == set)
    }

    /// The cluster's identity as its nodes have it: of one that is formed, for only then can it no longer change.
    #[must_use]
    pub fn formed_id(&self) -> Option<&str> {
        let mut formed = self.pods.iter().filter_map(|p| p.status.as_ref()).filter(|s| s.formed && is_member(s));
        formed.find_map(|s| s.cluster_id.as_deref())
    }

    /// Pods whose node answers.
    pub fn answering(&self) -> impl Iterator<Item = (&PodSeen, &Status)> {
        self.pods.iter().filter_map(|p| p.status.as_ref().map(|s| (p, s)))
    }
}

/// Whether a node belongs to a cluster, as far as it knows.
#[must_use]
pub fn is_member(status: &Status) -> bool {
    matches!(status.node.membership, Membership::Voter | Membership::Learner)
}

/// Whether a member votes.
#[must_use]
pub fn is_voter(member: &MemberStatus) -> bool {
    member.role != "learner"
}

/// The names of those that vote.
#[must_use]
pub fn voters(status: &Status) -> Vec<&str> {
    status.members.iter().filter(|m| is_voter(m)).map(|m| m.name.as_str()).collect()
}

/// Whether the leader has heard from a member lately, and it has nearly everything.
#[must_use]
pub fn in_sync(member: &MemberStatus) -> bool {
    member.role == "leader" || (member.healthy == Some(true) && member.lag.is_some_and(|lag| lag <= IN_SYNC_LAG_MAX))
}

/// Looks at everything that belongs to a cluster.
///
/// # Errors
/// When the API server does not answer. A pod that does not answer is no error.
pub async fn observe(client: &Client, nodes: &Nodes, cluster: &KVCluster) -> Result<Observed, kube::Error> {
    let (name, namespace) = (&cluster.name_any(), &cluster.namespace().unwrap_or_default());
    let of_cluster = ListParams::default().labels(&names::selector_text(name));
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let (mut pods, sets, claims) =
        tokio::try_join!(pods.list(&of_cluster), sets.list(&of_cluster), claims.list(&of_cluster))?;

    let uids: Vec<&str> = sets.items.iter().filter_map(|set| set.metadata.uid.as_deref()).collect();
    let left_behind =
        |meta: &ObjectMeta| whose::is_left_behind(meta, &uids, cluster.metadata.creation_timestamp.as_ref());
    // What is being deleted already is waited for by nobody but its successor: its machine may be gone, and then it stays for long.
    let left = |kind: &str, meta: &ObjectMeta| {
        let found = meta.deletion_timestamp.is_none() && left_behind(meta);
        found.then(|| NotOurs::Earlier(format!("{kind} {}", meta.name.as_deref().unwrap_or_default())))
    };
    let of_sets = not_ours(cluster, &sets.items);
    let earlier = of_sets.clone().filter(|found| matches!(found, NotOurs::Earlier(_)));
    let earlier = earlier
        .or_else(|| pods.items.iter().find_map(|pod| left("Pod", &pod.metadata)))
        .or_else(|| claims.items.iter().find_map(|claim| left("PersistentVolumeClaim", &claim.metadata)));
    if earlier.is_some() {
        return Ok(Observed { not_ours: earlier, ..Observed::default() });
    }
    pods.items.retain(|pod| !left_behind(&pod.metadata));
    let mut seen: Vec<PodSeen> = pods.items.iter().map(pod_seen).collect();
    seen.sort_by(|a, b| a.name.cmp(&b.name));
    let asked = stream::iter(seen).map(|pod| async move {
        let status = match &pod.url {
            Some(url) => nodes.status(url).await.ok(),
            None => None,
        };
        // An address may have passed to another pod.
        let status = status.filter(|s| s.node.name == pod.name);
        PodSeen { status, ..pod }
    });
    let pods = asked.buffered(ASKED_AT_ONCE).collect().await;
    let mut claims: Vec<ClaimSeen> = claims.items.iter().map(claim_seen).collect();
    claims.sort_by(|a, b| a.name.cmp(&b.name));
    let (leaving, staying): (Vec<_>, Vec<_>) =
        sets.items.iter().partition(|set| set.metadata.deletion_timestamp.is_some());
    let leaving = leaving.into_iter().filter_map(|set| kind_of(set, name)).collect();
    let sets = staying.into_iter().filter_map(|set| set_seen(set, name)).collect();
    Ok(Observed { pods, sets, leaving, claims, not_ours: of_sets })
}

/// The first of the cluster's StatefulSets that is not this KVCluster's, what goes by itself before what does not.
fn not_ours(cluster: &KVCluster, sets: &[StatefulSet]) -> Option<NotOurs> {
    let (name, uid) = (cluster.name_any(), cluster.uid().unwrap_or_default());
    let named = sets.iter().filter(|set| kind_of(set, &name).is_some());
    let found = named.filter_map(|set| whose::check("StatefulSet", &set.metadata, &name, &uid).err());
    found.min_by_key(|found| !matches!(found, NotOurs::Earlier(_)))
}

fn pod_seen(pod: &Pod) -> PodSeen {
    let labels = pod.labels();
    let status = pod.status.as_ref();
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let unschedulable = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    let containers = status.and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    let waiting = containers.iter().find_map(|c| c.state.as_ref()?.waiting.as_ref());
    let ordinary = |reason: &str| matches!(reason, "ContainerCreating" | "PodInitializing");
    let stuck = unschedulable.map(|c| sentence(c.reason.as_deref(), c.message.as_deref())).or_else(|| {
        let waiting = waiting.filter(|w| !w.reason.as_deref().is_some_and(ordinary))?;
        Some(sentence(waiting.reason.as_deref(), waiting.message.as_deref()))
    });
    let ip = status.and_then(|s| s.pod_ip.as_deref()).filter(|ip| !ip.is_empty());
    PodSeen {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        url: ip.map(|ip| {
            if ip.contains(':') {
                format!("http://[{ip}]:{}", names::HTTP_PORT)
            } else {
                format!("http://{ip}:{}", names::HTTP_PORT)
            }
        }),
        ready: conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        since: pod.metadata.deletion_timestamp.clone().or_else(|| pod.metadata.creation_timestamp.clone()),
        revision: labels.get("controller-revision-hash").cloned(),
        labelled_leader: labels.get(names::ROLE_LABEL).is_some_and(|role| role == names::ROLE_LEADER),
        stuck,
        status: None,
    }
}

fn sentence(reason: Option<&str>, message: Option<&str>) -> String {
    [reason, message].into_iter().flatten().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(": ")
}

fn kind_of(set: &StatefulSet, cluster: &str) -> Option<Set> {
    Set::ALL.into_iter().find(|kind| kind.name(cluster) == set.name_any())
}

fn set_seen(set: &StatefulSet, cluster: &str) -> Option<SetSeen> {
    let kind = kind_of(set, cluster)?;
    let spec = set.spec.as_ref()?;
    let status = set.status.as_ref().filter(|s| s.observed_generation == set.metadata.generation);
    let claim = spec.volume_claim_templates.as_ref().and_then(|claims| claims.first());
    let retention = spec.persistent_volume_claim_retention_policy.as_ref();
    Some(SetSeen {
        set: kind,
        replicas: spec.replicas.unwrap_or(1),
        update_revision: status.and_then(|s| s.update_revision.clone()),
        claim_size: claim.map(storage_request).unwrap_or_default(),
        when_scaled: match retention.and_then(|r| r.when_scaled.as_deref()) {
            Some("Delete") => RetentionPolicy::Delete,
            _ => RetentionPolicy::Retain,
        },
    })
}

fn claim_seen(claim: &PersistentVolumeClaim) -> ClaimSeen {
    let status = claim.status.as_ref();
    let capacity = status.and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("storage"));
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let said = conditions.iter().filter(|c| c.status == "True").map(|c| sentence(Some(&c.type_), c.message.as_deref()));
    let said: Vec<String> = said.collect();
    ClaimSeen {
        name: claim.name_any(),
        size: storage_request(claim),
        capacity: capacity.map(|q| q.0.clone()).unwrap_or_default(),
        said: (!said.is_empty()).then(|| said.join("; ")),
        terminating: claim.metadata.deletion_timestamp.is_some(),
    }
}

fn storage_request(claim: &PersistentVolumeClaim) -> String {
    let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
    requests.and_then(|r| r.get("storage")).map(|q| q.0.clone()).unwrap_or_default()
}
