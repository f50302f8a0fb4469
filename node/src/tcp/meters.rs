//! The port's metrics, looked up once.
//!
//! Owns the histogram handles of every route, so that a command costs an observation and no lookup by label.

use std::sync::Arc;
use std::time::Instant;

use prometheus::{Gauge, Histogram};

use crate::metrics::Metrics;

/// What a command counts as. A fixed set: a label never depends on what a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Set,
    Get,
    Delete,
    Increment,
    Many,
    Scan,
    Other,
}

impl Route {
    const ALL: [Route; 7] =
        [Route::Set, Route::Get, Route::Delete, Route::Increment, Route::Many, Route::Scan, Route::Other];

    fn label(self) -> &'static str {
        match self {
            Route::Set => "tcp_set",
            Route::Get => "tcp_get",
            Route::Delete => "tcp_delete",
            Route::Increment => "tcp_increment",
            Route::Many => "tcp_many",
            Route::Scan => "tcp_scan",
            Route::Other => "tcp_other",
        }
    }
}

/// Handles on the metrics of the port.
pub(super) struct Meters {
    /// Connections open.
    pub connections: Gauge,
    succeeded: [Histogram; Route::ALL.len()],
    metrics: Arc<Metrics>,
}

impl Meters {
    pub(super) fn new(metrics: &Arc<Metrics>) -> Meters {
        Meters {
            connections: metrics.connections.with_label_values(&["tcp"]),
            succeeded: Route::ALL.map(|route| metrics.request_seconds.with_label_values(&[route.label(), "ok"])),
            metrics: metrics.clone(),
        }
    }

    /// A command was answered; `outcome` is `ok` or a code.
    pub(super) fn observe(&self, route: Route, outcome: &str, arrived: Instant) {
        let seconds = arrived.elapsed().as_secs_f64();
        if outcome == "ok" {
            self.succeeded[route as usize].observe(seconds);
        } else {
            match outcome {
                "outcome_unknown" => self.metrics.unknown_outcomes.inc(),
                code => self.metrics.refused.with_label_values(&[code]).inc(),
            }
            self.metrics.request_seconds.with_label_values(&[route.label(), outcome]).observe(seconds);
        }
    }
}
