//! What is wrong with a history, and the few operations that show it.

use std::fmt;

use crate::{Operation, picture};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Kind {
    /// No history at all: a value written twice, an answer before its question, an outcome that
    /// does not belong to the call.
    #[error("this is no history")]
    Malformed,
    /// A revision names two values, or a value has two revisions.
    #[error("revisions disagree")]
    Revisions,
    /// A value was read that nobody wrote.
    #[error("a phantom: the value was never written")]
    Phantom,
    /// The value of a write was read that was refused or whose condition did not hold.
    #[error("a write that certainly did not happen is seen")]
    RefusedSeen,
    /// A value was read before its write began.
    #[error("a value is seen before it was written")]
    Early,
    /// A linearizable read shows less than what was known before it began.
    #[error("a stale read")]
    Stale,
    /// A key is gone although nobody deleted it.
    #[error("a lost write: the key is gone and nobody deleted it")]
    Lost,
    /// A session read shows less than its client had seen.
    #[error("a session went back")]
    SessionWentBack,
    /// There is no order of the operations that explains all answers.
    #[error("not linearizable")]
    NotLinearizable,
    /// The search was given up. Nothing is known, and that is no pass.
    #[error("not decided within the bounds of the search")]
    Undecided,
}

/// Why a history is not accepted. Displayed as a sentence and a timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What is wrong.
    pub kind: Kind,
    /// The key.
    pub key: String,
    /// The operations that show it, the accused first.
    pub operations: Vec<Operation>,
    /// What to know besides; may be empty.
    pub note: String,
}

impl Violation {
    pub(crate) fn new(kind: Kind, operations: &[&Operation], note: impl Into<String>) -> Violation {
        let key = operations.first().map(|o| o.key.clone()).unwrap_or_default();
        Violation { kind, key, operations: operations.iter().map(|o| (*o).clone()).collect(), note: note.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {:?}: {}", self.key, self.kind)?;
        if !self.note.is_empty() {
            write!(f, ": {}", self.note)?;
        }
        write!(f, "\n{}", picture::timeline(&self.operations))
    }
}

impl std::error::Error for Violation {}
