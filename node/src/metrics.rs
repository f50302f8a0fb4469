//! What Prometheus sees: every metric's name, unit and help in one place.
//!
//! A node has a registry of its own (six nodes share a process in `quorate local`), and no label ever names a key or a
//! client. Whoever measures holds an `Arc<Metrics>`; `http::metrics` renders it.

#[cfg(target_os = "linux")]
mod process;

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use crate::stage::Stage;

/// Buckets in seconds: from 50 µs, as an in-memory hop takes, to 10 s, beyond every timeout.
const LATENCY_SECONDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_35, 0.000_5, 0.000_75, 0.001, 0.002, 0.003_5, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25, 0.5, 1.0, 10.0,
];

/// All metrics of one node.
#[derive(Debug)]
pub struct Metrics {
    /// Where they are registered.
    pub registry: Registry,
    /// Duration of requests by `route` (a fixed set of names) and `outcome` (`ok` or an error code).
    pub request_seconds: HistogramVec,
    /// Time from arrival until a write passed a stage, by `stage`.
    pub write_stage_seconds: HistogramVec,
    /// One group of entries made durable in the log.
    pub fsync_seconds: Histogram,
    /// Heartbeat to its answer, per `peer` name.
    pub peer_round_trip_seconds: HistogramVec,
    /// Durable copies when a write was acknowledged.
    pub commit_copies: Histogram,
    /// 1 for the role the node has, by `role`.
    pub role: GaugeVec,
    /// Current term.
    pub term: IntGauge,
    /// Whether a leader is known.
    pub leader_present: IntGauge,
    /// Commit index.
    pub commit_index: IntGauge,
    /// Applied index.
    pub applied_index: IntGauge,
    /// Entries a follower is behind, by `peer` name (leader only).
    pub follower_lag_entries: GaugeVec,
    /// Seconds a follower is behind, by `peer` name (leader only).
    pub follower_lag_seconds: GaugeVec,
    /// Members by `kind` (voter, learner).
    pub members: GaugeVec,
    /// W, E and C by `kind` (write, election, commit); of a change under way those to be.
    pub quorum: GaugeVec,
    /// Whether the node has caught up once since it started.
    pub ready: IntGauge,
    /// Live voters − E (this and the other two without labels; there on a leader only).
    pub failover_margin: IntGaugeVec,
    /// Live voters − C.
    pub read_margin: IntGaugeVec,
    /// Live voters − W.
    pub write_margin: IntGaugeVec,
    /// Bytes of the log on disk.
    pub wal_bytes: IntGauge,
    /// Bytes of the engine on disk.
    pub engine_bytes: IntGauge,
    /// Bytes applied but not yet in the engine.
    pub overlay_bytes: IntGauge,
    /// Writes under way.
    pub in_flight_writes: IntGauge,
    /// Free bytes of the disk the data lives on.
    pub disk_free_bytes: Gauge,
    /// Free bytes below which writes are refused.
    pub disk_reserve_bytes: Gauge,
    /// Elections this node started.
    pub elections: IntCounter,
    /// Leaders this node has seen come.
    pub leader_changes: IntCounter,
    /// Requests refused before they had an effect, by `code`. This and the next are counted by the face that answers
    /// the client, and nowhere else: a write that was passed on counts once, where it was asked for.
    pub refused: IntCounterVec,
    /// Writes whose outcome was reported as unknown.
    pub unknown_outcomes: IntCounter,
    /// Entries dropped from the end of the log because a new leader had others.
    pub truncated_entries: IntCounter,
    /// Bytes sent to other nodes.
    pub peer_sent_bytes: IntCounter,
    /// Connections open, by `port` (http, tcp).
    pub connections: GaugeVec,
}

impl Metrics {
    /// Registers every metric in a new registry.
    ///
    /// # Errors
    /// When two metrics have the same name: a mistake in this file.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let r = &registry;
        // Memory, descriptors and CPU time of the process; in `quorate local` the same on each of its nodes.
        #[cfg(target_os = "linux")]
        r.register(Box::new(process::Process::this()))?;
        let build = gauges(r, "quorate_build_info", "1, with the version of the program.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        let metrics = Metrics {
            request_seconds: histograms(
                r,
                "quorate_request_duration_seconds",
                "Duration of requests.",
                &["route", "outcome"],
            )?,
            write_stage_seconds: histograms(
                r,
                "quorate_write_stage_duration_seconds",
                "Time from a write's arrival until it passed the stage.",
                &["stage"],
            )?,
            fsync_seconds: histogram(
                r,
                "quorate_fsync_duration_seconds",
                "Time to write one group of entries to the log durably.",
                &LATENCY_SECONDS,
            )?,
            peer_round_trip_seconds: histograms(
                r,
                "quorate_peer_round_trip_seconds",
                "Time from a heartbeat to its answer.",
                &["peer"],
            )?,
            commit_copies: histogram(
                r,
                "quorate_commit_copies",
                "Durable copies that held a write when it was acknowledged.",
                &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
            )?,
            role: gauges(r, "quorate_role", "1 for the role this node has.", &["role"])?,
            term: int_gauge(r, "quorate_term", "Current term.")?,
            leader_present: int_gauge(r, "quorate_leader_present", "1 if this node knows a leader.")?,
            commit_index: int_gauge(r, "quorate_commit_index", "Highest index known committed.")?,
            applied_index: int_gauge(r, "quorate_applied_index", "Highest index applied.")?,
            follower_lag_entries: gauges(
                r,
                "quorate_follower_lag_entries",
                "Entries a follower is behind.",
                &["peer"],
            )?,
            follower_lag_seconds: gauges(
                r,
                "quorate_follower_lag_seconds",
                "Seconds a follower is behind.",
                &["peer"],
            )?,
            members: gauges(r, "quorate_members", "Members of the cluster.", &["kind"])?,
            quorum: gauges(r, "quorate_quorum", "Nodes that a write, an election or a commit needs.", &["kind"])?,
            ready: int_gauge(r, "quorate_ready", "1 if this node has caught up once since it started.")?,
            failover_margin: registered(
                r,
                IntGaugeVec::new(
                    Opts::new("quorate_failover_margin", "Live voters beyond what an election needs."),
                    &[],
                ),
            )?,
            read_margin: registered(
                r,
                IntGaugeVec::new(
                    Opts::new("quorate_read_margin", "Live voters beyond what a linearizable read needs."),
                    &[],
                ),
            )?,
            write_margin: registered(
                r,
                IntGaugeVec::new(Opts::new("quorate_write_margin", "Live voters beyond the write quorum."), &[]),
            )?,
            wal_bytes: int_gauge(r, "quorate_wal_bytes", "Bytes of the log on disk.")?,
            engine_bytes: int_gauge(r, "quorate_engine_bytes", "Bytes of the engine on disk.")?,
            overlay_bytes: int_gauge(r, "quorate_overlay_bytes", "Bytes applied but not yet in the engine.")?,
            in_flight_writes: int_gauge(r, "quorate_in_flight_writes", "Writes under way.")?,
            disk_free_bytes: registered(r, Gauge::new("quorate_disk_free_bytes", "Free bytes where the data lives."))?,
            disk_reserve_bytes: registered(
                r,
                Gauge::new("quorate_disk_reserve_bytes", "Free bytes below which writes are refused."),
            )?,
            elections: int_counter(r, "quorate_elections_total", "Elections this node started.")?,
            leader_changes: int_counter(r, "quorate_leader_changes_total", "Leaders this node has seen come.")?,
            refused: registered(
                r,
                IntCounterVec::new(
                    Opts::new("quorate_refused_total", "Requests refused before any effect."),
                    &["code"],
                ),
            )?,
            unknown_outcomes: int_counter(
                r,
                "quorate_unknown_outcomes_total",
                "Writes whose outcome was reported as unknown.",
            )?,
            truncated_entries: int_counter(
                r,
                "quorate_truncated_entries_total",
                "Entries dropped for a new leader's.",
            )?,
            peer_sent_bytes: int_counter(r, "quorate_peer_sent_bytes_total", "Bytes sent to other nodes.")?,
            connections: gauges(r, "quorate_connections", "Open connections.", &["port"])?,
            registry: registry.clone(),
        };
        Ok(metrics)
    }

    /// The histogram of one stage.
    #[must_use]
    pub fn stage(&self, stage: Stage) -> Histogram {
        self.write_stage_seconds.with_label_values(&[stage.label()])
    }
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
) -> prometheus::Result<C> {
    let collector = made?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn histograms(r: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<HistogramVec> {
    registered(r, HistogramVec::new(HistogramOpts::new(name, help).buckets(LATENCY_SECONDS.to_vec()), labels))
}

fn histogram(r: &Registry, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
    registered(r, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
}

fn gauges(r: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
    registered(r, GaugeVec::new(Opts::new(name, help), labels))
}

fn int_gauge(r: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    registered(r, IntGauge::new(name, help))
}

fn int_counter(r: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    registered(r, IntCounter::new(name, help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_nodes_of_one_process_have_metrics_of_their_own() {
        let (a, b) = (Metrics::new().expect("a"), Metrics::new().expect("b"));
        a.term.set(7);
        assert_eq!(b.term.get(), 0);
    }
}
