//! The binary `quorate`. Everything is in the library, [`quorate::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate::cli::main()
}
