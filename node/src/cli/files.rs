//! The files that a process may have open, and how many connections that leaves room for.
//!
//! A connection is a file. If clients could use up all there are, the log could not begin its next segment and the node
//! would end; so the bounds of connections are lowered to what fits, and whoever runs the node is told what to raise.
//! Before: `serve`, `local`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::options::NodeOptions;

/// Files that a node needs besides its clients' connections: segments of the log (four times 256 MiB in pieces of 64
/// MiB, and those being made), tables of the engine (it keeps a few hundred open), four connections to and from each
/// of seventeen other nodes.
const OWN_FILES: u64 = 1_024;

/// Fewer connections than this on a port make no sense: then the log has to take its chances.
const CONNECTIONS_MIN: u64 = 64;

/// Files and connections that a process may have open without asking: raised to what the system allows it, since
/// many systems start programs with 1,024, and a node has a file for each connection. Returns what is allowed
/// now; `None` is no limit.
pub(super) fn raise_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, ?current, ?maximum, "the limit of open files could not be raised");
            current
        }
    }
}

/// Lowers the bounds of connections of the nodes that share this process to what may be open; returns
/// what is to be said about it.
pub(super) fn fit_connections(nodes: &mut [NodeOptions]) -> Option<String> {
    let files = raise_limit()?;
    let needed = fit(nodes, files)?;
    let most = nodes.first().map_or(0, |node| node.limits.http_connections);
    Some(format!(
        "this process may have {files} files open, which leaves room for {most} connections on each port: let it have {needed} for as many as are set \
         (ulimit -n {needed}; LimitNOFILE={needed} in a systemd unit; docker run --ulimit nofile={needed}:{needed})"
    ))
}

/// How many files it would take, if there are fewer.
fn fit(nodes: &mut [NodeOptions], files: u64) -> Option<u64> {
    let wanted = |node: &NodeOptions| (node.limits.http_connections + node.limits.tcp_connections) as u64;
    let needed: u64 = nodes.iter().map(|node| OWN_FILES + wanted(node)).sum();
    if needed <= files {
        return None;
    }
    let share = files / (nodes.len() as u64).max(1);
    let most = (share.saturating_sub(OWN_FILES.min(share / 2)) / 2).max(CONNECTIONS_MIN);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    for node in nodes {
        node.limits.http_connections = node.limits.http_connections.min(most);
        node.limits.tcp_connections = node.limits.tcp_connections.min(most);
    }
    Some(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_raised_to_what_the_system_allows() {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let lower = current.map(|c| c - 1).or(Some(4_096));
        setrlimit(Resource::Nofile, Rlimit { current: lower, maximum }).expect("lower is always allowed");
        assert_eq!(raise_limit(), maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }

    #[test]
    fn connections_are_lowered_to_what_may_be_open_and_the_log_keeps_its_share() {
        let any = "127.0.0.1:0".parse().expect("address");
        let nodes = |count: usize| vec![NodeOptions::new("node1", "data".into(), any, any, any); count];
        let fitted = |count: usize, files: u64| {
            let mut nodes = nodes(count);
            let needed = fit(&mut nodes, files);
            (needed, nodes[count - 1].limits.http_connections, nodes[0].limits.tcp_connections)
        };
        assert_eq!(fitted(1, 1 << 20), (None, 16_384, 16_384));
        assert_eq!(fitted(1, 33_792), (None, 16_384, 16_384), "just enough");
        assert_eq!(fitted(1, 33_791), (Some(33_792), 16_383, 16_383));
        assert_eq!(fitted(1, 1_024), (Some(33_792), 256, 256));
        assert_eq!(fitted(6, 20_000), (Some(202_752), 1_154, 1_154));
        assert_eq!(fitted(6, 256), (Some(202_752), 64, 64));
    }
}
