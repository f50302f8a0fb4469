//! A read shows the committed state at one index, and a linearizable one an index that is not older than anything any
//! client knew when it began.

use crate::truth::{Chronicle, Stored, Violation};

/// A read is answered from a state at `applied`.
///
/// # Errors
/// When it shows something else, or something too old.
pub fn check(
    chronicle: &Chronicle,
    name: &str,
    key: &[u8],
    got: Option<&Stored>,
    applied: u64,
    floor: u64,
) -> Result<(), Violation> {
    let text = String::from_utf8_lossy(key);
    if applied > chronicle.last() {
        return Violation::of("no_dirty_read", format!("{name} has applied {applied}, which nobody has committed"));
    }
    if applied < floor {
        let what =
            format!("{name} answers a linearizable read of {text} at {applied}, but {floor} was known when it began");
        return Violation::of("no_dirty_read", what);
    }
    let expected = chronicle.value_at(key, applied);
    if got != expected {
        let what = format!("{name} reads {text} at {applied} and finds {got:?}, not {expected:?}");
        return Violation::of("no_dirty_read", what);
    }
    Ok(())
}
