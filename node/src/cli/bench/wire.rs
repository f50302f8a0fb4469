//! A connection for load: requests are encoded into one buffer and sent with one write, answers are
//! parsed where they arrive.
//!
//! HTTP/1.1 with keep-alive and RESP2, only as much of them as the measured requests need. General HTTP clients cost
//! more CPU per request than the store itself, and would measure themselves.

use std::io::{self, Write};
use std::ops::Range;

use bytes::{Buf, BytesMut};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest head of an answer: ours has a dozen short headers.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// The largest answer: the largest value a node is ever set to take.
const BODY_BYTES_MAX: usize = 64 << 20;
/// How much is asked of the socket at once.
const READ_BYTES: usize = 16 << 10;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    /// PUT and GET on /v1/kv.
    Http,
    /// SET and GET.
    Resp,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Stores a value.
    Write,
    /// Fetches one.
    Read,
}

/// What a good answer tells besides, where it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Durable copies when the write was acknowledged.
    pub(crate) copies: Option<u32>,
    /// Revision of the key.
    pub(crate) revision: Option<u64>,
}

/// What an answer said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done.
    Done(Told),
    /// A read of a key that does not exist.
    Missing,
    /// An error, by its code.
    Error(String),
}

/// One connection.
pub(crate) struct Connection {
    stream: TcpStream,
    protocol: Protocol,
    host: String,
    query: &'static str,
    out: Vec<u8>,
    input: BytesMut,
    closing: bool,
}

impl Connection {
    /// Connects to `host:port`. `query` follows the path of reads over HTTP.
    pub(crate) async fn open(address: &str, protocol: Protocol, query: &'static str) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            protocol,
            host: address.to_owned(),
            query,
            out: Vec::with_capacity(4096),
            input: BytesMut::with_capacity(READ_BYTES),
            closing: false,
        })
    }

    /// Whether the node said that it closes the connection.
    pub(crate) fn closing(&self) -> bool {
        self.closing
    }

    /// Puts a request into the buffer.
    pub(crate) fn push(&mut self, op: Op, key: u64, value: &[u8]) {
        encode(&mut self.out, self.protocol, &self.host, self.query, op, key, value);
    }

    /// Sends what was put into the buffer.
    pub(crate) async fn send(&mut self) -> io::Result<()> {
        let sent = self.stream.write_all(&self.out).await;
        self.out.clear();
        sent
    }

    /// The next answer, in the order of the requests.
    pub(crate) async fn answer(&mut self, op: Op) -> io::Result<Answer> {
        loop {
            let parsed = match self.protocol {
                Protocol::Http => http_answer(&self.input, op)?,
                Protocol::Resp => resp_answer(&self.input)?.map(|(length, answer)| (length, answer, false)),
            };
            if let Some((length, answer, closing)) = parsed {
                self.input.advance(length);
                self.closing |= closing;
                return Ok(answer);
            }
            self.input.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Appends one request.
fn encode(out: &mut Vec<u8>, protocol: Protocol, host: &str, query: &str, op: Op, key: u64, value: &[u8]) {
    // Writing into a Vec does not fail.
    let _ = match (protocol, op) {
        (Protocol::Http, Op::Write) => write!(
            out,
            "PUT /v1/kv/bench-{key:010} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n",
            value.len()
        )
        .map(|()| out.extend_from_slice(value)),
        (Protocol::Http, Op::Read) => {
            write!(out, "GET /v1/kv/bench-{key:010}{query} HTTP/1.1\r\nhost: {host}\r\n\r\n")
        }
        (Protocol::Resp, Op::Write) => write!(out, "*3\r\n$3\r\nSET\r\n$16\r\nbench-{key:010}\r\n${}\r\n", value.len())
            .map(|()| {
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }),
        (Protocol::Resp, Op::Read) => write!(out, "*2\r\n$3\r\nGET\r\n$16\r\nbench-{key:010}\r\n"),
    };
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Parses one HTTP answer: its length, what it said, and whether the connection closes after it. `None` if
/// it is not all there yet.
fn http_answer(input: &[u8], op: Op) -> io::Result<Option<(usize, Answer, bool)>> {
    let Some(end) = memmem::find(input, b"\r\n\r\n") else {
        return if input.len() > HEAD_BYTES_MAX { Err(malformed("endless head")) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&input[..end]).map_err(|_| malformed("head is no text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|l| l.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse::<u16>().ok());
    let status = status.ok_or_else(|| malformed("not HTTP/1.1"))?;
    let (mut body_bytes, mut closing, mut told) = (0usize, false, Told::default());
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            body_bytes = value.parse().map_err(|_| malformed("content-length is no number"))?;
        } else if name.eq_ignore_ascii_case("connection") {
            closing = value.eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("x-quorate-copies") {
            told.copies = value.parse().ok();
        } else if name.eq_ignore_ascii_case("x-quorate-revision") {
            told.revision = value.parse().ok();
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(malformed("answer without a length"));
        }
    }
    if body_bytes > BODY_BYTES_MAX {
        return Err(malformed("answer too large"));
    }
    let body: Range<usize> = end + 4..end + 4 + body_bytes;
    if input.len() < body.end {
        return Ok(None);
    }
    let answer = match (status, op) {
        (200..300, _) => Answer::Done(told),
        (404, Op::Read) => Answer::Missing,
        _ => {
            let detail = serde_json::from_slice::<quorate_api::ErrorBody>(&input[body.clone()]);
            Answer::Error(detail.map_or_else(|_| format!("HTTP {status}"), |d| d.error.code))
        }
    };
    Ok(Some((body.end, answer, closing)))
}

/// Parses one RESP2 answer: its length and what it said. `None` if it is not all there yet.
fn resp_answer(input: &[u8]) -> io::Result<Option<(usize, Answer)>> {
    let Some(end) = memmem::find(input, b"\r\n") else {
        return if input.len() > HEAD_BYTES_MAX { Err(malformed("endless line")) } else { Ok(None) };
    };
    let Some((kind, line)) = input[..end].split_first() else { return Err(malformed("empty line")) };
    let text = String::from_utf8_lossy(line);
    match kind {
        b'+' | b':' => Ok(Some((end + 2, Answer::Done(Told::default())))),
        b'_' => Ok(Some((end + 2, Answer::Missing))),
        b'-' => Ok(Some((end + 2, Answer::Error(text.split(' ').next().unwrap_or("error").to_owned())))),
        b'$' if text == "-1" => Ok(Some((end + 2, Answer::Missing))),
        b'$' => {
            let bytes: usize = text.parse().map_err(|_| malformed("length is no number"))?;
            if bytes > BODY_BYTES_MAX {
                return Err(malformed("answer too large"));
            }
            let whole = end + 2 + bytes + 2;
            Ok((input.len() >= whole).then_some((whole, Answer::Done(Told::default()))))
        }
        _ => Err(malformed("not a RESP answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(protocol: Protocol, op: Op) -> String {
        let mut out = Vec::new();
        encode(&mut out, protocol, "h:1", "?consistency=local", op, 7, b"abc");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn requests_are_what_a_node_expects() {
        assert_eq!(
            encoded(Protocol::Http, Op::Write),
            "PUT /v1/kv/bench-0000000007 HTTP/1.1\r\nhost: h:1\r\ncontent-length: 3\r\n\r\nabc"
        );
        let read = encoded(Protocol::Http, Op::Read);
        assert_eq!(read, "GET /v1/kv/bench-0000000007?consistency=local HTTP/1.1\r\nhost: h:1\r\n\r\n");
        let set = encoded(Protocol::Resp, Op::Write);
        assert_eq!(set, "*3\r\n$3\r\nSET\r\n$16\r\nbench-0000000007\r\n$3\r\nabc\r\n");
        assert_eq!(encoded(Protocol::Resp, Op::Read), "*2\r\n$3\r\nGET\r\n$16\r\nbench-0000000007\r\n");
    }

    #[test]
    fn an_http_answer_is_taken_only_when_all_of_it_is_there() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx-quorate-copies: 3\r\n\r\nworldHTTP/1.1";
        for cut in 0..whole.len() - 8 {
            assert_eq!(http_answer(&whole[..cut], Op::Read).expect("no error"), None, "cut at {cut}");
        }
        let (length, answer, closing) = http_answer(whole, Op::Read).expect("parses").expect("whole");
        assert_eq!(
            (length, answer, closing),
            (whole.len() - 8, Answer::Done(Told { copies: Some(3), revision: None }), false)
        );
    }

    #[test]
    fn http_errors_are_named_by_their_code_and_missing_keys_are_no_errors() {
        let body = r#"{"error":{"code":"no_quorum","message":"m"}}"#;
        let text = format!("HTTP/1.1 503 X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let (_, answer, closing) = http_answer(text.as_bytes(), Op::Write).expect("parses").expect("whole");
        assert_eq!((answer, closing), (Answer::Error("no_quorum".into()), true));
        let missing = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(http_answer(missing, Op::Read).expect("ok").expect("whole").1, Answer::Missing);
        assert_eq!(http_answer(missing, Op::Write).expect("ok").expect("whole").1, Answer::Error("HTTP 404".into()));
        for bad in ["SMTP\r\n\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"] {
            assert!(http_answer(bad.as_bytes(), Op::Read).is_err(), "{bad}");
        }
    }

    #[test]
    fn resp_answers_of_every_kind_are_told_apart() {
        let one = |text: &str| resp_answer(text.as_bytes()).expect("no error");
        assert_eq!(one("+OK\r\n+OK"), Some((5, Answer::Done(Told::default()))));
        assert_eq!(one("$-1\r\n"), Some((5, Answer::Missing)));
        assert_eq!(one("$3\r\nabc\r\n"), Some((9, Answer::Done(Told::default()))));
        assert_eq!(one("$3\r\nabc"), None);
        assert_eq!(one("-NOQUORUM 1 of 2\r\n"), Some((18, Answer::Error("NOQUORUM".into()))));
        assert!(resp_answer(b"?\r\n").is_err());
    }
}
