//! What must not reach the product.
#![allow(clippy::expect_used)]

use std::process::Command;

/// The features of every crate that `cargo build --bin quorate` and `cargo run` resolve, from the workspace's root as a user would.
#[test]
fn the_program_that_people_build_has_no_deliberate_bugs_in_it() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let tree = |more: &[&str]| {
        let mut command = Command::new(&cargo);
        command.args(["tree", "--offline", "--edges", "normal,build,features", "--prefix", "none"]).args(more);
        let output = command.current_dir(root).output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let has_bugs = |tree: &str| tree.lines().any(|l| l.starts_with("quor") && l.contains("feature \"bugs\""));
    let product = tree(&[]);
    assert!(product.lines().any(|l| l.starts_with("quorum ")), "the tree is that of the program: {product}");
    assert!(!has_bugs(&product));
    // The question is asked in a way that would notice.
    assert!(has_bugs(&tree(&["--features", "bugs"])), "{}", tree(&["--features", "bugs"]));
}
