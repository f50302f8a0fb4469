//! Values as JSON text and back, without building a tree where none is needed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::kv::{Item, Value, ValueKind};

/// Appends a string with its quotes.
pub(super) fn push_str(out: &mut Vec<u8>, text: &str) {
    // Writing to a Vec cannot fail, and a string always serializes.
    let _ = serde_json::to_writer(out, text);
}

/// Appends a key. Every face demands UTF-8; were there another, a replacement character beats a broken answer.
pub(super) fn push_key(out: &mut Vec<u8>, key: &[u8]) {
    push_str(out, &String::from_utf8_lossy(key));
}

/// Appends a value: text as a string, JSON as itself, bytes as a string if they are UTF-8 and as `{"base64":…}` if not.
pub(super) fn push_value(out: &mut Vec<u8>, value: &Value) {
    if value.kind == ValueKind::Json {
        return out.extend_from_slice(&value.data);
    }
    match std::str::from_utf8(&value.data) {
        Ok(text) => push_str(out, text),
        Err(_) => {
            out.extend_from_slice(b"{\"base64\":\"");
            out.extend_from_slice(STANDARD.encode(&value.data).as_bytes());
            out.extend_from_slice(b"\"}");
        }
    }
}

/// Appends `"name":number`.
pub(super) fn push_number(out: &mut Vec<u8>, name: &str, number: u64) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends a key with everything known of it: [`quorate_api::KeyValue`].
pub(super) fn push_item(out: &mut Vec<u8>, key: &[u8], item: &Item) {
    out.extend_from_slice(b"{\"key\":");
    push_key(out, key);
    out.extend_from_slice(b",\"value\":");
    push_value(out, &item.value);
    out.push(b',');
    push_number(out, "revision", item.revision);
    out.push(b',');
    push_number(out, "version", item.version);
    out.push(b'}');
}

/// The value that a parsed JSON value is stored as: a string as its text, anything else as JSON.
pub(super) fn to_value(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::String(text) => Value { kind: ValueKind::Text, data: Bytes::from(text) },
        other => Value { kind: ValueKind::Json, data: Bytes::from(other.to_string()) },
    }
}
