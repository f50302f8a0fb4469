//! Between passes: asks the nodes of every cluster how they are, and calls for a pass when that changed.
//!
//! A change of leader or a lagging member is no event of the API server; without this, status and leader label would learn of it at the next pass. It asks the
//! nodes, not the API server, so a hundred quiet clusters cost it nothing. What is remembered here decides nothing: a pass looks again.
//!
//! Before: [`crate::reconcile`], which names the pods. After: [`crate::controller`], which is told the cluster's name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use kube::runtime::reflector::ObjectRef;
use quorate_api::Status;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::crd::KVCluster;
use crate::node::Nodes;
use crate::observe::{Observed, in_sync};

/// How often every node is asked. A failover takes about a second; the label follows within two of these.
const EVERY: Duration = Duration::from_secs(1);
/// Nodes asked at once, over all clusters: enough for 900 nodes that answer in 10 ms each, few enough to be no burden.
const ASKED_AT_ONCE: usize = 16;
/// Clusters waiting to be looked at. Fewer than this wait in practice: one that is in the queue of the controller is not put there twice.
pub const CALLS_MAX: usize = 1_024;

/// What is asked, and what was answered last.
#[derive(Debug, Default)]
pub struct Watched {
    clusters: Mutex<HashMap<ObjectRef<KVCluster>, Cluster>>,
}

#[derive(Debug)]
struct Cluster {
    /// Names and URLs of its pods.
    nodes: Vec<(String, String)>,
    /// What the last pass saw.
    looked: Vec<Impression>,
}

/// What of a node's answer makes a difference to the status.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Impression {
    pod: String,
    /// Nothing if it did not answer.
    formed: Option<bool>,
    /// What it says of the cluster, if it leads: the rest is not for others to say.
    led: Option<Led>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Led {
    term: u64,
    version: u64,
    changing: bool,
    disk_full: bool,
    /// Id, role, and whether it is in sync.
    members: Vec<(String, String, bool)>,
}

impl Impression {
    fn of(pod: &str, status: Option<&Status>) -> Impression {
        let led = status.filter(|s| s.node.role == "leader").map(|s| Led {
            term: s.term,
            version: s.config.version,
            changing: s.config.changing,
            disk_full: s.disk_full,
            members: s.members.iter().map(|m| (m.id.clone(), m.role.clone(), in_sync(m))).collect(),
        });
        Impression { pod: pod.to_owned(), formed: status.map(|s| s.formed), led }
    }
}

impl Watched {
    fn clusters(&self) -> MutexGuard<'_, HashMap<ObjectRef<KVCluster>, Cluster>> {
        // Nothing that panics happens under this lock; if it did, the map is still whole.
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a pass: these are the pods, and this is what was seen.
    pub fn watch(&self, cluster: &KVCluster, seen: &Observed) {
        let nodes = seen.pods.iter().filter_map(|p| Some((p.name.clone(), p.url.clone()?))).collect();
        let with_url = seen.pods.iter().filter(|p| p.url.is_some());
        let looked = with_url.map(|p| Impression::of(&p.name, p.status.as_ref())).collect();
        self.clusters().insert(ObjectRef::from_obj(cluster), Cluster { nodes, looked });
    }

    /// A cluster is gone.
    pub fn forget(&self, cluster: &ObjectRef<KVCluster>) {
        self.clusters().remove(cluster);
    }

    /// Asks all nodes again and again, and calls for a pass over every cluster that is not as it was. Ends when nobody listens.
    pub async fn run(self: Arc<Watched>, nodes: Nodes, calls: mpsc::Sender<ObjectRef<KVCluster>>) {
        let mut interval = tokio::time::interval_at(Instant::now() + EVERY, EVERY);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = calls.closed() => return,
                _ = interval.tick() => {}
            }
            for changed in self.changed(&nodes).await {
                if calls.send(changed).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn changed(&self, nodes: &Nodes) -> Vec<ObjectRef<KVCluster>> {
        let asked: Vec<(ObjectRef<KVCluster>, String, String)> = self
            .clusters()
            .iter()
            .flat_map(|(cluster, c)| c.nodes.iter().map(|(pod, url)| (cluster.clone(), pod.clone(), url.clone())))
            .collect();
        let answers = stream::iter(asked).map(|(cluster, pod, url)| async move {
            let status = nodes.status(&url).await.ok().filter(|s| s.node.name == pod);
            (cluster, Impression::of(&pod, status.as_ref()))
        });
        let answers: Vec<_> = answers.buffer_unordered(ASKED_AT_ONCE).collect().await;
        let clusters = self.clusters();
        let mut changed: Vec<ObjectRef<KVCluster>> = Vec::new();
        for (cluster, impression) in answers {
            let looked = clusters.get(&cluster).map(|c| c.looked.as_slice()).unwrap_or_default();
            let as_it_was = looked.iter().all(|l| l.pod != impression.pod || *l == impression);
            if !as_it_was && !changed.contains(&cluster) {
                changed.push(cluster);
            }
        }
        changed
    }
}
