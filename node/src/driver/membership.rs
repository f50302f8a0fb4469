//! Who belongs: forming a cluster from empty nodes, taking in newcomers, and putting a new disk in
//! the place of a lost one.
//!
//! The rules are those of the protocol ("Identity, formation, forgetting"). This file decides when to ask the core for
//! a change; whether a change is legal is the core's to say, and every change goes through the log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quorum::{Change, ClusterId, Config, Index, Input, Member, NodeId, Role, SharedConfig};
use tokio::sync::oneshot;

use super::{Driver, Wish};
use crate::handle::ChangeError;
use crate::node::Ended;
use crate::peer::Welcome;

/// A node that has not introduced itself for this long does not count for forming a cluster: it may be gone. Nodes
/// repeat themselves twice a second.
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
    to_remember: Option<(Index, Vec<String>)>,
    /// Whether this node has founded a cluster whose first configuration is not durable here yet.
    founding: bool,
}

impl Membership {
    pub(super) fn new(may_form: bool) -> Membership {
        Membership { may_form, newcomers: BTreeMap::new(), heard: None, to_remember: None, founding: false }
    }

    pub(super) fn heard_cluster(&mut self, cluster: Option<ClusterId>) {
        self.heard = cluster;
    }

    /// Remembers where the others are as soon as the log is durable up to `upto`, which holds the
    /// configuration that says so.
    pub(super) fn remember_peers(&mut self, members: &[Member], me: &Member, upto: Index) {
        self.to_remember = Some((upto, members.iter().filter(|m| m.id != me.id).map(|m| m.peer.clone()).collect()));
    }

    pub(super) fn is_founding(&self) -> bool {
        self.founding
    }
}

impl Driver {
    /// A blank node binds to the cluster whose first configuration it is about to store, durably, before it stores it.
    /// Here and now: nothing may be written before, it happens once, and a blank node keeps nobody waiting. Whether it
    /// is bound; if not, nothing may be written.
    pub(super) fn bind_before_the_first_write(&mut self) -> bool {
        if self.cluster.is_some() && self.bound {
            return true;
        }
        let bound = match self.cluster.or(self.membership.heard) {
            Some(cluster) => self.meta.lock().bind(cluster).map(|()| cluster).map_err(|e| e.to_string()),
            None => Err("the leader did not name it".to_owned()),
        };
        let cluster = match bound {
            Ok(cluster) => cluster,
            Err(error) => {
                self.end(Ended::Failed(format!("the cluster's id could not be written down: {error}")));
                return false;
            }
        };
        tracing::info!(%cluster, "bound to the cluster");
        self.cluster = Some(cluster);
        self.bound = true;
        self.world.bind(cluster);
        true
    }

    /// A node says that it is there.
    pub(super) fn on_introduced(&mut self, member: Member, blank: bool) -> Welcome {
        let (accepted, message) = match self.replica.config().cloned() {
            None => self.note_newcomer(member, blank),
            Some(config) if self.replica.role() == Role::Leader => self.take_in(&config, member, blank),
            Some(config) => {
                // Whoever leads next is to find it where it is now, or nobody may be able to lead.
                if config.member(member.id).is_some() && member.id != self.me.id {
                    self.world.met(&member);
                }
                (false, "this node does not lead".to_owned())
            }
        };
        let leader = self.replica.leader().filter(|id| *id != self.me.id);
        let leader_peer = leader.and_then(|id| self.replica.config()?.member(id).map(|m| m.peer.clone()));
        Welcome { cluster: self.cluster, accepted, leader_peer, message }
    }

    fn note_newcomer(&mut self, member: Member, blank: bool) -> (bool, String) {
        if member.id == self.me.id {
            return (false, "this is the node itself".into());
        }
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
        let of_that_name = newcomers.get(&member.name).filter(|(m, _)| m.id != member.id);
        if let Some((other, _)) = of_that_name.filter(|(_, seen)| self.now - *seen < INTRODUCTION_HOLDS) {
            return (false, format!("two nodes are named {}, the other at {}", other.name, other.peer));
        }
        if newcomers.len() < NEWCOMERS_MAX || newcomers.contains_key(&member.name) {
            newcomers.insert(member.name.clone(), (member, self.now));
        }
        (true, "waiting for the other nodes".into())
    }

    /// How many nodes this one still waits for to found a cluster, if it is to.
    pub(super) fn waits_for(&self) -> Option<usize> {
        let formation = self.shared.options.form.as_ref().filter(|_| self.membership.may_form)?;
        Some(formation.replicas.saturating_sub(self.membership.newcomers.len() + 1))
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
        self.cluster = Some(ClusterId(self.world.draw_id()));
        tracing::info!(
            replicas = formation.replicas,
            write_quorum = formation.write_quorum,
            "all nodes are there: forming the cluster"
        );
        if !self.bind_before_the_first_write() {
            return;
        }
        // Nobody is dialed until the configuration is durable here: a founder that dies in between has told
        // nobody, and starts over.
        self.membership.founding = true;
        self.step(Input::Form(Box::new(config)));
    }

    /// Lets the others know of the cluster once its founder cannot forget it any more.
    pub(super) fn note_founded(&mut self) {
        if !self.membership.founding || self.replica.durable() < Index(1) {
            return;
        }
        self.membership.founding = false;
        let Some(config) = self.replica.config().cloned() else { return };
        let members: Vec<Member> = config.members().cloned().collect();
        self.world.set_members(&members);
        // What the first step sent went nowhere.
        let me = self.me.id;
        for member in members.iter().filter(|m| m.id != me) {
            self.step(Input::Unreachable { peer: member.id });
        }
    }

    /// Records this node's own addresses where they changed while it was away and it leads now: it cannot
    /// introduce itself to itself.
    pub(super) fn maybe_readdress_itself(&mut self) {
        if self.replica.role() != Role::Leader || !self.replica.config_committed() {
            return;
        }
        let Some(config) = self.replica.config().cloned() else { return };
        if !config.is_joint() && config.member(self.me.id).is_some_and(|known| *known != self.me) {
            let me = self.me.clone();
            let _ = self.take_in(&config, me, false);
        }
    }

    /// A node introduces itself to the leader of a cluster that is there already.
    fn take_in(&mut self, config: &SharedConfig, member: Member, blank: bool) -> (bool, String) {
        if let Some(known) = config.member(member.id) {
            if *known == member {
                return (true, "a member".into());
            }
            if let Some(other) = config.members().find(|m| m.name == member.name && m.id != member.id) {
                return (false, format!("another node is named {}: the one at {}", other.name, other.peer));
            }
            let change = readdressed(config, &member);
            return self.ask_for(change, "its new addresses are being recorded");
        }
        if !blank && !self.replica.has_told(member.id) {
            // It holds a log, and may have been removed while it was away. Once it has the log up to the configuration
            // in force it sets its data aside, or it was never a member and asks again.
            self.world.met(&member);
            self.step(Input::Stray { peer: member.id });
            return (false, "no member, perhaps any more: it is sent the log, which says more".to_owned());
        }
        if let Some(other) = config.members().find(|m| m.name == member.name && self.is_live(m.id)) {
            return (false, format!("another node named {} is alive at {}", other.name, other.peer));
        }
        let mut change = config.unchanged();
        // An earlier newcomer of this name that is gone makes room for this one.
        change.learners.retain(|m| m.name != member.name);
        if change.learners.len() >= LEARNERS_MAX {
            return (false, format!("the cluster has {LEARNERS_MAX} learners already"));
        }
        change.learners.push(member);
        self.ask_for(change, "taken in as a learner")
    }

    /// Whether a member was heard from within an election timeout. A new leader gives everyone that long to be heard
    /// from for the first time.
    pub(super) fn is_live(&self, id: NodeId) -> bool {
        let just_elected = self.elected.is_some_and(|at| self.now - at < self.shared.options.election.1);
        let live = |p: quorum::Peer| p.live || (just_elected && p.heard.is_none());
        id == self.me.id || self.replica.peers().any(|p| p.id == id && live(p))
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
            let mut change = config.unchanged();
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
        if self.wishes.iter().any(|(_, wish)| done(wish)) {
            // Whoever is told that it is done, and looks, is to find it so.
            self.publish();
        }
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

    /// Writes down where the others are, so that a node that lost its log can find them again. After the
    /// configuration itself is durable.
    pub(super) fn write_down_peers(&mut self) {
        let durable = self.replica.durable();
        let Some((_, peers)) = self.membership.to_remember.take_if(|(upto, _)| *upto <= durable) else { return };
        let meta = self.meta.clone();
        self.world.elsewhere(Box::new(move || {
            if let Err(error) = meta.lock().set_known_peers(peers) {
                tracing::warn!(%error, "the addresses of the other nodes could not be written down");
            }
        }));
    }

    pub(super) fn name_of(&self, id: NodeId) -> String {
        let member = self.replica.config().and_then(|c| c.member(id).map(|m| m.name.clone()));
        member.unwrap_or_else(|| id.to_string())
    }
}

fn reject(reply: oneshot::Sender<Result<(), ChangeError>>, error: ChangeError) {
    drop(reply.send(Err(error)));
}

fn readdressed(config: &Config, member: &Member) -> Change {
    let mut change = config.unchanged();
    for known in change.voters.iter_mut().chain(&mut change.learners).filter(|m| m.id == member.id) {
        known.clone_from(member);
    }
    change
}
