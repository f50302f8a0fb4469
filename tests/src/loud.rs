//! Words that must be seen even of a test that passes.

use std::io::Write;

/// Says on the terminal what this run did not try. (What `println!` prints of a test that passes is thrown away.)
pub fn loudly(text: &str) {
    // Who has no terminal is not told.
    let _ = writeln!(std::io::stderr(), "\n*** {text}\n");
}
