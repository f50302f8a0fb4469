//! The few HTTP requests around a measurement (readiness, metrics, roles); the load itself is `load`'s.
//!
//! HTTP/1.0, so that an answer is never chunked and ends with its connection.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::failure::{Context, Failure, Outcome};

/// Longest wait for one answer: these servers are on this machine and idle.
const LIMIT: Duration = Duration::from_secs(5);
/// Largest answer that is read: a page of metrics is some 50 KiB.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// Asks a server on this machine and returns the body of a 200.
async fn exchange(method: &str, port: u16, path: &str, body: &str) -> Outcome<String> {
    let what = || format!("{method} {path} on port {port}");
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!(
            "{method} {path} HTTP/1.0\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(LIMIT, asked).await.context(what)?.context(what)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context(|| format!("{}: no answer", what()))?;
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        status => Err(Failure::new(format!("{}: status {}", what(), status.unwrap_or("unknown")))),
    }
}

/// The body of a page.
pub(crate) async fn get(port: u16, path: &str) -> Outcome<String> {
    exchange("GET", port, path, "").await
}

/// A page that is JSON.
pub(crate) async fn get_json(port: u16, path: &str) -> Outcome<Value> {
    serde_json::from_str(&get(port, path).await?).context(|| format!("the answer to {path} is no JSON"))
}

/// Posts JSON and returns the answer's.
pub(crate) async fn post_json(port: u16, path: &str, body: &Value) -> Outcome<Value> {
    let answer = exchange("POST", port, path, &body.to_string()).await?;
    serde_json::from_str(&answer).context(|| format!("the answer to {path} is no JSON"))
}
