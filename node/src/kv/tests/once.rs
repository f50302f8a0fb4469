//! Commands with idempotency keys: done once, and remembered through drains, restarts and snapshots.

use super::*;

fn apply(store: &Store, command: &Command) -> Applied {
    let index = store.applied().index.next();
    store.apply_command(Position::new(index.0, 1), &command.encode())
}

fn first(index: u64, outcome: Outcome) -> Applied {
    Applied { outcome, first: Some(quorum::Index(index)) }
}

#[test]
fn a_retry_is_answered_with_the_first_outcome_and_changes_nothing() {
    let store = Store::memory();
    let one = increment("n", 5).once("one".into());
    let failing = put_if("n", "x", Condition::Absent).once("two".into());
    assert_eq!(apply(&store, &one), Applied { outcome: Outcome::Incremented { value: 5, version: 1 }, first: None });
    run(&store, &increment("n", 1));
    assert_eq!(run(&store, &failing), Outcome::ConditionFailed { current: Some(2) });
    run(&store, &delete_if("n", Condition::None));
    assert_eq!(apply(&store, &one), first(1, Outcome::Incremented { value: 5, version: 1 }));
    assert_eq!(apply(&store, &failing), first(3, Outcome::ConditionFailed { current: Some(2) }), "though it holds now");
    assert_eq!((store.count(), store.remembered()), (0, 2));
}

#[test]
fn a_key_that_stands_for_another_request_is_refused_and_the_first_stays() {
    let store = Store::memory();
    let ours = put("a", "ours").once("key".into());
    run(&store, &ours);
    for other in [put("a", "another"), put("b", "ours"), delete_if("a", Condition::None), increment("a", 1)] {
        assert_eq!(apply(&store, &other.once("key".into())), Applied { outcome: Outcome::KeyReused, first: None });
    }
    assert_eq!(apply(&store, &ours), first(1, Outcome::Put { version: 1 }));
    assert_eq!(store.get(b"a").map(|item| (item.value, item.version)), Some((Value::text("ours"), 1)));
}

#[test]
fn the_stamp_is_no_part_of_the_request() {
    let store = Store::memory();
    let payload = put("a", "x").once("key".into()).encode();
    for (index, millis) in [(1, 5), (2, 9_000)] {
        let applied = store.apply_command(Position::new(index, 1), &super::super::stamped(&payload, millis));
        assert_eq!((applied.outcome, applied.first.is_some()), (Outcome::Put { version: 1 }, index == 2));
    }
}

#[test]
fn what_is_remembered_counts_for_the_overlay_so_that_refused_writes_cannot_fill_the_memory() {
    let store = Store::on_memory(MemoryEngine::default(), &limits(20_000));
    run(&store, &put("a", "x"));
    for n in 0..1_000 {
        run(&store, &put_if("a", "y", Condition::Absent).once(format!("request {n}").into()));
        assert!(store.overlay_bytes() < 21_000);
    }
    assert_eq!(store.remembered(), 1_000);
}

/// A store on a disk with some requests done, in the engine and not.
fn used(dir: &Path) -> (Store, Vec<(Command, Outcome)>) {
    let store = open(dir, 1 << 20);
    let mut asked = Vec::new();
    for n in 0..60 {
        let command = increment(&format!("n{}", n % 7), 1).once(format!("request {n}").into());
        asked.push((command.clone(), run(&store, &command)));
        if n == 30 {
            store.drain();
        }
    }
    (store, asked)
}

fn retried(store: &Store, asked: &[(Command, Outcome)]) {
    let before = content(store);
    for (n, (command, outcome)) in asked.iter().enumerate() {
        assert_eq!(apply(store, command), first(n as u64 + 1, outcome.clone()));
    }
    assert_eq!(content(store), before);
}

#[test]
fn a_retry_after_a_restart_or_at_a_node_that_got_a_snapshot_is_a_retry() {
    let dir = tempfile::tempdir().expect("dir");
    let (store, asked) = used(&dir.path().join("one"));
    let two = open(&dir.path().join("two"), 1 << 20);
    run(&two, &put("old", "x").once("request 1".into()));
    two.install(import(&two, &chunks(&store)).expect("import")).expect("install");
    retried(&two, &asked);
    two.persist().expect("persist");
    drop(two);
    retried(&open(&dir.path().join("two"), 1 << 20), &asked);
    store.persist().expect("persist");
    drop(store);
    retried(&open(&dir.path().join("one"), 1 << 20), &asked);
}

#[test]
fn rows_out_of_order_of_the_future_or_behind_items_are_refused() {
    let store = Store::memory();
    for n in 0..6_000 {
        run(&store, &put(&format!("key{n:05}"), &"v".repeat(60)).once(format!("request {n:0100}").into()));
    }
    let good = chunks(&store);
    let rows = good.iter().filter(|chunk| chunk[1] == 4).count();
    assert!(rows >= 2 && good.len() > rows + 3, "{rows} of {}", good.len());
    let numbered = |chunks: Vec<Bytes>| {
        let sealed = chunks.into_iter().enumerate().map(|(n, chunk)| {
            let mut bytes = chunk.to_vec();
            bytes[6..10].copy_from_slice(&(n as u32).to_le_bytes());
            super::super::transfer::with_checksum(Bytes::from(bytes))
        });
        sealed.collect::<Vec<_>>()
    };
    let refused = |what: &str, change: &dyn Fn(&mut Vec<Bytes>)| {
        let mut changed = good.clone();
        change(&mut changed);
        assert!(matches!(import(&store, &numbered(changed)), Err(StoreError::Foreign(_))), "{what}");
    };
    assert!(import(&store, &numbered(good.clone())).is_ok());
    refused("swapped", &|c| c.swap(1, 2));
    refused("twice", &|c| c.insert(2, c[1].clone()));
    refused("behind items", &|c| {
        let moved = c.remove(1);
        c.insert(rows + 1, moved);
    });
    refused("of the future", &|c| {
        for chunk in c.iter_mut() {
            let mut bytes = chunk.to_vec();
            bytes[10..18].copy_from_slice(&5u64.to_le_bytes());
            *chunk = Bytes::from(bytes);
        }
    });
}

#[cfg(feature = "bugs")]
#[test]
fn the_bug_of_the_forgotten_key_is_found() {
    use quorum::bugs::{self, Bug};
    let dir = tempfile::tempdir().expect("dir");
    let (store, asked) = used(dir.path());
    store.persist().expect("persist");
    drop(store);
    let again = || retried(&open(dir.path(), 1 << 20), &asked);
    let found = bugs::with(&[Bug::IdempotencyKeyForgotten], || std::panic::catch_unwind(again));
    assert!(found.is_err(), "a retry after a restart was done a second time, and no test noticed");
}
