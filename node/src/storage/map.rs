//! Where in the files each entry of the log is, and reading it from there.
//!
//! One [`LogMap`] per log, changed by the writer alone and shared with any number of [`LogReader`]s. It is kept small:
//! one *span* for many small batches, one *run* per term. A reader looks places up under the lock and reads files
//! without it; a file that a reader still holds is never written over (`log.rs` sees to that).
//!
//! Before: `log` (writes), `driver` (reads for followers that lag). After: `disk`.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use quorum::{Index, Position, Term};

use super::disk::DiskFile;
use super::record::{self, Header, Record};
use super::segment::{BATCH_HEADER_BYTES, BatchHeader, FIRST_BATCH};

/// Batches that follow each other are remembered as one span up to this size. A read begins at the start of a span, so
/// this is what it may read for nothing; a log of 256 MiB of the smallest batches needs 4,096 spans.
const SPAN_BYTES_MAX: u64 = 64 << 10;

/// One file of the log.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// Its number, which is in its name.
    pub ordinal: u64,
    pub file: Arc<dyn DiskFile>,
    /// Bytes written, header page included.
    pub used: u64,
    /// Bytes allocated.
    pub len: u64,
}

/// Batches that follow each other, in the file and in the log: entries from `first` to the next span's.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u64,
    segment: u64,
    offset: u64,
    end: u64,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct LogMap {
    /// What precedes the first entry.
    pub start: Position,
    /// The last entry (or `start`).
    pub last: Position,
    /// Oldest first; the last one is written to.
    pub segments: VecDeque<Segment>,
    spans: VecDeque<Span>,
    /// Entries were dropped since the last batch: the next one must not join its span, which still has their bytes.
    truncated: bool,
    /// The first index of each run of entries of one term.
    terms: VecDeque<(u64, Term)>,
}

/// Where to read entries.
struct Place {
    file: Arc<dyn DiskFile>,
    offset: u64,
    end: u64,
    /// The last index that is valid there.
    until: Index,
}

impl LogMap {
    pub(super) fn new(start: Position) -> LogMap {
        LogMap {
            start,
            last: start,
            segments: VecDeque::new(),
            spans: VecDeque::new(),
            truncated: false,
            terms: VecDeque::new(),
        }
    }

    /// The term of an entry, or of `start`.
    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        if index < self.start.index || index > self.last.index {
            return None;
        }
        let run = self.terms.partition_point(|(first, _)| *first <= index.0).checked_sub(1)?;
        self.terms.get(run).map(|(_, term)| *term)
    }

    /// Drops the entries from `first` on. The files keep their bytes; nothing leads to them any more.
    ///
    /// A batch may begin at or below `start` only while the oldest segment is recovered: it dropped entries of a
    /// segment that was cut since.
    pub(super) fn truncate(&mut self, first: Index, previous_term: Term) {
        self.spans.truncate(self.spans.partition_point(|s| s.first < first.0));
        self.terms.truncate(self.terms.partition_point(|(run, _)| *run < first.0));
        self.truncated = true;
        self.last = Position { term: previous_term, index: first.prev() };
        if first <= self.start.index {
            self.start = self.last;
        }
    }

    /// Adds a batch that was written to the last segment at `offset`, right behind the end of the log.
    pub(super) fn push(&mut self, first: Index, offset: u64, end: u64, runs: &[(Index, Term)], last: Position) {
        assert!(first == self.last.index.next(), "a batch from {first} behind {}", self.last);
        let Some(segment) = self.segments.back_mut() else { panic!("a batch without a segment") };
        segment.used = end;
        let ordinal = segment.ordinal;
        match self.spans.back_mut() {
            Some(span)
                if !self.truncated
                    && span.segment == ordinal
                    && span.end == offset
                    && end - span.offset <= SPAN_BYTES_MAX =>
            {
                span.end = end;
            }
            _ => self.spans.push_back(Span { first: first.0, segment: ordinal, offset, end }),
        }
        self.truncated = false;
        for (index, term) in runs {
            if self.terms.back().is_none_or(|(_, current)| current != term) {
                self.terms.push_back((index.0, *term));
            }
        }
        self.last = last;
    }

    /// Takes the oldest segment out if it holds nothing above `upto` and is not the one written to.
    pub(super) fn pop_segment(&mut self, upto: Index) -> Option<Segment> {
        let (oldest, second) = (self.segments.front()?.ordinal, self.segments.get(1)?.ordinal);
        debug_assert!(oldest < second);
        let spans = self.spans.partition_point(|s| s.segment <= oldest);
        let next = self.spans.get(spans).map_or(self.last.index.next(), |s| Index(s.first));
        if next.prev() > upto {
            return None;
        }
        // Looked up before the runs it is found by are dropped.
        self.start = Position { term: self.term_at(next.prev())?, index: next.prev() };
        self.spans.drain(..spans);
        let runs = self.terms.partition_point(|(first, _)| *first <= next.0).saturating_sub(1);
        self.terms.drain(..runs);
        self.segments.pop_front()
    }

    /// Empties the log; only `segment` remains.
    pub(super) fn reset(&mut self, start: Position, segment: Segment) -> VecDeque<Segment> {
        let old = std::mem::take(self);
        self.start = start;
        self.last = start;
        self.segments.push_back(segment);
        old.segments
    }

    /// Bytes written in all segments, header pages not counted.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.used - FIRST_BATCH).sum()
    }

    fn place(&self, index: Index) -> Option<Place> {
        let at = self.spans.partition_point(|s| s.first <= index.0).checked_sub(1)?;
        let span = self.spans.get(at)?;
        let until = self.spans.get(at + 1).map_or(self.last.index, |next| Index(next.first).prev());
        let segment = self.segments.iter().find(|s| s.ordinal == span.segment)?;
        (index <= until).then(|| Place { file: segment.file.clone(), offset: span.offset, end: span.end, until })
    }
}

impl Default for LogMap {
    fn default() -> LogMap {
        LogMap::new(Position::default())
    }
}

/// Why entries cannot be read from the log.
#[derive(Debug, thiserror::Error)]
pub enum ReadLogError {
    /// The log no longer has the first of them: a snapshot is needed.
    #[error("the log begins behind {start}: entry {from} was cut off")]
    Cut {
        /// What was asked for.
        from: Index,
        /// What precedes the first entry there is.
        start: Position,
    },
    /// What was written is not what is read.
    #[error("entry {0} of the log is damaged on the disk")]
    Damaged(Index),
    /// The system's.
    #[error("cannot read entry {from} of the log: {source}")]
    Io {
        /// What was asked for.
        from: Index,
        /// What the system said.
        source: io::Error,
    },
}

/// Reads entries while the writer goes on.
#[derive(Clone, Debug)]
pub struct LogReader {
    pub(super) map: Arc<RwLock<LogMap>>,
}

impl LogReader {
    pub(super) fn new(map: LogMap) -> LogReader {
        LogReader { map: Arc::new(RwLock::new(map)) }
    }

    /// What precedes the first entry that can be read.
    #[must_use]
    pub fn start(&self) -> Position {
        self.map.read().start
    }

    /// The last entry written (not necessarily durable yet).
    #[must_use]
    pub fn last(&self) -> Position {
        self.map.read().last
    }

    /// Bytes of the log on the disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.map.read().bytes()
    }

    /// The highest index that can be cut so that at least `keep_bytes` of log remain; zero if there
    /// is not that much to spare.
    #[must_use]
    pub fn cut_keeping(&self, keep_bytes: u64) -> Index {
        let map = self.map.read();
        let mut kept = 0;
        for (at, segment) in map.segments.iter().enumerate().rev() {
            kept += segment.used - FIRST_BATCH;
            if kept >= keep_bytes && at > 0 {
                let ordinal = segment.ordinal;
                let spans = map.spans.partition_point(|s| s.segment < ordinal);
                return map.spans.get(spans).map_or(map.last.index, |s| Index(s.first).prev());
            }
        }
        Index(0)
    }

    /// The entries `from..=to` in order, as far as they are written: as many as fit `max_bytes`, but at least one if
    /// there is one. Fewer (or none) when the writer has not come that far.
    ///
    /// # Errors
    /// When the first was cut off, or the disk does not give back what was written.
    pub fn read(&self, from: Index, to: Index, max_bytes: usize) -> Result<Vec<Record>, ReadLogError> {
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut next = from;
        // Every turn adds at least one record or ends.
        while next <= to && (records.is_empty() || bytes < max_bytes) {
            let place = {
                let map = self.map.read();
                if next <= map.start.index {
                    if records.is_empty() {
                        return Err(ReadLogError::Cut { from, start: map.start });
                    }
                    break;
                }
                match map.place(next) {
                    Some(place) => place,
                    None => break,
                }
            };
            let before = next;
            read_span(&place, &mut next, to, max_bytes, &mut bytes, &mut records)?;
            if next == before {
                break;
            }
        }
        Ok(records)
    }
}

/// Reads from one span what is wanted of it. `next` moves on with every record taken.
fn read_span(
    place: &Place,
    next: &mut Index,
    to: Index,
    max_bytes: usize,
    taken_bytes: &mut usize,
    records: &mut Vec<Record>,
) -> Result<(), ReadLogError> {
    let from = *next;
    let damaged = || ReadLogError::Damaged(from);
    let len = usize::try_from(place.end - place.offset).map_err(|_| damaged())?;
    let mut buffer = vec![0; len];
    let read = place.file.read_at(&mut buffer, place.offset).map_err(|source| ReadLogError::Io { from, source })?;
    if read < len {
        return Err(damaged());
    }
    let mut rest = Bytes::from(buffer);
    while !rest.is_empty() {
        let body = BatchHeader::peek_bytes(&rest).ok_or_else(damaged)?;
        if rest.len() - BATCH_HEADER_BYTES < body {
            return Err(damaged());
        }
        let _ = rest.split_to(BATCH_HEADER_BYTES);
        let mut batch = rest.split_to(body);
        while !batch.is_empty() {
            let header = Header::peek(&batch).ok_or_else(damaged)?;
            if header.frame_bytes > batch.len() {
                return Err(damaged());
            }
            if header.index < *next {
                let _ = batch.split_to(header.frame_bytes);
                continue;
            }
            if *next > to.min(place.until) {
                return Ok(());
            }
            if !records.is_empty() && *taken_bytes + header.frame_bytes > max_bytes {
                // Full: nothing more is wanted from any span.
                *taken_bytes = max_bytes;
                return Ok(());
            }
            let record = record::decode(&mut batch, usize::MAX).ok().flatten().ok_or_else(damaged)?;
            if record.index != *next {
                return Err(damaged());
            }
            *taken_bytes += record.frame().len();
            *next = next.next();
            records.push(record);
        }
    }
    // A span that holds fewer entries than the map says was not read as it was written.
    if *next <= to.min(place.until) { Err(damaged()) } else { Ok(()) }
}
