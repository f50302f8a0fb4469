//! The engine on disk: fjall, an LSM tree with a journal.
//!
//! The store's folder holds one subfolder per engine and a pointer file, `current`, that names the one in use; an
//! imported state is built in a fresh subfolder and takes over by a durable rename of the pointer. What the pointer
//! does not name is removed at the next start.
//!
//! fjall's ways that shape this module: a plain `get` may see half a batch, so everything is read through snapshots;
//! its writer stalls for 100–350 ms now and then, so only the drain calls [`Engine::commit`]; a journal with a gap, as
//! a loss of power leaves it, it may refuse to open, so `journal` mends it first; with few workers it may stop flushing
//! without an error, hence [`WORKERS`] and the alarm; a second keyspace would pin journals, so the meta record and the
//! graves live beside the keys, under prefixes of their own that no reader of keys looks at.

use std::fs::{self, File};
use std::io::Write as _;
use std::ops::{Bound, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable};
use parking_lot::Mutex;

use super::{
    Change, Engine, EngineError, Graves, Home, Ingest, Items, Meta, Snapshot, decode_item, encode_item, journal,
};
use crate::kv::Item;
use crate::kv::once::{Moving, Row};
use crate::kv::wire::Reader;

/// fjall was seen to stop flushing, silently, with 1 worker on 1 keyspace; with 4 it was not.
const WORKERS: usize = 4;
/// Journals beyond this make fjall flush. It begins a new one at 61 MiB; two of them hold many memtables.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
/// A flush writes and syncs this much at once, while the log on the same disk waits: twice as much, twice the wait.
/// Half of it costs more write amplification.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// The same for what a compaction writes and syncs at once. The first level under the flushed
/// tables holds four of these.
const TABLE_BYTES: u64 = 16 << 20;
/// fjall holds writers up at four memtables waiting to be flushed; more than these means that the workers may be stuck.
const FLUSHES_ALARM: usize = 8;
/// Far above what a few memtables and batches hold.
const WRITE_BUFFER_ALARM_BYTES: u64 = 512 << 20;
/// Batches of items waiting for the ingesting thread: one being written, one ready.
const INGEST_QUEUE: usize = 2;

/// The pointer file.
const POINTER: &str = "current";
/// Where the pointer is written before it takes the other's place.
const POINTER_NEXT: &str = "current.next";
/// Every engine's folder is named so, and a number.
const FOLDER_PREFIX: &str = "engine-";
/// The file that says why nothing here is to be used any more.
const CONDEMNED: &str = "condemned";
/// In the pointer behind the name of a first engine that is not complete yet.
const CREATING: &str = " creating";
/// fjall's keyspace; the only one.
const KEYSPACE: &str = "data";
/// The byte before the revision of a row: before all user keys, so that an ingestion writes rows first.
const ROW_PREFIX: u8 = 0;
/// The byte before every user key.
const DATA_PREFIX: u8 = 1;
/// The key of the meta record: behind all user keys, so that an ingestion writes it last.
const META_KEY: [u8; 5] = *b"\x02meta";
/// The byte before the number of a batch of graves.
const GRAVES_PREFIX: u8 = 3;

/// An engine's folder. It is the last field of whatever reads from it, so it goes after fjall has let go of its files.
struct Folder {
    path: PathBuf,
    name: String,
    doomed: AtomicBool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::Acquire)
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an engine that is out of use; the next start tries again");
        }
    }
}

/// The engine in one folder. The fields' order is that of their end.
pub(crate) struct FjallEngine {
    /// The numbers of the batches of graves that are there.
    graves: Mutex<Range<u64>>,
    keyspace: Keyspace,
    db: Database,
    folder: Arc<Folder>,
}

fn failed(doing: &'static str) -> impl FnOnce(fjall::Error) -> EngineError {
    move |source| EngineError::Fjall { doing, source }
}

pub(super) fn file_failed(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> EngineError {
    let path = path.to_owned();
    move |source| EngineError::File { doing, path, source }
}

impl FjallEngine {
    fn open(dir: &Path, name: &str, cache_bytes: u64) -> Result<FjallEngine, EngineError> {
        let path = dir.join(name);
        journal::mend(&path)?;
        let db = Database::builder(&path)
            .cache_size(cache_bytes)
            .worker_threads(WORKERS)
            .manual_journal_persist(true)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .open()
            .map_err(failed("open"))?;
        let keyspace = db
            .keyspace(KEYSPACE, || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(MEMTABLE_BYTES)
                    .compaction_strategy(Arc::new(Leveled::default().with_table_target_size(TABLE_BYTES)))
            })
            .map_err(failed("open its keyspace"))?;
        let folder = Folder { path, name: name.to_owned(), doomed: AtomicBool::new(false) };
        let engine = FjallEngine { graves: Mutex::default(), keyspace, db, folder: Arc::new(folder) };
        let mut numbers = 0..0;
        for (number, _) in engine.grave_batches()? {
            numbers.start = if numbers.is_empty() { number } else { numbers.start };
            numbers.end = number + 1;
        }
        *engine.graves.lock() = numbers;
        Ok(engine)
    }

    /// The batches of graves by number, ascending.
    fn grave_batches(&self) -> Result<Vec<(u64, Bytes)>, EngineError> {
        let range = vec![GRAVES_PREFIX]..vec![GRAVES_PREFIX + 1];
        let mut batches = Vec::new();
        for guard in self.db.snapshot().range(&self.keyspace, range) {
            let (key, value) = guard.into_inner().map_err(failed("read its graves"))?;
            let number = key.get(1..).and_then(|number| number.try_into().ok()).map(u64::from_be_bytes);
            let number = number.ok_or_else(|| EngineError::Damaged("graves of an unknown format".into()))?;
            batches.push((number, Bytes::copy_from_slice(&value)));
        }
        Ok(batches)
    }
}

fn numbered_key(prefix: u8, number: u64) -> [u8; 9] {
    let mut key = [prefix; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// A grave: the key behind its length, then the revision.
fn encode_grave(change: &Change<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(change.key.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(change.key);
    out.extend_from_slice(&change.revision.to_le_bytes());
}

fn decode_grave(reader: &mut Reader<'_>) -> Option<(Bytes, u64)> {
    let length = reader.u32()? as usize;
    let key = Bytes::copy_from_slice(reader.take(length)?);
    Some((key, reader.u64()?))
}

fn data_key(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(DATA_PREFIX);
    out.extend_from_slice(key);
    out
}

fn encode_row(row: &Row) -> Result<Vec<u8>, EngineError> {
    row.encode().map_err(EngineError::Encode)
}

fn read_item(value: &[u8]) -> Result<Item, EngineError> {
    decode_item(value).ok_or_else(|| EngineError::Damaged("an item of an unknown format".into()))
}

impl Engine for FjallEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Item>, EngineError> {
        let found = self.db.snapshot().get(&self.keyspace, data_key(key)).map_err(failed("read a key"))?;
        found.map(|value| read_item(&value)).transpose()
    }

    fn meta(&self) -> Result<Option<Meta>, EngineError> {
        let found = self.db.snapshot().get(&self.keyspace, META_KEY).map_err(failed("read its position"))?;
        found
            .map(|value| {
                if !Meta::is_known(&value) {
                    return Err(EngineError::Version(format!(
                        "the engine {} has another format",
                        self.folder.path.display()
                    )));
                }
                Meta::decode(&value).ok_or_else(|| EngineError::Damaged("its position makes no sense".into()))
            })
            .transpose()
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        Box::new(FjallSnapshot {
            snapshot: self.db.snapshot(),
            keyspace: self.keyspace.clone(),
            _db: self.db.clone(),
            _folder: Arc::clone(&self.folder),
        })
    }

    fn graves(&self) -> Result<Graves, EngineError> {
        let mut graves = Graves::new();
        for (number, batch) in self.grave_batches()? {
            let mut reader = Reader(&batch);
            while !reader.is_empty() {
                let (key, revision) = decode_grave(&mut reader)
                    .ok_or_else(|| EngineError::Damaged(format!("batch {number} of graves makes no sense")))?;
                let newest = graves.entry(key).or_default();
                *newest = revision.max(*newest);
            }
        }
        Ok(graves)
    }

    fn rows(&self) -> Result<Vec<Arc<Row>>, EngineError> {
        let damaged = || EngineError::Damaged("a row of an unknown format".into());
        let mut rows = Vec::new();
        for guard in self.db.snapshot().range(&self.keyspace, vec![ROW_PREFIX]..vec![ROW_PREFIX + 1]) {
            let value = guard.into_inner().map_err(failed("read a row"))?.1;
            rows.push(Arc::new(Row::decode(&value).ok_or_else(damaged)?));
        }
        Ok(rows)
    }

    fn commit(&self, changes: &[Change<'_>], rows: &Moving, meta: &Meta) -> Result<(), EngineError> {
        let size = changes.len() + rows.added.len() + rows.forgotten.len() + 2;
        let mut batch = OwnedWriteBatch::with_capacity(self.db.clone(), size);
        for row in &rows.added {
            batch.insert(&self.keyspace, numbered_key(ROW_PREFIX, row.revision), encode_row(row)?);
        }
        for revision in &rows.forgotten {
            batch.remove(&self.keyspace, numbered_key(ROW_PREFIX, *revision));
        }
        let (mut key_bytes, mut item_bytes, mut graves) = (Vec::new(), Vec::new(), Vec::new());
        for change in changes {
            key_bytes.clear();
            key_bytes.push(DATA_PREFIX);
            key_bytes.extend_from_slice(change.key);
            match change.item {
                Some(item) => {
                    item_bytes.clear();
                    encode_item(item, &mut item_bytes);
                    batch.insert(&self.keyspace, key_bytes.as_slice(), item_bytes.as_slice());
                }
                None => {
                    encode_grave(change, &mut graves);
                    batch.remove(&self.keyspace, key_bytes.as_slice());
                }
            }
        }
        batch.insert(&self.keyspace, META_KEY, meta.encode()?);
        let mut numbers = self.graves.lock();
        let mut after = numbers.clone();
        if meta.is_whole() {
            numbers.clone().for_each(|number| batch.remove(&self.keyspace, numbered_key(GRAVES_PREFIX, number)));
            after = 0..0;
        } else if !graves.is_empty() {
            batch.insert(&self.keyspace, numbered_key(GRAVES_PREFIX, after.end), graves);
            after.end += 1;
        }
        batch.commit().map_err(failed("take a batch"))?;
        *numbers = after;
        Ok(())
    }

    fn persist(&self) -> Result<(), EngineError> {
        self.db.persist(PersistMode::SyncData).map_err(failed("sync its journal"))
    }

    fn disk_bytes(&self) -> u64 {
        self.db.disk_space().unwrap_or(0)
    }

    fn alarm(&self) -> Option<String> {
        let (flushes, buffered) = (self.db.outstanding_flushes(), self.db.write_buffer_size());
        (flushes >= FLUSHES_ALARM || buffered >= WRITE_BUFFER_ALARM_BYTES)
            .then(|| format!("{flushes} flushes are outstanding and {buffered} bytes wait to be flushed"))
    }

    fn name(&self) -> &str {
        &self.folder.name
    }

    fn doom(&self, doomed: bool) {
        self.folder.doomed.store(doomed, Ordering::Release);
    }
}

struct FjallSnapshot {
    snapshot: fjall::Snapshot,
    keyspace: Keyspace,
    _db: Database,
    _folder: Arc<Folder>,
}

impl Snapshot for FjallSnapshot {
    fn range(&self, from: Bound<&[u8]>) -> Items {
        let from = match from {
            Bound::Included(key) => Bound::Included(data_key(key)),
            Bound::Excluded(key) => Bound::Excluded(data_key(key)),
            Bound::Unbounded => Bound::Included(vec![DATA_PREFIX]),
        };
        let until = Bound::Excluded(vec![DATA_PREFIX + 1]);
        Box::new(self.snapshot.range(&self.keyspace, (from, until)).map(|guard| {
            let (key, value) = guard.into_inner().map_err(failed("read a range"))?;
            let key = key.get(1..).ok_or_else(|| EngineError::Damaged("an empty key".into()))?;
            Ok((Bytes::copy_from_slice(key), read_item(&value)?))
        }))
    }
}

/// A store's folder: the engines in it and the pointer to the current one.
pub(crate) struct FjallHome {
    dir: PathBuf,
    cache_bytes: u64,
}

impl FjallHome {
    /// Opens the current engine, or makes the first one in a new folder, and removes what an interrupted import left.
    pub(crate) fn open(dir: &Path, cache_bytes: u64) -> Result<(FjallHome, FjallEngine), EngineError> {
        fs::create_dir_all(dir).map_err(file_failed("create", dir))?;
        let home = FjallHome { dir: dir.to_owned(), cache_bytes };
        if let Ok(why) = fs::read_to_string(dir.join(CONDEMNED)) {
            return Err(EngineError::Damaged(format!("it was found when it was last in use: {}", why.trim_end())));
        }
        let folders = home.folders()?;
        let name = match home.pointer()? {
            Some((name, false)) => name,
            Some((_, true)) => {
                home.remove_but(&folders, None)?;
                home.create_first()?
            }
            None if folders.is_empty() => home.create_first()?,
            // Never guess, and never delete what may be the only copy.
            None => {
                let path = dir.join(POINTER);
                return Err(EngineError::Damaged(format!("{} is missing beside engines", path.display())));
            }
        };
        if !dir.join(&name).is_dir() {
            return Err(EngineError::Damaged(format!("the engine {} is missing", dir.join(&name).display())));
        }
        let engine = FjallEngine::open(dir, &name, cache_bytes)?;
        // fjall makes a new database of a folder that lost its files; one of ours has a position from its first moment.
        if engine.meta()?.is_none() {
            return Err(EngineError::Damaged(format!("the engine {} has lost its content", dir.join(&name).display())));
        }
        // Only now that the pointer has proved right.
        home.remove_but(&home.folders()?, Some(&name))?;
        Ok((home, engine))
    }

    /// A crash in the middle leaves a pointer that says so.
    fn create_first(&self) -> Result<String, EngineError> {
        let name = format!("{FOLDER_PREFIX}{:08}", 1);
        self.point_to(&format!("{name}{CREATING}"))?;
        let engine = FjallEngine::open(&self.dir, &name, self.cache_bytes)?;
        engine.commit(&[], &Moving::default(), &Meta::default())?;
        engine.persist()?;
        drop(engine);
        self.point_to(&name)?;
        Ok(name)
    }

    /// The name in the pointer, and whether it is of a first engine that may be incomplete.
    fn pointer(&self) -> Result<Option<(String, bool)>, EngineError> {
        let path = self.dir.join(POINTER);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_failed("read", &path)(error)),
        };
        let name = text.trim_end();
        let (name, creating) = name.strip_suffix(CREATING).map_or((name, false), |name| (name, true));
        match number(name) {
            Some(_) => Ok(Some((name.to_owned(), creating))),
            None => Err(EngineError::Damaged(format!("{} names no engine", path.display()))),
        }
    }

    fn point_to(&self, text: &str) -> Result<(), EngineError> {
        let (next, pointer) = (self.dir.join(POINTER_NEXT), self.dir.join(POINTER));
        let mut file = File::create(&next).map_err(file_failed("create", &next))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(file_failed("write", &next))?;
        fs::rename(&next, &pointer).map_err(file_failed("replace", &pointer))?;
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<(), EngineError> {
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(file_failed("sync", &self.dir))
    }

    /// The names of the engines' folders.
    fn folders(&self) -> Result<Vec<String>, EngineError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(file_failed("list", &self.dir))? {
            let name = entry.map_err(file_failed("list", &self.dir))?.file_name();
            names.extend(name.to_str().filter(|name| number(name).is_some()).map(str::to_owned));
        }
        Ok(names)
    }

    fn remove_but(&self, folders: &[String], keep: Option<&String>) -> Result<(), EngineError> {
        for name in folders.iter().filter(|name| Some(*name) != keep) {
            let path = self.dir.join(name);
            fs::remove_dir_all(&path).map_err(file_failed("remove", &path))?;
        }
        Ok(())
    }
}

fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(FOLDER_PREFIX)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

impl Home for FjallHome {
    fn ingest(&self) -> Result<Box<dyn Ingest>, EngineError> {
        let last = self.folders()?.iter().filter_map(|name| number(name)).max().unwrap_or(0);
        let name = format!("{FOLDER_PREFIX}{:08}", last + 1);
        let engine = FjallEngine::open(&self.dir, &name, self.cache_bytes)?;
        self.sync_dir()?;
        // Until it is filled and durable, nothing may be left of it.
        engine.doom(true);
        let (sender, receiver) = sync_channel(INGEST_QUEUE);
        let thread = std::thread::Builder::new()
            .name("kv-import".into())
            .spawn(move || ingest(engine, &receiver))
            .map_err(file_failed("start a thread for", &self.dir))?;
        Ok(Box::new(FjallIngest { sender: Some(sender), thread: Some(thread) }))
    }

    fn adopt(&self, engine: &dyn Engine) -> Result<(), EngineError> {
        // First, for once the pointer may name it nothing must delete it, not even an error halfway.
        engine.doom(false);
        self.point_to(engine.name())
    }

    fn condemn(&self, why: &EngineError) -> Result<(), EngineError> {
        let path = self.dir.join(CONDEMNED);
        fs::write(&path, format!("{why}\n"))
            .and_then(|()| File::open(&path)?.sync_all())
            .map_err(file_failed("write", &path))?;
        self.sync_dir()
    }
}

enum Feed {
    Rows(Vec<Arc<Row>>),
    Items(Vec<(Bytes, Item)>),
    Finish(Meta),
}

/// An ingestion borrows its keyspace, so a thread owns both, fed through a short queue.
struct FjallIngest {
    sender: Option<SyncSender<Feed>>,
    thread: Option<JoinHandle<Result<Option<FjallEngine>, EngineError>>>,
}

/// Fills the engine until told that it is complete; `None` if that never came.
fn ingest(engine: FjallEngine, feed: &Receiver<Feed>) -> Result<Option<FjallEngine>, EngineError> {
    let mut ingestion = engine.keyspace.start_ingestion().map_err(failed("begin an import"))?;
    let mut item_bytes = Vec::new();
    while let Ok(fed) = feed.recv() {
        match fed {
            Feed::Rows(rows) => {
                for row in rows {
                    let key = numbered_key(ROW_PREFIX, row.revision);
                    ingestion.write(key, encode_row(&row)?).map_err(failed("import a row"))?;
                }
            }
            Feed::Items(items) => {
                for (key, item) in items {
                    item_bytes.clear();
                    encode_item(&item, &mut item_bytes);
                    ingestion.write(data_key(&key), item_bytes.as_slice()).map_err(failed("import an item"))?;
                }
            }
            Feed::Finish(meta) => {
                ingestion.write(META_KEY, meta.encode()?).map_err(failed("import the position"))?;
                ingestion.finish().map_err(failed("finish an import"))?;
                engine.db.persist(PersistMode::SyncAll).map_err(failed("sync an import"))?;
                return Ok(Some(engine));
            }
        }
    }
    drop(ingestion);
    Ok(None)
}

impl FjallIngest {
    /// What ended the thread early.
    fn join(&mut self) -> Result<Option<FjallEngine>, EngineError> {
        self.sender = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Err(EngineError::Import("panicked")),
            None => Ok(None),
        }
    }

    fn feed(&mut self, fed: Feed) -> Result<(), EngineError> {
        if self.sender.as_ref().is_some_and(|sender| sender.send(fed).is_ok()) {
            return Ok(());
        }
        self.join()?;
        Err(EngineError::Import("has ended already"))
    }
}

impl Ingest for FjallIngest {
    fn remember(&mut self, rows: Vec<Arc<Row>>) -> Result<(), EngineError> {
        self.feed(Feed::Rows(rows))
    }

    fn write(&mut self, items: Vec<(Bytes, Item)>) -> Result<(), EngineError> {
        self.feed(Feed::Items(items))
    }

    fn finish(mut self: Box<Self>, meta: &Meta) -> Result<Arc<dyn Engine>, EngineError> {
        self.feed(Feed::Finish(meta.clone()))?;
        match self.join()? {
            Some(engine) => Ok(Arc::new(engine)),
            None => Err(EngineError::Import("did not finish")),
        }
    }
}

impl Drop for FjallIngest {
    fn drop(&mut self) {
        // An import given up: its error, if any, has no one left to matter to.
        let _ = self.join();
    }
}
