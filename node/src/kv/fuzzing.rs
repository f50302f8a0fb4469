//! What commands, the engine's values and snapshots promise of any bytes: see [`crate::fuzzing`].

#![allow(clippy::expect_used, reason = "a check reports by panicking")]

use std::sync::Arc;

use bytes::Bytes;
use quorum::Position;

use super::engine::memory::MemoryEngine;
use super::engine::{Meta, decode_item, encode_item, journal};
use super::once::Row;
use super::{Command, Condition, Entry, Item, Outcome, Store, StoreError, Value, View};
use crate::fuzzing::forged;
use crate::options::Limits;

impl View {
    /// As [`View::try_scan`], of an engine that can be read.
    pub(crate) fn scan(&self, prefix: &[u8], after: Option<&[u8]>) -> impl Iterator<Item = Entry> + use<> {
        self.try_scan(prefix, after).map(|entry| entry.expect("readable"))
    }
}

impl Store {
    /// A hash of everything in it: equal states have equal digests on every node and platform. No protection against malice.
    pub(crate) fn digest(&self) -> u64 {
        let mut hash = Fnv::default();
        for (key, item) in self.view().scan(b"", None) {
            hash.field(&key);
            hash.field(&[item.value.kind as u8]);
            hash.field(&item.value.data);
            hash.field(&item.revision.to_le_bytes());
            hash.field(&item.version.to_le_bytes());
        }
        hash.0
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo).
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// With its length first, so that bytes cannot move between fields unnoticed.
    fn field(&mut self, bytes: &[u8]) {
        for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Commands one after the other, each behind its length. Two stores that drain at different times come to the same.
pub(crate) fn commands(data: &[u8]) {
    let limits = Limits { overlay_bytes: 200, ..Limits::default() };
    let (store, draining) = (Store::memory(), Store::on_memory(MemoryEngine::default(), &limits));
    for (payload, index) in behind_lengths(data).into_iter().zip(1..) {
        let position = Position::new(index, 1);
        if let Some(command) = Command::decode(&payload) {
            assert_eq!(command.encode(), payload, "one form of each command");
            draining.prefetch(&command);
        }
        assert_eq!(store.apply_command(position, &payload), draining.apply_command(position, &payload));
    }
    assert_eq!((store.count(), store.digest()), (draining.count(), draining.digest()));
    assert_eq!(store.count(), store.view().scan(b"", None).count() as u64);
    assert!(store.failed().is_none() && draining.failed().is_none());
}

fn behind_lengths(mut data: &[u8]) -> Vec<Bytes> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        parts.push(Bytes::copy_from_slice(&rest[..length]));
        data = &rest[length..];
    }
    parts
}

fn with_lengths<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        let part = part.as_ref();
        out.extend_from_slice(&u16::try_from(part.len()).expect("a short part").to_le_bytes());
        out.extend_from_slice(part);
    }
    out
}

fn history() -> Vec<Command> {
    let key = |name: &'static str| Bytes::from_static(name.as_bytes());
    let put = |name, value: &str, condition| Command::Put { key: key(name), value: Value::text(value), condition };
    vec![
        put("a", "one", Condition::None),
        put("b", "two", Condition::Absent),
        put("a", "three", Condition::Revision(1)),
        Command::PutMany { pairs: vec![(key("c"), Value::bytes("x")), (key("a"), Value::from_line("{\"n\":1}"))] },
        Command::Increment { key: key("n"), by: -7 },
        Command::Delete { key: key("b"), condition: Condition::Present },
        Command::DeleteMany { keys: vec![key("c"), key("none")] },
        put("d", "once", Condition::None).once(key("request")),
        put("d", "once", Condition::None).once(key("request")),
        put("d", "another", Condition::None).once(key("request")),
    ]
}

pub(crate) fn command_seeds() -> Vec<Vec<u8>> {
    let each = history().into_iter().map(|command| with_lengths([command.encode()]));
    each.chain([with_lengths(history().iter().map(Command::encode))]).collect()
}

/// An item and a meta record as the engine keeps them.
pub(crate) fn engine_values(data: &[u8]) {
    if let Some(item) = decode_item(data) {
        let mut out = Vec::new();
        encode_item(&item, &mut out);
        assert_eq!(out, data);
    }
    if let Some(meta) = Meta::decode(data) {
        assert_eq!(Meta::decode(&meta.encode().expect("written")), Some(meta));
    }
    if let Some(row) = Row::decode(data) {
        assert_eq!(Row::decode(&row.encode().expect("written")), Some(row));
    }
}

pub(crate) fn engine_seeds() -> Vec<Vec<u8>> {
    let mut item = Vec::new();
    encode_item(&Item { value: Value::text("value"), revision: 7, version: 2 }, &mut item);
    let (position, ahead) = (Position::new(7, 1), Position::new(9, 2));
    let meta = Meta { position, count: 1, config: Some(Arc::new(crate::fuzzing::config())), ahead };
    let outcome = Outcome::Put { version: 2 };
    let row = Row { revision: 7, stamped: 5, key: Bytes::from_static(b"request"), request: 3, outcome };
    vec![item, meta.encode().expect("written"), row.encode().expect("written")]
}

/// The first byte: whether checksums are made right ([`forged`]). Then a journal of the engine's.
pub(crate) fn journals(data: &[u8]) {
    let Some((&mode, journal)) = data.split_first() else { return };
    let mut journal = journal.to_vec();
    if forged(mode).1 {
        journal::forge(&mut journal);
    }
    journal::fuzz(&journal);
}

pub(crate) fn journal_seeds() -> Vec<Vec<u8>> {
    let items: [(&[u8], &[u8]); 3] = [(b"\x01key", b"value"), (b"\x02meta", &[7; 300]), (b"", b"")];
    let batches = [&items[..], &items[1..2], &[]].map(journal::fuzz_batch).concat();
    [0, 0x80].map(|mode| [&[mode][..], &batches, &[0; 40]].concat()).to_vec()
}

/// The first byte: whether checksums are made right. Then chunks, each behind its length. A chunk that is refused ends the import; what
/// comes in whole is a state that can be installed, sent on, and received alike.
pub(crate) fn snapshots(data: &[u8]) {
    let Some((&mode, chunks)) = data.split_first() else { return };
    let store = Store::memory();
    let mut import = store.begin_import().expect("room");
    let mut refused = false;
    for chunk in behind_lengths(chunks) {
        let chunk = if mode % 2 == 1 { super::transfer::with_checksum(chunk) } else { chunk };
        let taken = import.write(chunk);
        assert!(!(refused && taken.is_ok()), "an import that was refused is over");
        assert!(matches!(taken, Ok(()) | Err(StoreError::Foreign(_))), "{taken:?}");
        refused |= taken.is_err();
    }
    let complete = import.is_complete();
    let Ok(imported) = import.finish() else {
        assert!(refused || !complete, "a whole snapshot is taken");
        return;
    };
    assert!(!refused && complete);
    let position = imported.position();
    store.install(imported).expect("an empty store takes any");
    assert_eq!((store.applied(), store.whole_from()), (position, position));
    assert_eq!(store.count(), store.view().scan(b"", None).count() as u64);
    let (second, mut export) = (Store::memory(), store.export().expect("whole"));
    let mut import = second.begin_import().expect("room");
    while let Some(chunk) = export.next_chunk().expect("readable") {
        import.write(chunk).expect("our own");
    }
    second.install(import.finish().expect("whole")).expect("taken");
    assert_eq!((second.digest(), second.config()), (store.digest(), store.config()));
    assert_eq!(second.remembered(), store.remembered());
}

pub(crate) fn snapshot_seeds() -> Vec<Vec<u8>> {
    let store = Store::memory();
    let mut seeds = Vec::new();
    let mut take = |store: &Store| {
        let (mut export, mut chunks) = (store.export().expect("whole"), Vec::new());
        while let Some(chunk) = export.next_chunk().expect("readable") {
            chunks.push(chunk);
        }
        seeds.extend([0, 1].map(|mode| [&[mode][..], &with_lengths(&chunks)].concat()));
    };
    take(&store);
    store.apply_config(Position::new(1, 1), &crate::fuzzing::config());
    for (command, index) in history().iter().zip(2..) {
        store.apply_command(Position::new(index, 1), &command.encode());
    }
    take(&store);
    seeds
}
