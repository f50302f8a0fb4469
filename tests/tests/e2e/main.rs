//! Everything a user can see, seen on clusters of real processes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_input;
mod cli;
mod clients;
mod cluster_routes;
mod damage;
mod disk;
mod failover;
mod followers;
mod formation;
mod history;
mod idempotency;
mod lab;
mod leases;
mod local;
mod logs;
mod quorums;
mod redis;
mod sweep;
mod tcp_lines;
mod v1;
