//! The replication protocol.

mod check;
mod config;
mod effect;
mod input;
mod log;
mod message;
mod progress;
mod promise;
pub mod quorum;
mod read;
mod replica;
mod settings;
mod types;

pub use config::{Change, Config, Failover, Member, Outgoing, SharedConfig};
pub use effect::{Effect, Refusal};
pub use input::Input;
pub use message::{Body, Head, Kind, Message};
pub use quorum::{Quorum, QuorumError};
pub use replica::{Peer, Recovered, Replica};
pub use settings::Settings;
pub use types::{ClusterId, Index, InvalidId, NodeId, Position, Role, Term, Time, Token};
