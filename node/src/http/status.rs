//! What a node knows of itself and its cluster, as `/v1/status` tells it.

use std::time::Duration;

use quorate_api::{ConfigStatus, Limits, MemberStatus, Membership, NodeStatus, Status, Tolerates};
use quorum::{Failover, Member, NodeId};

use crate::handle::{Handle, NodeState};
use crate::kv;

/// All of it.
pub(super) fn status(handle: &Handle) -> Status {
    let state = handle.state();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: node(handle, &state),
        cluster_id: state.cluster.map(|c| c.to_string()),
        formed: state.config.as_ref().is_some_and(|c| c.formed),
        term: state.term.0,
        leader: state.leader.as_ref().map(|m| m.name.clone()),
        leader_url: state.leader.as_ref().map(|m| m.http.clone()),
        commit: state.commit.0,
        applied: handle.applied().0,
        config: config(&state),
        members: members(handle, &state),
        tolerates: tolerates(handle, &state),
        limits: limits(handle),
        disk_full: state.disk_full,
    }
}

fn node(handle: &Handle, state: &NodeState) -> NodeStatus {
    let options = handle.options();
    let me = &handle.shared.me;
    NodeStatus {
        id: handle.id().to_string(),
        name: options.name.clone(),
        role: state.role.to_string(),
        membership: membership(handle.id(), state),
        incarnation: handle.incarnation(),
        ready: state.ready,
        http: me.http.clone(),
        tcp: me.tcp.clone(),
        peer: me.peer.clone(),
    }
}

fn membership(id: NodeId, state: &NodeState) -> Membership {
    match &state.config {
        _ if state.removed => Membership::Removed,
        None => Membership::Blank,
        Some(config) if config.is_voter(id) => Membership::Voter,
        Some(config) if config.is_learner(id) => Membership::Learner,
        Some(_) => Membership::Removed,
    }
}

fn config(state: &NodeState) -> ConfigStatus {
    let Some(config) = &state.config else {
        return ConfigStatus {
            version: 0,
            replicas: 0,
            write_quorum: 0,
            election_quorum: 0,
            commit_quorum: 0,
            preferred: None,
            failover: "automatic".to_owned(),
            changing: false,
            explanation: "this node belongs to no cluster yet".to_owned(),
        };
    };
    let quorum = config.quorum();
    let failover = match config.failover {
        Failover::Automatic => "automatic",
        Failover::Manual => "manual",
    };
    ConfigStatus {
        version: config.version,
        replicas: quorum.voters(),
        write_quorum: quorum.write(),
        election_quorum: quorum.election(),
        commit_quorum: quorum.commit(),
        preferred: config.preferred.and_then(|id| config.member(id)).map(|m| m.name.clone()),
        failover: failover.to_owned(),
        changing: state.changing,
        explanation: quorum.explain(),
    }
}

/// Everyone in the configuration, with the health that only a leader knows.
pub(super) fn members(handle: &Handle, state: &NodeState) -> Vec<MemberStatus> {
    let Some(config) = &state.config else { return Vec::new() };
    let leads = handle.leads();
    let one = |m: &Member| {
        let itself = m.id == handle.id();
        // Where it is now, which the configuration may learn of only when there is a leader again.
        let m = if itself { &handle.shared.me } else { m };
        let peer_address = handle.shared.forward.peer_address(m.id);
        let peer = state.peers.iter().find(|p| p.id == m.id);
        let role = match &state.leader {
            Some(leader) if leader.id == m.id => "leader",
            _ if config.is_learner(m.id) => "learner",
            _ => "follower",
        };
        let (healthy, heard, lag) = match (leads, itself, peer) {
            (true, true, _) => (Some(true), Some(0), Some(0)),
            (true, false, Some(p)) => {
                // What it holds is known from when it was first heard in this reign; until then it would seem to lack everything.
                let lag = p.silent_for.map(|_| state.last.0.saturating_sub(p.durable.0));
                (Some(p.live), p.silent_for.map(millis), lag)
            }
            // A leader that never heard of a member knows that it is not healthy.
            (true, false, None) => (Some(false), None, None),
            (false, ..) => (None, None, None),
        };
        MemberStatus {
            id: m.id.to_string(),
            name: m.name.clone(),
            role: role.to_owned(),
            http: m.http.clone(),
            tcp: m.tcp.clone(),
            peer: peer_address.unwrap_or_else(|| m.peer.clone()),
            healthy,
            last_heard_ms: heard,
            lag,
        }
    };
    config.members().map(one).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn tolerates(handle: &Handle, state: &NodeState) -> Tolerates {
    let (true, Some(config)) = (handle.leads(), &state.config) else {
        return Tolerates { live: None, writes: None, failover: None };
    };
    let live = |voters: &[Member]| {
        let up = |m: &&Member| m.id == handle.id() || state.peers.iter().any(|p| p.id == m.id && p.live);
        voters.iter().filter(up).count()
    };
    // Under a joint configuration the weaker half decides.
    let spare = |needed: fn(quorum::Quorum) -> usize| {
        config.halves().map(|(voters, q)| live(voters).saturating_sub(needed(q))).min()
    };
    Tolerates {
        live: Some(live(&config.voters)),
        writes: spare(quorum::Quorum::write),
        failover: spare(quorum::Quorum::election),
    }
}

fn limits(handle: &Handle) -> Limits {
    let limits = &handle.options().limits;
    Limits {
        key_bytes: limits.key_bytes,
        value_bytes: limits.value_bytes,
        batch_keys: limits.batch_keys,
        page_keys: limits.page_keys,
        in_flight_writes: limits.in_flight_writes,
        idempotency_key_bytes: kv::REQUEST_KEY_BYTES_MAX,
        idempotency_keys: kv::ROWS_MAX,
        idempotency_seconds: kv::REMEMBERED_FOR.as_secs(),
    }
}
