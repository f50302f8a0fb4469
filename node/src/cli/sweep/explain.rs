//! What the numbers show, in sentences: consistency against availability, with the figures of this run.
//!
//! Says only what was measured, or follows from N and W.

use quorum::Quorum;

use super::measure::Round;
use super::report::{Report, ms, percent};

/// A paragraph each for latency, consistency, availability and the check at the end.
pub(super) fn sentences(report: &Report) -> Vec<String> {
    [latency(report), copies(report), availability(report), failover(report), Some(checked(report))]
        .into_iter()
        .flatten()
        .collect()
}

/// What a copy more costs.
fn latency(report: &Report) -> Option<String> {
    let mut measured = report.with_down(0).filter_map(|r| Some((r.write_quorum, r.latency.as_ref()?)));
    let (low, first) = measured.next()?;
    let Some((high, last)) = measured.last() else {
        return Some(format!(
            "Latency: at W={low} half of the writes took at most {} ms, 99% at most {} ms.",
            ms(first.p50_ms),
            ms(first.p99_ms)
        ));
    };
    Some(format!(
        "Latency: from W={low} to W={high} the median went from {} to {} ms and the 99th percentile from {} to {} ms. A write waits for the \
         W-th fastest of {} disks, the leader's own among them: a small W hides slow copies, W={} waits for the slowest one every time.",
        ms(first.p50_ms),
        ms(last.p50_ms),
        ms(first.p99_ms),
        ms(last.p99_ms),
        report.nodes,
        report.nodes,
    ))
}

/// What an acknowledgement says of the copies, and what a local read may miss.
fn copies(report: &Report) -> Option<String> {
    let held: Vec<(usize, f64)> =
        report.with_down(0).filter_map(|r| Some((r.write_quorum, r.copies.as_ref()?.mean))).collect();
    let slowest = report.with_down(0).filter_map(|r| r.converged_ms).max_by(f64::total_cmp)?;
    let ((low, few), (high, many)) = (held.first()?, held.last()?);
    Some(format!(
        "Consistency: a write acknowledged at W={low} was on {few:.1} synced disks at that moment, at W={high} on {many:.1}; never on fewer than W. All copies \
         showed the last write within {} ms of its acknowledgement, whatever W was: replication does not stop at W, W only says how much of it the client \
         waits for. For that long a local read may be older than what was acknowledged; a linearizable read never is.",
        ms(slowest),
    ))
}

/// What went on with nodes down.
fn availability(report: &Report) -> Option<String> {
    let downs: Vec<usize> = report.downs().into_iter().filter(|d| *d > 0).collect();
    let sentence = |down: usize| {
        let went_on: Vec<&Round> = report.with_down(down).filter(|r| r.succeeded > 0).collect();
        let refused: Vec<&Round> = report.with_down(down).filter(|r| r.succeeded == 0).collect();
        let worst = went_on.iter().map(|r| r.success_rate).min_by(f64::total_cmp);
        let on = worst.map(|worst| format!("at W={} {} of the writes succeeded", quorums(&went_on), percent(worst)));
        let off = (!refused.is_empty()).then(|| {
            let fate = if refused.iter().all(|r| r.unknown == 0) {
                "refused at once, none left in doubt"
            } else {
                "not acknowledged"
            };
            format!("at W={} every one was {fate}", quorums(&refused))
        });
        let nodes = if down == 1 { "one node".to_owned() } else { format!("{down} nodes") };
        format!("with {nodes} down, {}", [on, off].into_iter().flatten().collect::<Vec<_>>().join(", and "))
    };
    let told: Vec<String> = downs.into_iter().map(sentence).collect();
    (!told.is_empty()).then(|| {
        let text = told.join("; ");
        format!(
            "Availability: {text}. N - W nodes may fail, as long as the leader is up, until acknowledged writes stop."
        )
    })
}

fn quorums(rounds: &[&Round]) -> String {
    let all: Vec<usize> = rounds.iter().map(|r| r.write_quorum).collect();
    match all.as_slice() {
        [first, .., last] if last - first + 1 == all.len() => format!("{first} to {last}"),
        several => several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// The other side of a small W.
fn failover(report: &Report) -> Option<String> {
    let election = |w| Quorum::new(report.nodes, w).ok().map(|q| (w, q.election(), q.failover_survives()));
    let quorums: Vec<_> = report.with_down(0).filter_map(|r| election(r.write_quorum)).collect();
    let (first, last) = (quorums.first()?, quorums.last()?);
    Some(format!(
        "The price of a small W is paid when the leader fails: a new one is elected by so many nodes that one of them holds every acknowledged write. At \
         W={} that takes {} of {}, so {} may be down, the leader included; at W={} it takes {}, and {} may be down.",
        first.0, first.1, report.nodes, first.2, last.0, last.1, last.2,
    ))
}

fn checked(report: &Report) -> String {
    let v = &report.verification;
    let doubt = if v.unknown == 0 { String::new() } else { format!(" ({} had an unknown outcome)", v.unknown) };
    format!(
        "Checked at the end: all {} nodes hold the same values, revisions and versions of {} keys, and of {} acknowledged writes none is \
         missing{doubt}. The write quorum was changed while everything ran.",
        v.nodes, v.keys, v.acknowledged,
    )
}
