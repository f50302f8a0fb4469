//! `/v1/nodes/{node}/v1/…`: the same request, put to another member by the node that was asked.
//!
//! For people before a browser: the page they look at comes from one node, which may be the only one their browser can reach. Only requests of `/v1` are
//! passed on, and once; what the other node says comes back as it is. Programs ask the node they mean.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response};
use percent_encoding::percent_decode_str;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{Code, Failure};
use super::face::{Answer, Face};
use super::follow;
use super::request::body;
use super::respond::{Body, COPIES, JSON, NODE, REVISION, TERM, VERSION, full, keeping};
use super::scan::PAGE_BYTES_MAX;

/// Where such requests begin.
const PATH: &str = "/v1/nodes/";

/// Requests under way at once: many people's, and a fraction of the connections of the node that is asked.
const UNDER_WAY_MAX: usize = 64;

/// An answer that is no longer than what a connection takes at once.
const UNCOUNTED_BYTES: usize = 64 << 10;

/// What is waited for beyond the other node's own limit on a request: the way there and back.
const GRACE: Duration = Duration::from_secs(1);

/// Headers that are passed on to the other node, and back from it.
const THERE: [HeaderName; 6] =
    [ACCEPT, AUTHORIZATION, CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH, HeaderName::from_static("idempotency-key")];
const BACK: [HeaderName; 8] = [ETAG, RETRY_AFTER, WWW_AUTHENTICATE, REVISION, VERSION, TERM, NODE, COPIES];

/// A node that may be asked, and what.
pub(super) struct Destination<'a> {
    pub(super) name: &'a str,
    pub(super) url: &'a str,
    /// How long it may take for a request, as far as it is known here.
    pub(super) request_timeout: Duration,
    /// Largest value it is taken to accept and to give.
    pub(super) value_bytes_max: usize,
}

/// Requests on their way.
pub(super) struct Relay {
    client: Option<reqwest::Client>,
    under_way: Arc<Semaphore>,
}

/// The node that a path names, and what it is asked for.
pub(super) fn parts_of(path: &str) -> Option<(String, &str)> {
    let (name, rest) = path.strip_prefix(PATH)?.split_once('/')?;
    let name = percent_decode_str(name).decode_utf8().ok()?.into_owned();
    // Once, and nothing that has no end.
    let wanted = rest.starts_with("v1/") && !rest.starts_with("v1/nodes") && !rest.starts_with("v1/events");
    wanted.then_some((name, rest))
}

/// A path that names no request that is passed on.
pub(super) fn no_such_path() -> Failure {
    Failure::new(
        Code::RouteNotFound,
        "what is passed on is /v1/nodes/{node}/v1/…, and neither events nor what is passed on again",
    )
}

/// `/v1/nodes/{node}/v1/…` on a node.
pub(super) async fn at_member(face: &Face, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let (name, rest) = parts_of(&path).ok_or_else(no_such_path)?;
    let config = face.handle.state().config.clone();
    let member = config.as_ref().and_then(|c| c.members().find(|m| m.name == name));
    let Some(member) = member else {
        return Err(Failure::new(Code::RouteNotFound, format!("there is no member named {name:?}")));
    };
    let options = face.handle.options();
    let to = Destination {
        name: &member.name,
        url: &member.http,
        request_timeout: options.request_timeout,
        value_bytes_max: options.limits.value_bytes,
    };
    face.relay.pass_on(to, rest, request).await
}

impl Relay {
    /// Nothing on its way yet.
    pub(super) fn new() -> Relay {
        Relay { client: follow::client(), under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)) }
    }

    /// Puts the request to that node and answers as it does.
    pub(super) async fn pass_on(&self, to: Destination<'_>, rest: &str, request: Request<Incoming>) -> Answer {
        let (Some(client), Ok(place)) = (&self.client, Arc::clone(&self.under_way).try_acquire_owned()) else {
            return Err(Failure::new(
                Code::Overloaded,
                "too many requests are passed on to other nodes: try again in a moment",
            ));
        };
        let only_reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let query = request.uri().query().map_or(String::new(), |q| format!("?{q}"));
        let mut asked = client
            .request(request.method().clone(), format!("{}/{rest}{query}", to.url.trim_end_matches('/')))
            // A read may take the limit twice: to be confirmed, and to catch up.
            .timeout(2 * to.request_timeout + GRACE);
        for name in THERE {
            if let Some(value) = request.headers().get(&name) {
                asked = asked.header(name, value);
            }
        }
        let sent = asked.body(body(request, to.value_bytes_max).await?).send().await;
        let most = to.value_bytes_max + PAGE_BYTES_MAX + PAGE_BYTES_MAX;
        let failed = |error: reqwest::Error| match error {
            error if error.is_connect() => {
                Failure::new(Code::Unreachable, format!("{} does not answer at {}: nothing was done", to.name, to.url))
            }
            _ if only_reads => Failure::new(Code::Unreachable, format!("{} did not answer in time", to.name)),
            _ => Failure::new(
                Code::OutcomeUnknown,
                format!("{} took the request but did not answer: it may or may not have taken effect", to.name),
            ),
        };
        let response = sent.map_err(failed)?;
        answered(response, most, place).await.map_err(|error| error.map_or_else(|| Failure::too_large(most), failed))
    }
}

/// The other node's answer as ours; `None` if it is beyond all bounds.
async fn answered(
    mut response: reqwest::Response,
    most: usize,
    place: OwnedSemaphorePermit,
) -> Result<Response<Body>, Option<reqwest::Error>> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(Some)? {
        if bytes.len() + chunk.len() > most {
            return Err(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    let kind: HeaderValue = response.headers().get(CONTENT_TYPE).cloned().unwrap_or(JSON);
    // What is long holds its place until it is sent: a client that does not read it would else ask for the next one.
    let bytes = if bytes.len() > UNCOUNTED_BYTES { keeping(bytes.into(), place) } else { bytes.freeze() };
    let mut ours = full(response.status(), kind, bytes);
    for name in BACK {
        if let Some(value) = response.headers().get(&name) {
            ours.headers_mut().insert(name, value.clone());
        }
    }
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::parts_of;

    #[test]
    fn only_requests_of_v1_are_passed_on_and_only_once() {
        assert_eq!(parts_of("/v1/nodes/node%202/v1/kv/a/b"), Some(("node 2".to_owned(), "v1/kv/a/b")));
        for path in [
            "/v1/nodes/a",
            "/v1/nodes/a/",
            "/v1/nodes/a/metrics",
            "/v1/nodes/a/v1/nodes/b/v1/kv",
            "/v1/nodes/a/v1/events",
        ] {
            assert_eq!(parts_of(path), None, "{path}");
        }
    }
}
