//! What must hold when the load is over: every node holds the same, and nothing that was acknowledged is missing.
//!
//! Every write to a key adds one to its version, so the versions of all keys together have grown by the acknowledged
//! writes, and by at most those besides whose outcome is unknown.

use quorate_api::{KeyValue, Page};
use serde::Serialize;

use super::super::client::{Ask, Client};
use super::super::output::Failure;
use super::super::verbs::parsed;
use super::cluster::Cluster;
use super::measure::Ledger;

/// Keys compared at a time: one page of every node is in memory.
const PAGE_KEYS: usize = 500;
/// The keys of the load start so.
const PREFIX: &str = "bench-";

/// What was found to hold.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verification {
    /// Nodes that were compared: all of them.
    pub(super) nodes: usize,
    pub(super) keys: u64,
    /// Writes that clients were told to have succeeded, in all rounds and warm-ups.
    pub(super) acknowledged: u64,
    pub(super) unknown: u64,
    /// Writes that the nodes have applied.
    pub(super) applied: u64,
}

/// All keys of the load, as all nodes hold them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    keys: u64,
    versions: u64,
}

/// What all nodes hold of the load's keys.
pub(super) async fn versions(cluster: &Cluster) -> Result<Held, Failure> {
    let urls = cluster.live().await?;
    let nodes: Vec<(String, Client)> = urls.iter().map(|url| (url.clone(), cluster.client.at(url))).collect();
    compare(&nodes).await
}

/// Compares all nodes with each other, and with what clients were told since `before`.
pub(super) async fn verify(cluster: &Cluster, ledger: &Ledger, before: &Held) -> Result<Verification, Failure> {
    let nodes = cluster.live().await?.len();
    let held = versions(cluster).await?;
    let applied = accounted(ledger, before, &held).map_err(Failure::Error)?;
    let Ledger { acknowledged, unknown } = *ledger;
    Ok(Verification { nodes, keys: held.keys, acknowledged, unknown, applied })
}

/// The writes applied since `before`, if they are those that clients know of.
fn accounted(ledger: &Ledger, before: &Held, held: &Held) -> Result<u64, String> {
    let Ledger { acknowledged, unknown } = *ledger;
    let applied = held.versions.saturating_sub(before.versions);
    if applied < acknowledged {
        return Err(format!(
            "{} acknowledged writes are missing: {acknowledged} were acknowledged, the versions of the keys have grown by {applied}",
            acknowledged - applied
        ));
    }
    if applied > acknowledged + unknown {
        return Err(format!(
            "the versions of the keys have grown by {applied}, but only {acknowledged} writes were acknowledged and {unknown} unknown: does somebody else write keys that start with {PREFIX}?"
        ));
    }
    Ok(applied)
}

/// Walks the nodes' own copies side by side; the first difference is an error.
async fn compare(nodes: &[(String, Client)]) -> Result<Held, Failure> {
    let (mut held, mut after) = (Held::default(), None::<String>);
    loop {
        let mut path = format!("/v1/kv?consistency=local&prefix={PREFIX}&limit={PAGE_KEYS}");
        if let Some(after) = &after {
            // Keys of the load need no escape.
            path += &format!("&after={after}");
        }
        let mut first: Option<(&str, Page)> = None;
        for (url, node) in nodes {
            let page: Page = parsed(&node.ask(&Ask::get(path.as_str())).await?)?;
            match &first {
                None => first = Some((url, page)),
                Some((other, theirs)) if theirs.items != page.items => {
                    return Err(Failure::Error(difference(other, &theirs.items, url, &page.items)));
                }
                Some(_) => {}
            }
        }
        let Some((_, page)) = first else { return Ok(held) };
        held.keys += page.items.len() as u64;
        held.versions += page.items.iter().map(|i| i.version).sum::<u64>();
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(held),
        }
    }
}

/// The first key in which two nodes differ.
fn difference(a: &str, in_a: &[KeyValue], b: &str, in_b: &[KeyValue]) -> String {
    let at = (0..).find(|i| in_a.get(*i) != in_b.get(*i)).unwrap_or(0);
    let shown = |item: Option<&KeyValue>| {
        item.map_or("nothing more".to_owned(), |i| {
            format!("{} at revision {}, version {}", i.key, i.revision, i.version)
        })
    };
    format!("the nodes differ: {a} holds {}, {b} holds {}", shown(in_a.get(at)), shown(in_b.get(at)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A node that answers every request with this page.
    async fn node(page: Page) -> (String, Client) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let body = serde_json::to_string(&page).expect("json");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut input = [0; 4096];
                let _ = stream.read(&mut input).await;
                let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            }
        });
        let client = Client::new(std::slice::from_ref(&url), Duration::from_secs(5), None).expect("client");
        (url, client)
    }

    fn page(versions: &[u64]) -> Page {
        let item = |(n, version): (usize, &u64)| KeyValue {
            key: format!("bench-{n}"),
            value: "v".into(),
            revision: 7,
            version: *version,
        };
        Page { revision: 9, items: versions.iter().enumerate().map(item).collect(), next: None }
    }

    #[tokio::test]
    async fn a_node_that_holds_another_version_fails_the_sweep_and_is_named() {
        let same = [node(page(&[1, 2])).await, node(page(&[1, 2])).await];
        assert_eq!(compare(&same).await.expect("the same"), Held { keys: 2, versions: 3 });
        for other in [&[1, 3][..], &[1], &[1, 2, 1]] {
            let nodes = [node(page(&[1, 2])).await, node(page(other)).await];
            let text = compare(&nodes).await.expect_err("they differ").message().to_owned();
            assert!(text.contains(&nodes[1].0), "{text}");
        }
    }

    #[test]
    fn a_missing_acknowledged_write_is_found_and_an_unknown_one_may_be_there_or_not() {
        let (before, ledger) = (Held { keys: 1, versions: 5 }, Ledger { acknowledged: 10, unknown: 2 });
        let grown = |versions| accounted(&ledger, &before, &Held { keys: 1, versions });
        assert!(grown(14).expect_err("lost").starts_with("1 acknowledged writes are missing"));
        assert_eq!((grown(15), grown(17)), (Ok(10), Ok(12)));
        assert!(grown(18).expect_err("foreign").contains("somebody else"));
    }
}
