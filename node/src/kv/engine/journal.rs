//! The journal of an engine after a loss of power: cut behind its last whole batch, before fjall reads it.
//!
//! fjall writes batches one behind the other, each between a start and an end that holds a checksum, and drops the last
//! one when it was not finished. But a disk that loses its power keeps any pages of what was not synced: those behind a
//! gap as well. A gap within a large value leaves a batch that looks finished and whose checksum is wrong, and such a
//! journal fjall refuses to open ("checksum mismatch", in every version up to the one in use). All nodes of a cluster
//! that lose their power together may be left so. Nothing that was promised is in what is cut: the engine promises only
//! what it synced, and the log repeats the rest.
//!
//! Only the newest journal can be torn, for fjall syncs one before it begins the next. Whether what is left
//! still meets what the engine promised (rot may be anywhere) is seen by its position, against the log's
//! start: `opening` does that.
//!
//! Every start reads that journal once more for this. A full one (64 MiB) takes 8 ms of processor time with values of 4
//! KiB, 25 with values of 256 bytes, and 100 with values of 16, of which it holds 1.2 million (two cores, optimized);
//! what was read is in memory when fjall reads it. So it is not made to depend on how the node ended: a mark of a clean
//! end would be one more thing to be durable in the right order.
//!
//! This knows fjall's format, so fjall's version is pinned, and a test reads a journal of fjall's making to its end.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::EngineError;
use super::fjall::file_failed;

const SUFFIX: &str = ".jnl";
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// Ends every batch, so that a checksum of which only a part was written is noticed; and the whole of the
/// file that names the format.
const TRAILER: [u8; 4] = *b"FJL\x03";
const VERSION: &str = "version";
/// Read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Cuts the newest journal in an engine's folder, if there is one, behind its last whole batch. One of another format
/// is left to fjall, which refuses it: nothing here can tell what is whole there.
///
/// # Errors
/// When the journal cannot be listed, read, cut or synced, or does not begin as a journal does.
pub(super) fn mend(folder: &Path) -> Result<(), EngineError> {
    let Some((_, path)) = newest(folder)? else { return Ok(()) };
    if fs::read(folder.join(VERSION)).map_or(true, |version| version != TRAILER) {
        return Ok(());
    }
    let file = File::options().read(true).write(true).open(&path).map_err(file_failed("open", &path))?;
    let found = Scan::over(&file).whole_batches().map_err(file_failed("read", &path))?;
    match found.then {
        // What was never written, of a file made large in advance: fjall sees that, too.
        Then::Nothing => return Ok(()),
        Then::Foreign(tag) if found.bytes == 0 => {
            return Err(EngineError::Damaged(format!("{} is no journal: it begins with {tag}", path.display())));
        }
        Then::Foreign(_) | Then::Torn => {}
    }
    let batches = found.batches;
    tracing::warn!(path = %path.display(), batches, bytes = found.bytes, "cutting the engine's journal behind its last whole batch: what follows was never synced");
    file.set_len(found.bytes).and_then(|()| file.sync_all()).map_err(file_failed("cut", &path))
}

/// The newest journal in an engine's folder, with its number.
pub(in crate::kv) fn newest(folder: &Path) -> Result<Option<(u64, PathBuf)>, EngineError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_failed("list", folder)(error)),
    };
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in entries {
        let entry = entry.map_err(file_failed("list", folder))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).and_then(|number| number.parse().ok());
        if let Some(number) = number.filter(|number| newest.as_ref().is_none_or(|(newest, _)| number > newest)) {
            newest = Some((number, entry.path()));
        }
    }
    Ok(newest)
}

/// The whole batches a journal begins with.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    batches: u64,
    bytes: u64,
    then: Then,
}

/// What follows them.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    /// The end of the file, or zeros.
    Nothing,
    /// A batch that began, and is not whole.
    Torn,
    /// What begins no batch.
    Foreign(u8),
}

/// A journal, read once from its beginning. What is hashed on the way is one batch's items.
struct Scan<R> {
    input: R,
    at: u64,
    hash: Xxh3,
}

impl<'a> Scan<BufReader<&'a File>> {
    fn over(file: &'a File) -> Self {
        Scan { input: BufReader::with_capacity(BUFFER_BYTES, file), at: 0, hash: Xxh3::new() }
    }
}

impl<R: Read> Scan<R> {
    fn whole_batches(mut self) -> io::Result<Found> {
        let (mut batches, mut bytes) = (0, 0);
        let then = loop {
            match self.take::<1>() {
                Ok([START]) => {}
                Ok([0]) => break Then::Nothing,
                Ok([tag]) => break Then::Foreign(tag),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break Then::Nothing,
                Err(error) => return Err(error),
            }
            match self.rest_of_batch() {
                Ok(true) => (batches, bytes) = (batches + 1, self.at),
                Ok(false) => break Then::Torn,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break Then::Torn,
                Err(error) => return Err(error),
            }
        };
        Ok(Found { batches, bytes, then })
    }

    /// Whether everything up to the batch's end is there, and as it was written.
    fn rest_of_batch(&mut self) -> io::Result<bool> {
        let items = u32::from_le_bytes(self.take()?);
        let _sequence_number: [u8; 8] = self.take()?;
        self.hash.reset();
        for _ in 0..items {
            if !self.item()? {
                return Ok(false);
            }
        }
        let hash = self.hash.digest();
        Ok(self.take()? == [END] && u64::from_le_bytes(self.take()?) == hash && self.take()? == TRAILER)
    }

    /// One item, or a keyspace's clearing. `false` if it is neither.
    fn item(&mut self) -> io::Result<bool> {
        match self.take()? {
            [ITEM] => {}
            [CLEAR] => {
                let _keyspace: [u8; 8] = self.take()?;
                return Ok(true);
            }
            _ => return Ok(false),
        }
        let _kind_and_compression: [u8; 2] = self.take()?;
        let _keyspace: [u8; 8] = self.take()?;
        let key_bytes = u16::from_le_bytes(self.take()?);
        let _value_bytes: [u8; 4] = self.take()?;
        let stored_value_bytes = u32::from_le_bytes(self.take()?);
        self.skip(u64::from(key_bytes) + u64::from(stored_value_bytes))?;
        Ok(true)
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.hash.update(&bytes);
        self.at += N as u64;
        Ok(bytes)
    }

    /// Hashes so many bytes, of which the file may hold fewer, without making room for them.
    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        let mut piece = [0; 4096];
        while bytes > 0 {
            let now = usize::try_from(bytes).map_or(piece.len(), |bytes| bytes.min(piece.len()));
            self.input.read_exact(&mut piece[..now])?;
            self.hash.update(&piece[..now]);
            self.at += now as u64;
            bytes -= now as u64;
        }
        Ok(())
    }
}

/// What reading a journal promises, for [`crate::kv::fuzzing`]: what is kept is read alike again, in whatever
/// pieces, and nothing follows it.
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::kv) fn fuzz(journal: &[u8]) {
    let of = |input: &[u8], piece| {
        let input = BufReader::with_capacity(piece, input);
        #[allow(clippy::expect_used, reason = "a check reports by panicking")]
        Scan { input, at: 0, hash: Xxh3::new() }.whole_batches().expect("memory can be read")
    };
    let found = of(journal, BUFFER_BYTES);
    assert_eq!(of(journal, 1), found);
    let kept = usize::try_from(found.bytes).unwrap_or(usize::MAX);
    assert!(kept <= journal.len() && (found.then == Then::Nothing || kept < journal.len()), "{found:?}");
    assert_eq!(of(&journal[..kept], BUFFER_BYTES), Found { then: Then::Nothing, ..found });
}

/// A batch of these items, all of one keyspace.
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::kv) fn fuzz_batch(items: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut batch = vec![START];
    batch.extend_from_slice(&(items.len() as u32).to_le_bytes());
    batch.extend_from_slice(&7_u64.to_le_bytes());
    for (key, value) in items {
        batch.extend_from_slice(&[ITEM, 0, 0]);
        batch.extend_from_slice(&1_u64.to_le_bytes());
        batch.extend_from_slice(&(key.len() as u16).to_le_bytes());
        batch.extend_from_slice(&[(value.len() as u32).to_le_bytes(); 2].concat());
        batch.extend_from_slice(key);
        batch.extend_from_slice(value);
    }
    batch.push(END);
    batch.extend_from_slice(&[0; 8]);
    batch.extend_from_slice(&TRAILER);
    forge(&mut batch);
    batch
}

/// Makes the checksums of these batches right as far as they look like batches.
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::kv) fn forge(journal: &mut [u8]) {
    let (mut start, ends) = (0, memchr::memmem::find_iter(journal, &TRAILER).collect::<Vec<_>>());
    for end in ends {
        // Behind the start, the number of items and the sequence number; before the end, its tag and the checksum.
        let items = start + 13..end.saturating_sub(9);
        if let Some(items) = journal.get(items) {
            let hash = xxhash_rust::xxh3::xxh3_64(items);
            journal[end - 8..end].copy_from_slice(&hash.to_le_bytes());
            start = end + TRAILER.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use bytes::Bytes;
    use proptest::prelude::*;
    use quorum::{Index, Position, Term};

    use super::super::fjall::FjallHome;
    use super::super::{Change, Engine, Meta};
    use super::*;
    use crate::kv::Item;
    use crate::kv::once::Moving;
    use crate::kv::tests::copy_folder;
    use crate::kv::value::Value;

    /// Batches of one item each, those behind the fifth not synced. A value is larger than a page.
    const SYNCED: u64 = 5;
    const BATCHES: u64 = 12;
    const CACHE_BYTES: u64 = 4 << 20;

    fn key(index: u64) -> Bytes {
        Bytes::from(format!("k{index}"))
    }

    fn item(index: u64) -> Item {
        // Nothing that compresses: fjall would.
        let noise = (0..5000 + 700 * index).map(|n| (n ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[2]);
        Item { value: Value::bytes(noise.collect::<Vec<u8>>()), revision: index, version: 1 }
    }

    fn found(journal: &Path) -> Found {
        Scan::over(&File::open(journal).expect("the journal")).whole_batches().expect("can be read")
    }

    /// The engine's folder, in its store's.
    fn journal_of(store: &Path) -> PathBuf {
        newest(&store.join("engine-00000001")).expect("listed").expect("a journal").1
    }

    /// Fills an engine. Returns where its journal ended when it was synced, and where it ends.
    fn fill(store: &Path) -> (u64, u64) {
        let (_home, engine) = FjallHome::open(store, CACHE_BYTES).expect("opens");
        let mut synced = 0;
        for index in 1..=BATCHES {
            let (key, item, at) = (key(index), item(index), Position { index: Index(index), term: Term(1) });
            let change = Change { key: &key, revision: index, item: Some(&item) };
            let meta = Meta { position: at, count: index, config: None, ahead: at };
            engine.commit(&[change], &Moving::default(), &meta).expect("taken");
            if index == SYNCED {
                engine.persist().expect("synced");
                synced = found(&journal_of(store)).bytes;
            }
        }
        engine.persist().expect("synced");
        (synced, found(&journal_of(store)).bytes)
    }

    /// Opens the engine and returns how far it got; what it has up to there is as it was written.
    fn opened(store: &Path) -> u64 {
        let (_home, engine) = FjallHome::open(store, CACHE_BYTES).expect("opens");
        let last = engine.meta().expect("readable").expect("there").position.index.0;
        for index in 1..=BATCHES {
            let expected = (index <= last).then(|| item(index));
            assert_eq!(engine.get(&key(index)).expect("readable"), expected, "batch {index} of {last}");
        }
        last
    }

    #[test]
    fn a_journal_that_fjall_wrote_is_understood_to_its_end() {
        let store = tempfile::tempdir().expect("folder");
        let (synced, end) = fill(store.path());
        let journal = journal_of(store.path());
        // The first batch is the one an engine begins with.
        assert_eq!(found(&journal), Found { batches: BATCHES + 1, bytes: end, then: Then::Nothing });
        assert!(synced > SYNCED * 5000 && end > synced + 5000, "{synced}, {end}");
        mend(journal.parent().expect("folder")).expect("nothing to do");
        assert_eq!(opened(store.path()), BATCHES);
    }

    #[test]
    fn a_batch_made_for_the_fuzzer_is_one() {
        let mut batches = fuzz_batch(&[(b"key", b"value"), (b"", b"")]);
        batches.extend(fuzz_batch(&[]));
        let whole = Found { batches: 2, bytes: batches.len() as u64, then: Then::Nothing };
        let scan = Scan { input: &batches[..], at: 0, hash: Xxh3::new() };
        assert_eq!(scan.whole_batches().expect("memory can be read"), whole);
    }

    #[test]
    fn what_is_no_journal_is_left_as_it_is() {
        let store = tempfile::tempdir().expect("folder");
        fill(store.path());
        let journal = journal_of(store.path());
        File::options().write(true).open(&journal).expect("opens").write_all_at(&[9], 0).expect("written");
        let before = std::fs::read(&journal).expect("read");
        let words = mend(journal.parent().expect("folder")).expect_err("refused").to_string();
        assert!(words.contains("0.jnl is no journal: it begins with 9"), "{words}");
        assert_eq!(std::fs::read(&journal).expect("read"), before);
    }

    #[test]
    fn a_journal_of_another_format_is_left_as_it_is() {
        let store = tempfile::tempdir().expect("folder");
        fill(store.path());
        let journal = journal_of(store.path());
        let folder = journal.parent().expect("folder");
        // As a batch of another format would look here: it begins, and is not whole.
        File::options().write(true).open(&journal).expect("opens").write_all_at(&[0xff; 8], 1).expect("written");
        let before = std::fs::read(&journal).expect("read");
        std::fs::write(folder.join(VERSION), b"FJL\x04").expect("written");
        let refused = FjallHome::open(store.path(), CACHE_BYTES).err().expect("refused");
        assert!(!refused.is_damage(), "{refused}");
        assert!(std::fs::read(&journal).expect("read") == before, "untouched");
        std::fs::write(folder.join(VERSION), TRAILER).expect("written");
        mend(folder).expect("cut");
        assert!(std::fs::read(&journal).expect("read").is_empty(), "of the known format it is torn from its beginning");
    }

    /// What a disk that lost its power makes of bytes that were not synced.
    #[derive(Clone, Copy, Debug)]
    enum Loss {
        /// The file ends here.
        End,
        /// Nothing behind here was written.
        Tail,
        /// This page, or sector, was not written; those behind it were.
        Hole { bytes: u64 },
    }

    fn losses() -> impl Strategy<Value = Loss> {
        let hole = prop::sample::select(vec![512, 4096, 8192]).prop_map(|bytes| Loss::Hole { bytes });
        prop_oneof![1 => Just(Loss::End), 1 => Just(Loss::Tail), 6 => hole]
    }

    fn lose(journal: &Path, (synced, end): (u64, u64), at: u64, loss: Loss) {
        let file = File::options().write(true).open(journal).expect("opens");
        let zeros = |from: u64, to: u64| file.write_all_at(&vec![0; (to - from) as usize], from).expect("written");
        match loss {
            Loss::End => file.set_len(at).expect("cut"),
            Loss::Tail => zeros(at, end),
            Loss::Hole { bytes } => zeros(synced.max(at / bytes * bytes), end.min(at / bytes * bytes + bytes)),
        }
    }

    #[test]
    fn an_engine_opens_whatever_was_lost_of_its_journal_behind_the_sync() {
        let made = tempfile::tempdir().expect("folder");
        let (synced, end) = fill(made.path());
        let copies = tempfile::tempdir().expect("folder");
        let mut runner =
            proptest::test_runner::TestRunner::new(ProptestConfig { cases: 48, ..ProptestConfig::default() });
        let ran = runner.run(&(synced..end, losses(), any::<prop::sample::Index>()), |(at, loss, number)| {
            let copy = copies.path().join(format!("{at}-{}", number.index(1 << 30)));
            copy_folder(made.path(), &copy);
            lose(&journal_of(&copy), (synced, end), at, loss);
            let last = opened(&copy);
            prop_assert!((SYNCED..=BATCHES).contains(&last), "{last}");
            prop_assert_eq!(opened(&copy), last, "opened once more");
            std::fs::remove_dir_all(&copy).expect("removed");
            Ok(())
        });
        ran.expect("every loss");
    }
}
