//! Volumes that grow: first every claim, then the StatefulSet, whose claim template cannot be changed: it goes, its pods stay, and it comes back.

use quorum::quorum::VOTERS_MAX;

use super::{Part, Phase, Step, doing, waiting};
use crate::names::{self, Set};
use crate::observe::Observed;
use crate::validate::Wanted;

pub(super) fn part(wanted: &Wanted, seen: &Observed) -> Part {
    let size = &wanted.spec.storage.size;
    let bytes = bytes(size)?;
    let all = i32::try_from(VOTERS_MAX).unwrap_or(i32::MAX);
    let ours = |claim: &str| names::pods(&wanted.name, all).any(|pod| claim == format!("data-{pod}"));
    let small = |text: &str| self::bytes(text).is_some_and(|b| b < bytes);
    if let Some(claim) = seen.claims.iter().find(|c| !c.terminating && ours(&c.name) && small(&c.size)) {
        let step = Step::GrowClaim { claim: claim.name.clone(), size: size.clone() };
        return doing(Phase::GrowingVolumes, step, format!("{} grows from {} to {size}", claim.name, claim.size));
    }
    if let Some(set) = seen.leaving.first() {
        return waiting(
            Phase::GrowingVolumes,
            format!("{} goes, to be made anew; its pods stay", set.name(&wanted.name)),
        );
    }
    let set = Set::ALL.into_iter().find(|s| seen.set(*s).is_some_and(|s| small(&s.claim_size)))?;
    let message = format!("{} is made anew for volumes of {size}; its pods stay", set.name(&wanted.name));
    doing(Phase::GrowingVolumes, Step::RecreateSet { set }, message)
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
