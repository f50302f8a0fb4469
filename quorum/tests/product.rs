//! What must not reach the product.
#![allow(clippy::expect_used)]

use std::process::Command;

/// Every crate with its features, as `cargo build --bin quorate` and `cargo run` resolve them
/// from the workspace's root.
fn resolved(more: &[&str]) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["tree", "--offline", "--edges", "normal,build", "--prefix", "none", "--format", "{lib} {f}"]);
    let output = command.args(more).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).output();
    let output = output.expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_program_that_people_build_has_no_deliberate_bugs_in_it() {
    let has_bugs = |tree: &str| tree.lines().any(|line| line.starts_with("quorum ") && line.contains("bugs"));
    let product = resolved(&[]);
    assert!(product.lines().any(|line| line.starts_with("quorum ")), "the program's crates: {product}");
    assert!(!has_bugs(&product), "{product}");
    // Asked like this, cargo would say so.
    assert!(has_bugs(&resolved(&["--features", "bugs"])));
}
