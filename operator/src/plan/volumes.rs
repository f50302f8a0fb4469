//! Volumes that grow: first every claim, then the StatefulSet, whose claim template cannot be changed: it goes, its pods stay, and it comes back. It is over when
//! the volumes of all pods have the size: Kubernetes takes the wish for one at once, and what comes of it is between the storage class and the machine.

use quorum::quorum::VOTERS_MAX;

use super::{Growth, Part, Phase, Step, doing, waiting};
use crate::names::{self, Set};
use crate::observe::{ClaimSeen, Observed, SetSeen};
use crate::validate::Wanted;

/// Whether this is less than the spec asks for. What cannot be read is not.
fn small(wanted: &Wanted, text: &str) -> bool {
    bytes(&wanted.spec.storage.size).is_some_and(|asked| bytes(text).is_some_and(|b| b < asked))
}

/// The volume claim of a pod.
pub(super) fn claim_of(pod: &str) -> String {
    format!("data-{pod}")
}

/// The claims that are to grow, those that a smaller number of replicas left behind among them. One without a volume yet cannot be asked, and is once it has one.
pub(super) fn growth(wanted: &Wanted, seen: &Observed) -> Vec<Growth> {
    let all = i32::try_from(VOTERS_MAX).unwrap_or(i32::MAX);
    let ours = |claim: &str| names::pods(&wanted.name, all).any(|pod| claim == claim_of(&pod));
    let can_grow = |c: &&ClaimSeen| !c.terminating && !c.capacity.is_empty() && ours(&c.name);
    let claims = seen.claims.iter().filter(can_grow).filter(|c| small(wanted, &c.size));
    claims.map(|c| Growth { claim: c.name.clone(), size: wanted.spec.storage.size.clone() }).collect()
}

/// StatefulSets whose claim template is to follow, once every claim was asked to grow.
pub(super) fn sets(wanted: &Wanted, seen: &Observed) -> Part {
    if let Some(set) = seen.leaving.first() {
        return waiting(
            Phase::GrowingVolumes,
            format!("{} goes, to be made anew; its pods stay", set.name(&wanted.name)),
        );
    }
    if !growth(wanted, seen).is_empty() {
        return None;
    }
    // Only once its controller has seen it as it is: a claim that it makes the set's own while that goes would be collected with it.
    let due = |s: &SetSeen| s.update_revision.is_some() && small(wanted, &s.claim_size);
    let set = Set::ALL.into_iter().find(|set| seen.set(*set).is_some_and(due))?;
    let size = &wanted.spec.storage.size;
    let message = format!("{} is made anew for volumes of {size}; its pods stay", set.name(&wanted.name));
    doing(Phase::GrowingVolumes, Step::RecreateSet { set }, message)
}

/// A volume in use that does not have its size yet. Those that nobody uses are not waited for: many kinds of volume grow only while they are mounted.
pub(super) fn unfinished(wanted: &Wanted, seen: &Observed) -> Part {
    let size = &wanted.spec.storage.size;
    let names: Vec<String> = wanted.pods().iter().map(|pod| claim_of(pod)).collect();
    let mut claims = seen.claims.iter().filter(|c| !c.terminating && names.contains(&c.name));
    let claim = claims.find(|c| small(wanted, &c.size) || small(wanted, &c.capacity))?;
    if claim.capacity.is_empty() {
        return waiting(
            Phase::GrowingVolumes,
            format!("{} has no volume yet, and asks for {size} once it has", claim.name),
        );
    }
    if small(wanted, &claim.size) {
        return waiting(Phase::GrowingVolumes, format!("{} grows from {} to {size}", claim.name, claim.size));
    }
    let said = claim.said.as_deref().map(|s| format!(" ({s})")).unwrap_or_default();
    waiting(Phase::GrowingVolumes, format!("{} has {} of the {size} asked for{said}", claim.name, claim.capacity))
}

/// A quantity in bytes, rounded up. Kubernetes writes back what it was given or an equal amount in another unit, so texts cannot be compared.
pub(crate) fn bytes(text: &str) -> Option<u128> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let factor: f64 = match unit {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "m" => 1e-3,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        exponent => 10f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let bytes = (number * factor).ceil();
    (bytes.is_finite() && bytes >= 0.0).then_some(bytes as u128)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn quantities_are_compared_by_what_they_mean() {
        for (a, b) in [("1Gi", "1024Mi"), ("1G", "1000M"), ("1e9", "1G"), ("1.5Gi", "1536Mi"), ("1000m", "1")] {
            assert_eq!(bytes(a), bytes(b), "{a} and {b}");
        }
        assert!(bytes("1Gi") > bytes("1G"));
        assert_eq!(bytes("much"), None);
    }
}
