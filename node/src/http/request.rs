//! Reading a request: its key, query, conditions, token and body, each with its bound.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Body as _, Incoming};
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use percent_encoding::percent_decode_str;
use quorate_api::MANAGER_HEADER;
use serde::Deserialize;

use super::error::{Code, Failure};
use super::face::Face;
use crate::handle::{Consistency, Held, WriteOptions};
use crate::kv::{Command, Condition, REQUEST_KEY_BYTES_MAX};

/// How long a body may take to arrive. At the largest default value that is 35 kB a second.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Room made at once for a body whose length was announced: a value of ordinary size. Beyond it room grows with what arrives, so that
/// announcing costs nothing.
const ROOM_AHEAD: usize = 64 << 10;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What is planned but not there yet.
pub(super) fn not_implemented(what: &str) -> Failure {
    Failure::new(Code::NotImplemented, format!("{what} is planned, but this version does not have it yet"))
}

/// The key that follows a route's path.
pub(super) fn key_of_path(face: &Face, encoded: &str) -> Result<Bytes, Failure> {
    if !encoded.contains('%') {
        return check_key(face, Bytes::copy_from_slice(encoded.as_bytes()));
    }
    check_key(face, Bytes::from(percent_decode_str(encoded).collect::<Vec<u8>>()))
}

/// A key that is in order: UTF-8, and neither empty nor too long.
pub(super) fn check_key(face: &Face, key: Bytes) -> Result<Bytes, Failure> {
    let limit = face.handle.options().limits.key_bytes;
    let complaint = if key.is_empty() {
        "the key is empty".into()
    } else if key.len() > limit {
        format!("the key has {} bytes, the limit is {limit}", key.len())
    } else if let Err(error) = std::str::from_utf8(&key) {
        format!("the key is not UTF-8 at byte {}", error.valid_up_to())
    } else {
        return Ok(key);
    };
    Err(Failure::new(Code::KeyInvalid, complaint))
}

/// The query of a URI.
#[derive(Clone, Copy)]
pub(super) struct Query<'a>(Option<&'a str>);

impl<'a> Query<'a> {
    /// The query of this request.
    pub(super) fn of<B>(request: &'a Request<B>) -> Query<'a> {
        Query(request.uri().query())
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(self) -> bool {
        self.0.is_none()
    }

    /// The first parameter of this name, decoded: `+` is a space, as in forms.
    pub(super) fn get(self, name: &str) -> Option<Vec<u8>> {
        let (_, value) =
            self.0?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).find(|(n, _)| *n == name)?;
        let spaced = if value.contains('+') { Cow::Owned(value.replace('+', " ")) } else { Cow::Borrowed(value) };
        Some(percent_decode_str(&spaced).collect())
    }

    /// As [`Query::get`], for text.
    pub(super) fn text(self, name: &str) -> Result<Option<String>, Failure> {
        let text = self.get(name).map(String::from_utf8).transpose();
        text.map_err(|_| Failure::bad(format!("the parameter {name} is not UTF-8")))
    }

    /// As [`Query::get`], for a number.
    pub(super) fn number(self, name: &str) -> Result<Option<u64>, Failure> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let number = text.parse();
        number.map(Some).map_err(|_| Failure::bad(format!("the parameter {name} is no number: {text:?}")))
    }

    /// Whether a write or read may be passed on to the leader.
    fn forward(self) -> Result<bool, Failure> {
        match self.text("forward")?.as_deref() {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(Failure::bad(format!("forward is true or false, not {other:?}"))),
        }
    }
}

/// How a write under `/v1` is to be done.
pub(super) fn write_options(face: &Face, request: &Request<Incoming>) -> Result<WriteOptions, Failure> {
    let query = Query::of(request);
    if query.is_empty() {
        return Ok(WriteOptions::default());
    }
    if query.get("ttl").is_some() {
        return Err(not_implemented("the parameter ttl"));
    }
    let copies = query.number("w")?.map(|w| raised(face, w)).transpose()?.flatten();
    Ok(WriteOptions { copies, forward: query.forward()? })
}

/// The client's name for a write, in `Idempotency-Key`: visible ASCII, so that what is compared is what people see.
pub(super) fn idempotency_key(request: &Request<Incoming>) -> Result<Option<Bytes>, Failure> {
    let mut given = request.headers().get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = given.next().map(HeaderValue::as_bytes) else { return Ok(None) };
    let complaint = if given.next().is_some() {
        "Idempotency-Key is given more than once".to_owned()
    } else if key.is_empty() || key.len() > REQUEST_KEY_BYTES_MAX {
        format!("the idempotency key has {} bytes, the limit is 1 to {REQUEST_KEY_BYTES_MAX}", key.len())
    } else if !key.iter().all(u8::is_ascii_graphic) {
        "the idempotency key may hold visible ASCII characters and no spaces".to_owned()
    } else {
        return Ok(Some(Bytes::copy_from_slice(key)));
    };
    Err(Failure::new(Code::IdempotencyKeyInvalid, complaint))
}

/// The command, done once under the key if there is one.
pub(super) fn once(command: Command, key: Option<Bytes>) -> Command {
    match key {
        Some(key) => command.once(key),
        None => command,
    }
}

/// The copies that `?w=` asks for beyond W.
fn raised(face: &Face, wanted: u64) -> Result<Option<usize>, Failure> {
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    let state = face.handle.state();
    let Some(config) = state.config.as_ref() else { return Ok(Some(wanted)) };
    let (lowest, highest) = (config.write_quorum, config.voters.len());
    if wanted < lowest || wanted > highest {
        let message = format!(
            "w={wanted} is not possible: a request may only raise the write quorum, here from {lowest} up to {highest}"
        );
        return Err(Failure::new(Code::WriteQuorumInvalid, message));
    }
    Ok((wanted > lowest).then_some(wanted))
}

/// How fresh a read under `/v1` must be, whether it may go to the leader for that, and what it must show at least.
pub(super) fn read_options(query: Query<'_>) -> Result<(Consistency, bool, Option<u64>), Failure> {
    if query.is_empty() {
        return Ok((Consistency::Linearizable, true, None));
    }
    let consistency = match query.text("consistency")?.as_deref() {
        None | Some("linearizable") => Consistency::Linearizable,
        Some("local") => Consistency::Local,
        Some(other) => return Err(Failure::bad(format!("consistency is linearizable or local, not {other:?}"))),
    };
    Ok((consistency, query.forward()?, query.number("min_revision")?))
}

/// The condition in `If-Match` or `If-None-Match`.
pub(super) fn condition(request: &Request<Incoming>) -> Result<Condition, Failure> {
    match (request.headers().get(IF_MATCH), request.headers().get(IF_NONE_MATCH)) {
        (None, None) => Ok(Condition::None),
        (Some(_), Some(_)) => Err(Failure::bad("If-Match and If-None-Match exclude each other")),
        (None, Some(value)) if value.as_bytes().trim_ascii() == b"*" => Ok(Condition::Absent),
        (None, Some(_)) => Err(Failure::bad("a write understands If-None-Match: * only")),
        (Some(value), None) if value.as_bytes().trim_ascii() == b"*" => Ok(Condition::Present),
        (Some(value), None) => match revision_of_etag(value.as_bytes()) {
            Some(revision) => Ok(Condition::Revision(revision)),
            None => Err(Failure::bad("If-Match takes * or one revision, as in If-Match: \"7\"")),
        },
    }
}

/// The number in an entity tag, with or without its quotes.
pub(super) fn revision_of_etag(tag: &[u8]) -> Option<u64> {
    let tag = std::str::from_utf8(tag).ok()?.trim();
    let bare = tag.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(tag);
    // `parse` would also take a sign.
    bare.bytes().all(|b| b.is_ascii_digit()).then(|| bare.parse().ok()).flatten()
}

/// Lets only those pass who know the admin token, where one is set.
pub(super) fn demand_admin(face: &Face, request: &Request<Incoming>) -> Result<(), Failure> {
    demand_token(face.handle.options().admin_token.as_deref(), request)
}

/// The same for whoever has a token, or none, to ask for.
pub(super) fn demand_token<B>(token: Option<&str>, request: &Request<B>) -> Result<(), Failure> {
    let Some(token) = token else { return Ok(()) };
    let challenge = || hyper::header::HeaderValue::try_from("Bearer");
    let refuse = |message: &'static str| {
        Err(Failure::new(Code::Unauthorized, message).with_header(hyper::header::WWW_AUTHENTICATE, challenge()))
    };
    let Some(header) = request.headers().get(AUTHORIZATION) else {
        return refuse("this changes the cluster and needs the admin token: Authorization: Bearer <token>");
    };
    let given = header.as_bytes();
    let (scheme, given) = given.split_at(given.len().min("Bearer ".len()));
    if scheme.eq_ignore_ascii_case(b"Bearer ") && same(given.trim_ascii(), token.as_bytes()) {
        return Ok(());
    }
    refuse("the admin token is not the one this node was started with")
}

/// Where the cluster has a manager, lets only it change members and numbers: it would undo what anyone else changed.
pub(super) fn demand_manager(face: &Face, request: &Request<Incoming>) -> Result<(), Failure> {
    let Some(manager) = &face.handle.options().managed_by else { return Ok(()) };
    if request.headers().get(MANAGER_HEADER).is_some_and(|given| given.as_bytes() == manager.as_bytes()) {
        return Ok(());
    }
    let message = format!("this cluster is managed by {manager}: change it there, or it would be changed back");
    Err(Failure::new(Code::ChangeRefused, message))
}

/// Comparison whose time depends on the length of what was given alone.
fn same(given: &[u8], secret: &[u8]) -> bool {
    let mut difference = given.len() ^ secret.len();
    for (at, byte) in given.iter().enumerate() {
        difference |= usize::from(byte ^ secret.get(at).copied().unwrap_or(0));
    }
    std::hint::black_box(difference) == 0
}

/// The whole body of a request that carries a value, at most `limit` bytes of it. While it arrives it is a part of what the node holds of such.
pub(super) async fn value_body(face: &Face, request: Request<Incoming>, limit: usize) -> Result<Bytes, Failure> {
    body_within(request, limit, Some(face.handle.intake())).await
}

/// The whole body, at most `limit` bytes of it: for what is small, or asked for seldom.
pub(super) async fn body(request: Request<Incoming>, limit: usize) -> Result<Bytes, Failure> {
    body_within(request, limit, None).await
}

async fn body_within(request: Request<Incoming>, limit: usize, held: Option<Held>) -> Result<Bytes, Failure> {
    let mut body = request.into_body();
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > limit as u64 {
        return Err(Failure::too_large(limit));
    }
    match tokio::time::timeout(BODY_TIMEOUT, collect(&mut body, limit, held)).await {
        Ok(collected) => collected,
        Err(_) => Err(Failure::new(Code::RequestTimeout, "the body did not arrive in time").closing()),
    }
}

async fn collect(body: &mut Incoming, limit: usize, mut held: Option<Held>) -> Result<Bytes, Failure> {
    let first = next_chunk(body).await?.unwrap_or_default();
    if body.is_end_stream() {
        // The usual case: one packet, one slice of the connection's buffer, no copy.
        return if first.len() > limit { Err(Failure::too_large(limit)) } else { Ok(first) };
    }
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(limit).min(limit).min(ROOM_AHEAD);
    let mut whole = BytesMut::with_capacity(first.len() + expected);
    let mut chunk = first;
    loop {
        if whole.len() + chunk.len() > limit {
            return Err(Failure::too_large(limit));
        }
        if held.as_mut().is_some_and(|held| !held.hold(whole.len() + chunk.len())) {
            let why = "this node holds as much of requests that are still arriving as it allows now";
            return Err(Failure::new(Code::Overloaded, why).closing());
        }
        whole.extend_from_slice(&chunk);
        // A body of known length ends with its last byte, a chunked one with the absence of another chunk.
        chunk = match next_chunk(body).await? {
            Some(chunk) => chunk,
            None => return Ok(whole.freeze()),
        };
    }
}

/// The next piece of the body (empty for trailers); `None` at its end.
async fn next_chunk(body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
    match body.frame().await {
        None => Ok(None),
        Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
        Some(Err(error)) => Err(Failure::bad(format!("the body broke off: {error}")).closing()),
    }
}

/// JSON that must be there.
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Failure> {
    if let Err(error) = std::str::from_utf8(bytes) {
        return Err(Failure::bad(format!("the body is not UTF-8 at byte {}", error.valid_up_to())));
    }
    // serde_json's messages end in "at line 1 column 7".
    serde_json::from_slice(bytes).map_err(|error| Failure::bad(format!("the body is not the JSON expected: {error}")))
}
