//! A cluster's events, put together from those of its nodes.
//!
//! Each node is followed over one connection, over which it tells by itself what changes; nobody is asked again and again. A node whose connection breaks, or
//! who is silent for longer than a living one is, is reported as gone with the reason, and tried again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::json;
use tokio::task::JoinSet;

use super::events::{Board, EVERY, event, publish};
use crate::handle::Handle;

/// A node tells something every second; after this long without a word it is reported as silent.
const SILENCE: Duration = Duration::from_millis(2_500);

/// Between two attempts to reach a node.
const AGAIN: Duration = Duration::from_millis(250);

/// The longest event that is taken: a status of eighteen members is a twentieth of it.
const EVENT_BYTES_MAX: usize = 256 << 10;

/// A client for following and asking other nodes; `None` if the system has no more descriptors or threads to give.
pub(super) fn client() -> Option<reqwest::Client> {
    let built =
        reqwest::Client::builder().no_proxy().connect_timeout(SILENCE).redirect(reqwest::redirect::Policy::none());
    built.build().inspect_err(|error| tracing::warn!(%error, "no HTTP client for asking other nodes")).ok()
}

/// Follows this node and every other member of its configuration.
pub(super) async fn members(handle: Handle, board: Arc<Board>) {
    let Some(client) = client() else { return };
    let mut following = JoinSet::new();
    following.spawn(publish(handle.clone(), board.clone()));
    let mut known: HashMap<String, (String, tokio::task::AbortHandle)> = HashMap::new();
    loop {
        let config = handle.state().config.clone();
        let others = config.iter().flat_map(|c| c.members()).filter(|m| m.id != handle.id());
        let others: HashMap<String, String> = others.map(|m| (m.name.clone(), m.http.clone())).collect();
        known.retain(|name, (url, task)| {
            let stays = others.get(name) == Some(url);
            if !stays {
                task.abort();
                board.remove(name);
            }
            stays
        });
        for (name, url) in others {
            known.entry(name.clone()).or_insert_with(|| {
                let task = following.spawn(node(client.clone(), name, url.clone(), board.clone()));
                (url, task)
            });
        }
        while following.try_join_next().is_some() {}
        tokio::time::sleep(EVERY).await;
    }
}

/// Follows one node for ever.
pub(super) async fn node(client: reqwest::Client, name: String, url: String, board: Arc<Board>) {
    loop {
        let reason = until_broken(&client, &url, &name, &board).await;
        board.put(&name, event("gone", &json!({ "name": name, "http": url, "reason": reason })));
        tokio::time::sleep(AGAIN).await;
    }
}

/// Passes a node's events on for as long as they come. Why they no longer do.
async fn until_broken(client: &reqwest::Client, url: &str, name: &str, board: &Board) -> &'static str {
    const SILENT: &str = "it does not answer";
    let asked = tokio::time::timeout(SILENCE, client.get(format!("{url}/v1/events")).send());
    let mut response = match asked.await {
        Ok(Ok(response)) if response.status().is_success() => response,
        Ok(Ok(_)) => return "it does not tell what it does",
        Ok(Err(error)) if error.is_connect() => return "nothing listens at its address",
        Ok(Err(_)) | Err(_) => return SILENT,
    };
    let mut pending = BytesMut::new();
    loop {
        let chunk: Bytes = match tokio::time::timeout(SILENCE, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None) | Err(_)) => return "it closed the connection",
            Err(_) => return SILENT,
        };
        pending.extend_from_slice(&chunk);
        while let Some(end) = pending.windows(2).position(|w| w == b"\n\n") {
            board.put(name, pending.split_to(end + 2).freeze());
        }
        if pending.len() > EVENT_BYTES_MAX {
            return "it says more than one can listen to";
        }
    }
}
