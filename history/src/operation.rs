//! What a client asked for and what it was told.

use serde::{Deserialize, Serialize};

/// One operation of one client on one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who asked. A client's session reads hang on what the same process saw before.
    pub process: u64,
    /// The key.
    pub key: String,
    /// When it was sent, on the history's one monotonic clock, in whatever unit.
    pub invoked: u64,
    /// When the answer came; absent if none did.
    pub returned: Option<u64>,
    /// What was asked for.
    pub call: Call,
    /// What is known of it.
    pub outcome: Outcome,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// The value.
    Read {
        /// How fresh.
        consistency: Consistency,
    },
    /// To store a value that nobody else writes to this key.
    Write {
        /// The value.
        value: String,
        /// What must hold of the key.
        condition: Condition,
    },
    /// To remove the key.
    Delete {
        /// What must hold of the key besides that it exists.
        condition: Condition,
    },
}

/// How fresh a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Shows every write that was acknowledged before it began.
    Linearizable,
    /// At least what this process has seen of the key before, on whichever node.
    Session,
    /// Something that was committed.
    Local,
}

/// What must hold of a key for an operation to take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// It does not exist.
    Absent,
    /// It exists.
    Present,
    /// Its last write has this revision.
    Revision(u64),
}

/// What is known of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The answer to a read: the value and its revision (where the protocol tells it), or that there is none.
    Found {
        /// The value; `None`: there is no such key.
        value: Option<String>,
        /// The revision of the write that stored it.
        revision: Option<u64>,
    },
    /// The write or deletion took effect.
    Done {
        /// Its revision, where the protocol tells it.
        revision: Option<u64>,
    },
    /// The condition did not hold, or there was nothing to delete: certainly no effect, and it tells of
    /// the state at that moment.
    Failed {
        /// The revision that the key had instead, where the protocol tells it.
        revision: Option<u64>,
    },
    /// Certainly no effect, and nothing to learn from.
    Refused,
    /// It may take effect at any time from its start on, or never.
    Unknown,
}

impl Operation {
    /// The value it wants to store.
    pub(crate) fn written(&self) -> Option<&str> {
        match &self.call {
            Call::Write { value, .. } => Some(value),
            _ => None,
        }
    }

    /// The value it was shown, with the revision.
    pub(crate) fn seen(&self) -> Option<(&str, Option<u64>)> {
        match &self.outcome {
            Outcome::Found { value: Some(value), revision } => Some((value, *revision)),
            _ => None,
        }
    }

    /// The end of the time in which it took effect if it did: `u64::MAX` if that is open.
    pub(crate) fn end(&self) -> u64 {
        match self.outcome {
            Outcome::Unknown => u64::MAX,
            _ => self.returned.unwrap_or(u64::MAX),
        }
    }

    /// Whether it may have removed the key.
    pub(crate) fn may_delete(&self) -> bool {
        matches!(self.call, Call::Delete { .. }) && matches!(self.outcome, Outcome::Done { .. } | Outcome::Unknown)
    }
}
