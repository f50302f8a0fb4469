//! The binary `quorate`. Everything is in the library, [`quorate::cli`].

use std::process::ExitCode;

/// Many small allocations live for one request: see docs/decisions, 6.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    quorate::cli::main()
}
