//! The two headers inside a file of the log: of the segment, and of each batch.
//!
//! A segment is a file whose blocks were written beforehand. Its first page holds the segment header alone; from
//! [`FIRST_BATCH`] on batches follow each other without a gap, and whatever lies behind the last one (zeros, or the
//! remains of a file that is used again) must never pass for a batch:
//!
//! - the checksum of a batch header covers the segment's *salt*, drawn anew whenever a file becomes a segment;
//! - it covers the batch's *sequence number*, which grows by one over the life of the log;
//! - and the checksum of the batch before (the *chain*), so that a batch only ever continues the very log
//!   it was written behind.
//!
//! The header is checked apart from the records, so that what it says of the past counts as evidence even where its own
//! records are torn. Little endian throughout. This module only turns bytes into fields and back.

use quorum::{Index, Position, Term};

/// Where the first batch of a segment begins: the header has a page of its own, which no later write touches.
pub(super) const FIRST_BATCH: u64 = 4096;
/// Bytes of a segment header.
pub(super) const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of a batch header.
pub(super) const BATCH_HEADER_BYTES: usize = 64;
/// What a batch begins with, and what recovery searches for behind damage.
pub(super) const BATCH_MAGIC: &[u8; 8] = b"qrtBatch";

const SEGMENT_MAGIC: &[u8; 8] = b"qrtLogSg";
const VERSION: u16 = 1;
const FLAG_RESET: u16 = 1;
const FLAG_PREPARED: u16 = 2;

/// What a segment begins with. Durable before the segment gets its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Written ahead, when only the salt was known: the first batch says what the other fields would.
    pub prepared: bool,
    /// Everything before this segment is void: the log was replaced by a snapshot.
    pub reset: bool,
    /// The sequence number of its first batch.
    pub sequence: u64,
    /// Under the checksum of each of its batches.
    pub salt: u64,
    /// The end of the log when the segment was begun: what precedes its first entry.
    pub start: Position,
    /// The commit index then known.
    pub commit: Index,
    /// The checksum of the last batch before it.
    pub chain: u32,
}

/// Why a segment header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SegmentHeaderError {
    /// The bytes are not what was written.
    Damaged,
    /// Written by another version of the program.
    Version(u16),
}

impl SegmentHeader {
    pub(super) fn prepared(salt: u64) -> SegmentHeader {
        let start = Position::default();
        SegmentHeader { prepared: true, reset: false, sequence: 0, salt, start, commit: Index(0), chain: 0 }
    }

    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[..8].copy_from_slice(SEGMENT_MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        let flags = (u16::from(self.reset) * FLAG_RESET) | (u16::from(self.prepared) * FLAG_PREPARED);
        out[10..12].copy_from_slice(&flags.to_le_bytes());
        put_u64(&mut out, 16, self.sequence);
        put_u64(&mut out, 24, self.salt);
        put_u64(&mut out, 32, self.start.term.0);
        put_u64(&mut out, 40, self.start.index.0);
        put_u64(&mut out, 48, self.commit.0);
        put_u32(&mut out, 56, self.chain);
        let crc = crc32fast::hash(&out[..60]);
        put_u32(&mut out, 60, crc);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<SegmentHeader, SegmentHeaderError> {
        let Some(bytes) = bytes.first_chunk::<SEGMENT_HEADER_BYTES>() else { return Err(SegmentHeaderError::Damaged) };
        if &bytes[..8] != SEGMENT_MAGIC || crc32fast::hash(&bytes[..60]) != get_u32(bytes, 60) {
            return Err(SegmentHeaderError::Damaged);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(SegmentHeaderError::Version(version));
        }
        let flags = u16::from_le_bytes([bytes[10], bytes[11]]);
        Ok(SegmentHeader {
            prepared: flags & FLAG_PREPARED != 0,
            reset: flags & FLAG_RESET != 0,
            sequence: get_u64(bytes, 16),
            salt: get_u64(bytes, 24),
            start: Position { term: Term(get_u64(bytes, 32)), index: Index(get_u64(bytes, 40)) },
            commit: Index(get_u64(bytes, 48)),
            chain: get_u32(bytes, 56),
        })
    }
}

/// What precedes the records of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    /// Its number in the life of the log.
    pub sequence: u64,
    /// The highest sequence number known durable before this batch was written: what tells rot from a torn tail.
    pub durable: u64,
    /// The commit index then known.
    pub commit: Index,
    /// The index of its first entry. At or below the end of the log it drops what the log holds from there on.
    pub first: Index,
    /// The term of the entry before the first.
    pub previous_term: Term,
    /// The bytes of its records.
    pub bytes: u32,
    /// The checksum of the batch before.
    pub chain: u32,
    /// The checksum of the records.
    pub body_crc: u32,
}

impl BatchHeader {
    /// Writes the header into the first bytes of `out` and returns its checksum: the next batch's chain.
    pub(super) fn encode(&self, salt: u64, out: &mut [u8]) -> u32 {
        out[..8].copy_from_slice(BATCH_MAGIC);
        put_u64(out, 8, self.sequence);
        put_u64(out, 16, self.durable);
        put_u64(out, 24, self.commit.0);
        put_u64(out, 32, self.first.0);
        put_u64(out, 40, self.previous_term.0);
        put_u32(out, 48, self.bytes);
        put_u32(out, 52, self.chain);
        put_u32(out, 56, self.body_crc);
        let crc = salted(salt, &out[..60]);
        put_u32(out, 60, crc);
        crc
    }

    /// The header and its checksum, if these bytes are one of this segment's.
    pub(super) fn decode(bytes: &[u8], salt: u64) -> Option<(BatchHeader, u32)> {
        let bytes = bytes.first_chunk::<BATCH_HEADER_BYTES>()?;
        let crc = get_u32(bytes, 60);
        if &bytes[..8] != BATCH_MAGIC || salted(salt, &bytes[..60]) != crc {
            return None;
        }
        let header = BatchHeader {
            sequence: get_u64(bytes, 8),
            durable: get_u64(bytes, 16),
            commit: Index(get_u64(bytes, 24)),
            first: Index(get_u64(bytes, 32)),
            previous_term: Term(get_u64(bytes, 40)),
            bytes: get_u32(bytes, 48),
            chain: get_u32(bytes, 52),
            body_crc: get_u32(bytes, 56),
        };
        Some((header, crc))
    }

    /// The bytes of the records behind a header that was checked before.
    pub(super) fn peek_bytes(bytes: &[u8]) -> Option<usize> {
        (bytes.len() >= BATCH_HEADER_BYTES).then(|| get_u32(bytes, 48) as usize)
    }
}

fn salted(salt: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

fn put_u32(out: &mut [u8], at: usize, value: u32) {
    out[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut [u8], at: usize, value: u64) {
    out[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from(get_u32(bytes, at)) | u64::from(get_u32(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_header_is_valid_under_its_own_salt_alone() {
        let header = BatchHeader {
            sequence: 7,
            durable: 6,
            commit: Index(3),
            first: Index(5),
            previous_term: Term(2),
            bytes: 99,
            chain: 1,
            body_crc: 2,
        };
        let mut bytes = [0; BATCH_HEADER_BYTES];
        let crc = header.encode(11, &mut bytes);
        assert_eq!(BatchHeader::decode(&bytes, 11), Some((header, crc)));
        assert_eq!(BatchHeader::decode(&bytes, 12), None);
    }

    #[test]
    fn a_segment_header_of_another_version_is_no_damage() {
        let start = Position::new(5, 2);
        let header =
            SegmentHeader { prepared: false, reset: true, sequence: 7, salt: 8, start, commit: Index(4), chain: 9 };
        assert_eq!(SegmentHeader::decode(&SegmentHeader::prepared(3).encode()), Ok(SegmentHeader::prepared(3)));
        let mut bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        bytes[8] = 2;
        assert_eq!(SegmentHeader::decode(&bytes), Err(SegmentHeaderError::Damaged));
        let crc = crc32fast::hash(&bytes[..60]);
        put_u32(&mut bytes, 60, crc);
        assert_eq!(SegmentHeader::decode(&bytes), Err(SegmentHeaderError::Version(2)));
    }
}
