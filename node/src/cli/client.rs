//! Asking a cluster over HTTP, and the rules of asking again.
//!
//! A request is repeated only when it is certain that it had no effect: the connection was never made, or a node
//! refused it with 503 and a Retry-After (at another node at once, at the same one after that time). 421 is followed to
//! the leader. A 504, a broken connection or silence after a write was sent is an *unknown outcome*: it is reported and
//! never repeated, for the write may have happened. Unless it has an idempotency key: then it is repeated like a read,
//! at the next node, until the time is over.
//!
//! Before: `verbs`. After: any node's HTTP interface.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Method, StatusCode, header::HeaderMap};
use tokio::time::Instant;

/// A node that does not accept a connection within this time is taken for down and the next one asked.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a request follows "that is the leader" before the cluster is taken for confused.
const HOPS_MAX: usize = 3;
/// The largest answer that is read: far above any page or value of the default limits.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// The shortest pause before the same nodes are asked again, whatever Retry-After says: no busy loop.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// The longest pause taken over from a node: longer than anyone waits, short enough to be added to a clock.
const PAUSE_SECONDS_MAX: u64 = 24 * 60 * 60;

/// One request, ready to be sent to any node.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    /// Path and query, from the slash.
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    /// Whether a write has an idempotency key.
    done_once: bool,
}

impl Ask {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Ask {
        Ask { method, path: path.into(), headers: Vec::new(), body: Bytes::new(), done_once: false }
    }

    pub(crate) fn get(path: impl Into<String>) -> Ask {
        Ask::new(Method::GET, path)
    }

    /// With a JSON body.
    pub(crate) fn json(mut self, body: &impl serde::Serialize) -> Result<Ask, serde_json::Error> {
        self.body = serde_json::to_vec(body)?.into();
        self.headers.push(("content-type", "application/json".to_owned()));
        Ok(self)
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Ask {
        self.headers.push((name, value.into()));
        self
    }

    /// Done once however often it is asked, under this name.
    pub(crate) fn once(mut self, name: &str) -> Ask {
        self.done_once = true;
        self.header("idempotency-key", name)
    }

    fn only_reads(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }
}

/// A good answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

fn for_how_long(waited: Option<Duration>) -> String {
    waited.map(|w| format!(" (gave up after {})", super::units::show_duration(w))).unwrap_or_default()
}

/// Why there is no good answer. The texts name the node, the reason and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    #[error("no node answered: {}; start a cluster with `quorate local`, or name its nodes with --url", .0.join("; "))]
    Nobody(Vec<String>),
    #[error("{url} refused: {message} ({code}); nothing was changed, try again{}", for_how_long(*.waited))]
    Refused { url: String, code: String, message: String, waited: Option<Duration> },
    #[error("{url} says: {message} ({code})")]
    Answered { url: String, status: u16, code: String, message: String },
    #[error(
        "the outcome is unknown: {url}: {reason}; the write may or may not have happened: \
         read the key before you write again"
    )]
    Unknown { url: String, reason: String },
    #[error(
        "the outcome is unknown: {url}: {reason}; the write may or may not have happened: \
         ask again with the same idempotency key, which cannot do it twice"
    )]
    UnknownOnce { url: String, reason: String },
    #[error("{url}: {reason}; try again, or name another node with --url")]
    Broken { url: String, reason: String },
    #[error("the nodes send each other's way for a leader ({0}): an election is under way, try again in a moment")]
    Circle(String),
}

/// What one attempt led to.
enum Attempt {
    Done(Reply),
    /// Nothing was sent.
    NotSent(String),
    /// Certain not to have happened; worth another try after the time given, if any.
    Refused {
        again: Option<Duration>,
        error: AskError,
    },
    /// The leader is elsewhere.
    Elsewhere {
        leader: Option<String>,
        error: AskError,
    },
    Final(AskError),
}

/// Asks nodes in turn.
pub(crate) struct Client {
    http: reqwest::Client,
    urls: Vec<String>,
    timeout: Duration,
    token: Option<String>,
}

impl Client {
    /// A client for the nodes at these URLs (at least one), each request bounded by `timeout` in all.
    pub(crate) fn new(urls: &[String], timeout: Duration, token: Option<String>) -> Result<Client, String> {
        let urls = urls.iter().map(|u| u.trim()).filter(|u| !u.is_empty()).map(base).collect::<Result<Vec<_>, _>>()?;
        if urls.is_empty() {
            return Err("no node is named: give --url (QUORATE_URL) something like http://127.0.0.1:8000".to_owned());
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| format!("cannot set up HTTP: {e}"))?;
        Ok(Client { http, urls, timeout, token })
    }

    /// The same client, asking the node at `url` only.
    pub(crate) fn at(&self, url: &str) -> Client {
        Client {
            http: self.http.clone(),
            urls: vec![url.trim_end_matches('/').to_owned()],
            timeout: self.timeout,
            token: self.token.clone(),
        }
    }

    /// Asks until there is an answer, a refusal that stays, or the time is over.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Reply, AskError> {
        let started = Instant::now();
        let deadline = started + self.timeout;
        let mut hops = 0;
        // What was sent and not answered stays in doubt until it is answered: that nobody can be reached any more
        // does not make it undone.
        let mut doubt: Option<AskError> = None;
        loop {
            let mut unreached = Vec::new();
            let mut refused: Option<AskError> = None;
            let mut pause: Option<Duration> = None;
            let mut queue: std::collections::VecDeque<String> = self.urls.iter().cloned().collect();
            while let Some(url) = queue.pop_front() {
                match self.attempt(&url, ask, deadline).await {
                    Attempt::Done(reply) => return Ok(reply),
                    Attempt::Final(error) => return Err(error),
                    Attempt::NotSent(reason) => unreached.push(format!("{url} ({reason})")),
                    Attempt::Refused { again, error } => {
                        pause = pause.into_iter().chain(again).min();
                        if let AskError::UnknownOnce { .. } = error {
                            doubt = Some(error.clone());
                        }
                        refused = Some(error);
                    }
                    Attempt::Elsewhere { leader: Some(leader), .. } => {
                        hops += 1;
                        if hops > HOPS_MAX {
                            return Err(doubt.unwrap_or(AskError::Circle(leader)));
                        }
                        queue.push_front(leader);
                    }
                    Attempt::Elsewhere { leader: None, error } => refused = Some(error),
                }
            }
            let error = refused.unwrap_or(AskError::Nobody(unreached));
            let Some(pause) = pause.or(doubt.as_ref().map(|_| PAUSE_MIN)) else { return Err(error) };
            let pause = pause.max(PAUSE_MIN);
            if Instant::now() + pause >= deadline {
                return Err(doubt.unwrap_or_else(|| gave_up(error, started.elapsed())));
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&self, url: &str, ask: &Ask, deadline: Instant) -> Attempt {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Attempt::NotSent("no time left".to_owned());
        }
        let mut request = self.http.request(ask.method.clone(), format!("{url}{}", ask.path)).timeout(left);
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let sent = request.body(ask.body.clone()).send().await;
        let mut response = match sent {
            Ok(response) => response,
            Err(error) if error.is_connect() || error.is_builder() => return Attempt::NotSent(reason(&error)),
            Err(error) => return broken(ask, url, reason(&error)),
        };
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = BytesMut::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_BYTES_MAX => body.extend_from_slice(&chunk),
                Ok(Some(_)) => return broken(ask, url, "the answer is larger than 256 MiB".to_owned()),
                Ok(None) => break,
                Err(error) => return broken(ask, url, reason(&error)),
            }
        }
        judge(ask, url, status, headers, body.freeze())
    }
}

/// What an answer means for asking again.
fn judge(ask: &Ask, url: &str, status: StatusCode, headers: HeaderMap, body: Bytes) -> Attempt {
    if status.is_success() {
        return Attempt::Done(Reply { headers, body });
    }
    let detail = serde_json::from_slice::<quorate_api::ErrorBody>(&body).ok().map(|b| b.error);
    let code = detail.as_ref().map_or_else(|| format!("HTTP {}", status.as_u16()), |d| d.code.clone());
    let message = detail.as_ref().map_or_else(|| plain_text(&body, status), |d| d.message.clone());
    let (url, leader) = (url.to_owned(), detail.and_then(|d| d.leader));
    match status.as_u16() {
        421 => Attempt::Elsewhere {
            leader: leader.map(|l| l.trim_end_matches('/').to_owned()).filter(|l| *l != url),
            error: AskError::Refused { url, code, message, waited: None },
        },
        503 => Attempt::Refused {
            again: retry_after(&headers),
            error: AskError::Refused { url, code, message, waited: None },
        },
        504 if ask.only_reads() => Attempt::Final(AskError::Broken { url, reason: format!("{message} ({code})") }),
        504 => unknown(ask, url, message),
        status => Attempt::Final(AskError::Answered { url, status, code, message }),
    }
}

/// The seconds of a Retry-After; a date there is not ours and counts as none.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds.min(PAUSE_SECONDS_MAX)))
}

/// The connection broke or time ran out after something was sent.
fn broken(ask: &Ask, url: &str, reason: String) -> Attempt {
    let url = url.to_owned();
    if ask.only_reads() { Attempt::NotSent(reason) } else { unknown(ask, url, reason) }
}

/// A write may or may not have happened.
fn unknown(ask: &Ask, url: String, reason: String) -> Attempt {
    if ask.done_once {
        return Attempt::Refused { again: Some(PAUSE_MIN), error: AskError::UnknownOnce { url, reason } };
    }
    Attempt::Final(AskError::Unknown { url, reason })
}

fn gave_up(error: AskError, after: Duration) -> AskError {
    match error {
        AskError::Refused { url, code, message, .. } => {
            AskError::Refused { url, code, message, waited: Some(Duration::from_millis(after.as_millis() as u64)) }
        }
        other => other,
    }
}

/// The innermost cause, which is what a person can act on ("connection refused").
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

fn plain_text(body: &Bytes, status: StatusCode) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
    let text = text.lines().next().unwrap_or_default().trim();
    let reason = status.canonical_reason().unwrap_or("an error");
    if text.is_empty() { reason.to_lowercase() } else { text.to_owned() }
}

/// `http://host:port` without a slash at the end; a bare `host:port` is completed.
fn base(url: &str) -> Result<String, String> {
    if url.starts_with("https://") {
        return Err(format!("{url}: nodes speak plain HTTP: write http:// in --url (QUORATE_URL)"));
    }
    let full = if url.starts_with("http://") { url.to_owned() } else { format!("http://{url}") };
    match reqwest::Url::parse(&full) {
        Ok(parsed) if parsed.host_str().is_some() => Ok(full.trim_end_matches('/').to_owned()),
        _ => Err(format!("{url:?} is no URL of a node: give --url (QUORATE_URL) something like http://127.0.0.1:8000")),
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
