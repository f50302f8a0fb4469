//! The chart, the operator and clusters of pods on a real Kubernetes: `make kubernetes`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod change;
mod failover;
mod install;
mod paused;
mod refused;
mod seen;
mod upgrade;
mod volumes;
