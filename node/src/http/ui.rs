//! `GET /`: a page for browsers, the same in JSON for programs.
//!
//! The page is plain: filled in here, without a script, reloading itself. Everything that comes from a configuration is escaped.

use std::fmt::Write as _;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, VARY};
use hyper::{Request, Response, StatusCode};
use quorate_api::{MemberStatus, Status};
use serde_json::json;

use super::face::Face;
use super::respond::{Body, full, json_of};
use super::route::TABLE;
use super::status;

const PAGE: &str = include_str!("page.html");

/// Answers in the form that `Accept` asks for.
pub(super) fn root(face: &Face, request: &Request<Incoming>) -> Response<Body> {
    let browser = request.headers().get_all(ACCEPT).iter().any(|v| v.as_bytes().windows(9).any(|w| w == b"text/html"));
    let mut response = if browser { page(face) } else { list(face) };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
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

fn page(face: &Face) -> Response<Body> {
    let status = status::status(&face.handle);
    let (tcp_host, tcp_port) = status.node.tcp.rsplit_once(':').unwrap_or((&status.node.tcp, "6379"));
    let text = PAGE
        .replace("{{name}}", &escape(&status.node.name))
        .replace("{{role}}", &escape(&status.node.role))
        .replace("{{summary}}", &escape(&summary(&status)))
        .replace("{{explanation}}", &escape(&status.config.explanation))
        .replace("{{members}}", &rows(&status.members))
        .replace("{{keys}}", &face.handle.store().count().to_string())
        .replace("{{url}}", &escape(&status.node.http))
        .replace("{{leader_url}}", &escape(status.leader_url.as_deref().unwrap_or(&status.node.http)))
        .replace("{{tcp}}", &escape(&format!("{tcp_host} {tcp_port}")))
        .replace("{{redis}}", &escape(&format!("-h {tcp_host} -p {tcp_port}")))
        .replace("{{version}}", env!("CARGO_PKG_VERSION"));
    let mut response = full(StatusCode::OK, HeaderValue::from_static("text/html; charset=utf-8"), text.into());
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

fn summary(status: &Status) -> String {
    let leader = status.leader.as_deref().map_or("no leader at the moment".to_owned(), |l| format!("{l} leads"));
    format!("{leader}, term {}, committed {}, applied {}", status.term, status.commit, status.applied)
}

fn rows(members: &[MemberStatus]) -> String {
    let mut rows = String::new();
    for m in members {
        let (health, class) = match m.healthy {
            Some(true) => ("healthy", "good"),
            Some(false) => ("silent", "bad"),
            None => ("the leader knows", "dim"),
        };
        let number = |n: Option<u64>| n.map_or("–".to_owned(), |n| n.to_string());
        // Writing to a String cannot fail.
        let _ = write!(
            rows,
            "<tr><td>{name}</td><td>{role}</td><td><a href=\"{http}\">{http}</a></td><td>{tcp}</td>\
             <td class=\"{class}\">{health}</td><td>{heard}</td><td>{lag}</td></tr>",
            name = escape(&m.name),
            role = escape(&m.role),
            http = escape(&m.http),
            tcp = escape(&m.tcp),
            heard = number(m.last_heard_ms),
            lag = number(m.lag),
        );
    }
    rows
}

/// Text that is safe between tags and in quoted attributes. A brace is one too, so that nobody's name is taken for a blank to fill in.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '{' => safe.push_str("&#123;"),
            other => safe.push(other),
        }
    }
    safe
}
