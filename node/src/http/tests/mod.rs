//! The faces as a client sees them: real sockets, exact shapes.

mod admin;
mod lab;
mod limits;
mod page;
mod ranges;
mod v1;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorum::Role;
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::io::HEAD_TIMEOUT;
use super::server::serve_with;
use crate::handle::{Handle, NodeState};
use crate::options::NodeOptions;
use crate::testing;

/// Far beyond what a test needs, so that a hanging one fails with its name.
const PATIENCE: Duration = Duration::from_secs(30);

/// A served node.
struct Server {
    address: SocketAddr,
    handle: Handle,
    served: JoinHandle<()>,
}

/// A response, taken apart.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|l| l.split_once(": "));
        lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v).next()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The code of a `/v1` error, whose shape is checked.
    fn code(&self) -> String {
        let body: quorate_api::ErrorBody = serde_json::from_slice(&self.body).expect("the shape of errors");
        assert!(!body.error.message.is_empty());
        body.error.code
    }
}

impl Server {
    async fn start(role: Role) -> Server {
        Server::with(role, |_| {}).await
    }

    async fn with(role: Role, adjust: impl FnOnce(&mut NodeOptions)) -> Server {
        Server::of(testing::handle(role, adjust)).await
    }

    async fn of(handle: Handle) -> Server {
        Server::impatient(handle, HEAD_TIMEOUT).await
    }

    /// As [`Server::of`], with another timeout for heads.
    async fn impatient(handle: Handle, head_timeout: Duration) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let served = tokio::spawn(serve_with(listener, handle.clone(), head_timeout));
        Server { address, handle, served }
    }

    /// Sends a request as it stands, with `Connection: close`, and reads until the end.
    async fn raw(&self, request: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        // A refused request may be answered, and the connection closed, before all of it was sent.
        let _ = stream.write_all(request).await;
        Reply::read(&mut stream).await
    }

    async fn ask(&self, method: &str, target: &str, headers: &[&str], body: &[u8]) -> Reply {
        let mut request = format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n").into_bytes();
        for header in headers {
            request.extend_from_slice(header.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        if !body.is_empty() {
            request.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        self.raw(&request).await
    }

    async fn get(&self, target: &str) -> Reply {
        self.ask("GET", target, &[], b"").await
    }

    async fn post(&self, target: &str, body: &str) -> Reply {
        self.ask("POST", target, &[], body.as_bytes()).await
    }

    async fn put(&self, target: &str, body: &[u8]) -> Reply {
        self.ask("PUT", target, &[], body).await
    }

    fn change_state(&self, change: impl FnOnce(&mut NodeState)) {
        change_state(&self.handle, change);
    }
}

impl Reply {
    async fn read(stream: &mut TcpStream) -> Reply {
        let mut bytes = Vec::new();
        // A reset after the response is the same as an end.
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an end");
        Reply::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Reply {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(bytes[..end].to_vec()).expect("text");
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        let mut reply = Reply { status, head, body: bytes[end + 4..].to_vec() };
        if reply.header("transfer-encoding") == Some("chunked") {
            reply.body = unchunked(&reply.body);
        }
        reply
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n").expect("a chunk's head");
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).expect("text"), 16).expect("a size");
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
}

fn change_state(handle: &Handle, change: impl FnOnce(&mut NodeState)) {
    let mut state = (*handle.state()).clone();
    change(&mut state);
    handle.shared.state.store(Arc::new(state));
}
