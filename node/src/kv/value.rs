//! A value and its kind, so that `"30"` and `30` come back as they were written.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How a value was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum ValueKind {
    /// Raw bytes, as from `PUT /v1/kv` or Redis.
    Bytes = 0,
    /// UTF-8 text: a JSON string's content, unescaped.
    Text = 1,
    /// The compact text of a JSON value that is not a string.
    Json = 2,
}

/// A value: its kind and its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// How it was written.
    pub kind: ValueKind,
    /// The bytes: raw, UTF-8 text, or JSON text.
    pub data: Bytes,
}

impl Value {
    /// Raw bytes.
    #[must_use]
    pub fn bytes(data: impl Into<Bytes>) -> Value {
        Value { kind: ValueKind::Bytes, data: data.into() }
    }

    /// The value a line of text stands for: JSON keeps its type, anything else is text.
    #[must_use]
    pub fn from_line(line: &str) -> Value {
        match serde_json::from_str::<serde_json::Value>(line) {
            Ok(serde_json::Value::String(text)) => Value { kind: ValueKind::Text, data: text.into() },
            Ok(json) => Value { kind: ValueKind::Json, data: json.to_string().into() },
            Err(_) => Value { kind: ValueKind::Text, data: line.to_owned().into() },
        }
    }
}
