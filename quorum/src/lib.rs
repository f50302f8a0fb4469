//! The replication protocol.

mod config;
mod effect;
mod input;
mod message;
pub mod quorum;
mod types;

pub use config::{Change, Config, Failover, Member, Outgoing, SharedConfig};
pub use effect::{Effect, Refusal};
pub use input::Input;
pub use message::{Body, Head, Kind, Message};
pub use quorum::{Quorum, QuorumError};
pub use types::{ClusterId, Index, InvalidId, NodeId, Position, Role, Term, Time, Token};
