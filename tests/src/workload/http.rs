//! Operations over `/v1/kv`, and what its answers mean for a history.

use quorate_history::{Call, Condition, Consistency, Outcome};

use super::{Target, Told};
use crate::client::Answer;

/// A client of the HTTP API.
#[derive(Debug)]
pub(super) struct HttpClient {
    http: reqwest::Client,
}

impl HttpClient {
    pub(super) fn new(http: reqwest::Client) -> HttpClient {
        HttpClient { http }
    }

    /// Sends an operation to a node. A session read shows at least the revision `seen`.
    pub(super) async fn perform(&mut self, target: &Target, key: &str, call: &Call, seen: u64) -> Told {
        let url = format!("{}/v1/kv/{key}", target.http);
        let request = match call {
            Call::Read { consistency: Consistency::Linearizable } => self.http.get(url),
            Call::Read { consistency: Consistency::Local } => self.http.get(format!("{url}?consistency=local")),
            Call::Read { consistency: Consistency::Session } => {
                self.http.get(format!("{url}?consistency=local&min_revision={seen}"))
            }
            Call::Write { value, condition } => {
                conditional(self.http.put(url).header("content-type", "text/plain").body(value.clone()), *condition)
            }
            Call::Delete { condition } => conditional(self.http.delete(url), *condition),
        };
        match Answer::try_of(request).await {
            Ok(answer) => meaning(call, &answer),
            // Nothing was sent.
            Err(error) if error.is_connect() => Told::refused(),
            Err(_) => Told::unknown(),
        }
    }
}

fn conditional(request: reqwest::RequestBuilder, condition: Condition) -> reqwest::RequestBuilder {
    match condition {
        Condition::None => request,
        Condition::Absent => request.header("if-none-match", "*"),
        Condition::Present => request.header("if-match", "*"),
        Condition::Revision(revision) => request.header("if-match", format!("\"{revision}\"")),
    }
}

fn meaning(call: &Call, answer: &Answer) -> Told {
    let revision = || answer.header("etag").trim_matches('"').parse().ok();
    match (answer.status, call) {
        (200, Call::Read { .. }) => Told::certain(Outcome::Found { value: Some(answer.text()), revision: revision() }),
        (404, Call::Read { .. }) if answer.code() == "key_not_found" => {
            Told::certain(Outcome::Found { value: None, revision: None })
        }
        (200, Call::Write { .. }) => Told::certain(Outcome::Done { revision: revision() }),
        (200, Call::Delete { .. }) => {
            let body = answer.json();
            let deleted = body["deleted"].as_bool().expect("whether it was deleted");
            let revision = body["revision"].as_u64();
            Told::certain(if deleted { Outcome::Done { revision } } else { Outcome::Failed { revision: None } })
        }
        (412, _) => Told::certain(Outcome::Failed { revision: revision() }),
        (503 | 507 | 421, _) => Told::refused(),
        (504, _) => Told::unknown(),
        (status, _) => panic!("{call:?} was answered with {status} {}", answer.text()),
    }
}
