//! What things are called: every name, label, port and annotation that more than one module speaks of.

use std::collections::BTreeMap;

/// Who applies and owns fields (server-side apply), and who reports events.
pub const MANAGER: &str = "quorate-operator";
/// Names the KVCluster that an object belongs to; what every selector selects by.
pub const CLUSTER_LABEL: &str = "quorate.dev/cluster";
/// Which StatefulSet a pod is of: `leader` or `follower`.
pub const SET_LABEL: &str = "quorate.dev/set";
/// `leader` on the pod that leads now, whichever set it is of; absent elsewhere.
pub const ROLE_LABEL: &str = "quorate.dev/role";
/// The value of [`ROLE_LABEL`] on the leader's pod.
pub const ROLE_LEADER: &str = "leader";
/// On a KVCluster: the pod that is to lead. Taken away once it does.
pub const TRANSFER_ANNOTATION: &str = "quorate.dev/transfer-to";
/// On pods: a digest of the settings that only a start reads.
pub const SETTINGS_ANNOTATION: &str = "quorate.dev/settings";
/// HTTP: API, page, metrics, probes.
pub const HTTP_PORT: i32 = 8000;
/// Redis and line protocols.
pub const TCP_PORT: i32 = 6379;
/// Nodes among themselves.
pub const PEER_PORT: i32 = 7400;
/// The key of the admin token in its Secret.
pub const TOKEN_KEY: &str = "token";

/// Which of the two StatefulSets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// The one pod that forms the cluster and where leadership prefers to live.
    Leader,
    /// All others.
    Follower,
}

impl Set {
    /// Both.
    pub const ALL: [Set; 2] = [Set::Leader, Set::Follower];

    /// The value of [`SET_LABEL`].
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Set::Leader => "leader",
            Set::Follower => "follower",
        }
    }

    /// The StatefulSet of this kind.
    #[must_use]
    pub fn name(self, cluster: &str) -> String {
        format!("{cluster}-{}", self.label())
    }
}

/// The names of a cluster of `replicas` nodes, the preferred leader first.
pub fn pods(cluster: &str, replicas: i32) -> impl Iterator<Item = String> + '_ {
    let followers = (0..replicas.max(1) - 1).map(move |i| format!("{}-{i}", Set::Follower.name(cluster)));
    std::iter::once(preferred(cluster)).chain(followers)
}

/// The pod where leadership prefers to live.
#[must_use]
pub fn preferred(cluster: &str) -> String {
    format!("{}-0", Set::Leader.name(cluster))
}

/// The ordinal of a follower's pod; nothing for any other name.
#[must_use]
pub fn follower_ordinal(cluster: &str, pod: &str) -> Option<i32> {
    pod.strip_prefix(&Set::Follower.name(cluster))?.strip_prefix('-')?.parse().ok()
}

/// The headless Service that gives every pod a name.
#[must_use]
pub fn peers_service(cluster: &str) -> String {
    format!("{cluster}-peers")
}

/// The Service of the current leader. Not the StatefulSet of that name: Services and StatefulSets do not share a space of names.
#[must_use]
pub fn leader_service(cluster: &str) -> String {
    format!("{cluster}-leader")
}

/// The Secret with the admin token.
#[must_use]
pub fn secret(cluster: &str) -> String {
    format!("{cluster}-admin")
}

/// The ConfigMap with the settings of the nodes.
#[must_use]
pub fn config_map(cluster: &str) -> String {
    format!("{cluster}-settings")
}

/// The name by which other nodes reach a pod.
#[must_use]
pub fn host(cluster: &str, namespace: &str, pod: &str) -> String {
    format!("{pod}.{}.{namespace}.svc", peers_service(cluster))
}

/// What the nodes are told manages them, and what the operator tells them it is.
#[must_use]
pub fn managed_by(cluster: &str, namespace: &str) -> String {
    format!("KVCluster {namespace}/{cluster}")
}

/// Labels of everything that belongs to a cluster.
#[must_use]
pub fn labels(cluster: &str) -> BTreeMap<String, String> {
    let pairs = [
        ("app.kubernetes.io/name", "quorate"),
        ("app.kubernetes.io/instance", cluster),
        ("app.kubernetes.io/managed-by", MANAGER),
        (CLUSTER_LABEL, cluster),
    ];
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// What selects the pods of a cluster.
#[must_use]
pub fn selector(cluster: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(CLUSTER_LABEL.to_owned(), cluster.to_owned())])
}

/// The same as text, for list requests and `kubectl scale`.
#[must_use]
pub fn selector_text(cluster: &str) -> String {
    format!("{CLUSTER_LABEL}={cluster}")
}
