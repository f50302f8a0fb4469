//! A disk in memory for tests: it loses what was not synced, tears what was being written, and fails when told to.
//!
//! A write is visible at once and durable at the next sync of its file; a name at the next sync of its folder. [`MemoryDisk::lose_power`] keeps
//! of the rest whatever its seed says, down to single bytes of a write.

#![cfg_attr(not(test), allow(dead_code, reason = "fuzz targets use a part of it"))]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile, FolderLock};

#[derive(Debug, Default)]
struct State {
    live: BTreeMap<PathBuf, Arc<Mutex<Contents>>>,
    durable: BTreeMap<PathBuf, Arc<Mutex<Contents>>>,
    locks: BTreeSet<PathBuf>,
    /// Changes of names that no sync has covered yet, in order: what was live after each.
    unsynced_names: Vec<BTreeMap<PathBuf, Arc<Mutex<Contents>>>>,
    ids: u128,
    /// Operations that change something, so far.
    operations: u64,
    /// The operation that fails, as do all after it: the power is about to go.
    fail_from: Option<u64>,
    /// The next syncs fail.
    fail_syncs: bool,
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
}

/// See the module's description. Clones share the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    contents: Arc<Mutex<Contents>>,
}

#[derive(Debug)]
struct MemoryLock {
    disk: MemoryDisk,
    path: PathBuf,
}

impl FolderLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disk.0.lock().locks.remove(&self.path);
    }
}

/// Xorshift: enough to choose what survives.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound.max(1)
    }
}

impl MemoryDisk {
    /// Fails the operation with this number, counted from now, and all after it.
    pub(super) fn fail_after(&self, operations: u64) {
        let mut state = self.0.lock();
        state.fail_from = Some(state.operations + operations);
    }

    /// Whether an operation has failed as told by [`MemoryDisk::fail_after`].
    pub(super) fn has_failed(&self) -> bool {
        let state = self.0.lock();
        state.fail_from.is_some_and(|from| state.operations > from)
    }

    pub(super) fn fail_syncs(&self, fail: bool) {
        self.0.lock().fail_syncs = fail;
    }

    /// The power goes and comes back. Of every unsynced write some bytes survive, or all, or none.
    pub(super) fn lose_power(&self, dice: &mut Dice) {
        let mut state = self.0.lock();
        state.fail_from = None;
        state.fail_syncs = false;
        state.locks.clear();
        let choices = state.unsynced_names.len() as u64 + 1;
        let names = match dice.below(choices) {
            0 => state.durable.clone(),
            n => state.unsynced_names[n as usize - 1].clone(),
        };
        state.unsynced_names.clear();
        let mut survived = BTreeMap::new();
        for (path, contents) in names {
            let mut contents = contents.lock();
            let mut bytes = contents.durable.clone();
            for change in std::mem::take(&mut contents.pending) {
                match (&change, dice.below(4)) {
                    (_, 0) => {}
                    (Change::Write(at, new), 1) => {
                        let keep = dice.below(new.len() as u64 + 1) as usize;
                        Change::Write(*at, new[..keep].to_vec()).apply(&mut bytes);
                    }
                    (Change::Write(at, new), 2) => {
                        let from = dice.below(new.len() as u64 + 1) as usize;
                        Change::Write(at + from, new[from..].to_vec()).apply(&mut bytes);
                    }
                    _ => change.apply(&mut bytes),
                }
            }
            survived.insert(path, fresh(bytes));
        }
        state.durable = survived.clone();
        state.live = survived;
    }

    /// A copy of the disk as it is now, everything on it durable.
    pub(super) fn copy(&self) -> MemoryDisk {
        let state = self.0.lock();
        let live: BTreeMap<_, _> =
            state.live.iter().map(|(path, contents)| (path.clone(), fresh(contents.lock().live.clone()))).collect();
        MemoryDisk(Arc::new(Mutex::new(State {
            durable: live.clone(),
            live,
            ids: state.ids + 1000,
            ..State::default()
        })))
    }

    pub(super) fn bytes(&self, path: &Path) -> Vec<u8> {
        self.0.lock().live[path].lock().live.clone()
    }

    /// Changes a file behind everyone's back, durably.
    pub(super) fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let state = self.0.lock();
        let mut contents = state.live[path].lock();
        assert!(contents.pending.is_empty(), "tampering with what is not synced");
        change(&mut contents.live);
        contents.durable = contents.live.clone();
    }

    pub(super) fn is_file(&self, path: &Path) -> bool {
        self.0.lock().live.contains_key(path)
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.0.lock().live.keys().cloned().collect()
    }

    fn changing<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.0.lock();
        state.operations += 1;
        if state.fail_from.is_some_and(|from| state.operations > from) {
            return Err(io::Error::other("the power is going"));
        }
        let done = work(&mut state)?;
        Ok(done)
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

fn fresh(bytes: Vec<u8>) -> Arc<Mutex<Contents>> {
    Arc::new(Mutex::new(Contents { live: bytes.clone(), durable: bytes, pending: Vec::new() }))
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
        let names: BTreeSet<String> = (self.0.lock().live.keys())
            .filter_map(|path| path.strip_prefix(folder).ok()?.iter().next()?.to_str().map(str::to_owned))
            .collect();
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
        self.changing(|state| {
            if state.fail_syncs {
                return Err(io::Error::other("the sync failed"));
            }
            state.durable = state.live.clone();
            state.unsynced_names.clear();
            Ok(())
        })
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn lock(&self, path: &Path) -> io::Result<Arc<dyn FolderLock>> {
        if !self.0.lock().locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Arc::new(MemoryLock { disk: self.clone(), path: path.to_owned() }))
    }

    fn draw_id(&self) -> u128 {
        let mut state = self.0.lock();
        state.ids += 1;
        0x1234_5678_9abc_4def_8000_0000_0000_0000 + state.ids * 0x1_0000_0001
    }
}

impl MemoryFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut contents = self.contents.lock();
        // The write that the power goes in may reach the disk in part.
        let counted = self.disk.changing(|_| Ok(()));
        contents.pending.push(change.clone());
        counted?;
        change.apply(&mut contents.live);
        Ok(())
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
        self.disk.changing(|state| if state.fail_syncs { Err(io::Error::other("the sync failed")) } else { Ok(()) })?;
        for change in std::mem::take(&mut contents.pending) {
            change.apply(&mut contents.durable);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.contents.lock().live.len() as u64)
    }
}
