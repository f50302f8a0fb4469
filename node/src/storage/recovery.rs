//! Opening a node's folder: who it is, what it voted, what its log holds; and what to do when some of that is damaged.
//!
//! The log is read once, in order, in large pieces. Reading stops at the first batch that is not whole or does not
//! continue the chain, and one question decides: *was that batch ever durable?* A later segment proves it (a log syncs
//! before it goes on in a new file), and so does the header of any later batch that says so.
//!
//! - Not proven: a torn tail. Nothing in it was ever reported durable (or it is rot of the very last batch, which
//!   cannot be told apart). It is cut off, and physically, so that its remains cannot be taken for something later.
//! - Proven: corruption. The node has forgotten what it promised, so it must not vote or count under its old name.
//!   Everything is set aside, and the folder is formatted for a *new* node, which still knows its cluster and where its
//!   peers were. The same when the vote is damaged.
//!
//! What is valid but not proven durable is written once more and synced before anyone relies on it: after a failed sync
//! the system may show bytes that its disk never got, and a sync of bytes that it takes for written does nothing.
//!
//! Before: `node`, which starts. After: `driver` and `wal`, which get the parts.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorum::bugs::{self, Bug};
use quorum::{Head, Index, NodeId, Position, Term};

use super::disk::{Disk, DiskFile, FolderLock};
use super::log::{Active, Log, Numbers, SPARE, UNNAMED, segment_name, segment_ordinal};
use super::map::{LogMap, Segment};
use super::meta::{Body, Found, META, Meta, MetaError};
use super::prepare::NEXT;
use super::record::{Header, RecordError};
use super::segment::{
    BATCH_HEADER_BYTES, BATCH_MAGIC, BatchHeader, FIRST_BATCH, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentHeaderError,
};
use super::vote::{VOTE, VoteError, VoteFile};
use crate::options::Limits;

/// How much is read at once: large enough that the calls do not count, small enough for six nodes in one process.
const READ_BYTES: usize = 1 << 20;
/// Folders of one kind that are kept; beyond it the oldest goes. Enough to look at what happened, and bounded.
const ASIDE_MAX: usize = 3;
const LOCK: &str = "lock";
const STORE: &str = "store";

/// What [`open`] found.
#[derive(Debug)]
pub struct Opened {
    /// Who this node is.
    pub meta: Meta,
    /// The file with the vote, for [`super::Wal::start`].
    pub vote: VoteFile,
    /// The term last saved.
    pub term: Term,
    /// The vote last saved.
    pub voted_for: Option<NodeId>,
    /// What precedes the first entry of the log.
    pub start: Position,
    /// The heads of every entry behind `start`.
    pub heads: Vec<Head>,
    /// The highest commit index the log knows of.
    pub commit: Index,
    /// The log, for [`super::Wal::start`].
    pub log: Log,
    /// The engine's folder. Not made here.
    pub store_dir: PathBuf,
    /// Why this node became a new one, if it did.
    pub renewed: Option<String>,
}

/// Why a folder cannot be used. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Someone else has the lock.
    #[error("another process uses {0}: stop it, or choose another data directory")]
    Locked(PathBuf),
    /// Written by another version of the program. Nothing was touched.
    #[error("{what} in {folder} cannot be read by this version of quorate ({why}): start the version that wrote it")]
    Unsupported {
        /// Which file.
        what: &'static str,
        /// The folder.
        folder: PathBuf,
        /// In which way.
        why: String,
    },
    /// The disk fails.
    #[error("cannot use {folder}: {source}")]
    Io {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why what is there cannot be used as it is.
#[derive(Debug)]
enum Trouble {
    Damage(String),
    Unsupported(&'static str, String),
    Io(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

/// Opens a node's folder, making it if it is not there. The folder stays locked until both the log and
/// the identity are dropped.
///
/// # Errors
/// When it is in use, was written by another version, or the disk fails. Damage is no error: the node becomes a new
/// one, see [`Opened::renewed`].
pub fn open(dir: &Path, disk: Arc<dyn Disk>, limits: &Limits) -> Result<Opened, OpenError> {
    let io = |source| OpenError::Io { folder: dir.to_owned(), source };
    disk.create_folder(dir).map_err(io)?;
    let lock = disk.lock(&dir.join(LOCK)).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked(dir.to_owned()),
        _ => io(error),
    })?;
    let folder = Folder { disk, dir: dir.to_owned(), lock, segment_bytes: limits.segment_bytes.max(FIRST_BATCH * 2) };
    folder.open().map_err(|trouble| match trouble {
        Trouble::Io(source) => io(source),
        Trouble::Unsupported(what, why) => OpenError::Unsupported { what, folder: dir.to_owned(), why },
        // Damage was dealt with inside; were it to come back from a folder just formatted, the disk is at fault.
        Trouble::Damage(why) => io(io::Error::other(why)),
    })
}

struct Folder {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    lock: Arc<dyn FolderLock>,
    segment_bytes: u64,
}

impl Folder {
    fn open(&self) -> Result<Opened, Trouble> {
        let (old, why) = match Body::load(&*self.disk, &self.dir)? {
            Found::Version(version) => {
                return Err(Trouble::Unsupported("the node's identity", format!("format version {version}")));
            }
            Found::Body(body) if body.incarnation > 0 => match self.recover(&body) {
                Err(Trouble::Damage(why)) => (Some(body), why),
                other => return other,
            },
            // Formatting (or setting aside) was interrupted: nothing was promised under this id yet.
            Found::Body(body) => return self.format(body, None),
            Found::Nothing if !self.contents()?.iter().any(|name| is_known(name)) => {
                return self.format(self.new_body(None), None);
            }
            Found::Nothing => (None, "the file with the node's identity is missing".to_owned()),
            Found::Damaged => (None, "the file with the node's identity is damaged".to_owned()),
        };
        tracing::error!(folder = %self.dir.display(), why, "data is damaged: it is set aside, and this node becomes a new one and joins again");
        // The new identity first: from here on a crash leads to formatting, never back to the old name. The old file
        // goes along for whoever looks into this later.
        let aside = new_aside(&*self.disk, &self.dir, Aside::Damaged)?;
        if let Ok(file) = self.disk.open(&self.dir.join(META)) {
            let mut bytes = vec![0; READ_BYTES];
            let read = file.read_at(&mut bytes, 0)?;
            self.disk.create(&aside.join(META))?.write_at(&bytes[..read], 0)?;
        }
        let body = self.new_body(old);
        body.save(&*self.disk, &self.dir)?;
        move_aside(&*self.disk, &self.dir, &aside, &self.contents()?)?;
        self.format(body, Some(why))
    }

    fn new_body(&self, old: Option<Body>) -> Body {
        let same = old.as_ref().filter(|_| bugs::is_on(Bug::DamagedKeepsIdentity)).map(|o| o.id);
        let id = same.unwrap_or_else(|| NodeId(self.disk.draw_id()));
        let (cluster, known_peers) = old.map(|o| (o.cluster, o.known_peers)).unwrap_or_default();
        Body { id, cluster, incarnation: 0, known_peers }
    }

    /// Everything of the node's that is neither its lock nor its identity.
    fn contents(&self) -> io::Result<Vec<String>> {
        let mut names = ours(&*self.disk, &self.dir)?;
        names.retain(|name| name != META && name != "meta.tmp");
        Ok(names)
    }

    /// Makes vote and log for an identity that has not been used yet.
    fn format(&self, body: Body, renewed: Option<String>) -> Result<Opened, Trouble> {
        body.save(&*self.disk, &self.dir)?;
        let leftovers = self.contents()?;
        if leftovers.iter().any(|name| is_known(name)) {
            let aside = new_aside(&*self.disk, &self.dir, Aside::Damaged)?;
            move_aside(&*self.disk, &self.dir, &aside, &leftovers)?;
        }
        let vote = VoteFile::format(&*self.disk, &self.dir)?;
        let log = Log::format(self.disk.clone(), &self.dir, self.segment_bytes, Some(self.lock.clone()))?;
        let recovered = Recovered { log, heads: Vec::new(), start: Position::default(), commit: Index(0) };
        self.opened(&body, vote, recovered, renewed)
    }

    fn recover(&self, body: &Body) -> Result<Opened, Trouble> {
        let vote = VoteFile::recover(&*self.disk, &self.dir).map_err(|error| match error {
            VoteError::Damaged(why) => Trouble::Damage(why.to_owned()),
            VoteError::Io(error) => Trouble::Io(error),
        })?;
        let recovered = recover_log(&self.disk, &self.dir, self.segment_bytes, &self.lock)?;
        let last = recovered.log.last();
        if last.term > vote.term() {
            // The term is saved before anything is written in it. So the file is an older one, and
            // a vote may be forgotten.
            return Err(Trouble::Damage(format!(
                "the saved term {} is older than the log's last entry {last}",
                vote.term()
            )));
        }
        // Peers are written down when a configuration is durable (a new identity has them from its old one): what looks
        // like a torn first batch was durable then.
        let empty = last == Position::default();
        if empty && !body.known_peers.is_empty() && !was_set_aside(&*self.disk, &self.dir, Aside::Damaged) {
            return Err(Trouble::Damage("the log is empty, but this node has belonged to a cluster".to_owned()));
        }
        self.opened(body, vote, recovered, None)
    }

    fn opened(
        &self,
        body: &Body,
        vote: VoteFile,
        recovered: Recovered,
        renewed: Option<String>,
    ) -> Result<Opened, Trouble> {
        let Recovered { log, heads, start, commit } = recovered;
        let mut meta = Meta::new(self.disk.clone(), &self.dir, body.clone(), Some(self.lock.clone()));
        meta.change(|body| body.incarnation += 1).map_err(|error| match error {
            MetaError::Io(error) => Trouble::Io(error),
            other @ MetaError::OtherCluster { .. } => Trouble::Io(io::Error::other(other)),
        })?;
        let (term, voted_for) = (vote.term(), vote.voted_for());
        let store_dir = self.dir.join(STORE);
        Ok(Opened { meta, vote, term, voted_for, start, heads, commit, log, store_dir, renewed })
    }
}

/// Why a node's data is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aside {
    /// It is damaged.
    Damaged,
    /// The node was removed from its cluster.
    Removed,
}

impl Aside {
    fn prefix(self) -> &'static str {
        match self {
            Aside::Damaged => "damaged-",
            Aside::Removed => "removed-",
        }
    }
}

/// Moves everything a node has in `dir` into a folder of its own below, which is returned. The next [`open`] formats a
/// blank node. Log and engine must be closed.
///
/// # Errors
/// When the disk fails; called again, it goes on.
pub fn set_aside(disk: &dyn Disk, dir: &Path, why: Aside) -> io::Result<PathBuf> {
    let mut names = ours(disk, dir)?;
    let aside = new_aside(disk, dir, why)?;
    // The identity goes first: with anything else missing under it, the next start would take this for damage and
    // stay bound to the cluster.
    names.sort_by_key(|name| name != META);
    move_aside(disk, dir, &aside, &names)?;
    Ok(aside)
}

/// Gives up the vote and with it the identity: the next [`open`] finds damage and makes this a new node of its cluster.
/// For a node that learns from others that its disk has lost what it confirmed. Log and engine must be closed.
///
/// # Errors
/// When the disk fails.
pub fn renounce(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    disk.remove(&dir.join(VOTE))?;
    disk.sync_folder(dir)
}

/// Whether the data of a node with an identity was ever set aside here for this reason. (What an interrupted formatting
/// leaves behind has none.)
#[must_use]
pub fn was_set_aside(disk: &dyn Disk, dir: &Path, why: Aside) -> bool {
    let names = disk.list(dir).unwrap_or_default();
    let mut asides = names.iter().filter(|name| aside_number(name, why).is_some());
    asides.any(|name| disk.open(&dir.join(name).join(META)).is_ok())
}

/// The names in the folder but the lock, what was set aside before, and what belongs to the file system or is hidden.
fn ours(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<String>> {
    let mut names = disk.list(dir)?;
    let aside = |name: &str| [Aside::Damaged, Aside::Removed].iter().any(|why| aside_number(name, *why).is_some());
    names.retain(|name| name != LOCK && name != "lost+found" && !name.starts_with('.') && !aside(name));
    names.sort();
    Ok(names)
}

/// Whether a name says that a node has lived here: anything else in a folder does not keep it from being formatted.
fn is_known(name: &str) -> bool {
    [META, STORE, VOTE, SPARE].contains(&name) || segment_ordinal(name).is_some()
}

fn aside_number(name: &str, why: Aside) -> Option<u64> {
    name.strip_prefix(why.prefix())?.parse().ok()
}

/// Makes the next folder of its kind, and removes the oldest if there are too many.
fn new_aside(disk: &dyn Disk, dir: &Path, why: Aside) -> io::Result<PathBuf> {
    let mut numbers: Vec<u64> = disk.list(dir)?.iter().filter_map(|name| aside_number(name, why)).collect();
    numbers.sort_unstable();
    let path = dir.join(format!("{}{}", why.prefix(), numbers.last().map_or(1, |n| n.saturating_add(1))));
    disk.create_folder(&path)?;
    for number in numbers.iter().rev().skip(ASIDE_MAX - 1) {
        disk.remove(&dir.join(format!("{}{number}", why.prefix())))?;
    }
    Ok(path)
}

fn move_aside(disk: &dyn Disk, dir: &Path, aside: &Path, names: &[String]) -> io::Result<()> {
    for name in names {
        disk.rename(&dir.join(name), &aside.join(name))?;
        if name == META {
            disk.sync_folder(dir)?;
        }
    }
    disk.sync_folder(aside)?;
    disk.sync_folder(dir)
}

struct Recovered {
    log: Log,
    heads: Vec<Head>,
    start: Position,
    commit: Index,
}

/// What is known while the log is read.
struct Scan {
    map: LogMap,
    heads: Vec<Head>,
    commit: Index,
    /// The sequence number expected next.
    sequence: u64,
    chain: u32,
    /// The highest sequence number that some header proves durable.
    proven: u64,
    /// Where the batches of the current segment begin that are not proven durable yet.
    unproven: VecDeque<(u64, u64)>,
}

fn recover_log(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    segment_bytes: u64,
    lock: &Arc<dyn FolderLock>,
) -> Result<Recovered, Trouble> {
    let names = disk.list(dir)?;
    for unfinished in [UNNAMED, NEXT] {
        if names.iter().any(|n| n == unfinished) {
            disk.remove(&dir.join(unfinished))?;
        }
    }
    let mut spare = names.iter().any(|n| n == SPARE) && keep_spare(&**disk, dir, segment_bytes)?;
    let segments = segments(&**disk, dir, &names)?;
    let Some((oldest, header, name)) = segments.front() else {
        return Err(Trouble::Damage("the log is missing".to_owned()));
    };
    let first = if header.prepared { first_of_prepared(oldest, header, name)? } else { *header };
    let newest = segments.back().map_or(0, |(segment, ..)| segment.ordinal);
    let mut scan = Scan {
        map: LogMap::new(first.start),
        heads: Vec::new(),
        commit: first.commit,
        sequence: first.sequence,
        chain: first.chain,
        proven: first.sequence - 1,
        unproven: VecDeque::new(),
    };
    let (mut tail, mut not_begun) = (None, Vec::new());
    for (segment, header, name) in segments {
        let follows = header.sequence == scan.sequence && header.chain == scan.chain && header.start == scan.map.last;
        let mut window = Window::new(segment.file.clone(), segment.len);
        let before = scan.sequence;
        scan.begin(segment.clone(), &header);
        let end = if header.prepared || follows { scan.batches(&mut window, header.salt)? } else { FIRST_BATCH };
        let begun = !header.prepared || scan.sequence > before;
        if !begun {
            // It was made ahead. A torn first batch counts as none; one that was durable before is
            // missed by those behind it.
            scan.check_tail(&mut window, end, header.salt)?;
            scan.map.segments.pop_back();
            not_begun.push((name, segment.len));
            continue;
        }
        if !(header.prepared || follows) || !not_begun.is_empty() {
            let missing = format!("batch {before} of the log was durable and is damaged or missing before {name}");
            return Err(Trouble::Damage(missing));
        }
        // That the log went on here proves everything before.
        scan.unproven.retain(|(sequence, _)| *sequence >= before);
        tail = Some((segment, header.salt, end, window));
    }
    let Some((segment, salt, end, mut window)) = tail else {
        return Err(Trouble::Damage("the log is missing".to_owned()));
    };
    scan.check_tail(&mut window, end, salt)?;
    for (name, len) in not_begun {
        // With a new salt it serves as well as any, whatever is left in it.
        if !spare && len == segment_bytes {
            disk.rename(&dir.join(name), &dir.join(SPARE))?;
            spare = true;
        } else {
            disk.remove(&dir.join(name))?;
        }
    }
    scan.make_durable(&*segment.file, end, segment.len)?;
    // The names, too, may be in the system's memory only.
    disk.sync_folder(dir)?;
    let numbers = Numbers { sequence: scan.sequence, chain: scan.chain, ordinal: newest + 1, commit: scan.commit };
    let active = Active { file: segment.file, salt, offset: end, len: segment.len };
    let (start, heads) = (scan.map.start, scan.heads);
    // What lies before the first entry was cut or came as a snapshot: committed either way.
    let commit = scan.commit.max(start.index).min(scan.map.last.index);
    assert!(heads.len() as u64 == scan.map.last.index.0 - start.index.0, "as many heads as entries");
    let log = Log::recovered(disk.clone(), dir, segment_bytes, scan.map, active, numbers, spare, Some(lock.clone()))?;
    Ok(Recovered { log, heads, start, commit })
}

/// What the header of the oldest segment would say, had it not been written ahead: its first batch does. It was durable
/// before anything older was cut.
fn first_of_prepared(segment: &Segment, header: &SegmentHeader, name: &str) -> Result<SegmentHeader, Trouble> {
    let mut bytes = [0; BATCH_HEADER_BYTES];
    let read = segment.file.read_at(&mut bytes, FIRST_BATCH)?;
    let batch = BatchHeader::decode(&bytes[..read], header.salt).map(|(batch, _)| batch);
    let Some(batch) = batch.filter(|b| b.sequence > 0 && b.first > Index(0)) else {
        return Err(Trouble::Damage(format!("the first batch of {name} is damaged")));
    };
    let start = Position { term: batch.previous_term, index: batch.first.prev() };
    Ok(SegmentHeader { sequence: batch.sequence, chain: batch.chain, start, ..*header })
}

/// Whether the spare file can serve; it goes if not.
fn keep_spare(disk: &dyn Disk, dir: &Path, segment_bytes: u64) -> io::Result<bool> {
    let path = dir.join(SPARE);
    let fits = disk.open(&path)?.len()? == segment_bytes;
    if !fits {
        disk.remove(&path)?;
    }
    Ok(fits)
}

type Listed = (Segment, SegmentHeader, String);

/// The segments that count, oldest first, with their headers. What a reset made void is removed.
fn segments(disk: &dyn Disk, dir: &Path, names: &[String]) -> Result<VecDeque<Listed>, Trouble> {
    let mut ordinals: Vec<u64> = names.iter().filter_map(|name| segment_ordinal(name)).collect();
    ordinals.sort_unstable();
    let mut listed = VecDeque::new();
    // Newest first: nothing before a reset is looked at, damaged or not.
    while let Some(ordinal) = ordinals.pop() {
        let name = segment_name(ordinal);
        let file = disk.open(&dir.join(&name))?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = file.read_at(&mut bytes, 0)?;
        let header = SegmentHeader::decode(&bytes[..read]).map_err(|error| match error {
            // A segment has its name only once its header is durable.
            SegmentHeaderError::Damaged => Trouble::Damage(format!("the header of {name} is damaged")),
            SegmentHeaderError::Version(v) => Trouble::Unsupported("the log", format!("format version {v} of {name}")),
        })?;
        let len = file.len()?;
        if (header.sequence == 0 && !header.prepared) || len < FIRST_BATCH {
            return Err(Trouble::Damage(format!("{name} is too short")));
        }
        listed.push_front((Segment { ordinal, file, used: FIRST_BATCH, len }, header, name));
        if header.reset {
            break;
        }
    }
    for void in ordinals {
        disk.remove(&dir.join(segment_name(void)))?;
    }
    Ok(listed)
}

impl Scan {
    fn begin(&mut self, segment: Segment, header: &SegmentHeader) {
        self.map.segments.push_back(segment);
        self.commit = self.commit.max(header.commit);
        self.proven = self.proven.max(header.sequence.saturating_sub(1));
    }

    /// Takes in the batches of a segment as far as they are whole; returns where they end.
    fn batches(&mut self, window: &mut Window, salt: u64) -> Result<u64, Trouble> {
        let mut offset = FIRST_BATCH;
        loop {
            let Some((header, chain)) =
                window.get(offset, BATCH_HEADER_BYTES)?.and_then(|bytes| BatchHeader::decode(bytes, salt))
            else {
                return Ok(offset);
            };
            if header.sequence != self.sequence || header.chain != self.chain {
                return Ok(offset);
            }
            let end = offset + BATCH_HEADER_BYTES as u64 + u64::from(header.bytes);
            if bugs::is_on(Bug::TornTailCutTooFar) && !window.begins_batch(end, salt)? {
                return Ok(offset);
            }
            let Some(body) = window.get(offset + BATCH_HEADER_BYTES as u64, header.bytes as usize)? else {
                return Ok(offset);
            };
            if crc32fast::hash(body) != header.body_crc {
                return Ok(offset);
            }
            self.batch(&header, body, offset, end)?;
            self.sequence += 1;
            self.chain = chain;
            offset = end;
        }
    }

    fn batch(&mut self, header: &BatchHeader, body: &[u8], offset: u64, end: u64) -> Result<(), Trouble> {
        let inconsistent = |what: &str| Trouble::Damage(format!("batch {} of the log {what}", header.sequence));
        if header.first > self.map.last.index.next() || header.first == Index(0) {
            return Err(inconsistent("leaves a gap"));
        }
        if header.first <= self.map.last.index {
            let kept = header.first.0.saturating_sub(self.map.start.index.0 + 1);
            self.heads.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
            self.map.truncate(header.first, header.previous_term);
        }
        let mut rest = body;
        let mut last = self.map.last;
        let mut runs: Vec<(Index, Term)> = Vec::new();
        while !rest.is_empty() {
            let record = Header::peek(rest).filter(|r| r.frame_bytes <= rest.len() && r.index == last.index.next());
            let Some(record) = record else { return Err(inconsistent("holds something else than its entries")) };
            // The batch's checksum vouches for the bytes: what cannot be read was written by someone who knows more.
            let unsupported = |e: RecordError| Trouble::Unsupported("the log", e.to_string());
            self.heads.push(record.head(&rest[..record.frame_bytes]).map_err(unsupported)?);
            last = Position { term: record.term, index: record.index };
            if runs.last().is_none_or(|(_, term)| *term != record.term) {
                runs.push((record.index, record.term));
            }
            rest = &rest[record.frame_bytes..];
        }
        self.map.push(header.first, offset, end, &runs, last);
        self.commit = self.commit.max(header.commit);
        self.proven = self.proven.max(header.durable);
        self.unproven.push_back((header.sequence, offset));
        while self.unproven.front().is_some_and(|(sequence, _)| *sequence <= self.proven) {
            self.unproven.pop_front();
        }
        Ok(())
    }

    /// Looks behind the end for a header that proves the missing batch durable.
    fn check_tail(&self, window: &mut Window, end: u64, salt: u64) -> Result<(), Trouble> {
        if bugs::is_on(Bug::DamageTakenForTornTail) {
            return Ok(());
        }
        let mut offset = end;
        // Ends: the offset grows with every turn, up to the length of the file.
        while let Some(bytes) = window.some(offset, BATCH_HEADER_BYTES)? {
            let Some(at) = memchr::memmem::find(bytes, BATCH_MAGIC) else {
                // The magic itself may lie across the end of what was looked at.
                offset += (bytes.len() - (BATCH_MAGIC.len() - 1)) as u64;
                continue;
            };
            offset += at as u64;
            let header = window.get(offset, BATCH_HEADER_BYTES)?.and_then(|b| BatchHeader::decode(b, salt));
            if let Some((header, _)) = header.filter(|(h, _)| h.durable >= self.sequence) {
                return Err(Trouble::Damage(format!(
                    "batch {} of the log is damaged, and batch {} says that it was durable",
                    self.sequence, header.sequence
                )));
            }
            offset += 1;
        }
        Ok(())
    }

    /// Leaves nothing behind `end`, and everything before it durable for certain.
    fn make_durable(&self, file: &dyn DiskFile, end: u64, len: u64) -> io::Result<()> {
        let mut at = self.unproven.front().map_or(end, |(_, offset)| *offset);
        let mut buffer = vec![0; READ_BYTES.min(usize::try_from(end - at).unwrap_or(READ_BYTES))];
        while at < end {
            let want = buffer.len().min(usize::try_from(end - at).unwrap_or(READ_BYTES));
            let read = file.read_at(&mut buffer[..want], at)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file.write_at(&buffer[..read], at)?;
            at += read as u64;
        }
        // Written over rather than cut off: blocks that were written once stay the cheaper ones to write to.
        buffer.resize(READ_BYTES, 0);
        let zeros = vec![0; READ_BYTES];
        while at < len {
            let want = READ_BYTES.min(usize::try_from(len - at).unwrap_or(READ_BYTES));
            let read = file.read_at(&mut buffer[..want], at)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if buffer[..read] != zeros[..read] {
                file.write_at(&zeros[..read], at)?;
            }
            at += read as u64;
        }
        file.sync_data()
    }
}

/// A file read in order, in large pieces.
struct Window {
    file: Arc<dyn DiskFile>,
    len: u64,
    base: u64,
    buffer: Vec<u8>,
}

impl Window {
    fn new(file: Arc<dyn DiskFile>, len: u64) -> Window {
        Window { file, len, base: 0, buffer: Vec::new() }
    }

    /// The bytes at a place; `None` if the file ends before.
    fn get(&mut self, offset: u64, bytes: usize) -> io::Result<Option<&[u8]>> {
        Ok(self.some(offset, bytes)?.map(|found| &found[..bytes]))
    }

    /// Whether the header of a batch is at a place.
    fn begins_batch(&mut self, offset: u64, salt: u64) -> io::Result<bool> {
        Ok(self.get(offset, BATCH_HEADER_BYTES)?.and_then(|bytes| BatchHeader::decode(bytes, salt)).is_some())
    }

    /// At least `bytes` at a place, and as many more as are in memory anyway.
    fn some(&mut self, offset: u64, bytes: usize) -> io::Result<Option<&[u8]>> {
        if offset.saturating_add(bytes as u64) > self.len {
            return Ok(None);
        }
        let held = self.base..self.base + self.buffer.len() as u64;
        if !(held.contains(&offset) && offset + bytes as u64 <= held.end) {
            let want = usize::try_from((self.len - offset).min(bytes.max(READ_BYTES) as u64)).unwrap_or(bytes);
            self.buffer.resize(want, 0);
            let read = self.file.read_at(&mut self.buffer, offset)?;
            self.buffer.truncate(read);
            self.base = offset;
        }
        let at = usize::try_from(offset - self.base).unwrap_or(usize::MAX);
        Ok(self.buffer.get(at..).filter(|found| found.len() >= bytes))
    }
}
