//! Listings and exports: whole, or not taken for it.

use quorum::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::scan::STREAMS_MAX;
use super::{PATIENCE, Server};
use crate::kv::MemoryHome;
use crate::testing;

/// What comes back, as it stands, until the connection ends.
async fn bytes_of(server: &Server, target: &str, accept: &str) -> String {
    let mut stream = TcpStream::connect(server.address).await.expect("connected");
    let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an end");
    // A reset is an end, too.
    drop(read);
    String::from_utf8(bytes).expect("text")
}

#[tokio::test]
async fn a_range_that_cannot_be_read_to_its_end_is_never_taken_for_a_whole_one() {
    /// What follows the last chunk of a body.
    const END: &str = "\r\n0\r\n\r\n";
    let home = MemoryHome::default();
    let (handle, store) = testing::handle_on(&home);
    let server = Server::of(handle).await;
    for n in 0..20 {
        server.put(&format!("/v1/kv/key{n:02}"), &[b'v'; 30_000]).await;
    }
    store.persist().expect("all of it is in the engine");
    let streams = [("/data", "*/*"), ("/v1/kv", "application/x-ndjson")];
    for (target, accept) in streams {
        let whole = bytes_of(&server, target, accept).await;
        assert!(whole.contains("key19") && whole.ends_with(END), "{target}");
    }
    home.damage_from("key15");
    for (target, accept) in streams {
        let part = bytes_of(&server, target, accept).await;
        assert!(part.starts_with("HTTP/1.1 200") && part.contains("chunked") && part.contains("key08"), "{target}");
        assert!(!part.contains("key15") && !part.ends_with(END), "{target} looks whole");
    }
    for target in ["/keys", "/v1/kv", "/v1/kv?prefix=key15"] {
        let reply = server.get(target).await;
        assert_eq!(reply.status, 503, "{target}: {}", reply.text());
    }
    assert_eq!(server.get("/v1/kv?limit=5").await.json()["next"], "key04", "what can be read is");
}

#[tokio::test]
async fn streams_that_nobody_reads_take_only_their_own_places() {
    let server = Server::start(Role::Leader).await;
    for n in 0..12 {
        // Together more than the system takes for a connection.
        server.put(&format!("/v1/kv/key{n:02}"), &vec![b'v'; 1 << 20]).await;
    }
    let mut unread = Vec::new();
    for _ in 0..STREAMS_MAX {
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        stream.write_all(b"GET /data HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        assert_eq!(stream.read_u8().await.expect("a response begins"), b'H');
        unread.push(stream);
    }
    let reply = server.get("/data").await;
    assert_eq!((reply.status, reply.json()["code"].as_str()), (503, Some("overloaded")));
    assert_eq!(server.get("/keys").await.json()["keys"][11], "key11", "what is short needs no place");
    assert_eq!(server.get("/v1/kv?limit=3").await.json()["next"], "key02", "and a page needs none");
    drop(unread.pop());
    let again = async { while server.get("/data").await.status != 200 {} };
    tokio::time::timeout(PATIENCE, again).await.expect("there is a place again");
}
