//! A value and its kind, so that `"30"` and `30` come back as they were written.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

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

impl ValueKind {
    /// The kind of this number, if there is one.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<ValueKind> {
        match byte {
            0 => Some(ValueKind::Bytes),
            1 => Some(ValueKind::Text),
            2 => Some(ValueKind::Json),
            _ => None,
        }
    }
}

impl Value {
    /// Raw bytes.
    #[must_use]
    pub fn bytes(data: impl Into<Bytes>) -> Value {
        Value { kind: ValueKind::Bytes, data: data.into() }
    }

    /// Text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Value {
        Value { kind: ValueKind::Text, data: Bytes::from(text.into()) }
    }

    /// A JSON value that is no string, as compact text. A string is text: see [`Value::from_json`].
    #[must_use]
    pub fn json(json: &Json) -> Value {
        Value { kind: ValueKind::Json, data: Bytes::from(json.to_string()) }
    }

    /// What a JSON face was given: a string becomes text, everything else keeps its compact text.
    #[must_use]
    pub fn from_json(json: Json) -> Value {
        match json {
            Json::String(text) => Value::text(text),
            other => Value::json(&other),
        }
    }

    /// What the line protocol was given: JSON if it is valid JSON, plain text otherwise.
    #[must_use]
    pub fn from_line(text: &str) -> Value {
        serde_json::from_str(text).map_or_else(|_| Value::text(text), Value::from_json)
    }

    /// What a JSON face shows: text as a string, JSON as itself, bytes as a string where they are UTF-8 and as
    /// `{"base64": …}` where not.
    #[must_use]
    pub fn to_json(&self) -> Json {
        if self.kind == ValueKind::Json
            && let Ok(json) = serde_json::from_slice(&self.data)
        {
            return json;
        }
        match std::str::from_utf8(&self.data) {
            Ok(text) => Json::String(text.to_owned()),
            Err(_) => serde_json::json!({ "base64": BASE64.encode(&self.data) }),
        }
    }

    /// What a raw face returns: the bytes as they are stored.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_and_number_come_back_as_they_were_written() {
        for json in [json!("30"), json!(30), json!({"b": 1, "a": [null, true, "x"]}), json!("")] {
            assert_eq!(Value::from_json(json.clone()).to_json(), json);
        }
        assert_eq!(Value::from_json(json!("30")).as_bytes(), Value::from_json(json!(30)).as_bytes());
    }

    #[test]
    fn a_number_keeps_every_digit_it_was_written_with() {
        for text in ["12345678901234567890123", "0.1000000000000000055511151231257827", "-0", "1.50", "[1e400,2.0]"] {
            let value = Value::from_line(text);
            assert_eq!(value.kind, ValueKind::Json);
            // An exponent is written with its sign: the one thing that changes.
            assert_eq!(value.to_json().to_string(), text.replace("e4", "e+4"));
        }
    }

    #[test]
    fn a_line_is_json_where_it_can_be_and_text_otherwise() {
        assert_eq!(Value::from_line(r#"{"name": "Alice"}"#), Value::json(&json!({"name": "Alice"})));
        assert_eq!(Value::from_line(r#""quoted""#), Value::text("quoted"));
        assert_eq!(Value::from_line("hello world"), Value::text("hello world"));
        assert_eq!(Value::from_line("30").kind, ValueKind::Json);
    }

    #[test]
    fn bytes_show_as_text_where_they_are_and_as_base64_where_not() {
        assert_eq!(Value::bytes("plain").to_json(), json!("plain"));
        assert_eq!(Value::bytes(vec![0xff, 0]).to_json(), json!({"base64": "/wA="}));
    }
}
