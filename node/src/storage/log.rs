//! The write-ahead log: batches of records appended to preallocated segments.
//!
//! Synchronous and without a thread: [`super::wal`] drives it in a node, a simulator may drive it directly. A batch
//! whose first index is not behind the last one drops what the log held from there on; since it says so itself, the
//! truncation is exactly as durable as the batch. After the first error the log refuses everything: what the disk holds
//! is unknown from then on, and only a restart may find out.
//!
//! Before: `wal`, and `recovery`, which makes it. After: `blocks` (the write buffer), `segment` (bytes), `map`
//! (where things are), `disk`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quorum::bugs::{self, Bug};
use quorum::{Index, Position, Term};

use super::blocks::Blocks;
use super::disk::{BLOCK_BYTES, Disk, DiskFile, FolderLock};
use super::map::{LogMap, LogReader, Segment};
use super::prepare::{NEXT, Preparation, Work};
use super::record::Header;
use super::segment::{BATCH_HEADER_BYTES, BatchHeader, FIRST_BATCH, SegmentHeader};

/// A batch is closed at this size (one larger record makes a batch alone): what a reader reads at once, and what is
/// lost with one torn byte.
const BATCH_BYTES_MAX: usize = 512 << 10;
/// The first segment's size: its blocks are written before the node starts, which must not take long.
const FIRST_SEGMENT_BYTES: u64 = 4 << 20;
/// Every segment made from nothing is so much larger than the one before, up to the full size: a small one is full
/// before a large one is ready.
const GROWTH: u64 = 2;
/// The next segment is prepared when this part of the current one is used: early enough for the fastest writers, and a
/// node that hardly writes does not fill a disk with zeros.
const PREPARE_FROM: u64 = 8;
/// A file to be written over by the next segment.
pub(super) const SPARE: &str = "spare.log";
/// A segment being made.
pub(super) const UNNAMED: &str = "wal.tmp";

/// Entries to be written.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The index of the first entry; what the log holds from there on is dropped.
    pub first: Index,
    /// The index of the last entry.
    pub last: Index,
    /// The commit index known by now.
    pub commit: Index,
    /// Their records, in order; each buffer holds one or several whole ones.
    pub frames: &'a [Bytes],
}

/// Why the log takes nothing more.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk said so.
    #[error("cannot {what} the log: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// What was to be written does not fit what is there: a mistake of the caller's, and nothing was written.
    #[error("the log refuses a batch: {0}")]
    Misfit(String),
    /// An earlier call failed.
    #[error("the log failed before and takes nothing more until the node is restarted")]
    Failed,
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> LogError {
    move |source| LogError::Io { what, source }
}

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Active {
    pub file: Arc<dyn DiskFile>,
    pub salt: u64,
    pub offset: u64,
    pub len: u64,
}

impl Active {
    /// What the log's end shares its block with.
    fn tail(&self) -> io::Result<Blocks> {
        let mut tail = [0; BLOCK_BYTES];
        let bytes = (self.offset % BLOCK_BYTES as u64) as usize;
        let read = self.file.read_at(&mut tail[..bytes], self.offset - bytes as u64)?;
        if read < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Blocks::behind(&tail[..bytes]))
    }
}

/// What is known of the segment behind the active one.
#[derive(Debug)]
enum Next {
    /// There is none, and nobody makes one.
    Missing,
    /// It could not be made. Not tried again before the next segment has begun: that one's own failure counts.
    Refused,
    /// Someone makes it; of the spare file or from nothing.
    Making { spare: bool },
    /// It has its name, which may get lost.
    Named { segment: Segment, salt: u64, asked: bool },
    /// It has its name for good.
    Ready { segment: Segment, salt: u64 },
}

/// Where the numbering stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    /// The next batch's sequence number. The first ever is 1, so that "nothing is durable yet" is 0.
    pub sequence: u64,
    /// The last batch's checksum.
    pub chain: u32,
    /// The next segment's ordinal.
    pub ordinal: u64,
    /// The commit index last heard of.
    pub commit: Index,
}

/// See the module's description.
#[derive(Debug)]
pub struct Log {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    segment_bytes: u64,
    reader: LogReader,
    active: Active,
    numbers: Numbers,
    /// Every batch up to this sequence number is durable.
    durable: u64,
    dirty: bool,
    failed: bool,
    spare: bool,
    next: Next,
    buffer: Blocks,
    runs: Vec<(Index, Term)>,
    /// The folder stays locked as long as anyone may write to it.
    lock: Option<Arc<dyn FolderLock>>,
}

/// The file name of a segment.
pub(super) fn segment_name(ordinal: u64) -> String {
    format!("wal-{ordinal:012}.log")
}

/// The ordinal in the file name of a segment.
pub(super) fn segment_ordinal(name: &str) -> Option<u64> {
    let ordinal = name.strip_prefix("wal-")?.strip_suffix(".log")?.parse().ok()?;
    (segment_name(ordinal) == name).then_some(ordinal)
}

impl Log {
    /// Makes the first segment of an empty log.
    pub(super) fn format(
        disk: Arc<dyn Disk>,
        folder: &Path,
        segment_bytes: u64,
        lock: Option<Arc<dyn FolderLock>>,
    ) -> io::Result<Log> {
        let numbers = Numbers { sequence: 1, chain: 0, ordinal: 1, commit: Index(0) };
        let header = SegmentHeader {
            prepared: false,
            reset: false,
            sequence: numbers.sequence,
            salt: disk.draw_id() as u64,
            start: Position::default(),
            commit: Index(0),
            chain: numbers.chain,
        };
        let len = segment_bytes.min(FIRST_SEGMENT_BYTES);
        let file = disk.create(&folder.join(UNNAMED))?;
        file.write_at(&vec![0; usize::try_from(len).unwrap_or(0)], 0)?;
        let segment = name_segment(&*disk, folder, UNNAMED, file, numbers.ordinal, &header)?;
        let active = Active { file: segment.file.clone(), salt: header.salt, offset: FIRST_BATCH, len: segment.len };
        let mut map = LogMap::default();
        map.segments.push_back(segment);
        let numbers = Numbers { ordinal: numbers.ordinal + 1, ..numbers };
        Log::recovered(disk, folder, segment_bytes, map, active, numbers, false, lock)
    }

    /// A log as recovery found it: everything in it durable.
    #[allow(clippy::too_many_arguments, reason = "called once, by the only one who knows all of this")]
    pub(super) fn recovered(
        disk: Arc<dyn Disk>,
        folder: &Path,
        segment_bytes: u64,
        map: LogMap,
        active: Active,
        numbers: Numbers,
        spare: bool,
        lock: Option<Arc<dyn FolderLock>>,
    ) -> io::Result<Log> {
        let buffer = active.tail()?;
        Ok(Log {
            disk,
            folder: folder.to_owned(),
            segment_bytes,
            reader: LogReader::new(map),
            active,
            numbers,
            durable: numbers.sequence - 1,
            dirty: false,
            failed: false,
            spare,
            next: Next::Missing,
            buffer,
            runs: Vec::new(),
            lock,
        })
    }

    /// A reader of this log, usable while it is written.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// What precedes the first entry.
    #[must_use]
    pub fn start(&self) -> Position {
        self.reader.start()
    }

    /// The last entry written.
    #[must_use]
    pub fn last(&self) -> Position {
        self.reader.last()
    }

    /// Bytes of the log on the disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.reader.bytes()
    }

    /// Whether something was written since the last [`Log::sync`].
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Writes entries; durable after the next [`Log::sync`], readable at once.
    ///
    /// # Errors
    /// When the disk fails, or the entries do not fit the log. Either way it takes nothing more.
    pub fn append(&mut self, batch: &Batch<'_>) -> Result<(), LogError> {
        self.guarded(|log| log.append_all(batch, false))
    }

    /// Writes entries and waits until they are durable, with all that was appended before: one call to the disk, as a
    /// rule, where [`Log::append`] and [`Log::sync`] are two.
    ///
    /// # Errors
    /// Like both of them.
    pub fn append_durably(&mut self, batch: &Batch<'_>) -> Result<(), LogError> {
        self.guarded(|log| log.append_all(batch, true))?;
        self.sync()
    }

    /// Waits until everything appended is durable.
    ///
    /// # Errors
    /// When the disk fails: what was appended since the last success may or may not be there.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.guarded(|log| {
            if log.dirty {
                if !bugs::is_on(Bug::SyncSkipped) {
                    log.active.file.sync_data().or_else(|error| log.retried(error)).map_err(io_error("sync"))?;
                }
                log.durable = log.numbers.sequence - 1;
                log.dirty = false;
            }
            Ok(())
        })
    }

    /// Forgets entries up to `upto`, as far as whole segments hold nothing above it.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn cut(&mut self, upto: Index) -> Result<(), LogError> {
        // A batch not yet durable may have dropped entries that a segment to be removed still has: it
        // must not be lost behind it.
        self.sync()?;
        self.guarded(|log| {
            // Ends: every turn takes a segment out.
            loop {
                let Some(segment) = log.reader.map.write().pop_segment(upto) else { return Ok(()) };
                log.discard(segment).map_err(io_error("cut"))?;
            }
        })
    }

    /// Empties the log; the next entry is the one behind `start`. Durable when it returns; a crash
    /// before leaves the old log.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn reset(&mut self, start: Position) -> Result<(), LogError> {
        self.guarded(|log| {
            log.numbers.commit = log.numbers.commit.max(start.index);
            let (segment, salt) = log.begin_segment(start, true, 0).map_err(io_error("reset"))?;
            log.active = Active { file: segment.file.clone(), salt, offset: FIRST_BATCH, len: segment.len };
            log.buffer = Blocks::default();
            log.durable = log.numbers.sequence - 1;
            log.dirty = false;
            let mut old = log.reader.map.write().reset(start, segment);
            match std::mem::replace(&mut log.next, Next::Missing) {
                Next::Named { segment, .. } | Next::Ready { segment, .. } => old.push_back(segment),
                other => log.next = other,
            }
            // From here on the new segment's mark voids the old ones; recovery finishes this if
            // a crash does not let us.
            old.into_iter().try_for_each(|segment| log.discard(segment)).map_err(io_error("reset"))
        })
    }

    fn guarded(&mut self, work: impl FnOnce(&mut Log) -> Result<(), LogError>) -> Result<(), LogError> {
        if self.failed {
            return Err(LogError::Failed);
        }
        let done = work(self);
        self.failed = done.is_err();
        done
    }

    fn append_all(&mut self, batch: &Batch<'_>, durably: bool) -> Result<(), LogError> {
        let mut next = batch.first;
        let mut batch_first = batch.first;
        self.begin_batch();
        for frames in batch.frames {
            let mut rest = &frames[..];
            while !rest.is_empty() {
                let header = Header::peek(rest).filter(|h| h.frame_bytes <= rest.len());
                let Some(header) = header.filter(|h| h.index == next && next <= batch.last) else {
                    return Err(LogError::Misfit(format!(
                        "no whole record of entry {next} in {}..={}",
                        batch.first, batch.last
                    )));
                };
                let filled = self.buffer.batch().len();
                if filled > BATCH_HEADER_BYTES && filled + header.frame_bytes > BATCH_BYTES_MAX {
                    self.write_batch(batch_first, next.prev(), batch.commit, false)?;
                    self.begin_batch();
                    batch_first = next;
                }
                self.buffer.extend(&rest[..header.frame_bytes]);
                if self.runs.last().is_none_or(|(_, term)| *term != header.term) {
                    self.runs.push((next, header.term));
                }
                rest = &rest[header.frame_bytes..];
                next = next.next();
            }
        }
        if next.prev() != batch.last || next == batch.first {
            return Err(LogError::Misfit(format!(
                "records up to {} for {}..={}",
                next.prev(),
                batch.first,
                batch.last
            )));
        }
        self.write_batch(batch_first, batch.last, batch.commit, durably)
    }

    fn begin_batch(&mut self) {
        self.buffer.clear();
        self.buffer.extend(&[0; BATCH_HEADER_BYTES]);
        self.runs.clear();
    }

    /// Writes the batch whose records are in the buffer, `durably` if that takes no more than its own blocks.
    fn write_batch(&mut self, first: Index, last: Index, commit: Index, durably: bool) -> Result<(), LogError> {
        let (start, end) = {
            let map = self.reader.map.read();
            (map.start, map.last)
        };
        if first <= start.index || first > end.index.next() {
            return Err(LogError::Misfit(format!("entries from {first} on do not continue a log of {start} to {end}")));
        }
        let Some(previous_term) = self.reader.map.read().term_at(first.prev()) else {
            return Err(LogError::Misfit(format!("entry {} is not in the log", first.prev())));
        };
        let Some(bytes) = u32::try_from(self.buffer.batch().len()).ok() else {
            return Err(LogError::Misfit(format!("a batch of {} bytes", self.buffer.batch().len())));
        };
        self.numbers.commit = self.numbers.commit.max(commit);
        if self.active.offset + u64::from(bytes) > self.active.len {
            self.roll(u64::from(bytes))?;
        }
        let header = BatchHeader {
            sequence: self.numbers.sequence,
            durable: self.durable,
            commit: self.numbers.commit.min(last),
            first,
            previous_term,
            bytes: bytes - BATCH_HEADER_BYTES as u32,
            chain: self.numbers.chain,
            body_crc: crc32fast::hash(&self.buffer.batch()[BATCH_HEADER_BYTES..]),
        };
        let chain = header.encode(self.active.salt, self.buffer.batch_mut());
        let offset = self.active.offset;
        self.numbers.sequence += 1;
        self.write_buffer(durably).map_err(io_error("write"))?;
        self.active.offset += u64::from(bytes);
        self.numbers.chain = chain;
        let term = self.runs.last().map_or(previous_term, |(_, term)| *term);
        let mut map = self.reader.map.write();
        if first <= end.index {
            map.truncate(first, previous_term);
        }
        map.push(first, offset, self.active.offset, &self.runs, Position { term, index: last });
        Ok(())
    }

    /// A sync that failed is not tried again: what it lost stays lost, and the next one says nothing of it.
    fn retried(&self, error: io::Error) -> io::Result<()> {
        if bugs::is_on(Bug::SyncErrorRetried) { self.active.file.sync_data() } else { Err(error) }
    }

    /// Writes the batch in the buffer to the active segment.
    fn write_buffer(&mut self, durably: bool) -> io::Result<()> {
        let (offset, bytes) = (self.active.offset, self.buffer.batch().len());
        // What was written through the cache and is not durable yet takes a sync all the same.
        let alone = durably && !self.dirty && !bugs::is_on(Bug::SyncSkipped);
        if alone && (offset + bytes as u64).next_multiple_of(BLOCK_BYTES as u64) <= self.active.len {
            let at = offset - self.buffer.tail_bytes() as u64;
            let done = self.active.file.write_blocks(self.buffer.whole(), at);
            done.or_else(|error| self.retried(error))?;
            self.durable = self.numbers.sequence - 1;
        } else {
            self.dirty = true;
            self.active.file.write_at(self.buffer.batch(), offset)?;
        }
        self.buffer.written(bytes);
        Ok(())
    }

    /// Goes on in a new segment. What is in the old one becomes durable first: that there is a later batch
    /// elsewhere proves it to recovery.
    fn roll(&mut self, batch_bytes: u64) -> Result<(), LogError> {
        if self.dirty && !bugs::is_on(Bug::RollWithoutSync) {
            self.active.file.sync_data().map_err(io_error("sync"))?;
            self.durable = self.numbers.sequence - 1;
            self.dirty = false;
        }
        let (segment, salt) = match std::mem::replace(&mut self.next, Next::Missing) {
            Next::Ready { segment, salt } => (segment, salt),
            Next::Named { segment, salt, .. } => {
                self.disk.sync_folder(&self.folder).map_err(io_error("extend"))?;
                (segment, salt)
            }
            Next::Missing | Next::Refused => self.begin_here(batch_bytes)?,
            making @ Next::Making { .. } => {
                self.next = making;
                self.begin_here(batch_bytes)?
            }
        };
        let len = segment.len.max((FIRST_BATCH + batch_bytes).next_multiple_of(BLOCK_BYTES as u64));
        if len > segment.len {
            segment.file.allocate(len).map_err(io_error("extend"))?;
        }
        let segment = Segment { len, ..segment };
        self.active = Active { file: segment.file.clone(), salt, offset: FIRST_BATCH, len };
        self.buffer.begin_block();
        self.reader.map.write().segments.push_back(segment);
        Ok(())
    }

    /// Makes the next segment while the writers wait.
    fn begin_here(&mut self, batch_bytes: u64) -> Result<(Segment, u64), LogError> {
        let last = self.last();
        self.begin_segment(last, false, batch_bytes).map_err(io_error("extend"))
    }

    /// The size of the next segment made from nothing.
    fn next_len(&self) -> u64 {
        self.active.len.saturating_mul(GROWTH).min(self.segment_bytes)
    }

    /// What is to be done so that the next segment is ready in time; `None` if nothing is for now. At most one is out
    /// at a time: it comes back with [`Log::prepared`].
    pub fn preparation(&mut self) -> Option<Preparation> {
        let enough = self.active.offset - FIRST_BATCH >= self.active.len / PREPARE_FROM;
        let work = match &mut self.next {
            _ if self.failed => return None,
            Next::Missing if enough => {
                let (name, len) = if self.spare { (SPARE, self.segment_bytes) } else { (NEXT, self.next_len()) };
                self.next = Next::Making { spare: self.spare };
                Work::File { name, len, salt: self.disk.draw_id() as u64, filled: 0, file: None }
            }
            Next::Named { segment, asked, .. } if !*asked => {
                *asked = true;
                Work::Name { ordinal: segment.ordinal }
            }
            _ => return None,
        };
        let (disk, folder, lock) = (self.disk.clone(), self.folder.clone(), self.lock.clone());
        Some(Preparation { disk, folder, work, _lock: lock })
    }

    /// Takes a preparation back that was carried out to the end, or failed.
    ///
    /// # Errors
    /// When the names in the folder cannot be relied on any more. That a file could not be made ahead is none.
    pub fn prepared(&mut self, preparation: Preparation, result: io::Result<()>) -> Result<(), LogError> {
        self.guarded(|log| match (preparation.work, std::mem::replace(&mut log.next, Next::Missing), result) {
            (Work::File { .. }, Next::Making { .. }, Err(error)) => {
                tracing::warn!(%error, "the next segment of the log could not be prepared");
                log.next = Next::Refused;
                Ok(())
            }
            (Work::File { name, len, salt, file: Some(file), .. }, Next::Making { spare }, Ok(())) => {
                let ordinal = log.numbers.ordinal;
                let path = log.folder.join(segment_name(ordinal));
                log.disk.rename(&log.folder.join(name), &path).map_err(io_error("extend"))?;
                log.numbers.ordinal += 1;
                log.spare &= !spare;
                let segment = Segment { ordinal, file, used: FIRST_BATCH, len };
                log.next = Next::Named { segment, salt, asked: false };
                Ok(())
            }
            (Work::Name { .. }, _, Err(error)) => Err(io_error("extend")(error)),
            (Work::Name { ordinal }, Next::Named { segment, salt, .. }, Ok(())) if ordinal == segment.ordinal => {
                log.next = Next::Ready { segment, salt };
                Ok(())
            }
            // The log has gone on without it.
            (_, next, _) => {
                log.next = next;
                Ok(())
            }
        })
    }

    fn begin_segment(&mut self, start: Position, reset: bool, batch_bytes: u64) -> io::Result<(Segment, u64)> {
        let header = SegmentHeader {
            prepared: false,
            reset,
            sequence: self.numbers.sequence,
            salt: self.disk.draw_id() as u64,
            start,
            commit: self.numbers.commit.min(start.index),
            chain: self.numbers.chain,
        };
        // Not the spare file that is being prepared.
        let free = self.spare && !matches!(self.next, Next::Making { spare: true });
        let name = if free { SPARE } else { UNNAMED };
        let path = self.folder.join(name);
        let file = if free { self.disk.open(&path)? } else { self.disk.create(&path)? };
        let len = if free { self.segment_bytes } else { self.next_len() };
        file.allocate(len.max(FIRST_BATCH + batch_bytes))?;
        let segment = name_segment(&*self.disk, &self.folder, name, file, self.numbers.ordinal, &header)?;
        self.spare &= !free;
        if matches!(self.next, Next::Refused) {
            self.next = Next::Missing;
        }
        self.numbers.ordinal += 1;
        Ok((segment, header.salt))
    }

    /// Gets rid of a segment that is out of the map: it becomes the spare, or goes.
    ///
    /// A file that was written before is better than a new one: its blocks are on the disk already, so that an
    /// fdatasync has no metadata to write. It is only written over if no reader holds it.
    fn discard(&mut self, segment: Segment) -> io::Result<()> {
        let path = self.folder.join(segment_name(segment.ordinal));
        if !self.spare && segment.len == self.segment_bytes && Arc::strong_count(&segment.file) == 1 {
            self.disk.rename(&path, &self.folder.join(SPARE))?;
            self.spare = true;
        } else {
            self.disk.remove(&path)?;
        }
        // One by one: were a later segment's end durable before an earlier one's, recovery would find a gap.
        self.disk.sync_folder(&self.folder)
    }
}

/// Makes a file a segment: its header is durable before it has its name, and its name before it is used.
fn name_segment(
    disk: &dyn Disk,
    folder: &Path,
    name: &str,
    file: Arc<dyn DiskFile>,
    ordinal: u64,
    header: &SegmentHeader,
) -> io::Result<Segment> {
    file.write_at(&header.encode(), 0)?;
    file.sync_data()?;
    disk.rename(&folder.join(name), &folder.join(segment_name(ordinal)))?;
    disk.sync_folder(folder)?;
    let len = file.len()?;
    Ok(Segment { ordinal, file, used: FIRST_BATCH, len })
}
