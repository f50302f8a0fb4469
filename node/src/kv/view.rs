//! The data as of one revision, and walking through it in key order.
//!
//! A view is made in constant time and never blocks a write: it pins the layers there were and keeps alive, in the tables, the versions it
//! shows. Hold one for the length of a listing or an export, not longer: what it pins cannot be freed.

use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::engine::{Items, Meta, Snapshot};
use super::overlay::{Table, Tables};
use super::store::Shared;
use super::{Entry, Item, StoreError};

/// Entries copied out of a table under its lock at a time: few at first, for short pages, then more. At this many the lock is held for
/// some tens of microseconds.
const CHUNK_ENTRIES: (usize, usize) = (16, 256);

/// The data as of one revision, unchanged while it is held. Cheap to clone.
#[derive(Clone)]
pub struct View(Arc<Pinned>);

struct Pinned {
    snapshot: Box<dyn Snapshot>,
    tables: Arc<Tables>,
    meta: Meta,
    shared: Arc<Shared>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.shared.release_view(self.meta.position.index.0);
    }
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The revision it shows.
    pub revision: u64,
    /// Entries in key order.
    pub entries: Vec<Entry>,
    /// Whether there are more behind the last.
    pub more: bool,
}

impl View {
    /// The shared state has registered the view's revision already.
    pub(super) fn new(shared: Arc<Shared>, tables: Arc<Tables>, meta: Meta, snapshot: Box<dyn Snapshot>) -> View {
        View(Arc::new(Pinned { snapshot, tables, meta, shared }))
    }

    pub(super) fn meta(&self) -> &Meta {
        &self.0.meta
    }

    /// The revision it shows: the log index applied last.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.meta.position.index.0
    }

    /// Keys that exist.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.meta.count
    }

    /// Items in key order: those that start with `prefix` and come after `after`, lazily. An engine that cannot be read ends it with an error, and
    /// the store has failed then: what came before is a part of the range that must not pass for the whole. Independent of the view's lifetime.
    #[must_use]
    pub fn try_scan(&self, prefix: &[u8], after: Option<&[u8]>) -> Scan {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let cursor = |table: &Arc<Table>| Cursor::new(Arc::clone(table), from, self.revision());
        Scan {
            engine: self.0.snapshot.range(from).peekable(),
            active: cursor(&self.0.tables.active),
            frozen: self.0.tables.frozen.as_ref().map(cursor),
            prefix: Bytes::copy_from_slice(prefix),
            ended: false,
            view: self.clone(),
        }
    }

    /// Up to `limit` items from where [`View::try_scan`] would start.
    ///
    /// # Errors
    /// When the engine cannot be read.
    pub fn page(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Page, StoreError> {
        let mut scan = self.try_scan(prefix, after);
        let entries = scan.by_ref().take(limit).collect::<Result<Vec<_>, _>>()?;
        let more = scan.next().transpose()?.is_some();
        Ok(Page { revision: self.revision(), entries, more })
    }
}

/// A walk through a view in key order. Ends after its first error.
pub struct Scan {
    engine: Peekable<Items>,
    active: Cursor,
    frozen: Option<Cursor>,
    prefix: Bytes,
    ended: bool,
    /// Last, so that what it pins outlives what reads it.
    view: View,
}

impl Scan {
    /// The next key in any layer and what the newest layer that has it says.
    fn step(&mut self) -> Result<Option<(Bytes, Option<Item>)>, StoreError> {
        let engine = match self.engine.peek() {
            Some(Ok((key, _))) => Some(key),
            Some(Err(_)) => {
                let Some(Err(error)) = self.engine.next() else { return Ok(None) };
                self.view.0.shared.broken(&error);
                return Err(error.into());
            }
            None => None,
        };
        let frozen = self.frozen.as_mut().and_then(Cursor::peek);
        let Some(key) = [self.active.peek(), frozen, engine].into_iter().flatten().min().cloned() else {
            return Ok(None);
        };
        let from_engine = self.engine.next_if(|next| next.as_ref().is_ok_and(|(k, _)| *k == key));
        let from_frozen = self.frozen.as_mut().and_then(|cursor| cursor.take(&key));
        let from_active = self.active.take(&key);
        let item =
            from_active.or(from_frozen).unwrap_or_else(|| from_engine.and_then(Result::ok).map(|(_, item)| item));
        Ok(Some((key, item)))
    }
}

impl Iterator for Scan {
    type Item = Result<Entry, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            match self.step() {
                Ok(Some((key, item))) if key.starts_with(&self.prefix) => {
                    if let Some(item) = item {
                        return Some(Ok((key, item)));
                    }
                }
                Ok(_) => self.ended = true,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// A walk through one table, a chunk at a time, so that writers are held up but briefly.
struct Cursor {
    table: Arc<Table>,
    revision: u64,
    chunk: Peekable<std::vec::IntoIter<(Bytes, Option<Item>)>>,
    /// Where the next chunk starts; `None` at the end.
    resume: Option<Bound<Bytes>>,
    most: usize,
}

impl Cursor {
    fn new(table: Arc<Table>, from: Bound<&[u8]>, revision: u64) -> Cursor {
        let resume = Some(from.map(Bytes::copy_from_slice));
        Cursor { table, revision, chunk: Vec::new().into_iter().peekable(), resume, most: CHUNK_ENTRIES.0 }
    }

    fn peek(&mut self) -> Option<&Bytes> {
        while self.chunk.peek().is_none() {
            let from = self.resume.take()?;
            let chunk = self.table.chunk(from.as_ref().map(Bytes::as_ref), self.revision, self.most);
            self.most = (self.most * 2).min(CHUNK_ENTRIES.1);
            self.resume = chunk.resume.map(Bound::Excluded);
            self.chunk = chunk.entries.into_iter().peekable();
        }
        self.chunk.peek().map(|(key, _)| key)
    }

    /// What the table says of the key, if it is next.
    fn take(&mut self, key: &Bytes) -> Option<Option<Item>> {
        self.chunk.next_if(|(next, _)| next == key).map(|(_, item)| item)
    }
}
