//! A history as a whole: collected, put on disk as JSON lines, and read back.

use std::io::{self, BufRead, Write};

use crate::{Call, Consistency, Operation, Outcome, Violation, check};

/// What a set of clients saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// In any order.
    pub operations: Vec<Operation>,
}

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadHistoryError {
    /// The source fails.
    #[error("the history cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A line is no operation.
    #[error("line {line} is no operation: {error}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong.
        error: serde_json::Error,
    },
}

impl History {
    /// As [`check`].
    ///
    /// # Errors
    /// As [`check`].
    pub fn check(&self) -> Result<(), Violation> {
        check(&self.operations)
    }

    /// Adds what the store holds in the end, when nothing goes on any more: for every key of the history a read after
    /// everything else. `held` is asked for a key's value and revision. A write that was acknowledged and lost is found
    /// by this even if no client read later.
    pub fn ends_with(&mut self, held: impl Fn(&str) -> Option<(String, u64)>) {
        let moments = self.operations.iter().flat_map(|o| [o.invoked, o.returned.unwrap_or(0)]);
        let now = moments.max().unwrap_or(0) + 1;
        let process = self.operations.iter().map(|o| o.process + 1).max().unwrap_or(0);
        let keys: std::collections::BTreeSet<String> = self.operations.iter().map(|o| o.key.clone()).collect();
        self.operations.extend(keys.into_iter().map(|key| {
            let (value, revision) = held(&key).unzip();
            Operation {
                process,
                key,
                invoked: now,
                returned: Some(now + 1),
                call: Call::Read { consistency: Consistency::Linearizable },
                outcome: Outcome::Found { value, revision },
            }
        }));
    }

    /// Writes one operation a line, as JSON.
    ///
    /// # Errors
    /// If `out` fails.
    pub fn write_to(&self, mut out: impl Write) -> io::Result<()> {
        for operation in &self.operations {
            serde_json::to_writer(&mut out, operation)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    /// Reads what [`History::write_to`] wrote.
    ///
    /// # Errors
    /// If `source` fails or a line is no operation.
    pub fn read_from(source: impl BufRead) -> Result<History, ReadHistoryError> {
        let mut operations = Vec::new();
        for (number, line) in source.lines().enumerate() {
            let line = line?;
            let operation =
                serde_json::from_str(&line).map_err(|error| ReadHistoryError::Line { line: number + 1, error })?;
            operations.push(operation);
        }
        Ok(History { operations })
    }
}
