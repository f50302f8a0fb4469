//! The limit: what this HTTP stack does with the same requests and no store behind it.
//!
//! The same routes as the store's, on the same axum: a PUT reads its body whole and answers with it, a GET answers
//! with a value of the same size. Whatever the store reaches is to be read against this, because no HTTP server on
//! these libraries can do more.

use std::net::Ipv4Addr;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::{ETAG, HeaderValue};
use axum::routing::put;
use axum::serve::ListenerExt;
use bytes::Bytes;

use crate::failure::{Context, Outcome};

/// Serves until the process is ended.
pub(crate) async fn serve(port: u16, value_bytes: usize) -> Outcome<()> {
    let value = Bytes::from(vec![b'x'; value_bytes]);
    let app = Router::new().route("/v1/kv/{key}", put(echo).get(read)).with_state(value);
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = listener.await.context(|| format!("cannot listen on port {port}"))?;
    // As the store does: an answer must not wait for the client's acknowledgement of the one before.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, app).await.context(|| "the echo server failed".to_owned())
}

async fn echo(Path(key): Path<String>, body: Bytes) -> (HeaderMap, Bytes) {
    (headers(&key), body)
}

async fn read(Path(key): Path<String>, State(value): State<Bytes>) -> (HeaderMap, Bytes) {
    (headers(&key), value)
}

/// A store answers with the revision of the key; the length of the key is as cheap a stand-in as there is.
fn headers(key: &str) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(1);
    headers.insert(ETAG, HeaderValue::from(key.len()));
    headers
}
