//! The simple routes, in the shapes that clients of the simple systems expect. Reads are local: every node answers from its own copy.

use std::borrow::Cow;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use serde::Deserialize;

use super::error::{Code, Failure};
use super::face::{Answer, Face};
use super::json::{push_key, push_number, push_value, to_value};
use super::request::{Query, check_key, key_of_path, parse, value_body};
use super::respond::{Body, json, json_of};
use super::scan::{self, Form, Range};
use super::status;
use super::v1::unexpected;
use crate::handle::{WriteOptions, Written};
use crate::kv::{Command, Condition, Outcome, Value};

/// Body of `POST /write`. Other fields are ignored, as they were.
#[derive(Deserialize)]
struct WriteBody<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    value: serde_json::Value,
}

/// Body of `PUT /kv/{key}`. `null` is a value; only its absence is a mistake.
#[derive(Deserialize)]
struct KvBody {
    value: serde_json::Value,
}

fn lab_value(face: &Face, json: serde_json::Value) -> Result<Value, Failure> {
    let value = to_value(json);
    if value.data.len() > face.value_bytes_max {
        let (length, limit) = (value.data.len(), face.value_bytes_max);
        return Err(Failure::new(Code::TooLarge, format!("the value has {length} bytes, the limit is {limit}")));
    }
    Ok(value)
}

async fn put(face: &Face, key: Bytes, value: Value, forward: bool) -> Result<(Written, u64), Failure> {
    let command = Command::Put { key, value, condition: Condition::None };
    let written = face.handle.write(&command, WriteOptions { copies: None, forward }).await?;
    match written.outcome {
        Outcome::Put { version } => Ok((written, version)),
        other => Err(unexpected(&other)),
    }
}

/// `POST /write`: on the leader only; a follower says who that is.
pub(super) async fn write(face: &Face, request: Request<Incoming>) -> Answer {
    let bytes = value_body(face, request, face.body_bytes_max).await?;
    let (key, value) = {
        let parsed: WriteBody<'_> = serde_json::from_slice(&bytes).map_err(|_| unreadable(&bytes))?;
        (Bytes::copy_from_slice(parsed.key.as_bytes()), parsed.value)
    };
    let key = check_key(face, key)?;
    let (written, version) = put(face, key, lab_value(face, value)?, false).await?;
    let mut out = Vec::with_capacity(160);
    out.extend_from_slice(b"{\"success\":true,\"message\":\"Write successful\",");
    // Those systems count the followers that confirmed.
    push_number(&mut out, "quorum_reached", written.followers as u64);
    out.push(b',');
    push_written(&mut out, &written, Some(version));
    Ok(json(StatusCode::OK, out.into()))
}

/// Why the body of a `POST /write` was not understood: the complaint names UTF-8 apart from JSON.
fn unreadable(bytes: &[u8]) -> Failure {
    match parse::<WriteBodyOwned>(bytes) {
        Err(failure) => failure,
        Ok(_) => Failure::bad("the body is not the JSON expected"),
    }
}

/// As [`WriteBody`], for the error message alone.
#[derive(Deserialize)]
struct WriteBodyOwned {
    #[serde(rename = "key")]
    _key: String,
    #[serde(rename = "value")]
    _value: serde_json::Value,
}

/// Appends the numbers of a write, and the closing brace.
fn push_written(out: &mut Vec<u8>, written: &Written, version: Option<u64>) {
    push_number(out, "copies", written.copies as u64);
    out.push(b',');
    push_number(out, "revision", written.revision);
    if let Some(version) = version {
        out.push(b',');
        push_number(out, "version", version);
    }
    out.push(b'}');
}

/// `GET /read/{key}` and `GET /read?key=`
pub(super) async fn read(face: &Face, request: &Request<Incoming>) -> Answer {
    let key = match request.uri().path().strip_prefix("/read/") {
        Some(encoded) => key_of_path(face, encoded)?,
        None => key_of_query(face, request)?,
    };
    let item = face.handle.item(&key).await?;
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(b"{\"key\":");
    push_key(&mut out, &key);
    out.extend_from_slice(b",\"value\":");
    match &item {
        Some(item) => {
            push_value(&mut out, &item.value);
            out.extend_from_slice(b",\"found\":true,");
            push_number(&mut out, "revision", item.revision);
            out.push(b',');
            push_number(&mut out, "version", item.version);
        }
        None => out.extend_from_slice(b"null,\"found\":false"),
    }
    out.push(b'}');
    Ok(json(if item.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND }, out.into()))
}

fn key_of_query(face: &Face, request: &Request<Incoming>) -> Result<Bytes, Failure> {
    let Some(key) = Query::of(request).get("key") else {
        return Err(Failure::bad("the parameter key is missing: ?key=…"));
    };
    check_key(face, key.into())
}

/// `GET /data`
pub(super) async fn data(face: &Face) -> Answer {
    let range = Range { prefix: Vec::new(), after: None, limit: u64::MAX };
    scan::respond(face, range, Form::Object).await
}

/// `GET /keys`
pub(super) async fn keys(face: &Face, request: &Request<Incoming>) -> Answer {
    let query = Query::of(request);
    let range = Range {
        prefix: query.get("prefix").unwrap_or_default(),
        after: query.get("after"),
        limit: query.number("limit")?.unwrap_or(u64::MAX),
    };
    scan::respond(face, range, Form::Keys).await
}

fn kv_key(face: &Face, request: &Request<Incoming>) -> Result<Bytes, Failure> {
    key_of_path(face, request.uri().path().strip_prefix("/kv/").unwrap_or_default())
}

/// `PUT /kv/{key}`
pub(super) async fn kv_put(face: &Face, request: Request<Incoming>) -> Answer {
    let key = kv_key(face, &request)?;
    let parsed: KvBody = parse(&value_body(face, request, face.body_bytes_max).await?)?;
    let value = lab_value(face, parsed.value)?;
    let mut out = Vec::with_capacity(96);
    out.extend_from_slice(b"{\"status\":\"ok\",\"key\":");
    push_key(&mut out, &key);
    out.push(b',');
    let (written, version) = put(face, key, value, true).await?;
    push_written(&mut out, &written, Some(version));
    Ok(json(StatusCode::OK, out.into()))
}

/// `GET /kv/{key}`
pub(super) async fn kv_get(face: &Face, request: &Request<Incoming>) -> Answer {
    let key = kv_key(face, request)?;
    let Some(item) = face.handle.item(&key).await? else {
        let message = format!("Key '{}' not found", String::from_utf8_lossy(&key));
        return Err(Failure::new(Code::KeyNotFound, message));
    };
    let mut out = b"{\"value\":".to_vec();
    push_value(&mut out, &item.value);
    out.push(b'}');
    Ok(json(StatusCode::OK, out.into()))
}

/// `DELETE /kv/{key}`
pub(super) async fn kv_delete(face: &Face, request: &Request<Incoming>) -> Answer {
    let key = kv_key(face, request)?;
    let mut out = b"{\"status\":\"ok\",\"key\":".to_vec();
    push_key(&mut out, &key);
    let command = Command::Delete { key, condition: Condition::None };
    let written = face.handle.write(&command, WriteOptions::default()).await?;
    let Outcome::Deleted { count } = written.outcome else { return Err(unexpected(&written.outcome)) };
    out.extend_from_slice(if count > 0 { b",\"deleted\":true," } else { b",\"deleted\":false," });
    push_written(&mut out, &written, None);
    Ok(json(StatusCode::OK, out.into()))
}

/// `GET /map`: every voter holds every key; the leader is asked first.
pub(super) fn map(face: &Face, request: &Request<Incoming>) -> Answer {
    let key = key_of_query(face, request)?;
    let state = face.handle.state();
    let leader = state.leader.as_ref();
    let voters = state.config.iter().flat_map(|c| &c.voters);
    let replicas: Vec<&str> = voters.filter(|m| leader.is_none_or(|l| l.id != m.id)).map(|m| m.http.as_str()).collect();
    Ok(json_of(
        StatusCode::OK,
        &serde_json::json!({
            "key": String::from_utf8_lossy(&key),
            "group": 0,
            "primary": leader.map(|l| l.http.as_str()),
            "replicas": replicas,
        }),
    ))
}

/// `GET /workers`
pub(super) fn workers(face: &Face) -> Response<Body> {
    let workers: Vec<serde_json::Value> = status::members(&face.handle, &face.handle.state())
        .into_iter()
        .map(|m| {
            serde_json::json!({
                "id": m.name,
                "address": m.http,
                "role": m.role,
                "healthy": m.healthy,
                "last_heard_ms": m.last_heard_ms,
                "lag": m.lag,
            })
        })
        .collect();
    json_of(StatusCode::OK, &serde_json::json!({ "workers": workers }))
}

/// What the nodes of the simple systems asked each other.
pub(super) fn gone() -> Failure {
    Failure::new(
        Code::Gone,
        "nodes no longer talk to each other over HTTP: replication, heartbeats and catching up are the peer protocol's, \
         on a port of its own. Clients write with POST /write or PUT /v1/kv/{key}",
    )
}
