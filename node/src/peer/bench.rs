//! What `benches/codec.rs` measures of this module, and nobody else uses.

use bytes::{Bytes, BytesMut};
use quorum::Message;

use super::{frame, wire};

/// A message as its frame, its records behind it.
#[must_use]
pub fn encode(message: &Message, records: &[Bytes]) -> BytesMut {
    let bytes = records.iter().map(Bytes::len).sum();
    let mut out = BytesMut::with_capacity(frame::PREFACE + wire::MESSAGE_HEAD_MAX + bytes);
    wire::put_message(&mut out, message, bytes);
    records.iter().for_each(|record| out.extend_from_slice(record));
    out
}

/// How many records the message in this frame carries; `None` if it is no message.
#[must_use]
pub fn decode(mut bytes: BytesMut, bytes_max: usize) -> Option<usize> {
    let frame = frame::parse(&mut bytes, bytes_max).ok()??;
    match wire::decode(frame, bytes_max).ok()? {
        wire::Incoming::Message { records, .. } => Some(records.len()),
        wire::Incoming::Call { .. } | wire::Incoming::Answer { .. } => None,
    }
}
