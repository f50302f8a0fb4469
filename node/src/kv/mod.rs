//! The replicated data: commands, the state they lead to, and the engine that keeps it.
//!
//! A write comes from the driver, once committed, in log order: [`Store::apply_command`] changes the *overlay*, an
//! ordered table in memory, and that is all a write ever waits for. A thread drains the overlay into the *engine*, a
//! table at a time and each in pieces, the last of which moves the engine's log position; the log may be cut up to what
//! [`Store::persist`] returns. Reads merge overlay and engine.
//!
//! Layers, newest first: active table, frozen table (while it drains), engine. A [`View`] pins all three at one
//! revision; the versions that it shows stay until it is dropped.
//!
//! Nothing here is ever acknowledged to anyone, and nothing reads a clock: apply is deterministic. Before: the driver.
//! After: the engine's disk, off the acknowledgement path.

mod apply;
mod command;
mod engine;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod map;
mod once;
mod overlay;
mod reads;
mod store;
#[cfg(test)]
mod tests;
mod transfer;
mod value;
mod view;
mod wire;

use bytes::Bytes;
use quorum::Position;

pub(crate) use command::stamped;
pub use command::{Command, Condition, GENERATION, KEY_BYTES_MAX, Outcome, REQUEST_KEY_BYTES_MAX, is_once};
pub use engine::EngineError;
pub use engine::memory::MemoryHome;
pub use once::{REMEMBERED_FOR, ROWS_MAX};
pub use store::{Applied, Store};
#[cfg(test)]
pub(crate) use tests::slow_store;
pub use transfer::{Export, Import, Imported};
pub use value::{Value, ValueKind};
pub use view::{Page, Scan, View};

/// A stored value with its history's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The value.
    pub value: Value,
    /// Log index of the last write.
    pub revision: u64,
    /// Writes since the key was created, from 1.
    pub version: u64,
}

/// A key and what is stored under it.
pub type Entry = (Bytes, Item);

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine or its disk. The store has failed with it: see [`Store::failed`].
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It failed before and does nothing any more.
    #[error("the store has failed: {0}")]
    Failed(String),
    /// A drain was interrupted by a crash, and the entries that it was at have not all been applied again.
    #[error("the state is between {applied} and {until}: the entries in between are being repeated")]
    Between {
        /// What has been applied.
        applied: Position,
        /// From where on the state is whole.
        until: Position,
    },
    /// A snapshot from another node cannot be used; the state here is as it was.
    #[error("the snapshot cannot be used: {0}")]
    Foreign(String),
}

impl StoreError {
    /// See [`EngineError::is_damage`].
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, StoreError::Engine(error) if error.is_damage())
    }
}
