//! What the HTTP face promises of any bytes: see [`crate::fuzzing`].
//!
//! A face in memory is asked, with the product's own settings of the HTTP library. A request that is well formed gets exactly one whole response,
//! and what is refused is refused in JSON of the shape documented for its path. Bytes that are no request at all end the connection at worst.

#![allow(clippy::expect_used, clippy::panic, reason = "a check reports by panicking")]

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use quorum::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::Shape;
use super::face::Face;
use super::route::{TABLE, shape};
use super::server;
use super::server::Answers;
use crate::fuzzing::block_on;
use crate::testing;

/// Values are small here, so that what is too large is soon written.
const VALUE_BYTES_MAX: usize = 512;

/// A face is asked so many times before another takes its place: what was written to it is not to pile up.
const ASKED_MAX: usize = 500;

/// Bytes on their way in each direction.
const PIPE: usize = 16 << 10;

/// Header lines that mean something to some route, and lines that mean nothing.
const HEADERS: [&str; 14] = [
    "",
    "If-Match: \"7\"\r\n",
    "If-Match: *\r\n",
    "If-None-Match: *\r\n",
    "If-None-Match: \"1\"\r\nIf-Match: *\r\n",
    "If-Match: \"99999999999999999999\"\r\n",
    "Idempotency-Key: 1\r\n",
    "Content-Type: application/json\r\n",
    "Accept: text/html\r\n",
    "Authorization: Bearer token\r\n",
    "Authorization: Basic \r\n",
    "Accept-Encoding: gzip\r\n",
    "If-Match: \u{ff}\r\n",
    "Expect: 100-continue\r\n",
];

const METHODS: [&str; 8] = ["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", "OPTIONS", "BREW"];

struct World {
    faces: [Arc<Face>; 2],
    asked: usize,
}

impl World {
    fn new(value_bytes_max: usize) -> World {
        let faces = block_on(async {
            [Role::Leader, Role::Follower].map(|role| {
                let handle = testing::handle(role, |options| options.limits.value_bytes = value_bytes_max);
                Arc::new(Face::new(handle, Arc::default()))
            })
        });
        World { faces, asked: 0 }
    }

    /// What comes back for these bytes; `ends` if nothing more will be sent.
    fn ask(&mut self, leads: bool, input: &[u8], step: u8, ends: bool) -> Vec<u8> {
        self.asked += 1;
        let face = Arc::clone(&self.faces[usize::from(!leads)]);
        block_on(async {
            let (client, served) = tokio::io::duplex(PIPE);
            let service = service_fn(|request: Request<Incoming>| {
                let face = &face;
                async move { Ok::<_, Infallible>(face.answer(request).await) }
            });
            let serving = server::protocol().serve_connection(TokioIo::new(served), service);
            let (mut read, mut write) = tokio::io::split(client);
            let writing = async {
                for piece in crate::fuzzing::pieces(input, step.max(16)) {
                    // A connection may be ended before all of a bad request was sent.
                    if write.write_all(piece).await.is_err() {
                        return;
                    }
                }
                if ends {
                    let _ = write.shutdown().await;
                }
            };
            let mut output = Vec::new();
            // A bad request may end in an error of the connection: what was said on it is what counts.
            let _ = tokio::join!(serving, writing, read.read_to_end(&mut output));
            output
        })
    }
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::new(VALUE_BYTES_MAX));
}

fn ask(leads: bool, input: &[u8], step: u8, ends: bool) -> Vec<u8> {
    WORLD.with_borrow_mut(|world| {
        if world.asked >= ASKED_MAX {
            *world = World::new(VALUE_BYTES_MAX);
        }
        world.ask(leads, input, step, ends)
    })
}

/// The first byte chooses: its lowest bit the kind of input (bytes as they come on a connection, or a well-formed request made of the rest), the next
/// the role of the node; the second is the length of the pieces.
pub(crate) fn requests(data: &[u8]) {
    let [mode, step, rest @ ..] = data else { return };
    let leads = mode & 2 == 0;
    if mode & 1 == 0 {
        // What a half-closed connection is still told is the library's business; what it is told is complete or cut off.
        let _ = ask(leads, rest, *step, true);
        return;
    }
    let Some(request) = WellFormed::of(rest) else { return };
    if request.target.split('?').next() == Some("/v1/events") {
        // That one ends with its client, wherever it is then.
        let _ = ask(leads, &request.bytes(), *step, true);
        return;
    }
    let output = ask(leads, &request.bytes(), *step, false);
    let reply = Reply::of(&output, request.method == "HEAD");
    request.judge(&reply);
}

/// A request that any HTTP client might send.
struct WellFormed<'a> {
    method: &'static str,
    target: String,
    headers: &'static str,
    body: &'a [u8],
}

impl WellFormed<'_> {
    /// A byte each for the method, the path and a header; then what follows the path up to a zero byte; then the body.
    fn of(data: &[u8]) -> Option<WellFormed<'_>> {
        let [method, path, header, rest @ ..] = data else { return None };
        let entry = &TABLE[usize::from(*path) % TABLE.len()];
        let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
        let (tail, body) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
        let mut target = entry.path.to_owned();
        for byte in tail {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'?' | b'&' | b'=' | b'%' | b'+' | b'.' | b'-' => {
                    target.push(char::from(*byte));
                }
                _ => target.push_str(&format!("%{byte:02x}")),
            }
        }
        let method = METHODS[usize::from(*method) % METHODS.len()];
        Some(WellFormed { method, target, headers: HEADERS[usize::from(*header) % HEADERS.len()], body })
    }

    fn bytes(&self) -> Vec<u8> {
        let WellFormed { method, target, headers, body } = self;
        let length = body.len();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    fn judge(&self, reply: &Reply) {
        let asked =
            format!("{} {} with {:?}: {reply:?}", self.method, self.target, self.body.escape_ascii().to_string());
        if reply.status < 400 || self.method == "HEAD" {
            return;
        }
        assert_eq!(reply.content_type.as_deref(), Some("application/json"), "{asked}");
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_else(|e| panic!("{e}: {asked}"));
        let path = self.target.split('?').next().expect("a path");
        let text = |value: &serde_json::Value| value.as_str().is_some_and(|text| !text.is_empty());
        let documented = match shape(path) {
            Shape::V1 => text(&body["error"]["code"]) && text(&body["error"]["message"]),
            Shape::Lab if path.starts_with("/read") && reply.status == 404 && body["found"] == false => true,
            Shape::Lab => text(&body["detail"]) && text(&body["code"]),
        };
        assert!(documented, "{asked}");
        assert_ne!(reply.status, 500, "no input is a defect of the node: {asked}");
    }
}

struct Reply {
    status: u16,
    content_type: Option<String>,
    body: Vec<u8>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.content_type, self.body.escape_ascii())
    }
}

impl Reply {
    /// The only response in these bytes, which are all there is of the connection.
    fn of(output: &[u8], bare: bool) -> Reply {
        let wrong = |what: &str| -> ! { panic!("{what} in {}", output.escape_ascii()) };
        let mut rest = output;
        // What was asked for with `Expect`.
        if let Some(after) = rest.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n") {
            rest = after;
        }
        let Some(end) = rest.windows(4).position(|w| w == b"\r\n\r\n") else { wrong("no head") };
        let (head, body) = (String::from_utf8_lossy(&rest[..end]).to_lowercase(), &rest[end + 4..]);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(|v| v.trim().to_owned());
        let body = match (header("content-length:"), header("transfer-encoding:")) {
            _ if bare => body.to_vec(),
            (Some(length), None) if length.parse() == Ok(body.len()) => body.to_vec(),
            (None, Some(coding)) if coding == "chunked" => unchunked(body).unwrap_or_else(|| wrong("a broken chunk")),
            (None, None) if body.is_empty() => Vec::new(),
            _ => wrong("another length than the one announced"),
        };
        let Some(status) = status else { wrong("no status") };
        Reply { status, content_type: header("content-type:"), body }
    }
}

fn unchunked(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).ok()?, 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(bytes.get(end + 2..end + 2 + size)?);
        bytes = bytes.get(end + 2 + size + 2..)?;
    }
}

pub(crate) fn request_seeds() -> Vec<Vec<u8>> {
    let well_formed = |method: u8, path: &str, header: u8, tail: &[u8], body: &[u8]| {
        let path = TABLE.iter().position(|entry| entry.path == path).expect("a route") as u8;
        [&[1, 40, method, path, header][..], tail, b"\0", body].concat()
    };
    let mut seeds = vec![
        b"\x00\x30GET /v1/kv/k HTTP/1.1\r\nhost: x\r\n\r\nPUT /v1/kv/k HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nv".to_vec(),
        b"\x02\x20POST /write HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"key\r\n12\r\n\":\"k\",\"value\":[1]}\r\n0\r\n\r\n".to_vec(),
        well_formed(1, "/v1/kv/", 1, b"a%2fb?w=3&forward=false", b"\xff\x00"),
        well_formed(1, "/v1/kv/", 0, b"k", &[b'v'; VALUE_BYTES_MAX + 1]),
        well_formed(0, "/v1/kv/", 3, b"k?consistency=local&min_revision=18446744073709551615", b""),
        well_formed(3, "/v1/kv/", 2, b"k", b""),
        well_formed(0, "/v1/kv", 0, b"?prefix=a&after=b&limit=1000", b""),
        well_formed(2, "/write", 7, b"", br#"{"key":"k","value":{"a":[1e400,null,"\u0000"]}}"#),
        well_formed(1, "/kv/", 7, b"k", br#"{"value":"v"}"#),
        well_formed(1, "/v1/cluster/config", 1, b"", br#"{"write_quorum":3,"voters":["node1","node2"],"preferred":null,"failover":"manual"}"#),
        well_formed(2, "/v1/cluster/members", 0, b"", br#"{"action":"remove","name":"node2"}"#),
        well_formed(2, "/v1/cluster/transfer", 0, b"", br#"{"to":"node2"}"#),
        well_formed(2, "/v1/cluster/campaign", 9, b"", b""),
        well_formed(0, "/", 8, b"", b""),
    ];
    // Every route in every way it may be asked.
    for entry in &TABLE {
        for (method, _) in entry.methods {
            let method = METHODS.iter().position(|m| m == method).expect("a method") as u8;
            seeds.push(well_formed(method, entry.path, 0, b"?key=k&limit=2", b"{}"));
        }
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both directions of the pipe, the library's buffers, and the room that is made ahead.
    const TAKEN_MAX: u64 = 256 << 10;

    /// The largest body that is read at all, and lengths beyond it.
    #[test]
    fn an_announced_body_takes_no_memory_until_it_comes() {
        const LARGE: usize = 8 << 20;
        let mut world = World::new(LARGE);
        for length in [LARGE, LARGE + 1, 1 << 31, usize::MAX / 2] {
            let input = format!("PUT /v1/kv/k HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\nv");
            // What the face makes once for all requests is there after the first.
            world.ask(true, input.as_bytes(), 255, true);
            let used = allocation_counter::measure(|| drop(world.ask(true, input.as_bytes(), 255, true)));
            assert!(used.bytes_max <= TAKEN_MAX, "{} bytes for {length} that were announced", used.bytes_max);
        }
    }
}
