//! The line protocol: a command a line, a JSON object per answer, as used with `nc`.
//!
//! Owns the grammar of lines and the exact shape of every answer; it asks nothing of the node. Before it: [`super::session`], which cuts
//! the lines. After it: the session again, which carries them out.

use base64::Engine as _;

use crate::kv::{Value, ValueKind};

/// A line, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Set { key: &'a str, value: &'a str },
    Get(&'a str),
    Delete(&'a str),
    Ping,
    Status,
    Auth(&'a str),
    Shutdown,
    Quit,
}

/// Why a line is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineError {
    #[error("the line is not valid UTF-8")]
    NotUtf8,
    #[error("Empty command")]
    Empty,
    #[error("Unknown command '{0}'")]
    Unknown(String),
    #[error("Usage: {0}")]
    Usage(&'static str),
    /// A web page makes a browser talk to this port. The connection must end: what follows is under that page's control.
    #[error("this is not an HTTP port")]
    Http,
}

/// Longest part of an unknown command's name that is repeated in the answer.
const ECHO_CHARS_MAX: usize = 64;

/// Understands a line (without its LF; a CR before it does not count).
pub(super) fn parse(line: &[u8]) -> Result<Line<'_>, LineError> {
    let line = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)).map_err(|_| LineError::NotUtf8)?;
    let (name, rest) = word(line);
    let is = |command: &str| name.eq_ignore_ascii_case(command);
    if is("SET") {
        let (key, value) = word(rest);
        if key.is_empty() || value.is_empty() {
            return Err(LineError::Usage("SET <key> <value>"));
        }
        Ok(Line::Set { key, value })
    } else if is("GET") {
        one(rest).map(Line::Get).ok_or(LineError::Usage("GET <key>"))
    } else if is("DELETE") {
        one(rest).map(Line::Delete).ok_or(LineError::Usage("DELETE <key>"))
    } else if is("AUTH") {
        one(rest).map(Line::Auth).ok_or(LineError::Usage("AUTH <token>"))
    } else if is("PING") {
        Ok(Line::Ping)
    } else if is("STATUS") {
        Ok(Line::Status)
    } else if is("SHUTDOWN") {
        Ok(Line::Shutdown)
    } else if is("QUIT") || is("EXIT") {
        Ok(Line::Quit)
    } else if is("POST") || is("HOST:") {
        Err(LineError::Http)
    } else if name.is_empty() {
        Err(LineError::Empty)
    } else {
        Err(LineError::Unknown(name.chars().take(ECHO_CHARS_MAX).collect()))
    }
}

/// The first word and what comes after the blanks behind it.
fn word(text: &str) -> (&str, &str) {
    let blank = [' ', '\t'];
    let text = text.trim_start_matches(blank);
    text.split_once(blank).map_or((text, ""), |(word, rest)| (word, rest.trim_start_matches(blank)))
}

/// The only word.
fn one(text: &str) -> Option<&str> {
    let (word, rest) = word(text);
    (!word.is_empty() && rest.is_empty()).then_some(word)
}

/// `{"status":"OK"}`.
pub(super) fn ok(out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"status\":\"OK\"}\n");
}

/// `{"status":"OK","message":…}`.
pub(super) fn message(out: &mut Vec<u8>, message: &str) {
    out.extend_from_slice(b"{\"status\":\"OK\",\"message\":");
    string(out, message);
    out.extend_from_slice(b"}\n");
}

/// `{"status":"OK","value":…}`: the value as it was written.
pub(super) fn value(out: &mut Vec<u8>, value: &Value) {
    out.extend_from_slice(b"{\"status\":\"OK\",\"value\":");
    match (value.kind, std::str::from_utf8(&value.data)) {
        // Kept as JSON's compact text: no line break can be in it.
        (ValueKind::Json, Ok(json)) => out.extend_from_slice(json.as_bytes()),
        (_, Ok(text)) => string(out, text),
        (_, Err(_)) => {
            out.extend_from_slice(b"{\"base64\":");
            string(out, &base64::engine::general_purpose::STANDARD.encode(&value.data));
            out.push(b'}');
        }
    }
    out.extend_from_slice(b"}\n");
}

/// `{"status":"OK","node_id":…,"role":…,"election_term":…}`.
pub(super) fn status(out: &mut Vec<u8>, name: &str, leads: bool, term: u64) {
    out.extend_from_slice(b"{\"status\":\"OK\",\"node_id\":");
    string(out, name);
    let role: &[u8] = if leads { b"primary" } else { b"secondary" };
    out.extend_from_slice(b",\"role\":\"");
    out.extend_from_slice(role);
    out.extend_from_slice(b"\",\"election_term\":");
    out.extend_from_slice(itoa::Buffer::new().format(term).as_bytes());
    out.extend_from_slice(b"}\n");
}

/// `{"status":"ERROR","message":…}`, with the address to ask instead where one is known.
pub(super) fn error(out: &mut Vec<u8>, message: &str, primary: Option<&str>) {
    out.extend_from_slice(b"{\"status\":\"ERROR\",\"message\":");
    string(out, message);
    if let Some(primary) = primary {
        out.extend_from_slice(b",\"primary\":");
        string(out, primary);
    }
    out.extend_from_slice(b"}\n");
}

fn string(out: &mut Vec<u8>, text: &str) {
    // Writing a string into memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_understood_in_any_case_and_with_either_line_end() {
        for (line, expected) in [
            (
                &b"SET user:1 {\"name\":\"Alice\",\"age\":30}"[..],
                Line::Set { key: "user:1", value: "{\"name\":\"Alice\",\"age\":30}" },
            ),
            (b"set k two words \r", Line::Set { key: "k", value: "two words " }),
            (b"  Set\tk  v", Line::Set { key: "k", value: "v" }),
            (b"get k\r", Line::Get("k")),
            (b"Delete k ", Line::Delete("k")),
            (b"ping", Line::Ping),
            (b"STATUS\r", Line::Status),
            (b"auth secret", Line::Auth("secret")),
            (b"shutdown", Line::Shutdown),
            (b"QUIT", Line::Quit),
        ] {
            assert_eq!(parse(line), Ok(expected), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_command_is_told_why() {
        for (line, expected) in [
            (&b""[..], LineError::Empty),
            (b" \r", LineError::Empty),
            (b"FLY away", LineError::Unknown("FLY".into())),
            (b"SET", LineError::Usage("SET <key> <value>")),
            (b"SET k", LineError::Usage("SET <key> <value>")),
            (b"SET k ", LineError::Usage("SET <key> <value>")),
            (b"GET", LineError::Usage("GET <key>")),
            (b"GET a b", LineError::Usage("GET <key>")),
            (b"DELETE", LineError::Usage("DELETE <key>")),
            (b"GET \xff", LineError::NotUtf8),
            (b"POST / HTTP/1.1\r", LineError::Http),
        ] {
            assert_eq!(parse(line), Err(expected), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_base64() {
        let mut out = Vec::new();
        value(&mut out, &Value { kind: ValueKind::Bytes, data: vec![0xff, 0].into() });
        assert_eq!(out, b"{\"status\":\"OK\",\"value\":{\"base64\":\"/wA=\"}}\n");
    }
}
