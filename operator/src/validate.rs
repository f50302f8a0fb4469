//! From a KVCluster to what is wanted of it, with every default filled in.
//!
//! The API server has refused most of what cannot be (the rules are in [`crate::crd`]); what is older than the rules, or was let through because they
//! were switched off, is refused here, in the same words. Pure.
//!
//! Before: [`crate::observe`]. After: [`crate::plan`], [`crate::build`] and [`crate::status`], which trust a [`Wanted`].

use quorum::Quorum;

use crate::crd::{FailoverPolicy, KVCluster, KVClusterSpec, NAME_MAX};
use crate::names;

/// Why a KVCluster cannot be served. Each text is a sentence for its owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// N and W do not fit together.
    #[error("spec.writeQuorum and spec.replicas: {0}")]
    Quorum(String),
    /// The pods' names would be too long.
    #[error("metadata.name: {0:?} has more than {NAME_MAX} characters, and the names of its pods would not fit")]
    Name(String),
    /// No namespace: it did not come from an API server.
    #[error("the object has no namespace")]
    Namespace,
}

/// What a KVCluster asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its identity, for owner references.
    pub uid: String,
    /// N and W.
    pub quorum: Quorum,
    /// The image of the nodes.
    pub image: String,
    /// The pod a person wants to lead.
    pub transfer_to: Option<String>,
    /// Everything else, as it was written.
    pub spec: KVClusterSpec,
}

impl Wanted {
    /// N.
    #[must_use]
    pub fn replicas(&self) -> i32 {
        i32::try_from(self.quorum.voters()).unwrap_or(i32::MAX)
    }

    /// W.
    #[must_use]
    pub fn write_quorum(&self) -> i32 {
        i32::try_from(self.quorum.write()).unwrap_or(i32::MAX)
    }

    /// The pods there are to be, the preferred leader first.
    #[must_use]
    pub fn pods(&self) -> Vec<String> {
        names::pods(&self.name, self.replicas()).collect()
    }

    /// The policy of failover as the node's API writes it.
    #[must_use]
    pub fn failover(&self) -> &'static str {
        match self.spec.failover {
            FailoverPolicy::Automatic => "automatic",
            FailoverPolicy::Manual => "manual",
        }
    }

    /// Whom the cluster prefers as leader. Under a manual policy nobody: leadership goes where a person put it and stays there.
    #[must_use]
    pub fn preferred(&self) -> Option<String> {
        match self.spec.failover {
            FailoverPolicy::Automatic => Some(names::preferred(&self.name)),
            FailoverPolicy::Manual => None,
        }
    }
}

/// Checks a KVCluster and fills in what it leaves open.
///
/// # Errors
/// When it asks for something that cannot be.
pub fn validate(cluster: &KVCluster, default_image: &str) -> Result<Wanted, Invalid> {
    let metadata = &cluster.metadata;
    let name = metadata.name.clone().unwrap_or_default();
    let namespace = metadata.namespace.clone().filter(|n| !n.is_empty()).ok_or(Invalid::Namespace)?;
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Invalid::Name(name));
    }
    let count = |n: i32| usize::try_from(n).unwrap_or(0);
    let replicas = count(cluster.spec.replicas);
    let write_quorum = cluster.spec.write_quorum.map_or(replicas / 2 + 1, count);
    let quorum = Quorum::new(replicas, write_quorum).map_err(|e| Invalid::Quorum(e.to_string()))?;
    Ok(Wanted {
        quorum,
        image: cluster.spec.image.clone().unwrap_or_else(|| default_image.to_owned()),
        transfer_to: metadata.annotations.as_ref().and_then(|a| a.get(names::TRANSFER_ANNOTATION)).cloned(),
        uid: metadata.uid.clone().unwrap_or_default(),
        spec: cluster.spec.clone(),
        name,
        namespace,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str, replicas: i32, write_quorum: Option<i32>) -> KVCluster {
        let mut cluster = KVCluster::new(name, KVClusterSpec { replicas, write_quorum, ..KVClusterSpec::default() });
        cluster.metadata.namespace = Some("default".into());
        cluster
    }

    #[test]
    fn the_write_quorum_is_a_majority_unless_it_is_given() {
        for (replicas, given, write) in
            [(1, None, 1), (2, None, 2), (3, None, 2), (6, None, 4), (9, None, 5), (6, Some(1), 1), (6, Some(6), 6)]
        {
            let wanted = validate(&cluster("demo", replicas, given), "quorate:1").expect("valid");
            assert_eq!((wanted.replicas(), wanted.write_quorum()), (replicas, write));
        }
    }

    #[test]
    fn numbers_that_cannot_be_are_refused_with_a_sentence() {
        for (replicas, write, says) in [
            (3, Some(4), "a write quorum of 4 cannot be met by 3 copies"),
            (0, None, "0 copies are not possible"),
            (-1, None, "0 copies are not possible"),
            (3, Some(0), "a write quorum of 0"),
            (10, None, "10 copies are not possible"),
        ] {
            let error = validate(&cluster("demo", replicas, write), "quorate:1").expect_err("invalid").to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_name_whose_pods_would_not_fit_is_refused() {
        assert!(validate(&cluster(&"a".repeat(NAME_MAX), 3, None), "quorate:1").is_ok());
        let error = validate(&cluster(&"a".repeat(NAME_MAX + 1), 3, None), "quorate:1").expect_err("too long");
        assert!(matches!(error, Invalid::Name(_)));
    }

    #[test]
    fn the_default_image_is_used_only_where_none_is_named() {
        let mut cluster = cluster("demo", 3, None);
        assert_eq!(validate(&cluster, "quorate:1").expect("valid").image, "quorate:1");
        cluster.spec.image = Some("mine:2".into());
        assert_eq!(validate(&cluster, "quorate:1").expect("valid").image, "mine:2");
    }
}
