//! What the operator counts of itself. No label names a KVCluster: there may be many, and they come and go.

use prometheus::{Encoder, Histogram, HistogramOpts, HistogramTimer, IntCounter, IntGauge, Registry, TextEncoder};

/// Counts and times, with the registry they are in.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    passes: Histogram,
    troubles: IntCounter,
    errors: IntCounter,
    statuses: IntCounter,
    leading: IntGauge,
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
            registry,
        };
        let registry = &metrics.registry;
        registry.register(Box::new(metrics.passes.clone()))?;
        registry.register(Box::new(metrics.troubles.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(metrics.statuses.clone()))?;
        registry.register(Box::new(metrics.leading.clone()))?;
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

    /// As Prometheus reads them.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8(text).unwrap_or_default(),
            Err(error) => format!("# {error}\n"),
        }
    }
}
