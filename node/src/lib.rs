//! A node of Quorate: the replicated key-value store around the [`quorum`] core.

pub mod cli;
pub mod handle;
pub mod http;
pub mod kv;
pub mod metrics;
pub mod node;
pub mod options;
pub mod peer;
pub mod stage;
pub mod storage;
pub mod tcp;

#[cfg(test)]
mod testing;
