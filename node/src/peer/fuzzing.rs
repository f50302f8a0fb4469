//! What the protocol between nodes promises of any bytes: see [`crate::fuzzing`].

#![allow(clippy::expect_used, reason = "a check reports by panicking")]

use bytes::{BufMut, Bytes, BytesMut};
use quorum::{Body, ClusterId, Index, Message, NodeId, Position, Term};

use super::frame::{self, Frame};
use super::handshake;
use super::wire::{self, Incoming};
use super::{CallError, Identity, Introduction, Welcome};
use crate::fuzzing::{forged, pieces, through_a_socket};
use crate::storage::record;
use crate::testing::member;

const FRAME_MAX: usize = 32 << 20;
const RECORD_MAX: usize = 31 << 20;

/// What a connection may hold for bytes that have arrived: they lie in a buffer that grows by doubling, and
/// some room is made ahead.
fn room_for(arrived: usize) -> usize {
    4 * arrived + 2 * frame::ROOM_AHEAD + frame::PREFACE
}

/// The frames, and whether something that is no frame ended them.
fn frames_of<'a>(stream: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<frame::FrameError>) {
    let (mut buf, mut frames, mut arrived) = (BytesMut::new(), Vec::new(), 0);
    for piece in stream {
        buf.extend_from_slice(piece);
        arrived += piece.len();
        loop {
            match frame::parse(&mut buf, FRAME_MAX) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(buf.capacity() <= room_for(arrived), "{} bytes for {arrived} that arrived", buf.capacity());
    }
    (frames, None)
}

fn framed(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    frame::encode(&mut out, frame.kind, frame.rest.len(), |out| out.put_slice(&frame.checked));
    out.put_slice(&frame.rest);
    out
}

/// The first byte is the length of the pieces, and whether checksums are made right ([`forged`]); the
/// rest a stream of frames.
pub(crate) fn frames(data: &[u8]) {
    let Some((first, stream)) = data.split_first() else { return };
    let ((step, forged), mut stream) = (forged(*first), stream.to_vec());
    if forged {
        frame::forge(&mut stream);
    }
    let (frames, error) = frames_of(std::iter::once(&stream[..]));
    assert!(!forged || error.is_none(), "it was made right: {error:?}");
    assert_eq!(frames_of(pieces(&stream, step)), (frames.clone(), error), "in pieces of {step}");
    for frame in frames {
        let again = frame::parse(&mut framed(&frame), FRAME_MAX).expect("a frame").expect("all of it");
        assert_eq!(again, frame);
        understand(frame);
    }
}

pub(crate) fn frame_seeds() -> Vec<Vec<u8>> {
    let all: Vec<BytesMut> = contents().iter().map(framed).collect();
    let mut seeds: Vec<Vec<u8>> = all.iter().map(|one| [&b"\x05"[..], one].concat()).collect();
    seeds.extend([0x7f, 0xff].map(|first| [&[first][..], &all.concat()].concat()));
    seeds
}

/// The first byte is the kind, and whether the checksums of records are made right ([`forged`]); the second the length
/// of the checked part. The rest are both parts.
pub(crate) fn messages(data: &[u8]) {
    let Some((&[first, checked], body)) = data.split_first_chunk::<2>() else { return };
    let ((kind, forged), mut body) = (forged(first), body.to_vec());
    let checked = usize::from(checked).min(body.len());
    if forged {
        record::forge(&mut body[checked..]);
    }
    let mut rest = Bytes::from(body);
    let checked = rest.split_to(checked);
    understand(Frame { kind, checked, rest });
}

pub(crate) fn message_seeds() -> Vec<Vec<u8>> {
    let short = |frame: &Frame| u8::try_from(frame.checked.len()).ok();
    let of = |frame: &Frame, first: u8| Some([&[first, short(frame)?], &frame.checked[..], &frame.rest].concat());
    let contents = contents();
    let forged =
        contents.iter().filter(|frame| !frame.rest.is_empty()).filter_map(|frame| of(frame, frame.kind | 0x80));
    contents.iter().filter_map(|frame| of(frame, frame.kind)).chain(forged).collect()
}

/// What a frame says is the same after it was written and read again.
fn understand(frame: Frame) {
    let Ok(incoming) = wire::decode(frame.clone(), RECORD_MAX) else { return };
    let mut out = BytesMut::new();
    match &incoming {
        Incoming::Message { message, records } => {
            let bytes = records.iter().map(|record| record.frame().len()).sum();
            wire::put_message(&mut out, message, bytes);
            records.iter().for_each(|record| out.put_slice(record.frame()));
        }
        Incoming::Call { id, body } => wire::put_call(&mut out, *id, body),
        Incoming::Answer { id, result } => wire::put_answer(&mut out, *id, result.as_deref().map_err(|e| *e)),
    }
    let again = frame::parse(&mut out, FRAME_MAX).expect("a frame").expect("all of it");
    let again = wire::decode(again, RECORD_MAX).expect("what was understood is understood again");
    assert_eq!(format!("{again:?}"), format!("{incoming:?}"));
}

/// The first byte is the kind of a frame whose body is the rest: what the handshake, introductions and snapshots say.
pub(crate) fn values(data: &[u8]) {
    let Some((&kind, body)) = data.split_first() else { return };
    let frame = Frame { kind, checked: Bytes::copy_from_slice(body), rest: Bytes::new() };
    handshake::fuzz(&registry(), &frame);
    if let Ok(introduction) = wire::get_value::<Introduction>(&frame, wire::INTRODUCE) {
        same(wire::INTRODUCE, &introduction);
    }
    if let Ok(welcome) = wire::get_value::<Welcome>(&frame, wire::WELCOME) {
        same(wire::WELCOME, &welcome);
    }
    super::snapshot::fuzz(&frame);
}

fn same<T>(kind: u8, value: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let mut out = wire::value(kind, value).expect("written");
    let frame = frame::parse(&mut out, FRAME_MAX).expect("a frame").expect("all of it");
    assert_eq!(&wire::get_value::<T>(&frame, kind).expect("read"), value);
}

fn registry() -> handshake::Registry {
    let identity = Identity { id: NodeId(1), incarnation: 5, cluster: Some(ClusterId(9)), member: member(1) };
    let mut registry = handshake::Registry::new(identity);
    // Drawn anew in a node; here what is said must be the same each time.
    registry.process = 5;
    registry
}

pub(crate) fn value_seeds() -> Vec<Vec<u8>> {
    let welcome =
        Welcome { cluster: None, accepted: true, leader_peer: Some("node2:7400".into()), message: "hello".into() };
    let introduction = Introduction { member: member(4), blank: true };
    let mut values = vec![wire::value(wire::WELCOME, &welcome), wire::value(wire::INTRODUCE, &introduction)];
    values.extend(handshake::fuzz_seeds(&registry()));
    values.extend(super::snapshot::fuzz_seeds());
    let kind_and_body = |frame: BytesMut| [&frame[13..14], &frame[frame::PREFACE..]].concat();
    values.into_iter().flatten().map(kind_and_body).collect()
}

/// One frame of every kind.
fn contents() -> Vec<Frame> {
    let at = Position::new(7, 3);
    let mut records = BytesMut::new();
    record::encode(&mut records, Term(3), Index(8), record::RecordKind::Command, b"\x01\x02payload");
    record::encode(&mut records, Term(4), Index(9), record::RecordKind::Empty, b"");
    let config = record::encode_config(&crate::fuzzing::config());
    record::encode(&mut records, Term(4), Index(10), record::RecordKind::Config, &config);
    let heads = {
        let (mut rest, mut heads) = (records.clone().freeze(), Vec::new());
        while let Ok(Some(record)) = record::decode(&mut rest, RECORD_MAX) {
            heads.push(record.head().expect("a head"));
        }
        heads
    };
    let bodies = vec![
        Body::PreVote { last: at },
        Body::PreVoteReply { granted: true },
        Body::Vote { last: at, transfer: true },
        Body::VoteReply { granted: false },
        Body::Append { prev: at, entries: heads, commit: Index(6) },
        Body::Appended { durable: Index(10) },
        Body::Rejected { prev: Index(7), hint: at },
        Body::Heartbeat { round: 12, commit: Index(6) },
        Body::HeartbeatReply { round: 12 },
        Body::TransferNow { by_hand: true },
    ];
    let frame_of = |mut out: BytesMut| frame::parse(&mut out, FRAME_MAX).expect("a frame").expect("all of it");
    let mut frames: Vec<Frame> = bodies
        .into_iter()
        .map(|body| {
            let carried = if matches!(body, Body::Append { .. }) { &records[..] } else { &[] };
            let mut out = BytesMut::new();
            wire::put_message(&mut out, &Message { term: Term(4), body }, carried.len());
            out.put_slice(carried);
            frame_of(out)
        })
        .collect();
    let mut out = BytesMut::new();
    wire::put_call(&mut out, 5, b"what");
    frames.push(frame_of(out.split()));
    for answer in [Ok(&b"that"[..]), Err(CallError::Refused), Err(CallError::Lost)] {
        wire::put_answer(&mut out, 5, answer);
        frames.push(frame_of(out.split()));
    }
    frames
}

/// A connection is accepted alike in any pieces: the first byte is their length, the rest what a stranger sends before
/// it closes its side. With checksums made right ([`forged`]) the rest is what follows the opening.
pub(crate) fn openings(data: &[u8]) {
    let Some((first, input)) = data.split_first() else { return };
    let ((step, forged), mut input) = (forged(*first), input.to_vec());
    if forged {
        frame::forge(&mut input);
        input.splice(..0, handshake::opening());
    }
    let (whole, cut) = (accepted(&input, usize::MAX), accepted(&input, usize::from(step).max(1)));
    assert_eq!(whole, cut, "in pieces of {step}");
}

/// What a stranger is told that sends this, and who it is taken for.
fn accepted(input: &[u8], step: usize) -> (Vec<u8>, Option<Result<String, String>>) {
    let mut outcome = None;
    let said = through_a_socket(input, step, async |socket| {
        let accepted = handshake::accept(&registry(), socket, STRANGER_TIMEOUT, STRANGER_TIMEOUT).await;
        outcome = Some(accepted.map(|(_, hello, _)| format!("{hello:?}")).map_err(|error| error.to_string()));
    });
    (said, outcome)
}

/// A stranger that has said all it will is not waited for: one that was would hang in [`crate::fuzzing::block_on`],
/// which a process that was stopped for a while does not deceive.
const STRANGER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3_600);

pub(crate) fn opening_seeds() -> Vec<Vec<u8>> {
    let opening = |step: u8, version: u16| {
        let mut out = vec![step];
        out.extend_from_slice(b"qrpeer");
        out.extend_from_slice(&version.to_le_bytes());
        out
    };
    let mut seeds = vec![opening(3, handshake::VERSION + 1), b"\x01GET / HTTP/1.1\r\n\r\n".to_vec()];
    for (step, hello) in handshake::fuzz_seeds(&registry()).into_iter().enumerate() {
        let hello = hello.expect("written");
        seeds.push([&opening(7 * step as u8 + 1, handshake::VERSION)[..], &hello].concat());
        seeds.push([&[0x80 + step as u8], &hello[..]].concat());
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_valid_openings_some_are_let_in() {
        let seeds = opening_seeds();
        let as_it_is = seeds.iter().filter(|seed| !forged(seed[0]).1);
        let let_in = as_it_is.filter(|seed| matches!(accepted(&seed[1..], usize::MAX).1, Some(Ok(_)))).count();
        assert_eq!(let_in, 3, "a greeting on each lane; the others are another version, another protocol, and answers");
    }
}
