//! What the log carries: commands, and what they lead to.
//!
//! A command holds everything its effect depends on; applying it reads no clock and draws no random number. Encoded once, on the
//! node that took the request; the very bytes go to every disk.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::value::Value;

/// A change of the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Stores a value under a key.
    Put {
        /// UTF-8, 1 byte to 4 KiB.
        key: Bytes,
        /// What to store.
        value: Value,
        /// Under which condition.
        condition: Condition,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Bytes,
        /// Under which condition.
        condition: Condition,
    },
    /// Stores several values at one revision (MSET).
    PutMany {
        /// Keys and values; a key named twice keeps the last.
        pairs: Vec<(Bytes, Value)>,
    },
    /// Removes several keys at one revision (DEL).
    DeleteMany {
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// Adds to a decimal number (INCR, INCRBY, DECR); an absent key counts as 0. The result is stored as bytes.
    Increment {
        /// The key.
        key: Bytes,
        /// What to add.
        by: i64,
    },
}

/// What must hold of a key for the command to take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// The key does not exist (`If-None-Match: *`, SET NX).
    Absent,
    /// The key exists (`If-Match: *`, SET XX).
    Present,
    /// The key's revision is this (`If-Match: "7"`).
    Revision(u64),
}

/// What a command led to. Part of the replicated state machine: every replica computes the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Stored, as the key's `version`-th write since it was created (of the last key of a [`Command::PutMany`]).
    Put {
        /// From 1.
        version: u64,
    },
    /// So many keys existed and are gone.
    Deleted {
        /// Keys removed.
        count: u64,
    },
    /// The number now.
    Incremented {
        /// After adding.
        value: i64,
        /// As in [`Outcome::Put`].
        version: u64,
    },
    /// The condition did not hold; nothing changed.
    ConditionFailed {
        /// The key's revision, if it exists.
        current: Option<u64>,
    },
    /// The value is no decimal number, or the sum would not fit; nothing changed.
    NotANumber,
    /// The bytes are no command this version knows; nothing changed.
    Unreadable,
}
