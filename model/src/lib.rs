//! A model of the protocol, small enough to be checked to the last state.
//!
//! The simulator and the random clusters run the real code and sample its behaviours. This crate does the opposite:
//! it states the *rules* in a few hundred lines and lets [stateright](https://docs.rs/stateright) visit every state
//! that they can reach within small bounds (up to four nodes, three terms, a few entries; five nodes to show one
//! broken rule). The arithmetic is not stated again: which nodes elect, commit and acknowledge is asked of the
//! product's own [`quorum::Config`]. The model owns nothing else of the product and comes before it: a rule that
//! fails here need not be programmed.
//!
//! # What a state is
//!
//! [`State`] holds each [`Node`] and a little history that no node knows ([`State::committed`], [`State::acked`],
//! [`State::leaders`]). A node has two logs: `log`, what it works with, and `disk`, what it would have after a crash.
//! Printed, a state is one line a node:
//!
//! ```text
//! n0 t1 leader    log 0:c0 1:- 1:w0        disk 0:c0 1:-            commit 2  copies [2, 3, 0]
//! ```
//!
//! Node 0 is in term 1 and leads it; its log has a configuration of term 0, the empty entry of its own term and write
//! 0, which its disk does not hold yet; it has committed two entries, and knows how many entries are on disk: two of
//! its own, three of node 1's, none of node 2's.
//!
//! # What a step is
//!
//! An [`Action`] is one thing that happens at one node, or between two. A message arrives when it is sent, or
//! never; since any step may happen in any order, a message that is late is one that is sent late. A node that is
//! down is one that nothing happens to, and a crash takes what its disk does not hold. A leader counts at once
//! what it has heard. A path is a list of actions; [`Model::tell`] prints it with the state after each, and that
//! is what a failing test shows.
//!
//! Why that loses nothing: a vote or a confirmation is a fact that stays true in its term, so that hearing of it at
//! once only makes a leader count sooner, and whatever could be lost is then promised sooner. A late request finds its
//! sender as it was, since a candidate's log does not change and a leader's only grows. This is an argument, not
//! something the model checks.
//!
//! # What is left out
//!
//! Time: anybody may campaign at any moment, so pre-votes, leases, the vote refusal after a start and check-quorum (all
//! of which only forbid or end things by the clock) are not here, nor are reads. Snapshots and the forming of a cluster
//! are not here either; the run starts with a formed cluster that holds its configuration. Votes are durable at once. A
//! node takes no commit index from its leader: safety does not rest on it. Learners may be promoted however far behind
//! they are: the product's bound on that is for liveness. Messages of a leader that has left office are lost. All this
//! is for the tests that run the real code.

// Only tests run it: whatever is impossible here is a mistake in the model, and ends it.
#![allow(clippy::expect_used, clippy::missing_panics_doc)]

mod model;
mod rules;
mod show;
mod state;

pub use model::{Model, always};
pub use rules::{Bounds, Conf, Election, Rules, Set, Table};
pub use state::{Acked, Action, Committed, ENTRIES, Entry, Kind, Log, NODES, Node, Role, State, WRITES};
