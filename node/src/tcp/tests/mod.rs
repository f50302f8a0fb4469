//! The port on real sockets, in front of a node without a log.

mod limits;
mod lines;
mod redis;

use std::net::SocketAddr;
use std::time::Duration;

use quorum::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::options::NodeOptions;
use crate::testing;

/// Longer than anything takes on the slowest machine that builds this.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    address: SocketAddr,
    handle: Handle,
    task: JoinHandle<()>,
}

async fn server_with(role: Role, stall: Duration, adjust: impl FnOnce(&mut NodeOptions)) -> Server {
    server_of(testing::handle(role, adjust), stall).await
}

async fn server_of(handle: Handle, stall: Duration) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let task = tokio::spawn(serve_until_stopped(listener, handle.clone(), stall));
    Server { address, handle, task }
}

async fn server(role: Role) -> Server {
    server_with(role, STALL_MAX, |_| {}).await
}

struct Peer(TcpStream);

impl Peer {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("send");
    }

    async fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let mut got = Vec::new();
        while got.len() < expected.len() {
            let mut buffer = vec![0; expected.len() - got.len()];
            let count = tokio::time::timeout(PATIENCE, self.0.read(&mut buffer)).await;
            match count {
                Ok(Ok(count)) if count > 0 => got.extend_from_slice(&buffer[..count]),
                other => panic!("wanted {}, got {} and then {other:?}", expected.escape_ascii(), got.escape_ascii()),
            }
            assert!(expected.starts_with(&got), "wanted {}, got {}", expected.escape_ascii(), got.escape_ascii());
        }
    }

    async fn ask(&mut self, request: &str, reply: &str) {
        self.send(request).await;
        self.expect(reply).await;
    }

    /// A Redis command given as words.
    async fn redis(&mut self, words: &str, reply: &str) {
        self.send(encode(words)).await;
        self.expect(reply).await;
    }

    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("the connection ends");
        // A reset is an end too.
        let _ = read;
        rest
    }

    async fn ended(&mut self) {
        assert_eq!(self.rest().await, b"");
    }
}

impl Server {
    async fn connect(&self) -> Peer {
        Peer(TcpStream::connect(self.address).await.expect("connect"))
    }

    async fn ended(self) {
        tokio::time::timeout(PATIENCE, self.task).await.expect("the server ends").expect("without a panic");
    }
}

fn encode(words: &str) -> Vec<u8> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let mut out = Vec::new();
    resp::array(&mut out, words.len());
    words.iter().for_each(|word| resp::bulk(&mut out, word.as_bytes()));
    out
}
