//! The format of messages between nodes without the connections they travel on: for a simulator.

use bytes::{Bytes, BytesMut};
use quorum::Message;

use super::wire::{self, Incoming};
use super::{NetworkOptions, frame};
use crate::storage::Record;

/// A message as it is understood at the other end.
pub type Arrival = (Message, Vec<Record>);

/// The bytes that a message and the records of its entries take on the wire.
#[must_use]
pub fn encode_message(message: &Message, records: &[Bytes]) -> Bytes {
    let mut out = BytesMut::new();
    wire::put_message(&mut out, message, records.iter().map(Bytes::len).sum());
    records.iter().for_each(|piece| out.extend_from_slice(piece));
    out.freeze()
}

/// Understands what [`encode_message`] made.
///
/// # Errors
/// When it makes no sense; the text says why.
pub fn decode_message(bytes: &Bytes) -> Result<Arrival, String> {
    let options = NetworkOptions::default();
    let mut buffer = BytesMut::from(&bytes[..]);
    let parsed = frame::parse(&mut buffer, options.max_frame_bytes).map_err(|e| e.to_string())?;
    let frame = parsed.ok_or_else(|| "it is cut short".to_owned())?;
    match wire::decode(frame, options.max_record_bytes).map_err(|e| e.to_string())? {
        Incoming::Message { message, records } => Ok((message, records)),
        Incoming::Call { .. } | Incoming::Answer { .. } => Err("it is no message of the protocol".to_owned()),
    }
}
