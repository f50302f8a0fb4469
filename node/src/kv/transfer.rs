//! The whole state as a stream of chunks, for a node that needs entries the log no longer has, and for backups.
//!
//! A chunk: format version, flags (first, last), CRC of everything else, sequence number, the exported position; then a
//! body. The first body is the meta record, the last holds totals; those between hold first the rows of commands with
//! idempotency keys, if there are any, in the order of their revisions, then items in ascending key order. The
//! receiving side believes nothing: a chunk that is damaged, out of order, of another export, or whose items are out of
//! order, ends the import, and an import counts only once its last chunk has agreed with the totals.

use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;
use quorum::{Config, Position};

use super::command::KEY_BYTES_MAX;
use super::engine::{Engine, EngineError, Ingest, Meta, decode_item, encode_item};
use super::once::{ROWS_MAX, Row, Rows};
use super::view::{Scan, View};
use super::wire::Reader;
use super::{Entry, StoreError};

/// Items are put into a chunk until it has this many bytes: large enough that framing does not count, small
/// enough for the peers' queues.
const CHUNK_BYTES: usize = 256 << 10;

const VERSION: u8 = 1;
const FIRST: u8 = 1;
const LAST: u8 = 2;
/// A chunk of rows and not of items.
const ROWS: u8 = 4;
/// Where the CRC lies: behind version and flags.
const CRC_AT: std::ops::Range<usize> = 2..6;
/// Version, flags, CRC, sequence number, position.
const HEAD_BYTES: usize = 2 + 4 + 4 + 16;

/// A state on its way out: a view, chunk by chunk.
pub struct Export {
    meta: Meta,
    rows: std::vec::IntoIter<Arc<Row>>,
    scan: Peekable<Scan>,
    sequence: u32,
    items: u64,
    ended: bool,
}

impl Export {
    pub(super) fn new(view: View, rows: Vec<Arc<Row>>) -> Result<Export, StoreError> {
        let meta = view.meta().clone();
        if !meta.is_whole() {
            return Err(StoreError::Between { applied: meta.position, until: meta.ahead });
        }
        let scan = view.try_scan(b"", None).peekable();
        Ok(Export { meta, rows: rows.into_iter(), scan, sequence: 0, items: 0, ended: false })
    }

    /// The last log entry it covers.
    #[must_use]
    pub fn position(&self) -> Position {
        self.meta.position
    }

    /// The newest configuration up to there.
    #[must_use]
    pub fn config(&self) -> Option<Config> {
        self.meta.config.as_deref().cloned()
    }

    /// The next chunk; `None` after the last. Blocks for the disk.
    ///
    /// # Errors
    /// When the engine cannot be read: the export is of no use then.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        let mut chunk = self.begin_chunk();
        if self.sequence == 0 {
            chunk.extend_from_slice(&self.meta.encode()?);
            return Ok(Some(self.end_chunk(chunk, FIRST)));
        }
        if !self.rows.as_slice().is_empty() {
            while chunk.len() < CHUNK_BYTES
                && let Some(row) = self.rows.next()
            {
                let row = row.encode().map_err(EngineError::Encode)?;
                chunk.extend_from_slice(&u32::try_from(row.len()).unwrap_or(u32::MAX).to_le_bytes());
                chunk.extend_from_slice(&row);
            }
            return Ok(Some(self.end_chunk(chunk, ROWS)));
        }
        if self.scan.peek().is_none() {
            self.ended = true;
            if self.items != self.meta.count {
                let damage = format!("{} keys were counted, {} are there", self.meta.count, self.items);
                return Err(EngineError::Damaged(damage).into());
            }
            chunk.extend_from_slice(&self.items.to_le_bytes());
            return Ok(Some(self.end_chunk(chunk, LAST)));
        }
        let mut encoded = Vec::new();
        while chunk.len() < CHUNK_BYTES
            && let Some(entry) = self.scan.next()
        {
            let (key, item) = entry.inspect_err(|_| self.ended = true)?;
            encoded.clear();
            encode_item(&item, &mut encoded);
            chunk.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
            chunk.extend_from_slice(&key);
            chunk.extend_from_slice(&u32::try_from(encoded.len()).unwrap_or(u32::MAX).to_le_bytes());
            chunk.extend_from_slice(&encoded);
            self.items += 1;
        }
        Ok(Some(self.end_chunk(chunk, 0)))
    }

    fn begin_chunk(&self) -> Vec<u8> {
        let mut chunk = Vec::with_capacity(HEAD_BYTES + CHUNK_BYTES);
        chunk.extend_from_slice(&[VERSION, 0, 0, 0, 0, 0]);
        chunk.extend_from_slice(&self.sequence.to_le_bytes());
        chunk.extend_from_slice(&self.meta.position.index.0.to_le_bytes());
        chunk.extend_from_slice(&self.meta.position.term.0.to_le_bytes());
        chunk
    }

    fn end_chunk(&mut self, mut chunk: Vec<u8>, flags: u8) -> Bytes {
        chunk[1] = flags;
        let crc = checksum(&chunk);
        chunk[CRC_AT].copy_from_slice(&crc.to_le_bytes());
        self.sequence += 1;
        Bytes::from(chunk)
    }
}

/// Over everything but the place of the checksum itself.
fn checksum(chunk: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&chunk[..CRC_AT.start]);
    hasher.update(&chunk[CRC_AT.end..]);
    hasher.finalize()
}

/// A state on its way in. Dropped before [`Import::finish`], it leaves nothing behind.
pub struct Import {
    ingest: Box<dyn Ingest>,
    /// Of the first chunk.
    meta: Option<Meta>,
    sequence: u32,
    rows: Vec<Arc<Row>>,
    items: u64,
    last_key: Bytes,
    complete: bool,
    broken: bool,
}

fn foreign<T>(why: impl Into<String>) -> Result<T, StoreError> {
    Err(StoreError::Foreign(why.into()))
}

impl Import {
    pub(super) fn new(ingest: Box<dyn Ingest>) -> Import {
        let last_key = Bytes::new();
        Import { ingest, meta: None, sequence: 0, rows: Vec::new(), items: 0, last_key, complete: false, broken: false }
    }

    /// The position of the state being received, once the first chunk is here.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.meta.as_ref().map(|meta| meta.position)
    }

    /// Whether the last chunk is here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Takes the next chunk. Blocks for the disk.
    ///
    /// # Errors
    /// When it is not the next chunk of this export, or the disk fails: the import is of no use then.
    pub fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        if self.broken {
            return foreign("a chunk before was refused");
        }
        let taken = self.take(&chunk);
        self.broken = taken.is_err();
        taken
    }

    fn take(&mut self, chunk: &Bytes) -> Result<(), StoreError> {
        let sequence = self.sequence;
        if chunk.len() < HEAD_BYTES {
            return foreign(format!("chunk {sequence} is cut short"));
        }
        let mut reader = Reader(chunk);
        let (Some(version), Some(flags), Some(crc)) = (reader.u8(), reader.u8(), reader.u32()) else {
            return foreign(format!("chunk {sequence} is cut short"));
        };
        if version != VERSION {
            return foreign(format!("chunk {sequence} is of format {version}, not {VERSION}"));
        }
        if crc != checksum(chunk) {
            return foreign(format!("chunk {sequence} is damaged"));
        }
        let (found, index, term) = (reader.u32(), reader.u64(), reader.u64());
        if found != Some(sequence) {
            return foreign(format!("chunk {sequence} was expected, {} came", found.unwrap_or_default()));
        }
        let position = Position::new(index.unwrap_or_default(), term.unwrap_or_default());
        match (&self.meta, flags) {
            (None, FIRST) => self.take_first(position, reader)?,
            (Some(meta), 0 | ROWS | LAST) if meta.position != position => {
                return foreign("a chunk of another export came");
            }
            (Some(_), ROWS) if !self.complete && self.items == 0 => self.take_rows(reader)?,
            (Some(_), 0) if !self.complete => self.take_items(reader)?,
            (Some(meta), LAST) if !self.complete => {
                let total = reader.u64();
                if total != Some(self.items) || meta.count != self.items || !reader.is_empty() {
                    return foreign(format!("{} keys were announced, {} came", meta.count, self.items));
                }
                self.complete = true;
            }
            _ => return foreign(format!("chunk {sequence} is out of place")),
        }
        self.sequence += 1;
        Ok(())
    }

    fn take_first(&mut self, position: Position, mut reader: Reader<'_>) -> Result<(), StoreError> {
        match Meta::decode(reader.rest()) {
            Some(meta) if meta.position == position && meta.ahead == position => self.meta = Some(meta),
            _ => return foreign("its first chunk makes no sense"),
        }
        Ok(())
    }

    fn take_rows(&mut self, mut reader: Reader<'_>) -> Result<(), StoreError> {
        let last_revision = self.position().map_or(0, |position| position.index.0);
        let begun = self.rows.len();
        while !reader.is_empty() {
            let length = reader.u32().unwrap_or(u32::MAX) as usize;
            let Some(row) = reader.take(length).and_then(Row::decode) else {
                return foreign(format!("a row in chunk {} makes no sense", self.sequence));
            };
            let in_order = self.rows.last().is_none_or(|l| l.revision < row.revision && l.stamped <= row.stamped);
            if !in_order || row.revision == 0 || row.revision > last_revision || self.rows.len() == ROWS_MAX {
                return foreign(format!("the rows of chunk {} are out of order, or too many", self.sequence));
            }
            self.rows.push(Arc::new(row));
        }
        if begun == self.rows.len() {
            return foreign(format!("chunk {} is empty", self.sequence));
        }
        Ok(self.ingest.remember(self.rows[begun..].to_vec())?)
    }

    fn take_items(&mut self, mut reader: Reader<'_>) -> Result<(), StoreError> {
        let last_revision = self.position().map_or(0, |position| position.index.0);
        let mut items: Vec<Entry> = Vec::new();
        while !reader.is_empty() {
            let Some((key, item)) = read_entry(&mut reader) else {
                return foreign(format!("an item in chunk {} makes no sense", self.sequence));
            };
            if key.as_ref() <= items.last().map_or(&self.last_key, |(key, _)| key).as_ref() {
                return foreign(format!("the keys of chunk {} are out of order", self.sequence));
            }
            if item.revision > last_revision || item.version == 0 {
                return foreign(format!("an item in chunk {} has impossible numbers", self.sequence));
            }
            items.push((key, item));
        }
        let Some((last, _)) = items.last() else { return foreign(format!("chunk {} is empty", self.sequence)) };
        self.last_key = last.clone();
        self.items += items.len() as u64;
        Ok(self.ingest.write(items)?)
    }

    /// Makes the received state durable, beside the one in use. Blocks for the disk.
    ///
    /// # Errors
    /// When the last chunk has not come, or the disk fails.
    pub fn finish(self) -> Result<Imported, StoreError> {
        match self.meta {
            Some(meta) if self.complete && !self.broken => {
                let rows = Rows::of(self.rows, meta.position.index.0);
                if !rows.are_distinct() {
                    return foreign("two of its rows have the same idempotency key");
                }
                Ok(Imported { engine: self.ingest.finish(&meta)?, meta, rows })
            }
            _ => foreign("its last chunk is missing"),
        }
    }
}

/// An item and its key, copied: the chunk's memory is not held on to.
fn read_entry(reader: &mut Reader<'_>) -> Option<Entry> {
    let length = reader.u32()? as usize;
    let key = reader.take(length).filter(|key| !key.is_empty() && key.len() <= KEY_BYTES_MAX)?;
    let length = reader.u32()? as usize;
    let item = decode_item(reader.take(length)?)?;
    Some((Bytes::copy_from_slice(key), item))
}

/// A received state, durable, waiting to be [installed](super::Store::install). Dropped instead,
/// it leaves nothing behind.
pub struct Imported {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) meta: Meta,
    pub(super) rows: Rows,
}

impl Imported {
    /// The last log entry it covers.
    #[must_use]
    pub fn position(&self) -> Position {
        self.meta.position
    }

    /// The newest configuration up to there.
    #[must_use]
    pub fn config(&self) -> Option<Config> {
        self.meta.config.as_deref().cloned()
    }
}

/// The chunk with the checksum that its bytes should have, for [`super::fuzzing`]: what a sender
/// with a fault might send.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn with_checksum(chunk: Bytes) -> Bytes {
    let mut bytes = chunk.to_vec();
    if bytes.len() >= HEAD_BYTES {
        let crc = checksum(&bytes);
        bytes[CRC_AT].copy_from_slice(&crc.to_le_bytes());
    }
    Bytes::from(bytes)
}
