//! What the operator counts of itself and of the KVClusters it serves. No label names a KVCluster: there may be many, and they come and go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramTimer, IntCounter, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::plan::Phase;

/// Counts and times, with the registry they are in.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    passes: Histogram,
    troubles: IntCounter,
    errors: IntCounter,
    statuses: IntCounter,
    leading: IntGauge,
    phases: IntGaugeVec,
    stalled: Gauge,
    courses: Arc<Mutex<HashMap<String, Course>>>,
}

/// Where a KVCluster was after its last pass.
#[derive(Debug)]
struct Course {
    phase: Phase,
    generation: Option<i64>,
    /// Since when no step was taken, and neither the phase nor what is asked for changed.
    since: Instant,
}

impl Metrics {
    /// All metrics at zero.
    ///
    /// # Errors
    /// When two have one name.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let buckets = vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        let passes = HistogramOpts::new("quorate_operator_reconcile_duration_seconds", "One pass over one KVCluster")
            .buckets(buckets);
        let metrics = Metrics {
            passes: Histogram::with_opts(passes)?,
            troubles: IntCounter::new(
                "quorate_operator_step_errors_total",
                "Parts of a pass that failed and are tried again",
            )?,
            errors: IntCounter::new(
                "quorate_operator_reconcile_errors_total",
                "Passes cut short because the API server did not answer",
            )?,
            statuses: IntCounter::new("quorate_operator_status_writes_total", "Statuses written because they changed")?,
            leading: IntGauge::new("quorate_operator_leading", "1 while this process holds the lease")?,
            phases: IntGaugeVec::new(
                Opts::new("quorate_operator_kvclusters", "KVClusters by what is under way with them"),
                &["phase"],
            )?,
            stalled: Gauge::new(
                "quorate_operator_change_stalled_seconds",
                "For how long the change that stands still longest has not come a step further",
            )?,
            courses: Arc::default(),
            registry,
        };
        let registry = &metrics.registry;
        registry.register(Box::new(metrics.passes.clone()))?;
        registry.register(Box::new(metrics.troubles.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(metrics.statuses.clone()))?;
        registry.register(Box::new(metrics.leading.clone()))?;
        registry.register(Box::new(metrics.phases.clone()))?;
        registry.register(Box::new(metrics.stalled.clone()))?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// Times a pass until what it returns is dropped.
    pub fn pass(&self) -> HistogramTimer {
        self.passes.start_timer()
    }

    /// A part of a pass failed.
    pub fn trouble(&self) {
        self.troubles.inc();
    }

    /// A pass was cut short.
    pub fn error(&self) {
        self.errors.inc();
    }

    /// A status was written.
    pub fn status_written(&self) {
        self.statuses.inc();
    }

    /// Whether this process leads.
    pub fn leading(&self, leads: bool) {
        self.leading.set(i64::from(leads));
    }

    fn courses(&self) -> MutexGuard<'_, HashMap<String, Course>> {
        // Nothing that panics happens under this lock; if it did, the map is still whole.
        self.courses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pass over the KVCluster of this name ended in this phase; `stepped` if it took a step.
    pub fn passed(&self, cluster: &str, phase: Phase, generation: Option<i64>, stepped: bool) {
        let now = Instant::now();
        let mut courses = self.courses();
        let before = courses.get(cluster).filter(|c| !stepped && c.phase == phase && c.generation == generation);
        let since = before.map_or(now, |c| c.since);
        courses.insert(cluster.to_owned(), Course { phase, generation, since });
    }

    /// A KVCluster is gone, or asks for what cannot be.
    pub fn forget(&self, cluster: &str) {
        self.courses().remove(cluster);
    }

    /// What the courses come to as of `now`.
    fn measure(&self, now: Instant) {
        let courses = self.courses();
        self.phases.reset();
        courses.values().for_each(|c| self.phases.with_label_values(&[c.phase.as_str()]).inc());
        let standing = courses.values().filter(|c| c.phase.is_progressing());
        let longest = standing.map(|c| now.saturating_duration_since(c.since)).max().unwrap_or_default();
        self.stalled.set(longest.as_secs_f64());
    }

    /// As Prometheus reads them.
    #[must_use]
    pub fn text(&self) -> String {
        self.measure(Instant::now());
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8(text).unwrap_or_default(),
            Err(error) => format!("# {error}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line(metrics: &Metrics, start: &str) -> Option<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&metrics.registry.gather(), &mut text).expect("text");
        let text = String::from_utf8(text).expect("text");
        text.lines().find_map(|l| l.strip_prefix(start)).map(|rest| rest.trim().to_owned())
    }

    #[test]
    fn a_change_stands_still_from_its_last_step_and_a_cluster_at_rest_never() {
        let metrics = Metrics::new().expect("metrics");
        let later = Instant::now() + Duration::from_secs(1_000);
        let stalled = || {
            metrics.measure(later);
            line(&metrics, "quorate_operator_change_stalled_seconds")
                .and_then(|v| v.parse::<f64>().ok())
                .expect("a value")
        };
        metrics.passed("n/quiet", Phase::Settled, Some(1), false);
        metrics.passed("n/broken", Phase::WaitingForPods, Some(1), false);
        assert_eq!(stalled(), 0.0);
        metrics.passed("n/rolling", Phase::RollingOut, Some(1), true);
        let first = metrics.courses()["n/rolling"].since;
        metrics.passed("n/rolling", Phase::RollingOut, Some(1), false);
        assert_eq!(metrics.courses()["n/rolling"].since, first, "it waits");
        assert!((990.0..=1_000.0).contains(&stalled()), "{}", stalled());
        assert_eq!(line(&metrics, "quorate_operator_kvclusters{phase=\"RollingOut\"}").as_deref(), Some("1"));
        for (generation, stepped) in [(Some(1), true), (Some(2), false)] {
            let before = metrics.courses()["n/rolling"].since;
            metrics.passed("n/rolling", Phase::RollingOut, generation, stepped);
            assert!(metrics.courses()["n/rolling"].since > before, "{generation:?} {stepped}");
        }
        metrics.forget("n/rolling");
        assert_eq!(stalled(), 0.0);
        assert_eq!(line(&metrics, "quorate_operator_kvclusters{phase=\"RollingOut\"}"), None);
    }
}
