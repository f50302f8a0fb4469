//! A node of Quorate: the replicated key-value store around the [`quorum`] core.

// The documentation is for those who work on the node: it may lead to what is private.
#![allow(rustdoc::private_intra_doc_links)]

pub mod cli;
#[doc(hidden)]
pub mod dice;
mod driver;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod handle;
pub mod http;
mod join;
pub mod kv;
mod logging;
pub mod metrics;
pub mod node;
mod opening;
pub mod options;
pub mod peer;
pub mod stage;
#[doc(hidden)]
pub mod stepped;
pub mod storage;
pub mod tcp;
#[cfg(feature = "otel")]
mod traces;

#[cfg(any(test, feature = "fuzzing"))]
mod testing;
