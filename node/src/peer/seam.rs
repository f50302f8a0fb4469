//! Stand-ins for `storage::record`, so that this module builds and is tested before that one is there: to be replaced by
//! `pub(crate) use crate::storage::record::{Record, RecordError, decode};` in one line.

use bytes::{Buf, Bytes};
#[cfg(test)]
use bytes::{BufMut, BytesMut};
use quorum::{Head, Index, Kind, Term};

/// A record of the log, framed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The entry's term.
    pub term: Term,
    /// The entry's index.
    pub index: Index,
    frame: Bytes,
}

/// Bytes that are no record.
#[derive(Debug, thiserror::Error)]
#[error("not a record: {0}")]
pub struct RecordError(&'static str);

const HEADER: usize = 24;

impl Record {
    /// The whole record as it lies in the log.
    #[must_use]
    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// What the core knows of the entry.
    ///
    /// # Errors
    /// When the payload is not what the kind says.
    pub fn head(&self) -> Result<Head, RecordError> {
        Ok(Head { term: self.term, kind: Kind::Command, bytes: u32::try_from(self.frame.len()).unwrap_or(u32::MAX) })
    }
}

/// Splits the next record off.
///
/// # Errors
/// When the bytes are damaged.
pub(super) fn decode(buf: &mut Bytes, max_payload: usize) -> Result<Option<Record>, RecordError> {
    if buf.len() < HEADER {
        return Ok(None);
    }
    let mut header = &buf[..HEADER];
    let (length, crc) = (header.get_u32_le() as usize, header.get_u32_le());
    if length > max_payload {
        return Err(RecordError("too long"));
    }
    if buf.len() < HEADER + length {
        return Ok(None);
    }
    let frame = buf.split_to(HEADER + length);
    if crc32fast::hash(&frame[8..]) != crc {
        return Err(RecordError("checksum"));
    }
    let mut fields = &frame[8..HEADER];
    Ok(Some(Record { term: Term(fields.get_u64_le()), index: Index(fields.get_u64_le()), frame }))
}

/// Frames a record.
#[cfg(test)]
pub(super) fn encode(term: Term, index: Index, payload: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u64_le(term.0);
    body.put_u64_le(index.0);
    body.put_slice(payload);
    let mut out = BytesMut::with_capacity(8 + body.len());
    out.put_u32_le(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    out.put_u32_le(crc32fast::hash(&body));
    out.put_slice(&body);
    out.freeze()
}
