//! What others see of the driver: the node's state at the end of a turn, and the gauges.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::{Histogram, IntGaugeVec};
use quorum::quorum::Quorum;
use quorum::{Body, Member, NodeId, Role};

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
        let unsettled = self.replica.role() == Role::Leader && !self.replica.config_committed();
        let state = NodeState {
            changing: unsettled || config.as_ref().is_some_and(|c| c.is_joint()),
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
            waits_for: self.waits_for(),
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
        metrics.ready.set(i64::from(self.ready));
        metrics.in_flight_writes.set(gauge(self.waiters.len() as u64));
        // What only a leader knows is not there on others: a number of the past would be taken for one of the present.
        for gauges in [&metrics.follower_lag_entries, &metrics.follower_lag_seconds] {
            gauges.reset();
        }
        let margins = [&metrics.failover_margin, &metrics.read_margin, &metrics.write_margin];
        let Some(config) = self.replica.config().cloned() else { return };
        metrics.members.with_label_values(&["voter"]).set(config.voters.len() as f64);
        metrics.members.with_label_values(&["learner"]).set(config.learners.len() as f64);
        let quorum = config.quorum();
        for (kind, nodes) in [("write", quorum.write()), ("election", quorum.election()), ("commit", quorum.commit())] {
            metrics.quorum.with_label_values(&[kind]).set(nodes as f64);
        }
        if role != Role::Leader {
            margins.into_iter().for_each(IntGaugeVec::reset);
            return;
        }
        let (last, now) = (self.replica.last().index, self.time());
        for peer in self.replica.peers() {
            let name = self.name_of(peer.id);
            let behind = peer.behind_since.map_or(0.0, |since| now.since(since) as f64 / 1e6);
            metrics.follower_lag_entries.with_label_values(&[&name]).set((last.0 - peer.durable.0) as f64);
            metrics.follower_lag_seconds.with_label_values(&[&name]).set(behind);
        }
        let needed: [fn(Quorum) -> usize; 3] = [Quorum::election, Quorum::commit, Quorum::write];
        for (margin, needed) in margins.into_iter().zip(needed) {
            // Of the two halves of a change the weaker one counts.
            let spare = |(voters, quorum): (&[Member], Quorum)| {
                let live = voters.iter().filter(|v| self.is_live(v.id)).count();
                gauge(live as u64) - gauge(needed(quorum) as u64)
            };
            let no_labels: [&str; 0] = [];
            margin.with_label_values(&no_labels).set(config.halves().map(spare).min().unwrap_or(0));
        }
    }

    /// Measures how long the answer to a heartbeat took.
    pub(super) fn note_round_trip(&mut self, from: NodeId, body: &Body) {
        let Body::HeartbeatReply { round } = body else { return };
        let Some(began) = self.round_trips.round(*round) else { return };
        if !self.round_trips.seconds.contains_key(&from) {
            // Names are few, but over the years not as few as members are: those of the past go,
            // from what is scraped, too.
            if self.round_trips.seconds.len() >= ROUND_TRIPS_MAX {
                self.round_trips.seconds.clear();
                self.shared.metrics.peer_round_trip_seconds.reset();
            }
            let name = self.name_of(from);
            let seconds = self.shared.metrics.peer_round_trip_seconds.with_label_values(&[&name]);
            self.round_trips.seconds.insert(from, seconds);
        }
        if let Some(seconds) = self.round_trips.seconds.get(&from) {
            seconds.observe(self.now.saturating_duration_since(began).as_secs_f64());
        }
    }
}

/// Rounds of heartbeats whose beginning is remembered, and members whose histogram is: enough for any answer
/// that still says something.
const ROUND_TRIPS_MAX: usize = 64;

/// When the latest rounds of heartbeats of this reign began.
#[derive(Debug, Default)]
pub(super) struct RoundTrips {
    rounds: VecDeque<(u64, Instant)>,
    seconds: HashMap<NodeId, Histogram>,
}

impl RoundTrips {
    /// A heartbeat of this round is sent; the first of them counts.
    pub(super) fn began(&mut self, round: u64, now: Instant) {
        if self.rounds.back().is_some_and(|(last, _)| *last >= round) {
            return;
        }
        if self.rounds.len() >= ROUND_TRIPS_MAX {
            self.rounds.pop_front();
        }
        self.rounds.push_back((round, now));
    }

    /// The reign is over: its rounds say nothing about those of the next.
    pub(super) fn forget(&mut self) {
        self.rounds.clear();
    }

    fn round(&self, round: u64) -> Option<Instant> {
        let at = self.rounds.binary_search_by_key(&round, |(round, _)| *round).ok()?;
        self.rounds.get(at).map(|(_, began)| *began)
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
