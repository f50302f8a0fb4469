//! `GET /`: the page for browsers, the same in JSON for programs; and the files that the page is made of.
//!
//! The files are part of the program: nothing is fetched from anywhere else, and the policy sent with the page forbids it.

use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, REFERRER_POLICY,
    VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Request, Response, StatusCode};
use serde_json::json;

use super::error::{Code, Failure};
use super::face::{Answer, Face};
use super::respond::{Body, full, json_of};
use super::route::TABLE;

/// Scripts, styles and figures from this port alone, and no other way out.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// One file of the page.
struct Asset {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

macro_rules! assets {
    ($($name:literal $kind:literal),* $(,)?) => {
        [$(Asset { path: concat!("/ui/", $name), kind: $kind, bytes: include_bytes!(concat!("ui/", $name)) }),*]
    };
}

/// The page itself comes first.
static ASSETS: [Asset; 10] = assets! {
    "index.html" "text/html; charset=utf-8",
    "style.css" "text/css; charset=utf-8",
    "icon.svg" "image/svg+xml",
    "app.js" "text/javascript; charset=utf-8",
    "ask.js" "text/javascript; charset=utf-8",
    "charts.js" "text/javascript; charset=utf-8",
    "controls.js" "text/javascript; charset=utf-8",
    "data.js" "text/javascript; charset=utf-8",
    "model.js" "text/javascript; charset=utf-8",
    "words.js" "text/javascript; charset=utf-8",
};

/// Answers in the form that `Accept` asks for.
pub(super) fn root(face: &Face, request: &Request<Incoming>) -> Response<Body> {
    let mut response = if wants_page(request) { page(request) } else { list(face) };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
}

/// Whether a browser asks.
fn wants_page<B>(request: &Request<B>) -> bool {
    request.headers().get_all(ACCEPT).iter().any(|v| v.as_bytes().windows(9).any(|w| w == b"text/html"))
}

fn list(face: &Face) -> Response<Body> {
    let mut endpoints = serde_json::Map::new();
    for entry in TABLE.iter().filter(|e| !e.what.is_empty()) {
        let path = if entry.rest { format!("{}{{key}}", entry.path) } else { entry.path.to_owned() };
        let methods: Vec<&str> = entry.methods.iter().map(|(method, _)| *method).collect();
        endpoints.insert(format!("{} {path}", methods.join("|")), entry.what.into());
    }
    json_of(
        StatusCode::OK,
        &json!({
            "what": "Quorate, a replicated key-value store with a durability you choose and can see",
            "version": env!("CARGO_PKG_VERSION"),
            "node": face.handle.options().name,
            "endpoints": endpoints,
        }),
    )
}

/// The page, whoever serves it.
pub(super) fn page<B>(request: &Request<B>) -> Response<Body> {
    let [page, ..] = &ASSETS;
    let mut response = file(page, request);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// `GET /ui/{file}`
pub(super) fn asset<B>(request: &Request<B>) -> Answer {
    let path = request.uri().path();
    let asset = ASSETS.iter().skip(1).find(|a| a.path == path);
    let asset = asset.ok_or_else(|| Failure::new(Code::RouteNotFound, "the page has no such file"))?;
    Ok(file(asset, request))
}

fn file<B>(asset: &Asset, request: &Request<B>) -> Response<Body> {
    let tag = format!("\"{:08x}{:x}\"", crc32fast::hash(asset.bytes), asset.bytes.len());
    let known = request.headers().get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let (status, bytes) = if known { (StatusCode::NOT_MODIFIED, &b""[..]) } else { (StatusCode::OK, asset.bytes) };
    let mut response = full(status, HeaderValue::from_static(asset.kind), bytes.into());
    let headers = response.headers_mut();
    // Asked for each time, answered with 304: another version of the program brings another page.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    response
}
