//! Small clients: HTTP answers in one piece, the Redis protocol, lines of text.

use std::io;
use std::time::Duration;

use reqwest::header::HeaderMap;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A reply over TCP that takes longer than this is none.
const REPLY: Duration = Duration::from_secs(60);

/// An HTTP answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub bytes: Vec<u8>,
}

impl Answer {
    /// Sends a request and reads the whole answer.
    ///
    /// # Panics
    /// If there is none.
    pub async fn of(request: reqwest::RequestBuilder) -> Answer {
        Answer::try_of(request).await.unwrap_or_else(|e| panic!("no answer: {e:?}"))
    }

    /// As [`Answer::of`], for nodes that may be down.
    ///
    /// # Errors
    /// As the HTTP client says.
    pub async fn try_of(request: reqwest::RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, bytes: response.bytes().await?.to_vec() })
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("no JSON ({e}): {} {}", self.status, self.text()))
    }

    /// The stable code of an error, in either shape; empty if there is none.
    #[must_use]
    pub fn code(&self) -> String {
        let json: serde_json::Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        let code = json.pointer("/error/code").or_else(|| json.get("code"));
        code.and_then(|c| c.as_str()).unwrap_or_default().to_owned()
    }

    /// A header's text; empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// Itself, if the status is this one.
    ///
    /// # Panics
    /// If it is another, with the body.
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

/// A Redis reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resp {
    /// `+`
    Simple(String),
    /// `-`
    Error(String),
    /// `:`
    Integer(i64),
    /// `$`
    Bulk(Vec<u8>),
    /// Null in either version.
    Null,
    /// `*`; maps and sets of RESP3 as flat arrays too.
    Array(Vec<Resp>),
}

impl Resp {
    /// A bulk string with this text.
    #[must_use]
    pub fn bulk(text: &str) -> Resp {
        Resp::Bulk(text.as_bytes().to_vec())
    }

    /// `+OK`
    #[must_use]
    pub fn ok() -> Resp {
        Resp::Simple("OK".into())
    }
}

/// A client of the Redis protocol.
#[derive(Debug)]
pub struct RespClient(BufReader<TcpStream>);

impl RespClient {
    /// Connects.
    ///
    /// # Panics
    /// If nobody listens.
    pub async fn connect(address: &str) -> RespClient {
        RespClient::try_connect(address).await.expect("a connection")
    }

    /// As [`RespClient::connect`], for nodes that may be down.
    ///
    /// # Errors
    /// If there is no connection.
    pub async fn try_connect(address: &str) -> io::Result<RespClient> {
        Ok(RespClient(BufReader::new(timeout(REPLY, TcpStream::connect(address)).await??)))
    }

    /// A command and its reply.
    pub async fn call(&mut self, arguments: &[&str]) -> Resp {
        self.send(&RespClient::frame(arguments)).await;
        self.reply().await
    }

    /// As [`RespClient::call`], for nodes that may go down.
    ///
    /// # Errors
    /// If the connection breaks or stays silent: whether the command was carried out is not known then.
    pub async fn try_call(&mut self, arguments: &[&str]) -> io::Result<Resp> {
        self.0.get_mut().write_all(&RespClient::frame(arguments)).await?;
        self.try_reply().await
    }

    /// A command as bytes.
    #[must_use]
    pub fn frame(arguments: &[&str]) -> Vec<u8> {
        let mut out = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            out.extend_from_slice(format!("${}\r\n{argument}\r\n", argument.len()).as_bytes());
        }
        out
    }

    /// Bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.expect("the node reads");
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match timeout(REPLY, self.0.read_line(&mut line)).await?? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the node closed the connection")),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// The next reply.
    pub async fn reply(&mut self) -> Resp {
        self.try_reply().await.expect("a reply in time")
    }

    /// As [`RespClient::reply`], for nodes that may go down.
    ///
    /// # Errors
    /// If the connection breaks or stays silent.
    ///
    /// # Panics
    /// If what comes is no reply.
    pub async fn try_reply(&mut self) -> io::Result<Resp> {
        let line = self.line().await?;
        let (kind, rest) = line.split_at(1);
        let number = || rest.parse::<i64>().unwrap_or_else(|_| panic!("not a number: {line:?}"));
        Ok(match kind {
            "+" => Resp::Simple(rest.to_owned()),
            "-" => Resp::Error(rest.to_owned()),
            ":" => Resp::Integer(number()),
            "_" => Resp::Null,
            "$" if number() < 0 => Resp::Null,
            "$" => {
                let mut bytes = vec![0; number() as usize + 2];
                timeout(REPLY, self.0.read_exact(&mut bytes)).await??;
                assert!(bytes.ends_with(b"\r\n"), "a bulk string ends with CR LF");
                bytes.truncate(bytes.len() - 2);
                Resp::Bulk(bytes)
            }
            "*" if number() < 0 => Resp::Null,
            "*" | "~" | ">" | "%" => {
                let count = number() * if kind == "%" { 2 } else { 1 };
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(Box::pin(self.try_reply()).await?);
                }
                Resp::Array(items)
            }
            other => panic!("a reply of unknown kind {other:?}: {line:?}"),
        })
    }

    /// Whether the node has closed the connection and sent nothing more.
    pub async fn closed(&mut self) -> bool {
        let mut byte = [0];
        !matches!(timeout(REPLY, self.0.read(&mut byte)).await.expect("an end in time"), Ok(1..))
    }
}

/// A client of the line protocol.
#[derive(Debug)]
pub struct Lines(BufReader<TcpStream>);

impl Lines {
    /// Connects.
    ///
    /// # Panics
    /// If nobody listens.
    pub async fn connect(address: &str) -> Lines {
        Lines(BufReader::new(TcpStream::connect(address).await.expect("a connection")))
    }

    /// A line and the line that answers it.
    pub async fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\n").as_bytes()).await;
        self.reply().await
    }

    /// Bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.expect("the node reads");
    }

    /// The next line, without its end; empty if the node closed the connection.
    pub async fn reply(&mut self) -> String {
        let mut line = Vec::new();
        timeout(REPLY, self.0.read_until(b'\n', &mut line)).await.expect("a reply in time").expect("a reply");
        String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned()
    }
}

/// Sends raw bytes to a port and returns all that comes back until the node closes or `limit` is over.
///
/// # Panics
/// If nobody listens.
pub async fn raw(address: &str, bytes: &[u8], limit: Duration) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // The node may close before it has read everything: what it said is still there.
    let _ = stream.write_all(bytes).await;
    let mut back = Vec::new();
    let _ = timeout(limit, stream.read_to_end(&mut back)).await;
    back
}
