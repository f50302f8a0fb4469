//! What the frames say: the kinds, and the fixed layouts of the messages.
//!
//! An append's heads are not sent: the receiver derives them from the records, which it needs anyway, so that the two
//! cannot disagree. Bodies of calls and chunks of snapshots are opaque.
//!
//! Before: [`super::frame`]. After: the driver, through [`super::PeerEvent`].

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};
use quorum::{Body, Index, Message, Position, Term};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CallError;
use super::frame::{self, Frame};
use crate::storage::record::{self, Record};

const PRE_VOTE: u8 = 1;
const PRE_VOTE_REPLY: u8 = 2;
const VOTE: u8 = 3;
const VOTE_REPLY: u8 = 4;
const APPEND: u8 = 5;
const APPENDED: u8 = 6;
const REJECTED: u8 = 7;
const HEARTBEAT: u8 = 8;
const HEARTBEAT_REPLY: u8 = 9;
const TRANSFER_NOW: u8 = 10;
const CALL: u8 = 20;
const ANSWER: u8 = 21;
pub(super) const HELLO: u8 = 30;
pub(super) const HELLO_REPLY: u8 = 31;
pub(super) const INTRODUCE: u8 = 32;
pub(super) const WELCOME: u8 = 33;
pub(super) const SNAPSHOT_BEGIN: u8 = 40;
pub(super) const SNAPSHOT_CHUNK: u8 = 41;
pub(super) const SNAPSHOT_END: u8 = 42;
pub(super) const SNAPSHOT_DONE: u8 = 43;

/// How a call ended at the other side.
const ANSWERED: u8 = 0;
const NOT_TAKEN: u8 = 1;
const FORGOTTEN: u8 = 2;

/// Most bytes of a message besides its records.
pub(super) const MESSAGE_HEAD_MAX: usize = 64;

/// What a frame turned out to be.
#[derive(Debug)]
pub(super) enum Incoming {
    Message { message: Message, records: Vec<Record> },
    Call { id: u64, body: Bytes },
    Answer { id: u64, result: Result<Bytes, CallError> },
}

/// Why a frame's content is not understood. The connection is of no use after any of these.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("a message is too short")]
    Short,
    #[error("a message of kind {0} is unknown here")]
    Kind(u8),
    #[error("an append announced {announced} records and carried {carried}")]
    Count { announced: u32, carried: usize },
    #[error("an append behind {prev} carried a record of index {index} as number {number}")]
    Gap { prev: Index, index: Index, number: usize },
    #[error("an append carried a damaged record: {0}")]
    Record(String),
    #[error("a body cannot be read: {0}")]
    Body(#[from] postcard::Error),
}

impl From<TryGetError> for WireError {
    fn from(_: TryGetError) -> WireError {
        WireError::Short
    }
}

fn put_position(out: &mut BytesMut, at: Position) {
    out.put_u64_le(at.term.0);
    out.put_u64_le(at.index.0);
}

fn get_position(buf: &mut Bytes) -> Result<Position, WireError> {
    Ok(Position { term: Term(buf.try_get_u64_le()?), index: Index(buf.try_get_u64_le()?) })
}

fn get_index(buf: &mut Bytes) -> Result<Index, WireError> {
    Ok(Index(buf.try_get_u64_le()?))
}

/// Appends a message's frame; of an append the caller appends the records, `records` bytes, behind it.
pub(super) fn put_message(out: &mut BytesMut, message: &Message, records: usize) {
    let kind = match &message.body {
        Body::PreVote { .. } => PRE_VOTE,
        Body::PreVoteReply { .. } => PRE_VOTE_REPLY,
        Body::Vote { .. } => VOTE,
        Body::VoteReply { .. } => VOTE_REPLY,
        Body::Append { .. } => APPEND,
        Body::Appended { .. } => APPENDED,
        Body::Rejected { .. } => REJECTED,
        Body::Heartbeat { .. } => HEARTBEAT,
        Body::HeartbeatReply { .. } => HEARTBEAT_REPLY,
        Body::TransferNow { .. } => TRANSFER_NOW,
    };
    frame::encode(out, kind, records, |out| {
        out.put_u64_le(message.term.0);
        match &message.body {
            Body::PreVote { last } => put_position(out, *last),
            Body::PreVoteReply { granted } | Body::VoteReply { granted } => out.put_u8(u8::from(*granted)),
            Body::Vote { last, transfer } => {
                put_position(out, *last);
                out.put_u8(u8::from(*transfer));
            }
            Body::Append { prev, entries, commit } => {
                put_position(out, *prev);
                out.put_u64_le(commit.0);
                out.put_u32_le(u32::try_from(entries.len()).unwrap_or(u32::MAX));
            }
            Body::Appended { durable } => out.put_u64_le(durable.0),
            Body::Rejected { prev, hint } => {
                out.put_u64_le(prev.0);
                put_position(out, *hint);
            }
            Body::Heartbeat { round, commit } => {
                out.put_u64_le(*round);
                out.put_u64_le(commit.0);
            }
            Body::HeartbeatReply { round } => out.put_u64_le(*round),
            Body::TransferNow { by_hand } => out.put_u8(u8::from(*by_hand)),
        }
    });
}

/// Appends a call's frame.
pub(super) fn put_call(out: &mut BytesMut, id: u64, body: &[u8]) {
    frame::encode(out, CALL, 0, |out| {
        out.put_u64_le(id);
        out.put_slice(body);
    });
}

/// Appends the frame of a call's answer.
pub(super) fn put_answer(out: &mut BytesMut, id: u64, result: Result<&[u8], CallError>) {
    frame::encode(out, ANSWER, 0, |out| {
        out.put_u64_le(id);
        match result {
            Ok(body) => {
                out.put_u8(ANSWERED);
                out.put_slice(body);
            }
            Err(CallError::NotSent | CallError::Refused) => out.put_u8(NOT_TAKEN),
            Err(CallError::Lost | CallError::Timeout) => out.put_u8(FORGOTTEN),
        }
    });
}

/// A frame whose body is a serialized value: handshakes and the like, never the hot path.
pub(super) fn value<T: Serialize>(kind: u8, value: &T) -> Result<BytesMut, WireError> {
    let body = postcard::to_stdvec(value)?;
    let mut out = BytesMut::new();
    frame::encode(&mut out, kind, 0, |out| out.put_slice(&body));
    Ok(out)
}

/// The value in a frame that must be of this kind.
pub(super) fn get_value<T: DeserializeOwned>(frame: &Frame, kind: u8) -> Result<T, WireError> {
    if frame.kind != kind {
        return Err(WireError::Kind(frame.kind));
    }
    Ok(postcard::from_bytes(&frame.checked)?)
}

/// Understands a frame of a control or bulk connection.
pub(super) fn decode(frame: Frame, max_record: usize) -> Result<Incoming, WireError> {
    let Frame { kind, checked: mut head, rest } = frame;
    match kind {
        CALL => return Ok(Incoming::Call { id: head.try_get_u64_le()?, body: head }),
        ANSWER => {
            let id = head.try_get_u64_le()?;
            let result = match head.try_get_u8()? {
                ANSWERED => Ok(head),
                NOT_TAKEN => Err(CallError::Refused),
                _ => Err(CallError::Lost),
            };
            return Ok(Incoming::Answer { id, result });
        }
        _ => {}
    }
    let term = Term(head.try_get_u64_le()?);
    let mut records = Vec::new();
    let body = match kind {
        PRE_VOTE => Body::PreVote { last: get_position(&mut head)? },
        PRE_VOTE_REPLY => Body::PreVoteReply { granted: head.try_get_u8()? == 1 },
        VOTE => Body::Vote { last: get_position(&mut head)?, transfer: head.try_get_u8()? == 1 },
        VOTE_REPLY => Body::VoteReply { granted: head.try_get_u8()? == 1 },
        APPEND => {
            let prev = get_position(&mut head)?;
            let commit = get_index(&mut head)?;
            let announced = head.try_get_u32_le()?;
            records = split_records(rest, prev.index, announced, max_record)?;
            let heads: Result<Vec<_>, _> = records.iter().map(Record::head).collect();
            let entries = heads.map_err(|error| WireError::Record(error.to_string()))?;
            Body::Append { prev, entries, commit }
        }
        APPENDED => Body::Appended { durable: get_index(&mut head)? },
        REJECTED => Body::Rejected { prev: get_index(&mut head)?, hint: get_position(&mut head)? },
        HEARTBEAT => Body::Heartbeat { round: head.try_get_u64_le()?, commit: get_index(&mut head)? },
        HEARTBEAT_REPLY => Body::HeartbeatReply { round: head.try_get_u64_le()? },
        TRANSFER_NOW => Body::TransferNow { by_hand: head.try_get_u8()? == 1 },
        unknown => return Err(WireError::Kind(unknown)),
    };
    Ok(Incoming::Message { message: Message { term, body }, records })
}

/// The records of an append, which must be as many as announced and follow `prev` without a gap.
fn split_records(mut bytes: Bytes, prev: Index, announced: u32, max_record: usize) -> Result<Vec<Record>, WireError> {
    // A record takes more than 16 bytes: what was announced cannot make this allocate beyond what was received.
    let mut records = Vec::with_capacity((announced as usize).min(bytes.len() / 16));
    let mut expected = prev;
    while let Some(record) =
        record::decode(&mut bytes, max_record).map_err(|error| WireError::Record(error.to_string()))?
    {
        if expected.0 == u64::MAX || record.index != expected.next() {
            return Err(WireError::Gap { prev, index: record.index, number: records.len() });
        }
        expected = record.index;
        records.push(record);
    }
    if !bytes.is_empty() || records.len() != announced as usize {
        return Err(WireError::Count { announced, carried: records.len() });
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_oneof};
    use proptest::strategy::{Just, Strategy};

    fn bodies() -> impl Strategy<Value = Body> {
        let at = || (any::<u64>(), any::<u64>()).prop_map(|(index, term)| Position::new(index, term));
        let index = || any::<u64>().prop_map(Index);
        prop_oneof![
            at().prop_map(|last| Body::PreVote { last }),
            any::<bool>().prop_map(|granted| Body::PreVoteReply { granted }),
            (at(), any::<bool>()).prop_map(|(last, transfer)| Body::Vote { last, transfer }),
            any::<bool>().prop_map(|granted| Body::VoteReply { granted }),
            (at(), index()).prop_map(|(prev, commit)| Body::Append { prev, entries: Vec::new(), commit }),
            index().prop_map(|durable| Body::Appended { durable }),
            (index(), at()).prop_map(|(prev, hint)| Body::Rejected { prev, hint }),
            (any::<u64>(), index()).prop_map(|(round, commit)| Body::Heartbeat { round, commit }),
            any::<u64>().prop_map(|round| Body::HeartbeatReply { round }),
            any::<bool>().prop_map(|by_hand| Body::TransferNow { by_hand }),
            Just(Body::Heartbeat { round: 0, commit: Index(0) }),
        ]
    }

    proptest::proptest! {
        #[test]
        fn every_message_comes_out_as_it_went_in(term in any::<u64>(), body in bodies()) {
            let message = Message { term: Term(term), body };
            let mut out = BytesMut::new();
            put_message(&mut out, &message, 0);
            proptest::prop_assert!(out.len() <= frame::PREFACE + MESSAGE_HEAD_MAX);
            let frame = frame::parse(&mut out, 1024).expect("frame").expect("whole");
            let Incoming::Message { message: got, records } = decode(frame, 1024).expect("message") else {
                panic!("not a message");
            };
            proptest::prop_assert_eq!(got, message);
            proptest::prop_assert!(records.is_empty());
        }

        #[test]
        fn arbitrary_content_of_any_kind_never_panics(
            kind in 0u8..50,
            checked in proptest::collection::vec(any::<u8>(), 0..80),
            rest in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let _ = decode(Frame { kind, checked: checked.into(), rest: rest.into() }, 1024);
        }
    }

    fn encoded(index: u64, payload: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        record::encode(&mut out, Term(1), Index(index), record::RecordKind::Command, payload);
        out.freeze()
    }

    #[test]
    fn an_append_with_a_gap_or_a_missing_record_is_refused() {
        let records = [encoded(5, b"a"), encoded(6, b"b")];
        let split = |prev, announced, parts: &[&Bytes]| {
            let mut bytes = BytesMut::new();
            parts.iter().for_each(|part| bytes.put_slice(part));
            split_records(bytes.freeze(), Index(prev), announced, 1024).map(|r| r.len())
        };
        assert_eq!(split(4, 2, &[&records[0], &records[1]]).expect("both"), 2);
        assert!(matches!(split(3, 2, &[&records[0], &records[1]]), Err(WireError::Gap { .. })));
        assert!(matches!(split(4, 2, &[&records[0]]), Err(WireError::Count { .. })));
        assert!(matches!(split(4, 1, &[&records[0], &records[1]]), Err(WireError::Count { .. })));
    }
}
