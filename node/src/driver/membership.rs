//! Who belongs: forming a cluster from empty nodes, taking in newcomers, and putting a new disk in the place of a lost one.
//!
//! The rules are those of the protocol ("Identity, formation, forgetting"). This file decides when to ask the core for a change; whether a change is
//! legal is the core's to say, and every change goes through the log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quorum::{Change, ClusterId, Config, Input, Member, NodeId, Role, SharedConfig};
use tokio::sync::oneshot;

use super::{Driver, Wish};
use crate::handle::ChangeError;
use crate::peer::Welcome;

/// A node that has not introduced itself for this long does not count for forming a cluster: it may be gone. Nodes repeat themselves twice a
/// second.
const INTRODUCTION_HOLDS: Duration = Duration::from_secs(3);

/// Most learners: each costs the leader a pipeline.
const LEARNERS_MAX: usize = 9;

/// Most newcomers remembered while a cluster is forming.
const NEWCOMERS_MAX: usize = 64;

/// What is known of nodes outside the configuration.
#[derive(Debug)]
pub(super) struct Membership {
    /// Whether this node may found a cluster.
    may_form: bool,
    /// Empty nodes by name, and when they last introduced themselves.
    newcomers: BTreeMap<String, (Member, Instant)>,
    /// The cluster of the node whose message is being handled.
    heard: Option<ClusterId>,
    /// Peer addresses to write down once the configuration that names them is durable.
    to_remember: Option<Vec<String>>,
    persisted_since: bool,
}

impl Membership {
    pub(super) fn new(may_form: bool) -> Membership {
        Membership { may_form, newcomers: BTreeMap::new(), heard: None, to_remember: None, persisted_since: false }
    }

    pub(super) fn heard_cluster(&mut self, cluster: Option<ClusterId>) {
        self.heard = cluster.or(self.heard);
    }

    pub(super) fn remember_peers(&mut self, members: &[Member], me: &Member) {
        self.to_remember = Some(members.iter().filter(|m| m.id != me.id).map(|m| m.peer.clone()).collect());
        self.persisted_since = false;
    }

    pub(super) fn note_persisted(&mut self) {
        self.persisted_since = true;
    }
}

impl Driver {
    /// A blank node binds to the cluster whose first configuration it is about to store, durably, before it stores it.
    pub(super) fn bind_before_the_first_write(&mut self) {
        if self.cluster.is_some() && self.bound {
            return;
        }
        let Some(cluster) = self.cluster.or(self.membership.heard) else { return };
        let bound = self.meta.lock().bind(cluster);
        if let Err(error) = bound {
            self.end(crate::node::Ended::Failed(format!("the cluster's id could not be written down: {error}")));
            return;
        }
        tracing::info!(%cluster, "bound to the cluster");
        self.cluster = Some(cluster);
        self.bound = true;
        self.network.bind(cluster);
    }

    /// A node says that it is there.
    pub(super) fn on_introduced(&mut self, member: Member, blank: bool) -> Welcome {
        let (accepted, message) = match self.replica.config().cloned() {
            None => self.note_newcomer(member, blank),
            Some(config) if self.replica.role() == Role::Leader => self.take_in(&config, member),
            Some(_) => (false, "this node does not lead".to_owned()),
        };
        let leader = self.replica.leader().filter(|id| *id != self.me.id);
        let leader_peer = leader.and_then(|id| self.replica.config()?.member(id).map(|m| m.peer.clone()));
        Welcome { cluster: self.cluster, accepted, leader_peer, message }
    }

    fn note_newcomer(&mut self, member: Member, blank: bool) -> (bool, String) {
        if !self.membership.may_form {
            return (false, "this node belongs to no cluster yet and does not form one".into());
        }
        if !blank {
            return (
                false,
                format!("{} belonged to a cluster before: it cannot take part in forming one", member.name),
            );
        }
        if member.name == self.me.name {
            return (false, format!("two nodes are named {}: give each its own name", member.name));
        }
        let newcomers = &mut self.membership.newcomers;
        if newcomers.len() < NEWCOMERS_MAX || newcomers.contains_key(&member.name) {
            newcomers.insert(member.name.clone(), (member, self.now));
        }
        (true, "waiting for the other nodes".into())
    }

    /// Founds the cluster once all the nodes it is to have are there, all of them empty.
    pub(super) fn maybe_form(&mut self) {
        let Some(formation) = self.shared.options.form.clone() else { return };
        if !self.membership.may_form || !self.replica.is_blank() {
            return;
        }
        let now = self.now;
        self.membership.newcomers.retain(|_, (_, seen)| now - *seen < INTRODUCTION_HOLDS);
        if self.membership.newcomers.len() + 1 < formation.replicas {
            return;
        }
        let newcomers = self.membership.newcomers.values().map(|(member, _)| member.clone());
        let mut voters: Vec<Member> = newcomers.take(formation.replicas - 1).collect();
        voters.push(self.me.clone());
        let Ok(config) = Config::first(voters, formation.write_quorum, Some(self.me.id)) else { return };
        self.membership.may_form = false;
        self.cluster = Some(ClusterId(uuid::Uuid::new_v4().as_u128()));
        tracing::info!(
            replicas = formation.replicas,
            write_quorum = formation.write_quorum,
            "all nodes are there: forming the cluster"
        );
        // The addresses first, so that the messages of the first step find their way.
        self.network.set_members(&config.voters);
        self.bind_before_the_first_write();
        self.step(Input::Form(Box::new(config)));
    }

    /// A node introduces itself to the leader of a cluster that is there already.
    fn take_in(&mut self, config: &SharedConfig, member: Member) -> (bool, String) {
        if let Some(known) = config.member(member.id) {
            if *known == member {
                return (true, "a member".into());
            }
            let change = readdressed(config, &member);
            return self.ask_for(change, "its new addresses are being recorded");
        }
        if let Some(other) = config.members().find(|m| m.name == member.name && self.is_live(m.id)) {
            return (false, format!("another node named {} is alive at {}", other.name, other.peer));
        }
        let mut change = unchanged(config);
        // An earlier newcomer of this name that is gone makes room for this one.
        change.learners.retain(|m| m.name != member.name);
        if change.learners.len() >= LEARNERS_MAX {
            return (false, format!("the cluster has {LEARNERS_MAX} learners already"));
        }
        change.learners.push(member);
        self.ask_for(change, "taken in as a learner")
    }

    fn is_live(&self, id: NodeId) -> bool {
        id == self.me.id || self.replica.peers().any(|p| p.id == id && p.live)
    }

    /// Asks the core for a change that nobody waits for; if it cannot be now, the node concerned asks again.
    fn ask_for(&mut self, change: Change, done: &str) -> (bool, String) {
        self.step(Input::ChangeConfig(Box::new(change)));
        match self.refused {
            None => (true, done.to_owned()),
            Some(refusal) => (false, refusal.to_string()),
        }
    }

    /// Puts a caught-up newcomer in the place of the voter whose name it has, if that one is gone: its disk was lost.
    pub(super) fn maybe_replace(&mut self) {
        if self.replica.role() != Role::Leader {
            return;
        }
        let Some(config) = self.replica.config().cloned() else { return };
        if config.is_joint() || !self.replica.config_committed() {
            return;
        }
        for learner in &config.learners {
            let Some(old) = config.voters.iter().find(|v| v.name == learner.name) else { continue };
            if self.is_live(old.id) {
                continue;
            }
            let mut change = unchanged(&config);
            change.voters.retain(|v| v.id != old.id);
            change.voters.push(learner.clone());
            change.learners.retain(|l| l.id != learner.id);
            change.preferred = change.preferred.map(|id| if id == old.id { learner.id } else { id });
            let (accepted, _) = self.ask_for(change, "");
            if accepted {
                tracing::info!(name = learner.name, old = %old.id, new = %learner.id, "a new disk takes the place of a lost one");
                return;
            }
        }
    }

    /// Answers those who wait for a configuration to be final.
    pub(super) fn settle_config_wishes(&mut self) {
        if self.wishes.is_empty() || !self.replica.config_committed() {
            return;
        }
        let Some(config) = self.replica.config().cloned() else { return };
        let done = |wish: &Wish| matches!(wish, Wish::Config { version, .. } if config.version >= *version && !config.is_joint());
        for (_, wish) in self.wishes.extract_if(.., |(_, wish)| done(wish)) {
            if let Wish::Config { reply, .. } = wish {
                let _ = reply.send(Ok(config.version));
            }
        }
    }

    /// Answers those who wait for this node to lead, or to lead no more.
    pub(super) fn settle_leadership_wishes(&mut self) {
        let leads = self.replica.role() == Role::Leader;
        let other_leads = self.replica.leader().is_some_and(|id| id != self.me.id);
        for (asked, wish) in std::mem::take(&mut self.wishes) {
            match wish {
                Wish::Transfer { reply } if other_leads => drop(reply.send(Ok(()))),
                Wish::Campaign { reply } if leads => drop(reply.send(Ok(()))),
                Wish::Config { reply, .. } if !leads => {
                    drop(reply.send(Err(ChangeError::Unknown("leadership was lost on the way".into()))));
                }
                wish => self.wishes.push((asked, wish)),
            }
        }
    }

    /// Gives up on wishes that took too long.
    pub(super) fn expire_wishes(&mut self) {
        let (now, limit) = (self.now, self.shared.options.request_timeout);
        for (_, wish) in self.wishes.extract_if(.., |(asked, _)| now - *asked >= limit) {
            let late = || ChangeError::Unknown("it was not done in time".into());
            match wish {
                Wish::Config { reply, .. } => drop(reply.send(Err(late()))),
                Wish::Transfer { reply } | Wish::Campaign { reply } => reject(reply, late()),
            }
        }
    }

    /// Writes down where the others are, so that a node that lost its log can find them again. After the configuration itself is durable.
    pub(super) fn write_down_peers(&mut self) {
        if !self.membership.persisted_since {
            return;
        }
        let Some(peers) = self.membership.to_remember.take() else { return };
        let meta = self.meta.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = meta.lock().set_known_peers(peers) {
                tracing::warn!(%error, "the addresses of the other nodes could not be written down");
            }
        });
    }

    pub(super) fn name_of(&self, id: NodeId) -> String {
        let member = self.replica.config().and_then(|c| c.member(id).map(|m| m.name.clone()));
        member.unwrap_or_else(|| id.to_string())
    }
}

fn reject(reply: oneshot::Sender<Result<(), ChangeError>>, error: ChangeError) {
    drop(reply.send(Err(error)));
}

/// The change that changes nothing, to start from.
pub(crate) fn unchanged(config: &Config) -> Change {
    Change {
        base_version: config.version,
        voters: config.voters.clone(),
        learners: config.learners.clone(),
        write_quorum: config.write_quorum,
        preferred: config.preferred,
        failover: config.failover,
    }
}

fn readdressed(config: &Config, member: &Member) -> Change {
    let mut change = unchanged(config);
    for known in change.voters.iter_mut().chain(&mut change.learners).filter(|m| m.id == member.id) {
        known.clone_from(member);
    }
    change
}
