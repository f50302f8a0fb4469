//! Term and vote, in a file of their own.
//!
//! A forgotten vote could be cast twice, so the file must survive a crash in the middle of a write, and rot must be
//! noticed. It holds two copies, each in a block of its own, written one after the other with a sync after each. So at
//! any moment one copy is whole, and it is the right one:
//!
//! - the first copy invalid: the crash hit its write, and the second still has the last value that was reported;
//! - the second copy invalid, or older: the first one was durable before the second was touched;
//! - both invalid: no single crash does that. It is damage, and the node becomes a new one.
//!
//! Two syncs of blocks that exist are cheaper than a durable rename, which writes the file system's metadata twice.
//!
//! Before: `wal`. After: `disk`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use quorum::bugs::{self, Bug};
use quorum::{NodeId, Term};

use super::disk::{Disk, DiskFile, replace_small};

/// The file's name.
pub(super) const VOTE: &str = "vote";
const MAGIC: &[u8; 8] = b"qrtVote1";
/// Where the copies begin: no two in one block of the disk.
const COPIES: [u64; 2] = [0, 4096];
/// Magic, number, term, whether a vote was cast, for whom, checksum.
const COPY_BYTES: usize = 8 + 8 + 8 + 8 + 16 + 4;

/// The file, and what it holds.
#[derive(Debug)]
pub struct VoteFile {
    file: Arc<dyn DiskFile>,
    copy: Copied,
    failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Copied {
    /// Grows with every save.
    number: u64,
    term: Term,
    voted_for: Option<NodeId>,
}

/// Why the file cannot be used.
#[derive(Debug)]
pub(super) enum VoteError {
    Damaged(&'static str),
    Io(io::Error),
}

impl From<io::Error> for VoteError {
    fn from(error: io::Error) -> VoteError {
        VoteError::Io(error)
    }
}

impl VoteFile {
    /// Makes the file: term 0, no vote.
    pub(super) fn format(disk: &dyn Disk, folder: &Path) -> io::Result<VoteFile> {
        let copy = Copied { number: 0, term: Term(0), voted_for: None };
        let mut bytes = vec![0; COPIES[1] as usize + COPY_BYTES];
        for at in COPIES {
            bytes[at as usize..][..COPY_BYTES].copy_from_slice(&copy.encode());
        }
        replace_small(disk, folder, VOTE, &bytes)?;
        Ok(VoteFile { file: disk.open(&folder.join(VOTE))?, copy, failed: false })
    }

    /// Reads the file, and writes the valid copy over the other where they differ.
    pub(super) fn recover(disk: &dyn Disk, folder: &Path) -> Result<VoteFile, VoteError> {
        let file = match disk.open(&folder.join(VOTE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(VoteError::Damaged("the file with the vote is missing"));
            }
            other => other?,
        };
        let copies = [read_copy(&*file, COPIES[0])?, read_copy(&*file, COPIES[1])?];
        let newest = copies.iter().flatten().max_by_key(|c| c.number);
        let Some(copy) = newest.copied() else { return Err(VoteError::Damaged("the file with the vote is damaged")) };
        let mut vote = VoteFile { file, copy, failed: false };
        // Always, even where both agree: what was read may have come from the system's memory and not from the disk.
        // The damaged copy first, so that there is a whole one throughout.
        let first = usize::from(copies[0] == Some(copy));
        for at in [COPIES[first], COPIES[1 - first]] {
            vote.write_copy(at)?;
        }
        Ok(vote)
    }

    /// The term last saved.
    #[must_use]
    pub fn term(&self) -> Term {
        self.copy.term
    }

    /// The vote last saved.
    #[must_use]
    pub fn voted_for(&self) -> Option<NodeId> {
        self.copy.voted_for
    }

    /// Saves term and vote; durable when it returns.
    ///
    /// # Errors
    /// When the disk fails; every later call then fails, too.
    pub fn save(&mut self, term: Term, voted_for: Option<NodeId>) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("the file with the vote failed before"));
        }
        self.copy = Copied { number: self.copy.number + 1, term, voted_for };
        COPIES.into_iter().try_for_each(|at| self.write_copy(at))
    }

    fn write_copy(&mut self, at: u64) -> io::Result<()> {
        let sync = || if bugs::is_on(Bug::VoteNotSynced) { Ok(()) } else { self.file.sync_data() };
        let done = self.file.write_at(&self.copy.encode(), at).and_then(|()| sync());
        self.failed = done.is_err();
        done
    }
}

fn read_copy(file: &dyn DiskFile, at: u64) -> io::Result<Option<Copied>> {
    let mut bytes = [0; COPY_BYTES];
    let read = file.read_at(&mut bytes, at)?;
    Ok((read == COPY_BYTES).then(|| Copied::decode(&bytes)).flatten())
}

impl Copied {
    fn encode(&self) -> [u8; COPY_BYTES] {
        let mut out = [0; COPY_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..16].copy_from_slice(&self.number.to_le_bytes());
        out[16..24].copy_from_slice(&self.term.0.to_le_bytes());
        out[24] = u8::from(self.voted_for.is_some());
        out[32..48].copy_from_slice(&self.voted_for.map_or(0, |id| id.0).to_le_bytes());
        let crc = crc32fast::hash(&out[..48]);
        out[48..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; COPY_BYTES]) -> Option<Copied> {
        let crc = crc32fast::hash(&bytes[..48]);
        if &bytes[..8] != MAGIC || bytes[48..] != crc.to_le_bytes() {
            return None;
        }
        Some(Copied {
            number: u64::from_le_bytes(*bytes[8..].first_chunk()?),
            term: Term(u64::from_le_bytes(*bytes[16..].first_chunk()?)),
            voted_for: (bytes[24] != 0)
                .then(|| bytes[32..].first_chunk().map(|id| NodeId(u128::from_le_bytes(*id))))
                .flatten(),
        })
    }
}
