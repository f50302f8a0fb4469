//! What the two protocols of the TCP port promise of any bytes: see [`crate::fuzzing`].
//!
//! Requests are compared with another implementation of the Redis protocol, both ways: what we understand it understands alike, and what
//! it finds in the exact form clients write, within our limits, we find too. Our replies are read by it.

#![allow(clippy::expect_used, reason = "a check reports by panicking")]

use std::time::Duration;

use bytes::BytesMut;
use quorum::Role;
use redis_protocol::{resp2, resp3};

use super::lines::{self, Line};
use super::resp::{self, Caps, Parser, ProtocolError, Version};
use crate::fuzzing::{pieces, through_a_socket};
use crate::kv::Value;
use crate::testing;

const CAPS: Caps = Caps { arguments: 20, argument_bytes: 200, command_bytes: 4096 };
/// The other implementation is not asked about longer headers: it may make room for what they announce.
const REFERENCE_DIGITS_MAX: usize = 4;

type Words = Vec<Vec<u8>>;

/// The commands with their lengths, and what ended them.
fn understood<'a>(stream: impl Iterator<Item = &'a [u8]>) -> (Vec<(Words, usize)>, Option<ProtocolError>) {
    let (mut parser, mut buffer, mut commands) = (Parser::default(), BytesMut::new(), Vec::new());
    for piece in stream {
        buffer.extend_from_slice(piece);
        loop {
            match parser.parse(&buffer, &CAPS) {
                Ok(Some(length)) => {
                    let request = parser.finish(buffer.split_to(length).freeze());
                    commands.push(((0..request.len()).map(|n| request.share(n).to_vec()).collect(), length));
                    parser.recycle(request);
                }
                Ok(None) => break,
                Err(error) => return (commands, Some(error)),
            }
        }
    }
    (commands, None)
}

fn encode(command: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    resp::array(&mut out, command.len());
    command.iter().for_each(|argument| resp::bulk(&mut out, argument));
    out
}

/// The request that the other implementation finds at the start, and its length.
fn reference(input: &[u8]) -> Option<(Words, usize)> {
    use resp2::types::OwnedFrame;
    let digits = input.iter().skip(1).take_while(|b| b.is_ascii_digit()).count();
    if digits > REFERENCE_DIGITS_MAX {
        return None;
    }
    let (frame, length) = resp2::decode::decode(&bytes::Bytes::copy_from_slice(input)).ok()??;
    let OwnedFrame::Array(items) = frame else { return None };
    let words = items.into_iter().map(|i| if let OwnedFrame::BulkString(b) = i { Some(b) } else { None });
    Some((words.collect::<Option<_>>()?, length))
}

fn within_caps(command: &[Vec<u8>], length: usize) -> bool {
    command.len() <= CAPS.arguments
        && command.iter().all(|word| word.len() <= CAPS.argument_bytes)
        && length <= CAPS.command_bytes
}

/// The first byte is the length of the pieces, the rest a stream of requests.
pub(crate) fn requests(data: &[u8]) {
    let Some((step, input)) = data.split_first() else { return };
    let (commands, error) = understood(std::iter::once(input));
    assert_eq!(understood(pieces(input, *step)), (commands.clone(), error), "in pieces of {step}");
    let mut at = 0;
    for (command, length) in &commands {
        // Zero and the null array are passed over by us, and no request to the other.
        if !command.is_empty() {
            assert_eq!(reference(&input[at..]), Some((command.clone(), *length)), "at {at}");
            assert_eq!(encode(command), &input[at..at + length], "only one form of a number counts");
        }
        at += length;
    }
    let left = &input[at..];
    if let Some((command, length)) = reference(left)
        && !command.is_empty()
        && encode(&command) == left[..length]
    {
        assert!(!within_caps(&command, length), "{} was refused: {error:?}", left.escape_ascii());
        assert!(error.is_some(), "what is beyond the limits is refused, not waited for");
    }
}

pub(crate) fn request_seeds() -> Vec<Vec<u8>> {
    [
        &b"\x03*1\r\n$4\r\nPING\r\n"[..],
        b"\x01*3\r\n$3\r\nSET\r\n$6\r\nuser:1\r\n$5\r\nAlice\r\n*2\r\n$3\r\nGET\r\n$6\r\nuser:1\r\n",
        b"\x07*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n$2\r\nEX\r\n$2\r\n10\r\n*0\r\n*-1\r\n*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n",
        b"\xff*7\r\n$4\r\nMSET\r\n$1\r\na\r\n$2\r\n\r\n\r\n$1\r\nb\r\n$4\r\n*1\r\n\r\n$1\r\nc\r\n$1\r\n\xff\r\n",
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}

/// A reply as it should be understood.
#[derive(Clone, Debug, PartialEq)]
enum Reply {
    Simple(Vec<u8>),
    Error(Vec<u8>),
    Integer(i64),
    Bulk(Vec<u8>),
    Verbatim(Vec<u8>),
    Null,
    Array(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
}

/// Takes a reply out of the bytes: a kind, a length, and so many bytes of content.
fn reply(rest: &mut &[u8], depth: usize) -> Option<Reply> {
    let (&[kind, length], after) = rest.split_first_chunk::<2>()?;
    *rest = after;
    let mut content = |most: usize| {
        let (taken, after) = rest.split_at(usize::from(length).min(most).min(rest.len()));
        *rest = after;
        taken.to_vec()
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Some(match kind % 8 {
        0 => Reply::Simple(text(content(255)).replace(['\r', '\n'], "").into_bytes()),
        1 => Reply::Error(text(content(255)).into_bytes()),
        2 => {
            let mut number = [0; 8];
            let bytes = content(8);
            number[..bytes.len()].copy_from_slice(&bytes);
            Reply::Integer(i64::from_le_bytes(number))
        }
        4 => Reply::Verbatim(text(content(255)).into_bytes()),
        5 => Reply::Null,
        6 if depth > 0 => Reply::Array((0..length % 5).map_while(|_| reply(rest, depth - 1)).collect()),
        7 if depth > 0 => {
            let key = |n: u8| Reply::Bulk(format!("key {n}").into_bytes());
            Reply::Map((0..length % 5).map_while(|n| Some((key(n), reply(rest, depth - 1)?))).collect())
        }
        _ => Reply::Bulk(content(255)),
    })
}

fn write(out: &mut Vec<u8>, version: Version, reply: &Reply) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("made of text");
    match reply {
        Reply::Simple(bytes) => resp::simple(out, &text(bytes)),
        Reply::Error(bytes) => resp::error(out, &text(bytes)),
        Reply::Integer(number) => resp::integer(out, *number),
        Reply::Bulk(bytes) => resp::bulk(out, bytes),
        Reply::Verbatim(bytes) => resp::verbatim(out, version, &text(bytes)),
        Reply::Null => resp::null(out, version),
        Reply::Array(items) => {
            resp::array(out, items.len());
            items.iter().for_each(|item| write(out, version, item));
        }
        Reply::Map(pairs) => {
            resp::map(out, version, pairs.len());
            pairs.iter().flat_map(|(k, v)| [k, v]).for_each(|item| write(out, version, item));
        }
    }
}

/// What version 2 can show of a reply; line breaks in errors are blanks in both.
fn flattened(reply: Reply, version: Version) -> Reply {
    let all = |items: Vec<Reply>| items.into_iter().map(|item| flattened(item, version)).collect();
    match reply {
        Reply::Error(bytes) => {
            Reply::Error(bytes.into_iter().map(|b| if b == b'\r' || b == b'\n' { b' ' } else { b }).collect())
        }
        Reply::Verbatim(bytes) if version == Version::Two => Reply::Bulk(bytes),
        Reply::Array(items) => Reply::Array(all(items)),
        Reply::Map(pairs) if version == Version::Two => {
            Reply::Array(all(pairs.into_iter().flat_map(|(k, v)| [k, v]).collect()))
        }
        Reply::Map(pairs) => Reply::Map(pairs.into_iter().map(|(k, v)| (k, flattened(v, version))).collect()),
        other => other,
    }
}

fn of_two(frame: resp2::types::OwnedFrame) -> Reply {
    use resp2::types::OwnedFrame;
    match frame {
        OwnedFrame::SimpleString(bytes) => Reply::Simple(bytes),
        OwnedFrame::Error(text) => Reply::Error(text.into_bytes()),
        OwnedFrame::Integer(number) => Reply::Integer(number),
        OwnedFrame::BulkString(bytes) => Reply::Bulk(bytes),
        OwnedFrame::Array(items) => Reply::Array(items.into_iter().map(of_two).collect()),
        OwnedFrame::Null => Reply::Null,
    }
}

fn of_three(frame: resp3::types::OwnedFrame) -> Reply {
    use resp3::types::OwnedFrame;
    match frame {
        OwnedFrame::SimpleString { data, .. } => Reply::Simple(data),
        OwnedFrame::SimpleError { data, .. } => Reply::Error(data.into_bytes()),
        OwnedFrame::Number { data, .. } => Reply::Integer(data),
        OwnedFrame::BlobString { data, .. } => Reply::Bulk(data),
        OwnedFrame::VerbatimString { data, .. } => Reply::Verbatim(data),
        OwnedFrame::Null => Reply::Null,
        OwnedFrame::Array { data, .. } => Reply::Array(data.into_iter().map(of_three).collect()),
        OwnedFrame::Map { data, .. } => {
            let mut pairs: Vec<_> = data.into_iter().map(|(k, v)| (of_three(k), of_three(v))).collect();
            pairs.sort_by_key(|(key, _)| format!("{key:?}"));
            Reply::Map(pairs)
        }
        other => panic!("we never write {other:?}"),
    }
}

/// The bytes say which replies are written; the other implementation reads them in both versions.
pub(crate) fn replies(data: &[u8]) {
    let mut rest = data;
    while let Some(reply) = reply(&mut rest, 3) {
        let mut out = Vec::new();
        write(&mut out, Version::Two, &reply);
        let (frame, length) =
            resp2::decode::decode(&bytes::Bytes::copy_from_slice(&out)).expect("valid").expect("whole");
        assert_eq!((of_two(frame), length), (flattened(reply.clone(), Version::Two), out.len()));
        out.clear();
        write(&mut out, Version::Three, &reply);
        let (frame, length) = resp3::decode::complete::decode(&out).expect("valid").expect("whole");
        assert_eq!((of_three(frame), length), (flattened(reply, Version::Three), out.len()));
    }
}

pub(crate) fn reply_seeds() -> Vec<Vec<u8>> {
    [
        &b"\x00\x02OK\x01\x09ERR a\r\n+b\x02\x02\x07\x01\x03\x04\x00\r\n\xff\x04\x03txt\x05\x00"[..],
        b"\x07\x03\x06\x02\x03\x01a\x05\x00\x02\x08\xff\xff\xff\xff\xff\xff\xff\xff\x06\x00",
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}

/// One line. What it sets comes back as one line of JSON.
pub(crate) fn lines(data: &[u8]) {
    let mut out = Vec::new();
    for line in data.split(|b| *b == b'\n') {
        out.clear();
        match lines::parse(line) {
            Ok(Line::Set { key, value }) => {
                assert!(!key.is_empty() && !value.is_empty());
                let stored = Value::from_line(value);
                lines::value(&mut out, &stored);
                let shown: serde_json::Value = serde_json::from_slice(&out).expect("an answer is JSON");
                assert_eq!(Value::from_json(shown["value"].clone()), stored, "as it was written");
            }
            Ok(Line::Get(key) | Line::Delete(key) | Line::Auth(key)) => {
                assert!(!key.is_empty());
                lines::message(&mut out, &format!("Key '{key}' set"));
            }
            Ok(_) => lines::ok(&mut out),
            Err(error) => lines::error(&mut out, &error.to_string(), Some("127.0.0.1:6379")),
        }
        let end = out.iter().position(|b| *b == b'\n');
        assert_eq!(end, Some(out.len() - 1), "an answer is one line: {}", out.escape_ascii());
        serde_json::from_slice::<serde_json::Value>(&out).expect("an answer is JSON");
    }
}

pub(crate) fn line_seeds() -> Vec<Vec<u8>> {
    [
        &b"SET user:1 {\"name\":\"Alice\",\"age\":30}\nGET user:1\r\nDELETE user:1\nPING\nSTATUS\n"[..],
        b"set k \"quoted \\u0000 \\n text\"\nset n 1e400\nset z null\nAUTH token\nQUIT\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET\tk  two words \r\n\xff\n",
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}

/// A node that a whole session talks to, and whose answers depend on nothing else.
fn session(input: &[u8], step: usize) -> Vec<u8> {
    through_a_socket(input, step, async |socket| {
        let handle = testing::handle(Role::Leader, |options| options.limits.value_bytes = 512);
        let face = std::sync::Arc::new(super::Face::new(handle, Duration::from_secs(10)));
        let address = socket.peer_addr().expect("connected");
        // Whatever ends a session, its client sees what was said before.
        let _ = super::session::Session::new(face, socket, address, 1).run().await;
    })
}

/// What some command answers with changes from one moment to the next, or with the socket.
const CHANGING: [&[u8]; 6] = [b"info", b"client", b"hello", b"time", b"stat", b"metrics"];

/// The first byte is the length of the pieces, the rest what a client sends before it closes its side.
pub(crate) fn sessions(data: &[u8]) {
    let Some((step, input)) = data.split_first() else { return };
    let lower = input.to_ascii_lowercase();
    let same = !CHANGING.iter().any(|word| lower.windows(word.len()).any(|found| found == *word));
    let (whole, cut) = (session(input, usize::MAX), session(input, usize::from(*step).max(1)));
    if same {
        let [whole, cut] = [whole, cut].map(|out| out.escape_ascii().to_string());
        assert_eq!(whole, cut, "in pieces of {step}: {}", input.escape_ascii());
    }
}

pub(crate) fn session_seeds() -> Vec<Vec<u8>> {
    let redis = |step: u8, commands: &[&[&str]]| {
        let mut out = vec![step];
        for command in commands {
            out.extend(encode(&command.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>()));
        }
        out
    };
    vec![
        b"\x01SET user:1 {\"name\":\"Alice\"}\nGET user:1\r\nDELETE user:1\nGET user:1\nPING\nNONSENSE\nSET k v\nGET k"
            .to_vec(),
        b"\x05set a 1\nset a 2\nget a\nQUIT\nget a\n".to_vec(),
        b"\x07POST / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        redis(
            1,
            &[
                &["SET", "a", "1"],
                &["INCR", "a"],
                &["APPEND", "a", "x"],
                &["INCR", "a"],
                &["GET", "a"],
                &["DEL", "a", "b"],
            ],
        ),
        redis(
            3,
            &[
                &["MSET", "a", "1", "b", "2"],
                &["MGET", "a", "b", "c"],
                &["SET", "a", "x", "NX", "GET"],
                &["EXISTS", "a", "a"],
            ],
        ),
        redis(
            11,
            &[
                &["PING"],
                &["ECHO", "x"],
                &["SELECT", "0"],
                &["SCAN", "0"],
                &["KEYS", "*"],
                &["DBSIZE"],
                &["TYPE", "a"],
                &["QUIT"],
            ],
        ),
        redis(
            16,
            &[&["MULTI"], &["EXEC"], &["GET"], &["SET", "k"], &["COMMAND", "COUNT"], &["READONLY"], &["GET", "k"]],
        ),
    ]
}
