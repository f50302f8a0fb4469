//! The operator as a client of the nodes: what they say, and the few things it asks of them.
//!
//! Bounded in time, and repeats nothing by itself: the next reconciliation looks again and decides anew.

use std::time::Duration;

use quorate_api::{ConfigChange, ErrorBody, MANAGER_HEADER, Status, TransferRequest};
use reqwest::header::IF_MATCH;
use serde::Serialize;

/// How long a node may take to say how it is. It answers from memory; a pod that is gone must not hold up the view of those that are there.
const STATUS_PATIENCE: Duration = Duration::from_millis(1_500);
/// How long a change may take: the node gives up on it after its own request timeout, 5 s.
const CHANGE_PATIENCE: Duration = Duration::from_secs(8);

/// Why a node did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// No answer, or none that could be read.
    #[error("{url} does not answer: {error}")]
    Silent {
        /// Who.
        url: String,
        /// What came instead.
        error: String,
    },
    /// It refused, in its own words.
    #[error("{url} refused ({code}): {message}")]
    Refused {
        /// Who.
        url: String,
        /// The stable code.
        code: String,
        /// For people.
        message: String,
    },
}

/// Asks nodes.
#[derive(Clone, Debug)]
pub struct Nodes {
    http: reqwest::Client,
}

/// Who asks for a change, and with which right.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The admin token.
    pub token: String,
    /// What the nodes were told manages them.
    pub managed_by: String,
}

impl Nodes {
    /// A client without proxies: pods are reached directly.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn new() -> Result<Nodes, reqwest::Error> {
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(1).build()?;
        Ok(Nodes { http })
    }

    /// `GET /v1/status`
    ///
    /// # Errors
    /// When the node does not answer in time.
    pub async fn status(&self, url: &str) -> Result<Status, NodeError> {
        let silent = |error: reqwest::Error| NodeError::Silent { url: url.to_owned(), error: error.to_string() };
        let request = self.http.get(format!("{url}/v1/status")).timeout(STATUS_PATIENCE);
        let answer = request.send().await.map_err(silent)?.error_for_status().map_err(silent)?;
        answer.json().await.map_err(silent)
    }

    /// `PUT /v1/cluster/config`, on the leader, based on a version.
    ///
    /// # Errors
    /// When it refuses or does not answer; the change may have been made in the latter case.
    pub async fn change_config(
        &self,
        url: &str,
        who: &Credentials,
        version: u64,
        change: &ConfigChange,
    ) -> Result<(), NodeError> {
        let request = self.http.put(format!("{url}/v1/cluster/config")).header(IF_MATCH, format!("\"{version}\""));
        self.asked(url, request, who, Some(change)).await
    }

    /// `POST /v1/cluster/transfer`, on the leader.
    ///
    /// # Errors
    /// As [`Nodes::change_config`].
    pub async fn transfer(&self, url: &str, who: &Credentials, to: &str) -> Result<(), NodeError> {
        let body = TransferRequest { to: Some(to.to_owned()) };
        self.asked(url, self.http.post(format!("{url}/v1/cluster/transfer")), who, Some(&body)).await
    }

    /// `POST /v1/cluster/campaign`, on the leader to be.
    ///
    /// # Errors
    /// As [`Nodes::change_config`].
    pub async fn campaign(&self, url: &str, who: &Credentials) -> Result<(), NodeError> {
        self.asked(url, self.http.post(format!("{url}/v1/cluster/campaign")), who, None::<&()>).await
    }

    async fn asked(
        &self,
        url: &str,
        request: reqwest::RequestBuilder,
        who: &Credentials,
        body: Option<&impl Serialize>,
    ) -> Result<(), NodeError> {
        let silent = |error: reqwest::Error| NodeError::Silent { url: url.to_owned(), error: error.to_string() };
        let request = request.timeout(CHANGE_PATIENCE).bearer_auth(&who.token).header(MANAGER_HEADER, &who.managed_by);
        let request = if let Some(body) = body { request.json(body) } else { request };
        let answer = request.send().await.map_err(silent)?;
        if answer.status().is_success() {
            return Ok(());
        }
        let status = answer.status();
        let (code, message) = match answer.json::<ErrorBody>().await {
            Ok(body) => (body.error.code, body.error.message),
            Err(_) => (status.as_u16().to_string(), "no reason given".to_owned()),
        };
        Err(NodeError::Refused { url: url.to_owned(), code, message })
    }
}
