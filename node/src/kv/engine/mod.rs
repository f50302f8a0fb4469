//! The engine: where applied state lives once it has left the overlay.
//!
//! An engine takes batches, each atomic. A batch leads from the state at one log position to the state at a later
//! one, or it is a piece of a larger step: then [`Meta::ahead`] lies beyond [`Meta::position`], some keys are at a
//! state up to `ahead` and the others at `position`, and the revisions of what a piece deleted are kept as *graves*,
//! so that a replay can tell what is done already. The state after a power loss is that of the last
//! [`Engine::persist`] or of any batch after it: the log repeats the rest. An engine never decides anything about
//! keys: heads, conditions and counts are `apply`'s.
//!
//! Before: the overlay's drain. After: the engine's disk.

pub(super) mod fjall;
pub(super) mod journal;
pub(super) mod memory;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use ::fjall::LsmError;
use bytes::Bytes;
use quorum::{Config, Position, Quorum, SharedConfig};
use serde::{Deserialize, Serialize};

use super::Item;
use super::once::{Moving, Row};
use super::value::{Value, ValueKind};
use super::wire::Reader;

/// What a batch leads to, besides the keys: written in the same batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    /// The last log entry the state covers.
    pub(super) position: Position,
    /// The keys that exist in this very state, be it between two positions.
    pub(super) count: u64,
    /// The newest configuration up to the position.
    pub(super) config: Option<SharedConfig>,
    /// Where the furthest step begun leads. Beyond the position only in the middle of a step: single keys
    /// may be this far already.
    pub(super) ahead: Position,
}

impl Meta {
    /// Whether every key is at the state of the position.
    pub(super) fn is_whole(&self) -> bool {
        self.ahead.index <= self.position.index
    }
}

/// One key's change in a batch. Each key comes once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'a> {
    pub(super) key: &'a Bytes,
    /// The log index of the write that led here.
    pub(super) revision: u64,
    /// `None`: the key is gone.
    pub(super) item: Option<&'a Item>,
}

/// Keys that a step not yet complete deleted, with the revisions at which.
pub(super) type Graves = HashMap<Bytes, u64>;

/// Why an engine could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// fjall said so.
    #[error("the engine failed to {doing}: {source}")]
    Fjall {
        /// What was asked of it.
        doing: &'static str,
        /// Its words.
        source: ::fjall::Error,
    },
    /// A file or folder of ours.
    #[error("cannot {doing} {path}: {source}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What was read makes no sense.
    #[error("the engine holds damaged data: {0}")]
    Damaged(String),
    /// What was read may make sense to another version.
    #[error("{0}: the data was written by another version of quorate; nothing was touched")]
    Version(String),
    /// A state that was being taken in.
    #[error("an import {0}")]
    Import(&'static str),
    /// Something that should be written, and cannot be.
    #[error("cannot encode {0}")]
    Encode(String),
}

impl EngineError {
    /// Whether the disk does not hold what was written to it: then trying again, or later, leads nowhere. Anything that
    /// may pass, or that another version or a person can mend with the files as they are, is none.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        // A file that is missing or too short; not one that may not be read, or not now.
        let lost = |error: &std::io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof);
        match self {
            EngineError::Damaged(_) => true,
            EngineError::Fjall { source, .. } => match source {
                ::fjall::Error::Storage(LsmError::Io(error)) | ::fjall::Error::Io(error) => lost(error),
                ::fjall::Error::Storage(error) => !matches!(error, LsmError::InvalidVersion(_)),
                ::fjall::Error::JournalRecovery(_)
                | ::fjall::Error::Decompress(_)
                | ::fjall::Error::InvalidTrailer
                | ::fjall::Error::InvalidTag(_)
                | ::fjall::Error::Unrecoverable => true,
                _ => false,
            },
            _ => false,
        }
    }
}

/// Items in key order.
pub(super) type Items = Box<dyn Iterator<Item = Result<(Bytes, Item), EngineError>> + Send>;

/// One store of keys on a disk (or in place of one).
pub(super) trait Engine: Send + Sync {
    /// The item under a key, as of the last whole batch.
    fn get(&self, key: &[u8]) -> Result<Option<Item>, EngineError>;
    /// The state's position, count and configuration; `None` on an engine that never took a batch.
    fn meta(&self) -> Result<Option<Meta>, EngineError>;
    /// The state as of the last whole batch, unchanged while it is held.
    fn snapshot(&self) -> Box<dyn Snapshot>;
    /// What pieces of steps not yet complete deleted.
    fn graves(&self) -> Result<Graves, EngineError>;
    /// What is remembered of commands with idempotency keys, by revision, ascending: of those up to
    /// the position and beyond it.
    fn rows(&self) -> Result<Vec<Arc<Row>>, EngineError>;
    /// Takes a batch: all of it or, after a crash, nothing. If it leaves the state between two positions, its deletions
    /// become graves; otherwise all graves go.
    fn commit(&self, changes: &[Change<'_>], rows: &Moving, meta: &Meta) -> Result<(), EngineError>;
    /// Makes every batch taken so far survive a power loss.
    fn persist(&self) -> Result<(), EngineError>;
    /// Bytes on disk.
    fn disk_bytes(&self) -> u64;
    /// What a person should know about before it becomes a failure.
    fn alarm(&self) -> Option<String>;
    /// The folder's name, where there is one.
    fn name(&self) -> &str;
    /// Whether its files go once nobody reads it any more: while it is being filled, and after another took its place.
    fn doom(&self, doomed: bool);
}

/// An engine's state at one moment.
pub(super) trait Snapshot: Send + Sync {
    /// Items from a bound on, lazily.
    fn range(&self, from: Bound<&[u8]>) -> Items;
}

/// Where engines live: makes new ones, and remembers which one is current.
pub(super) trait Home: Send + Sync {
    /// A fresh engine that takes items in ascending order.
    fn ingest(&self) -> Result<Box<dyn Ingest>, EngineError>;
    /// From now on, and after a crash, this engine is the one that opening finds; it is not doomed any
    /// more. Durable on return.
    fn adopt(&self, engine: &dyn Engine) -> Result<(), EngineError>;
    /// From now on, and after a crash, opening finds damage: what was just read of an engine is not what was written.
    fn condemn(&self, why: &EngineError) -> Result<(), EngineError>;
}

/// A fresh engine being filled. Dropped without [`Ingest::finish`], it leaves nothing behind.
pub(super) trait Ingest: Send {
    /// Takes rows whose revisions are greater than every one before. Before any item.
    fn remember(&mut self, rows: Vec<Arc<Row>>) -> Result<(), EngineError>;
    /// Takes items whose keys are greater than every one before.
    fn write(&mut self, items: Vec<(Bytes, Item)>) -> Result<(), EngineError>;
    /// The engine, filled and durable.
    fn finish(self: Box<Self>, meta: &Meta) -> Result<Arc<dyn Engine>, EngineError>;
}

/// The format of an item's head in an engine: kind (with the format's number in the upper half, 0), revision,
/// version; then the value.
const ITEM_HEAD_BYTES: usize = 17;

pub(super) fn encode_item(item: &Item, out: &mut Vec<u8>) {
    out.reserve(ITEM_HEAD_BYTES + item.value.data.len());
    out.push(item.value.kind as u8);
    out.extend_from_slice(&item.revision.to_le_bytes());
    out.extend_from_slice(&item.version.to_le_bytes());
    out.extend_from_slice(&item.value.data);
}

pub(super) fn decode_item(bytes: &[u8]) -> Option<Item> {
    let mut reader = Reader(bytes);
    let kind = ValueKind::from_byte(reader.u8()?)?;
    let (revision, version) = (reader.u64()?, reader.u64()?);
    Some(Item { value: Value { kind, data: Bytes::copy_from_slice(reader.rest()) }, revision, version })
}

/// The version of [`MetaWire`].
const META_VERSION: u8 = 2;

/// [`Meta`] as it is written.
#[derive(Serialize, Deserialize)]
struct MetaWire {
    position: Position,
    count: u64,
    config: Option<Config>,
    ahead: Position,
}

impl Meta {
    pub(super) fn encode(&self) -> Result<Vec<u8>, EngineError> {
        let config = self.config.as_deref().cloned();
        let wire = MetaWire { position: self.position, count: self.count, config, ahead: self.ahead };
        postcard::to_extend(&wire, vec![META_VERSION])
            .map_err(|error| EngineError::Encode(format!("the configuration: {error}")))
    }

    /// Whether the bytes are of this version.
    pub(super) fn is_known(bytes: &[u8]) -> bool {
        bytes.first() == Some(&META_VERSION)
    }

    /// `None` for bytes that are none, or that hold a configuration with numbers that cannot be.
    pub(super) fn decode(bytes: &[u8]) -> Option<Meta> {
        let wire: MetaWire = match bytes.split_first()? {
            (&META_VERSION, rest) => postcard::from_bytes(rest).ok()?,
            _ => return None,
        };
        if let Some(config) = &wire.config {
            Quorum::new(config.voters.len(), config.write_quorum).ok()?;
            if let Some(outgoing) = &config.outgoing {
                Quorum::new(outgoing.voters.len(), outgoing.write_quorum).ok()?;
            }
        }
        Some(Meta { position: wire.position, count: wire.count, config: wire.config.map(Arc::new), ahead: wire.ahead })
    }
}
