//! What is to be seen of a cluster, through a real Prometheus: its metrics, the dashboards drawn
//! from them, and the alerts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod alerts;
mod dashboards;
mod metrics;
