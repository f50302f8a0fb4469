//! Snapshots: what arrives whole, what is refused, and what is left behind.

use super::*;

pub(super) fn chunks(store: &Store) -> Vec<Bytes> {
    let mut export = store.export().expect("export");
    std::iter::from_fn(|| export.next_chunk().expect("chunk")).collect()
}

pub(super) fn import(store: &Store, chunks: &[Bytes]) -> Result<Imported, StoreError> {
    let mut import = store.begin_import().expect("begin");
    for chunk in chunks {
        import.write(chunk.clone())?;
    }
    import.finish()
}

fn filled(store: &Store, keys: u64) {
    for n in 0..keys {
        run(store, &put(&format!("key{n:05}"), &"v".repeat(500)));
        if n == keys / 2 {
            store.drain();
        }
    }
    run(store, &delete_if("key00001", Condition::None));
    let index = store.applied().index.next();
    store.apply_config(Position { index, ..Position::new(0, 1) }, &config(9));
}

#[test]
fn an_exported_state_arrives_whole_and_replaces_the_old_one_for_good() {
    let dir = tempfile::tempdir().expect("dir");
    let (from, to) = (open(&dir.path().join("from"), 1 << 20), open(&dir.path().join("to"), 1 << 20));
    filled(&from, 3_000);
    run(&to, &put("key00001", "old"));
    run(&to, &put("gone", "old"));
    to.persist().expect("persist");
    let old_view = to.view();

    let chunks = chunks(&from);
    assert!(chunks.len() > 5 && chunks.iter().all(|chunk| chunk.len() < 300 << 10));
    let imported = import(&to, &chunks).expect("import");
    assert_eq!((imported.position(), imported.config()), (from.applied(), from.config()));
    assert_eq!(to.get(b"gone").map(|item| item.version), Some(1), "nothing changes before it is installed");
    to.install(imported).expect("install");

    assert_eq!((to.digest(), to.count(), to.applied()), (from.digest(), from.count(), from.applied()));
    assert_eq!(to.config(), Some(config(9)));
    assert_eq!(old_view.scan(b"", None).count(), 2, "a view outlives the engine it shows");
    drop(old_view);
    for store in [&from, &to] {
        assert_eq!(run(store, &put("key00002", "new")), Outcome::Put { version: 2 });
        assert_eq!(run(store, &put("key00001", "new")), Outcome::Put { version: 1 });
        store.persist().expect("persist");
    }
    let digest = to.digest();
    drop(to);
    let folders = std::fs::read_dir(dir.path().join("to")).expect("list").count();
    assert_eq!(folders, 2, "the new engine and the pointer");
    let to = open(&dir.path().join("to"), 1 << 20);
    assert_eq!((to.digest(), to.applied()), (digest, from.applied()));
    assert_eq!(from.digest(), digest);
}

#[test]
fn a_state_older_than_the_one_here_is_not_installed() {
    let (old, new) = (Store::memory(), Store::memory());
    filled(&old, 10);
    filled(&new, 20);
    let digest = new.digest();
    let imported = import(&new, &chunks(&old)).expect("import");
    assert!(matches!(new.install(imported), Err(StoreError::Foreign(_))));
    assert_eq!((new.digest(), new.failed()), (digest, None));
}

#[test]
fn chunks_cut_swapped_missing_repeated_damaged_or_of_another_export_are_refused() {
    let store = Store::memory();
    filled(&store, 2_000);
    let good = chunks(&store);
    assert!(import(&store, &good).is_ok());
    run(&store, &put("key00005", "x"));
    let other = chunks(&store);
    let refused = |what: &str, change: &dyn Fn(&mut Vec<Bytes>)| {
        let mut changed = good.clone();
        change(&mut changed);
        assert!(matches!(import(&store, &changed), Err(StoreError::Foreign(_))), "{what}");
    };
    refused("nothing", &|c| c.clear());
    refused("without the last", &|c| drop(c.pop()));
    refused("swapped", &|c| c.swap(1, 2));
    refused("one missing", &|c| drop(c.remove(2)));
    refused("without the first", &|c| drop(c.remove(0)));
    refused("one repeated", &|c| c.insert(2, c[2].clone()));
    refused("more after the last", &|c| c.push(c[1].clone()));
    refused("of another export", &|c| c[2] = other[2].clone());
    for chunk in 0..good.len() {
        refused("cut", &|c| c[chunk] = c[chunk].slice(..c[chunk].len() - 1));
        refused("cut to a stump", &|c| c[chunk] = c[chunk].slice(..7));
        refused("empty", &|c| c[chunk] = Bytes::new());
        for at in [0, 1, 3, 7, 12, good[chunk].len() - 1] {
            refused("damaged", &|c| {
                let mut bytes = c[chunk].to_vec();
                bytes[at] ^= 0x40;
                c[chunk] = Bytes::from(bytes);
            });
        }
    }
}

#[test]
fn an_import_given_up_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path(), 1 << 20);
    filled(&store, 1_000);
    let chunks = chunks(&store);
    let mut begun = store.begin_import().expect("begin");
    begun.write(chunks[0].clone()).expect("first");
    begun.write(chunks[1].clone()).expect("second");
    drop(begun);
    drop(import(&store, &chunks).expect("import"));
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 2);
    std::fs::create_dir(dir.path().join("engine-00000009")).expect("leftover of a crash");
    drop(store);
    let store = open(dir.path(), 1 << 20);
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 2);
    assert_eq!(store.failed(), None);
}

#[test]
fn a_lost_or_senseless_pointer_is_an_error_and_never_an_empty_store() {
    let dir = tempfile::tempdir().expect("dir");
    let metrics = || Arc::new(Metrics::new().expect("metrics"));
    drop(open(dir.path(), 1 << 20));
    let pointer = dir.path().join("current");
    let reopen = || Store::open(dir.path(), &limits(1 << 20), metrics());
    std::fs::write(&pointer, "engine-../x").expect("write");
    assert!(reopen().is_err());
    std::fs::write(&pointer, "engine-00000002").expect("write");
    assert!(reopen().is_err());
    assert!(!dir.path().join("engine-00000002").exists());
    std::fs::remove_file(&pointer).expect("remove");
    assert!(reopen().is_err());
    std::fs::write(&pointer, "engine-00000001").expect("write");
    drop(reopen().expect("nothing was harmed"));
    std::fs::remove_dir_all(dir.path().join("engine-00000001")).expect("remove");
    std::fs::create_dir(dir.path().join("engine-00000001")).expect("create");
    assert!(reopen().is_err(), "an emptied engine is not a new one");
}

#[test]
fn a_first_start_that_was_interrupted_is_begun_again() {
    let dir = tempfile::tempdir().expect("dir");
    std::fs::create_dir(dir.path().join("engine-00000001")).expect("half an engine");
    std::fs::write(dir.path().join("engine-00000001/lock"), "").expect("lock");
    std::fs::write(dir.path().join("current"), "engine-00000001 creating").expect("pointer");
    let store = open(dir.path(), 1 << 20);
    run(&store, &put("a", "1"));
    store.persist().expect("persist");
}
