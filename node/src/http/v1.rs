//! `/v1/kv`: the API for everyone who is not a client of the simple systems. Bodies are raw; the numbers are in the headers.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use hyper::{Request, Response, StatusCode};

use super::error::{Code, Failure};
use super::face::{Answer, Face};
use super::json::to_value;
use super::request::{
    Query, condition, idempotency_key, key_of_path, once, parse, read_options, revision_of_etag, value_body,
    write_options,
};
use super::respond::{Body, COPIES, JSON, NODE, REPEATED, REVISION, Sheet, TERM, VERSION, full, header, json};
use super::scan::{self, Form, Range};
use crate::handle::Written;
use crate::kv::{Command, Item, Outcome, Value, ValueKind};

/// Where the key begins in the path.
const PATH: &str = "/v1/kv/";

fn key_of(face: &Face, request: &Request<Incoming>) -> Result<Bytes, Failure> {
    key_of_path(face, request.uri().path().strip_prefix(PATH).unwrap_or_default())
}

/// `PUT /v1/kv/{key}`
pub(super) async fn put(face: &Face, request: Request<Incoming>) -> Answer {
    let key = key_of(face, &request)?;
    let options = write_options(face, &request)?;
    let condition = condition(&request)?;
    let request_key = idempotency_key(&request)?;
    let kind = kind_of(request.headers().get(CONTENT_TYPE));
    let value = value_of(kind, value_body(face, request, face.value_bytes_max).await?)?;
    let command = once(Command::Put { key, value, condition }, request_key);
    let written = face.handle.write(&command, options).await?;
    match written.outcome {
        Outcome::Put { version } => Ok(put_response(face, &written, version)),
        other => Err(unexpected(&other)),
    }
}

/// The kind of value that a content type announces.
fn kind_of(content_type: Option<&HeaderValue>) -> ValueKind {
    let Some(Ok(text)) = content_type.map(HeaderValue::to_str) else { return ValueKind::Bytes };
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        ValueKind::Json
    } else if essence.eq_ignore_ascii_case("text/plain") {
        ValueKind::Text
    } else {
        ValueKind::Bytes
    }
}

fn value_of(kind: ValueKind, data: Bytes) -> Result<Value, Failure> {
    match kind {
        ValueKind::Bytes => Ok(Value { kind, data }),
        ValueKind::Json => Ok(to_value(parse(&data)?)),
        ValueKind::Text => match std::str::from_utf8(&data) {
            Ok(_) => Ok(Value { kind, data }),
            Err(error) => {
                Err(Failure::bad(format!("the body is sent as text but is not UTF-8 at byte {}", error.valid_up_to())))
            }
        },
    }
}

/// A write's outcome that is none of its own: a condition that failed, or a defect.
pub(super) fn unexpected(outcome: &Outcome) -> Failure {
    match outcome {
        Outcome::ConditionFailed { current } => Failure::precondition(*current),
        Outcome::KeyReused => Failure::new(
            Code::IdempotencyKeyReused,
            "this idempotency key was used for another request; nothing was changed: a new request needs a new key",
        ),
        other => Failure::new(Code::Internal, format!("the write led to {other:?}, which it cannot")),
    }
}

fn put_response(face: &Face, written: &Written, version: u64) -> Response<Body> {
    let mut sheet = Sheet::new();
    sheet.text("{\"revision\":");
    let revision = sheet.number(written.revision);
    sheet.text(",\"version\":");
    let version = sheet.number(version);
    sheet.text(",\"term\":");
    let term = sheet.number(written.term);
    sheet.text(",\"copies\":");
    let copies = sheet.number(written.copies as u64);
    sheet.text("}");
    let end = sheet.len();
    let etag = sheet.etag(written.revision);
    let sheet = sheet.finish();
    let mut response = json(StatusCode::OK, sheet.slice(..end));
    let headers = response.headers_mut();
    headers.insert(ETAG, header(&sheet, etag));
    headers.insert(REVISION, header(&sheet, revision));
    headers.insert(VERSION, header(&sheet, version));
    headers.insert(TERM, header(&sheet, term));
    headers.insert(COPIES, header(&sheet, copies));
    headers.insert(NODE, face.node.clone());
    if written.repeated {
        headers.insert(REPEATED, HeaderValue::from_static("true"));
    }
    response
}

/// `GET` and `HEAD /v1/kv/{key}` (hyper leaves the body of the latter out)
pub(super) async fn get(face: &Face, request: Request<Incoming>) -> Answer {
    let key = key_of(face, &request)?;
    let (consistency, forward, min_revision) = read_options(Query::of(&request))?;
    face.handle.barrier(consistency, forward, min_revision).await?;
    let Some(item) = face.handle.item(&key).await? else {
        return Err(Failure::new(Code::KeyNotFound, format!("there is no key {:?}", String::from_utf8_lossy(&key)))
            .with_header(TERM, Ok::<_, std::convert::Infallible>(face.handle.state().term.0.into())));
    };
    let known = request.headers().get(IF_NONE_MATCH);
    Ok(get_response(face, item, known))
}

fn get_response(face: &Face, item: Item, known: Option<&HeaderValue>) -> Response<Body> {
    let mut sheet = Sheet::new();
    let etag = sheet.etag(item.revision);
    let version = sheet.number(item.version);
    let term = sheet.number(face.handle.state().term.0);
    let sheet = sheet.finish();
    let kind = match item.value.kind {
        ValueKind::Bytes => HeaderValue::from_static("application/octet-stream"),
        ValueKind::Text => HeaderValue::from_static("text/plain; charset=utf-8"),
        ValueKind::Json => JSON,
    };
    let unchanged = known.is_some_and(|tags| names(tags, item.revision));
    let mut response = if unchanged {
        full(StatusCode::NOT_MODIFIED, kind, Bytes::new())
    } else {
        full(StatusCode::OK, kind, item.value.data)
    };
    let headers = response.headers_mut();
    headers.insert(REVISION, header(&sheet, etag.start + 1..etag.end - 1));
    headers.insert(ETAG, header(&sheet, etag));
    headers.insert(VERSION, header(&sheet, version));
    headers.insert(TERM, header(&sheet, term));
    headers.insert(NODE, face.node.clone());
    response
}

/// Whether one of the entity tags is this revision's.
fn names(tags: &HeaderValue, revision: u64) -> bool {
    let tags = tags.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii);
    tags.into_iter().any(|tag| {
        // A proxy may have weakened the tag; for a read that makes no difference.
        let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
        tag == b"*" || revision_of_etag(tag) == Some(revision)
    })
}

/// `DELETE /v1/kv/{key}`
pub(super) async fn delete(face: &Face, request: Request<Incoming>) -> Answer {
    let key = key_of(face, &request)?;
    let options = write_options(face, &request)?;
    let condition = condition(&request)?;
    let command = once(Command::Delete { key, condition }, idempotency_key(&request)?);
    let written = face.handle.write(&command, options).await?;
    let Outcome::Deleted { count } = written.outcome else { return Err(unexpected(&written.outcome)) };
    let mut sheet = Sheet::new();
    sheet.text(if count > 0 { "{\"deleted\":true,\"revision\":" } else { "{\"deleted\":false,\"revision\":" });
    let revision = sheet.number(written.revision);
    sheet.text(",\"term\":");
    let term = sheet.number(written.term);
    sheet.text(",\"copies\":");
    let copies = sheet.number(written.copies as u64);
    sheet.text("}");
    let sheet = sheet.finish();
    let mut response = json(StatusCode::OK, sheet.clone());
    let headers = response.headers_mut();
    headers.insert(REVISION, header(&sheet, revision));
    headers.insert(TERM, header(&sheet, term));
    headers.insert(COPIES, header(&sheet, copies));
    headers.insert(NODE, face.node.clone());
    if written.repeated {
        headers.insert(REPEATED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// `GET /v1/kv`: a page, or with `Accept: application/x-ndjson` the whole range.
pub(super) async fn list(face: &Face, request: Request<Incoming>) -> Answer {
    let query = Query::of(&request);
    let (consistency, forward, min_revision) = read_options(query)?;
    let lines = request.headers().get_all(ACCEPT).iter().any(|v| v.as_bytes().windows(8).any(|w| w == b"x-ndjson"));
    let wanted = query.number("limit")?;
    if wanted == Some(0) {
        return Err(Failure::bad("a page of 0 keys is no page: limit is at least 1"));
    }
    let most = if lines { u64::MAX } else { face.handle.options().limits.page_keys as u64 };
    let range = Range {
        prefix: query.get("prefix").unwrap_or_default(),
        after: query.get("after"),
        limit: wanted.unwrap_or(most).min(most),
    };
    face.handle.barrier(consistency, forward, min_revision).await?;
    let mut response = scan::respond(face, range, if lines { Form::Lines } else { Form::Page }).await?;
    let headers = response.headers_mut();
    headers.insert(TERM, face.handle.state().term.0.into());
    headers.insert(NODE, face.node.clone());
    Ok(response)
}
