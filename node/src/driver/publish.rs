//! What others see of the driver: the node's state at the end of a turn, and the gauges.

use std::sync::Arc;
use std::time::Duration;

use quorum::Role;

use super::Driver;
use crate::handle::{NodeState, PeerState};

impl Driver {
    /// Publishes the state for the node's faces.
    pub(super) fn publish(&mut self) {
        self.note_readiness();
        let now = self.time();
        let silent_for = |heard: Option<quorum::Time>| heard.map(|at| Duration::from_micros(now.since(at)));
        let config = self.replica.config().cloned();
        let leader = self.replica.leader().and_then(|id| config.as_ref()?.member(id).cloned());
        let state = NodeState {
            role: self.replica.role(),
            term: self.replica.term(),
            leader,
            cluster: self.cluster,
            commit: self.replica.commit(),
            last: self.replica.last().index,
            peers: self
                .replica
                .peers()
                .map(|p| PeerState { id: p.id, durable: p.durable, silent_for: silent_for(p.heard), live: p.live })
                .collect(),
            config,
            ready: self.ready,
            removed: self.replica.is_removed(),
            disk_full: self.disk_full,
        };
        self.shared.state.store(Arc::new(state));
    }

    pub(super) fn publish_metrics(&mut self) {
        let metrics = self.shared.metrics.clone();
        let role = self.replica.role();
        for each in [Role::Leader, Role::Candidate, Role::Follower] {
            metrics.role.with_label_values(&[&each.to_string()]).set(f64::from(u8::from(each == role)));
        }
        metrics.term.set(gauge(self.replica.term().0));
        metrics.leader_present.set(i64::from(self.replica.leader().is_some()));
        metrics.commit_index.set(gauge(self.replica.commit().0));
        metrics.applied_index.set(gauge(self.applied.0));
        metrics.wal_bytes.set(gauge(self.wal.bytes()));
        metrics.in_flight_writes.set(gauge(self.waiters.len() as u64));
        metrics.follower_lag_entries.reset();
        metrics.follower_lag_seconds.reset();
        let Some(config) = self.replica.config().cloned() else { return };
        metrics.members.with_label_values(&["voter"]).set(config.voters.len() as f64);
        metrics.members.with_label_values(&["learner"]).set(config.learners.len() as f64);
        if role != Role::Leader {
            return;
        }
        let (last, now) = (self.replica.last().index, self.time());
        let mut live = 1;
        for peer in self.replica.peers() {
            let name = self.name_of(peer.id);
            let behind = peer.behind_since.map_or(0.0, |since| now.since(since) as f64 / 1e6);
            metrics.follower_lag_entries.with_label_values(&[&name]).set((last.0 - peer.durable.0) as f64);
            metrics.follower_lag_seconds.with_label_values(&[&name]).set(behind);
            live += i64::from(peer.live && config.is_voter(peer.id));
        }
        let quorum = config.quorum();
        metrics.failover_margin.set(live - gauge(quorum.election() as u64));
        metrics.read_margin.set(live - gauge(quorum.commit() as u64));
        metrics.write_margin.set(live - gauge(quorum.write() as u64));
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
