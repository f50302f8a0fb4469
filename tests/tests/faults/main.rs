//! Clusters of real processes under faults: nothing acknowledged is lost, no linearizable read is stale,
//! all copies end up the same.
//!
//! `QUORATE_SEED` repeats the choices of a run (not the scheduling of its machine), `QUORATE_NIGHTLY=1` does
//! much more of everything.

// A test that cannot go on ends, and the message is what is wanted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod clocks;
mod disks;
mod failover;
mod incidents;
mod nemesis;
mod partitions;
mod quorums;
