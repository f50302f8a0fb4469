//! The definitions in the tree are those that the program prints.

use std::path::Path;

const COPIES: [&str; 2] = ["crds/quorate.dev_kvclusters.yaml", "charts/quorate/crds/quorate.dev_kvclusters.yaml"];

#[test]
fn the_definitions_in_the_tree_are_up_to_date() {
    let yaml = quorate_operator::crd_yaml().expect("the definition is YAML");
    for copy in COPIES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(copy);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &yaml).expect("the copy can be written");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == yaml, "{copy} is stale: run UPDATE_GOLDEN=1 cargo test -p quorate-operator --test crd");
    }
}
