//! Whose an object is: nothing is written over, believed or deleted that is not this KVCluster's.
//!
//! An object is a KVCluster's if the KVCluster is its controller, or if it bears its label and has no controller (as
//! after `kubectl delete --cascade=orphan`, or made so by a person). Server-side apply alone would take over whatever
//! has the name, an application's Service, and what is taken over is deleted with the KVCluster. One of an earlier
//! KVCluster of the same name is about to be collected, and what is built on it would be collected with it: that is
//! waited for.
//!
//! Pure. Before: [`crate::observe`] and [`crate::apply`], which ask. After: nothing.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;

use crate::crd::KVCluster;
use crate::names;

/// Why an object is not this KVCluster's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// It goes by itself.
    #[error("{0} is still that of an earlier KVCluster of this name, and goes with it")]
    Earlier(String),
    /// It stays until a person does something.
    #[error("{object} exists and is not this KVCluster's ({why}): rename one of the two, or delete {object}")]
    Strange {
        /// Kind and name.
        object: String,
        /// How that is known.
        why: String,
    },
}

/// Whether an object is the one of this KVCluster.
///
/// # Errors
/// If it is not.
pub fn check(kind: &str, meta: &ObjectMeta, cluster: &str, uid: &str) -> Result<(), NotOurs> {
    let object = || format!("{kind} {}", meta.name.as_deref().unwrap_or_default());
    let strange = |why: String| Err(NotOurs::Strange { object: object(), why });
    match meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true)) {
        Some(owner) if owner.uid == uid => Ok(()),
        Some(owner) if owner.kind == KVCluster::kind(&()) && owner.name == cluster => Err(NotOurs::Earlier(object())),
        Some(owner) => strange(format!("it belongs to {} {}", owner.kind, owner.name)),
        None if is_labelled(meta, cluster) => Ok(()),
        None => strange(format!("it lacks the label {}: {cluster}", names::CLUSTER_LABEL)),
    }
}

fn is_labelled(meta: &ObjectMeta, cluster: &str) -> bool {
    meta.labels.as_ref().and_then(|labels| labels.get(names::CLUSTER_LABEL)).is_some_and(|of| of == cluster)
}

/// Whether a pod or claim was left behind by an earlier KVCluster: it is of a StatefulSet that is gone, and older than
/// this KVCluster. One that is younger lost its set by somebody's hand, and is this cluster's.
#[must_use]
pub fn is_left_behind(meta: &ObjectMeta, sets: &[&str], made: Option<&Time>) -> bool {
    let set = meta.owner_references.iter().flatten().find(|owner| owner.kind == "StatefulSet");
    let orphan = set.is_some_and(|set| !sets.contains(&set.uid.as_str()));
    orphan && matches!((&meta.creation_timestamp, made), (Some(it), Some(made)) if it.0 < made.0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn meta(label: Option<&str>, owner: Option<(&str, &str, &str)>) -> ObjectMeta {
        let owned = |(kind, name, uid): (&str, &str, &str)| OwnerReference {
            kind: kind.into(),
            name: name.into(),
            uid: uid.into(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        ObjectMeta {
            name: Some("demo".into()),
            labels: label.map(|of| [(names::CLUSTER_LABEL.to_owned(), of.to_owned())].into()),
            owner_references: owner.map(|of| vec![owned(of)]),
            ..ObjectMeta::default()
        }
    }

    fn told(label: Option<&str>, owner: Option<(&str, &str, &str)>) -> String {
        check("Service", &meta(label, owner), "demo", "1").map_or_else(|not| not.to_string(), |()| "ours".to_owned())
    }

    #[test]
    fn an_object_is_ours_by_its_controller_or_by_its_label_if_it_has_none() {
        assert_eq!(told(Some("demo"), Some(("KVCluster", "demo", "1"))), "ours");
        assert_eq!(told(None, Some(("KVCluster", "demo", "1"))), "ours", "the label is put back");
        assert_eq!(told(Some("demo"), None), "ours");
        for (label, owner, why) in [
            (None, None, "lacks the label quorate.dev/cluster: demo"),
            (Some("other"), None, "lacks the label"),
            (Some("demo"), Some(("Deployment", "shop", "7")), "belongs to Deployment shop"),
            (Some("demo"), Some(("KVCluster", "other", "7")), "belongs to KVCluster other"),
            (Some("demo"), Some(("KVCluster", "demo", "0")), "of an earlier KVCluster"),
        ] {
            let said = told(label, owner);
            assert!(said.starts_with("Service demo ") && said.contains(why), "{said}");
        }
    }

    #[test]
    fn what_is_older_than_the_kvcluster_and_of_a_set_that_is_gone_was_left_behind() {
        let at = |second| Time(Timestamp::from_second(second).expect("a time"));
        let made = at(10);
        let pod = |second| ObjectMeta {
            creation_timestamp: Some(at(second)),
            ..meta(Some("demo"), Some(("StatefulSet", "demo-follower", "set")))
        };
        assert!(is_left_behind(&pod(9), &["other"], Some(&made)));
        assert!(!is_left_behind(&pod(9), &["set"], Some(&made)), "its set was kept");
        assert!(!is_left_behind(&pod(11), &[], Some(&made)), "its set was deleted by hand");
        let orphan = ObjectMeta { owner_references: None, ..pod(9) };
        assert!(!is_left_behind(&orphan, &[], Some(&made)));
    }
}
