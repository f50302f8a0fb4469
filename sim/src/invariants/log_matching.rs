//! An index and a term name one entry, wherever it is written.

use quorate::storage::{RecordKind, record};

use crate::truth::{Chronicle, Entry, Violation};

/// Notes an entry that a node is about to write.
///
/// # Errors
/// When another entry was written under the same index and term.
pub fn wrote(chronicle: &mut Chronicle, name: &str, (index, term): (u64, u64), entry: Entry) -> Result<(), Violation> {
    if entry.kind == RecordKind::Config
        && let Ok(config) = record::decode_config(&entry.payload)
    {
        chronicle.configs.entry((index, term)).or_insert(config);
    }
    let known = chronicle.written.entry((index, term)).or_insert_with(|| entry.clone());
    if *known != entry {
        return Violation::of(
            "log_matching",
            format!("{name} writes another entry {index}@{term} than was written before"),
        );
    }
    Ok(())
}
