//! Everything a user can see, seen on clusters of real processes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod failover;
