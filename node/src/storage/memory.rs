//! A disk in memory that behaves as badly as disks do, for tests of the storage, fuzz targets and the simulator. The
//! product does not use it.
//!
//! A write is seen at once and durable with the next sync of its file; a name with the next sync of its folder.
//! When the power goes, every sector of 512 bytes of an unsynced write is kept or lost on its own, or it is torn
//! at some byte, and of the unsynced names any number of the latest are lost. A write that fails was done up to
//! some byte. A sync that fails drops what it should have made durable: it is still seen, but a later sync does
//! not write it, as on Linux.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, FolderLock};
use crate::dice::Dice;
use parking_lot::Mutex;

const SECTOR: usize = 512;

type Names = BTreeMap<PathBuf, Arc<Mutex<Contents>>>;

#[derive(Debug)]
struct State {
    live: Names,
    durable: Names,
    locks: BTreeSet<PathBuf>,
    /// What was live after each change of names that no sync has covered yet.
    unsynced_names: Vec<Names>,
    dice: Dice,
    /// Changing operations left until they fail.
    fuse: Option<u64>,
    /// Whether it is one operation that fails, and not every one from then on.
    once: bool,
    /// Whether syncs fail, and nothing else.
    fail_syncs: bool,
    free: u64,
    /// How often an operation failed since the disk was last well.
    failures: u64,
}

#[derive(Debug, Default)]
struct Contents {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Len(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(at, new) => {
                let end = at + new.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*at..end].copy_from_slice(new);
            }
            Change::Len(len) => bytes.resize(*len, 0),
        }
    }

    /// What of it reaches the disk when the power goes: all, nothing, some sectors, a beginning or an end.
    fn tear(&self, bytes: &mut Vec<u8>, dice: &mut Dice) {
        match (self, dice.below(6)) {
            (_, 0) => {}
            (Change::Write(at, new), 3) => {
                let kept = dice.below(new.len() as u64 + 1) as usize;
                Change::Write(*at, new[..kept].to_vec()).apply(bytes);
            }
            (Change::Write(at, new), 4) => {
                let from = dice.below(new.len() as u64 + 1) as usize;
                Change::Write(at + from, new[from..].to_vec()).apply(bytes);
            }
            (Change::Write(at, new), 1 | 2) => {
                let mut from = 0;
                while from < new.len() {
                    let to = ((at + from) / SECTOR + 1) * SECTOR - at;
                    let to = to.min(new.len());
                    if dice.chance(500) {
                        Change::Write(at + from, new[from..to].to_vec()).apply(bytes);
                    }
                    from = to;
                }
            }
            _ => self.apply(bytes),
        }
    }
}

/// See the module's description. Clones share the disk.
#[derive(Clone, Debug)]
pub struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    contents: Arc<Mutex<Contents>>,
}

#[derive(Debug)]
struct Lock {
    disk: MemoryDisk,
    path: PathBuf,
}

impl FolderLock for Lock {}

impl Drop for Lock {
    fn drop(&mut self) {
        self.disk.0.lock().locks.remove(&self.path);
    }
}

fn fresh(bytes: Vec<u8>) -> Arc<Mutex<Contents>> {
    Arc::new(Mutex::new(Contents { live: bytes.clone(), durable: bytes, pending: Vec::new() }))
}

fn is_segment(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with("wal-") && name.ends_with(".log"))
}

impl Default for MemoryDisk {
    fn default() -> MemoryDisk {
        MemoryDisk::new(Dice::new(0))
    }
}

fn broken() -> io::Error {
    io::Error::other("the disk does not answer")
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(dice: Dice) -> MemoryDisk {
        MemoryDisk(Arc::new(Mutex::new(State {
            live: Names::new(),
            durable: Names::new(),
            locks: BTreeSet::new(),
            unsynced_names: Vec::new(),
            dice,
            fuse: None,
            once: false,
            fail_syncs: false,
            free: u64::MAX,
            failures: 0,
        })))
    }

    /// After so many more operations that change something, every one fails.
    pub fn fail_after(&self, operations: u64) {
        let mut state = self.0.lock();
        (state.fuse, state.once) = (Some(operations), false);
    }

    /// After so many more operations that change something, one fails, and those after it do not: a retry
    /// would seem to have mended it.
    pub fn fail_once_after(&self, operations: u64) {
        let mut state = self.0.lock();
        (state.fuse, state.once) = (Some(operations), true);
    }

    /// Whether syncs fail from now on.
    pub fn fail_syncs(&self, fail: bool) {
        self.0.lock().fail_syncs = fail;
    }

    /// Whether an operation has failed since the disk was last well.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.0.lock().failures > 0
    }

    /// What is free on it.
    pub fn set_free(&self, free: u64) {
        self.0.lock().free = free;
    }

    /// The process is gone: its locks are, and the disk works again.
    pub fn restart(&self) {
        let mut state = self.0.lock();
        state.locks.clear();
        (state.fuse, state.fail_syncs, state.failures) = (None, false, 0);
    }

    /// The power goes and comes back.
    pub fn lose_power(&self, dice: &mut Dice) {
        self.restart();
        let mut state = self.0.lock();
        let choices = state.unsynced_names.len() as u64 + 1;
        let names = match dice.below(choices) {
            0 => state.durable.clone(),
            n => state.unsynced_names[n as usize - 1].clone(),
        };
        state.unsynced_names.clear();
        let mut survived = Names::new();
        for (path, contents) in names {
            let mut contents = contents.lock();
            let mut bytes = std::mem::take(&mut contents.durable);
            for change in std::mem::take(&mut contents.pending) {
                change.tear(&mut bytes, dice);
            }
            survived.insert(path, fresh(bytes));
        }
        state.durable = survived.clone();
        state.live = survived;
    }

    /// Everything on it is gone.
    pub fn wipe(&self) {
        self.restart();
        let mut state = self.0.lock();
        state.live.clear();
        state.durable.clear();
        state.unsynced_names.clear();
    }

    /// Another disk with the same content, all of it durable.
    #[must_use]
    pub fn copy(&self) -> MemoryDisk {
        let mut state = self.0.lock();
        let copy = MemoryDisk::new(state.dice.fork());
        let live: Names = state.live.iter().map(|(p, c)| (p.clone(), fresh(c.lock().live.clone()))).collect();
        let mut other = copy.0.lock();
        other.durable.clone_from(&live);
        other.live = live;
        drop(other);
        copy
    }

    /// What a file holds now, synced or not; nothing if there is none.
    #[must_use]
    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        self.0.lock().live.get(path).map(|contents| contents.lock().live.clone()).unwrap_or_default()
    }

    /// Whether there is a file of that name.
    #[must_use]
    pub fn is_file(&self, path: &Path) -> bool {
        self.0.lock().live.contains_key(path)
    }

    /// All files there are.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.lock().live.keys().cloned().collect()
    }

    /// Changes a file behind everyone's back, durably; nothing of it may be unsynced.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let contents = self.0.lock().live[path].clone();
        let mut contents = contents.lock();
        assert!(contents.pending.is_empty(), "tampering with what is not synced");
        change(&mut contents.live);
        contents.durable = contents.live.clone();
    }

    /// Some byte of some file changes by itself: any one, but of what the log's segments hold not the last `spare`
    /// bytes that were written. Says where.
    pub fn rot(&self, spare: u64, dice: &mut Dice) -> Option<String> {
        let state = self.0.lock();
        // Names of segments grow with their age; what one ends in is what was written last, if anything was yet.
        let segments = state.live.iter().rev().filter(|(path, _)| is_segment(path));
        let mut spare = spare as usize;
        let mut ends = BTreeMap::new();
        for (path, contents) in segments {
            let contents = contents.lock();
            let written = contents.live.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            ends.insert(path.clone(), written.saturating_sub(spare));
            spare = spare.saturating_sub(written);
        }
        let files: Vec<_> = state.live.iter().collect();
        let (path, contents) = *files.get(dice.below(files.len() as u64) as usize)?;
        let mut contents = contents.lock();
        let len = ends.get(path).copied().unwrap_or(contents.live.len()).min(contents.durable.len());
        if len == 0 {
            return None;
        }
        let at = dice.below(len as u64) as usize;
        let flip = dice.within(1, 255) as u8;
        contents.live[at] ^= flip;
        contents.durable[at] ^= flip;
        Some(format!("{} at {at}", path.display()))
    }

    fn changing<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.0.lock();
        match &mut state.fuse {
            Some(0) => {
                state.failures += 1;
                if state.once {
                    state.fuse = None;
                }
                return Err(broken());
            }
            Some(left) => *left -= 1,
            None => {}
        }
        work(&mut state)
    }

    fn syncing(&self, work: impl FnOnce(&mut State)) -> io::Result<()> {
        self.changing(|state| {
            if state.fail_syncs {
                return Err(broken());
            }
            work(state);
            Ok(())
        })
    }

    fn renaming<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.changing(|state| {
            let done = work(state)?;
            let now = state.live.clone();
            state.unsynced_names.push(now);
            Ok(done)
        })
    }
}

impl Disk for MemoryDisk {
    fn create_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let contents = fresh(Vec::new());
        self.renaming(|state| {
            state.live.insert(path.to_owned(), contents.clone());
            Ok(())
        })?;
        Ok(Arc::new(MemoryFile { disk: self.clone(), contents }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let contents = self.0.lock().live.get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemoryFile { disk: self.clone(), contents }))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        let first = |path: &PathBuf| path.strip_prefix(folder).ok()?.iter().next()?.to_str().map(str::to_owned);
        let names: BTreeSet<String> = state.live.keys().filter_map(first).collect();
        Ok(names.into_iter().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.renaming(|state| {
            let moved: Vec<PathBuf> = state.live.keys().filter(|p| p.starts_with(from)).cloned().collect();
            if moved.is_empty() {
                return Err(io::ErrorKind::NotFound.into());
            }
            for path in moved {
                if let (Some(contents), Ok(rest)) = (state.live.remove(&path), path.strip_prefix(from)) {
                    let target = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
                    state.live.insert(target, contents);
                }
            }
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.renaming(|state| {
            state.live.retain(|p, _| !p.starts_with(path));
            Ok(())
        })
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        // Of all folders at once: as a journal does.
        self.syncing(|state| {
            state.durable = state.live.clone();
            state.unsynced_names.clear();
        })
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        Ok(self.0.lock().free)
    }

    fn lock(&self, path: &Path) -> io::Result<Arc<dyn FolderLock>> {
        if !self.0.lock().locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Arc::new(Lock { disk: self.clone(), path: path.to_owned() }))
    }

    fn draw_id(&self) -> u128 {
        let mut state = self.0.lock();
        (u128::from(state.dice.draw()) << 64) | u128::from(state.dice.draw())
    }
}

impl MemoryFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut contents = self.contents.lock();
        let counted = self.disk.changing(|_| Ok(()));
        // A write that fails, or that the process is killed in, was done up to some byte, and is seen so.
        let done = match (&counted, change) {
            (Ok(()), change) => Some(change),
            (Err(_), Change::Write(at, mut bytes)) => {
                let kept = self.disk.0.lock().dice.below(bytes.len() as u64 + 1) as usize;
                bytes.truncate(kept);
                (kept > 0).then_some(Change::Write(at, bytes))
            }
            (Err(_), Change::Len(_)) => None,
        };
        if let Some(done) = done {
            done.apply(&mut contents.live);
            contents.pending.push(done);
        }
        counted
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let contents = self.contents.lock();
        let rest = contents.live.get(offset as usize..).unwrap_or(&[]);
        let read = rest.len().min(into.len());
        into[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Write(offset as usize, bytes.to_vec()))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let len = (len as usize).max(self.contents.lock().live.len());
        self.change(Change::Len(len))
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut contents = self.contents.lock();
        let allowed = self.disk.syncing(|_| {});
        let pending = std::mem::take(&mut contents.pending);
        allowed?;
        for change in pending {
            change.apply(&mut contents.durable);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.contents.lock().live.len() as u64)
    }
}
