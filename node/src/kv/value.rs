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
