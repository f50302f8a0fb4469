//! Finding the program under test.

use std::path::PathBuf;

/// The `quorate` binary: `QUORATE_BIN`, or the one built beside this test (debug or release, as the test itself).
///
/// # Panics
/// If it was not built, with the command that builds it.
#[must_use]
pub fn quorate() -> PathBuf {
    if let Some(given) = std::env::var_os("QUORATE_BIN").filter(|v| !v.is_empty()) {
        return given.into();
    }
    // target/debug/deps/e2e-… or target/debug/quick: the profile's folder is the first above that holds the binary.
    let own = std::env::current_exe().expect("the path of this program");
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join("quorate")).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        let release = own.components().any(|c| c.as_os_str() == "release");
        let flag = if release { "--release " } else { "" };
        panic!(
            "there is no quorate binary beside {}: build it first with `cargo build {flag}--bin quorate`",
            own.display()
        )
    })
}
