//! Histories of clients, and whether a linearizable store could have given them.
//!
//! A history is what clients saw and nothing else: who asked for what, when, and what came back. [`check`] looks at one
//! key at a time, which is enough, because operations on one key never depend on another. First come the checks that
//! need no search (`checks.rs`): they find most faults and name them. What is left is searched for an order of all
//! operations that respects real time and explains every answer (`search.rs`).
//!
//! This crate knows nothing of nodes, logs or networks: whoever records (the simulator, the clients of `tests/`) judges
//! by it, and so does a second checker in another language (`porcupine/`), which must agree.
//!
//! What a history must fulfil: values written to a key are unique, times come from one monotonic clock, and an outcome
//! that is not certain is [`Outcome::Unknown`].

mod checks;
pub mod generate;
mod operation;
mod picture;
mod record;
mod search;
mod violation;

pub use operation::{Call, Condition, Consistency, Operation, Outcome};
pub use record::{History, ReadHistoryError};
pub use violation::{Kind, Violation};

use std::collections::BTreeMap;

/// Whether a linearizable store could have given these answers. Not decided within the bounds is an error
/// too ([`Kind::Undecided`]).
///
/// # Errors
/// The first violation, by key: of those found without a search before those found by one.
pub fn check(operations: &[Operation]) -> Result<(), Violation> {
    check_within(operations, search::STEPS_MAX)
}

/// As [`check`], with so many steps of the search for each key.
///
/// # Errors
/// As [`check`].
pub fn check_within(operations: &[Operation], steps_max: u64) -> Result<(), Violation> {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        keys.entry(&operation.key).or_default().push(operation);
    }
    let mut all = Vec::with_capacity(keys.len());
    for operations in keys.into_values() {
        let known = checks::check(&operations)?;
        all.push((operations, known));
    }
    all.iter().try_for_each(|(operations, known)| search::check(operations, known, steps_max))
}
