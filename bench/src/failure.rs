//! The one error of this program: a sentence that says what was tried and what came of it.
//!
//! A comparison that cannot go on ends with such a sentence; nothing here is caught and retried, since a figure
//! measured around a failure would be worth nothing.

use std::fmt;

/// What went wrong, outermost context first.
#[derive(Debug)]
pub(crate) struct Failure(String);

/// A result of anything in this program.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Failure {
        Failure(what.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Says what was being done when an error came up.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|e| Failure(format!("{}: {e}", what())))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.ok_or_else(|| Failure(what()))
    }
}
