//! Every node that has applied the same entries holds the same state: the one that the entries lead to.

use quorate::kv::Store;

use crate::truth::{Chronicle, Stored, Violation, hash_item};

/// Compares a whole store with the truth.
///
/// # Errors
/// When they differ.
pub fn check(chronicle: &Chronicle, name: &str, store: &Store) -> Result<(), Violation> {
    let applied = store.applied().index.0;
    if applied == 0 || store.whole_from().index.0 > applied {
        // In the middle of repeating a drain there is no one state.
        return Ok(());
    }
    let Some(truth) = chronicle.at(applied) else {
        return Violation::of("identical_state", format!("{name} has applied {applied}, which nobody has committed"));
    };
    let (mut hash, mut keys) = (0, 0);
    for entry in store.view().try_scan(b"", None) {
        let (key, item) = match entry {
            Ok(entry) => entry,
            Err(error) => return Violation::of("identical_state", format!("{name} cannot be read: {error}")),
        };
        hash ^= hash_item(&key, &Stored { value: item.value.data, revision: item.revision, version: item.version });
        keys += 1;
    }
    if hash != truth.state || keys != store.count() {
        let what = format!("the state of {name} at {applied} differs ({keys} keys, counted {})", store.count());
        return Violation::of("identical_state", what);
    }
    Ok(())
}
