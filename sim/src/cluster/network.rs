//! What goes from host to host: who is let in, what is lost, doubled or late, and what becomes of what arrives.
//!
//! Before: [`super::turn`], with what a driver sends. After: the driver of the host that it reaches.

use std::collections::BTreeSet;

use quorate::peer::{PeerEvent, Records};
use quorate::stepped;
use quorum::{Body, Index, NodeId, Term};
use tokio::sync::oneshot;

use super::{Cargo, Cluster, Event, HeldBack, Packet, Sender};
use crate::host::{Host, Sending, Wait};
use crate::invariants::{Seen, durability, no_forgetful_voter};
use crate::truth::Violation;

impl Cluster {
    pub(super) fn send(
        &mut self,
        host: usize,
        to: NodeId,
        message: quorum::Message,
        records: Records,
    ) -> Result<(), Violation> {
        let h = &self.hosts[host];
        let Some(p) = &h.process else { return Ok(()) };
        let cluster = p.machine.state().cluster;
        let seen = Seen { name: &h.name, process: p.number, replica: p.machine.replica(), durable: &h.durable };
        durability::promised(&seen, &message)?;
        no_forgetful_voter::sent(self.chronicles.entry(cluster.map_or(0, |c| c.0)).or_default(), &seen, to, &message)?;
        let Some(place) = p.addresses.get(&to).copied() else { return Ok(()) };
        let pieces = match records {
            Records::None => Vec::new(),
            Records::Cached(pieces) => pieces,
            Records::FromLog { from, to: last, bytes } => {
                let read = p.machine.log().read(from, last, bytes).unwrap_or_default();
                let whole = read.len() as u64 == last.0 - from.0 + 1;
                if !whole || p.world.leading() != Some(message.term) {
                    let number = p.number;
                    self.after(1_000, Event::Unreachable(host, number, to));
                    return Ok(());
                }
                read.into_iter().map(|r| r.frame().clone()).collect()
            }
        };
        if self.trace.is_kept() {
            let text = crate::show::message(&message);
            self.say(host, || format!("-> h{place}  {text}"));
        }
        let bytes = stepped::encode_message(&message, &pieces);
        let control = !matches!(message.body, Body::Append { .. });
        self.ship(host, place, Some(to), Cargo::Message { bytes, control });
        Ok(())
    }

    /// Puts something on its way.
    pub fn ship(&mut self, from: usize, to: usize, to_id: Option<NodeId>, cargo: Cargo) {
        let Some(sender) = self.sender(from) else { return };
        let (low, high) = self.plan.delay;
        let mut delay = self.dice.within(low, high);
        if matches!(cargo, Cargo::Snapshot { .. }) {
            let (least, most) = self.plan.snapshot_takes;
            if most > 0 {
                delay += self.dice.within(least, most);
            }
            if self.dice.chance(self.bad) {
                // It is large, and may arrive when its sender has given it up and sent another.
                delay += self.dice.within(high, 2 * self.plan.snapshot_patience);
            }
        }
        if self.dice.chance(self.bad) {
            delay += self.dice.within(high, high * 20 + 100_000);
        }
        delay += self.lags.values().filter(|(host, _)| *host == to).map(|(_, late)| late).sum::<u64>();
        if let Cargo::Message { control, .. } = cargo {
            let here = |h: &&HeldBack| (h.from, h.to, h.control) == (from, to, control);
            delay += self.held_back.values().filter(here).map(|h| h.until - self.now).max().unwrap_or(0);
        }
        if self.dice.chance(self.plan.loss + self.bad) {
            return;
        }
        if let Cargo::Message { bytes, control } = &cargo
            && self.dice.chance(self.plan.duplicates + self.bad)
        {
            let cargo = Cargo::Message { bytes: bytes.clone(), control: *control };
            let again = Packet { from, sender, to, to_id, cargo };
            let later = delay + self.dice.within(low, high * 10);
            self.after(later, Event::Arrive(Box::new(again)));
        }
        self.after(delay, Event::Arrive(Box::new(Packet { from, sender, to, to_id, cargo })));
    }

    pub(super) fn send_snapshot(
        &mut self,
        host: usize,
        to: NodeId,
        term: Term,
        store: &quorate::kv::Store,
        done: stepped::SnapshotEnd,
    ) {
        let exported = store.export().map_err(|e| e.to_string()).and_then(|mut export| {
            let mut chunks = Vec::new();
            while let Some(chunk) = export.next_chunk().map_err(|e| e.to_string())? {
                chunks.push(chunk);
            }
            Ok((export.position().index, chunks))
        });
        self.number += 1;
        let number = self.number;
        let Some(p) = &mut self.hosts[host].process else { return };
        let (last, chunks) = exported.unwrap_or((Index(0), Vec::new()));
        p.sending.insert(number, Sending { last, done });
        let (process, place) = (p.number, p.addresses.get(&to).copied());
        let lost = Event::SnapshotLost(host, process, number);
        match place {
            Some(place) if !chunks.is_empty() => {
                self.nemesis.snapshots += 1;
                self.say(host, || format!("-> h{place}  SNAPSHOT up to {last}"));
                self.after(self.plan.snapshot_patience, lost);
                self.ship(host, place, Some(to), Cargo::Snapshot { term, chunks, number });
            }
            _ => self.after(20_000, lost),
        }
    }

    pub(super) fn snapshot_ended(&mut self, host: usize, number: u64, installed: bool) {
        let sending = self.hosts[host].process.as_mut().and_then(|p| p.sending.remove(&number));
        if let Some(Sending { last, done }) = sending {
            done(installed.then_some(last));
        }
    }

    /// Whether a directed link is cut.
    #[must_use]
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.values().any(|cut| cut.contains(&(from, to)))
    }

    /// Whether a machine's node lets another one in: the handshake's rules.
    pub(super) fn admits(
        &self,
        to: usize,
        (id, incarnation, process, theirs): Sender,
        expected: Option<NodeId>,
    ) -> bool {
        let Some(p) = &self.hosts[to].process else { return false };
        let (ours, me) = (p.machine.state().cluster, p.machine.replica().id());
        let other_cluster = matches!((ours, theirs), (Some(a), Some(b)) if a != b);
        // An older process of the node, or a second one of the same start while the first still runs: a copied folder.
        let outdated = p
            .heard
            .get(&id)
            .is_some_and(|(i, n, _)| *i > incarnation || (*i == incarnation && *n != process && self.is_running(*n)));
        // A node that is bound to no cluster goes with the first that comes, until nobody of
        // that one is there any more.
        let courted = ours.is_none()
            && theirs.is_some()
            && p.heard.values().any(|(_, n, first)| first.is_some() && *first != theirs && self.is_running(*n));
        !other_cluster && !outdated && !courted && id != me && expected.is_none_or(|expected| expected == me)
    }

    pub(super) fn sender(&self, host: usize) -> Option<Sender> {
        let p = self.hosts[host].process.as_ref()?;
        Some((p.machine.replica().id(), p.machine.incarnation(), p.number, p.machine.state().cluster))
    }

    /// A node keeps a connection to every other member, whether it has to say anything or not: so each knows
    /// which processes are there.
    pub(super) fn connect(&mut self, host: usize) {
        let (Some(p), Some(sender)) = (&self.hosts[host].process, self.sender(host)) else { return };
        let Some(config) = p.machine.replica().config().cloned() else { return };
        for member in config.members().filter(|m| m.id != sender.0) {
            let Some(to) = Host::at(&member.peer).filter(|to| !self.is_cut(host, *to)) else { continue };
            if self.admits(to, sender, Some(member.id))
                && let Some(p) = &mut self.hosts[to].process
            {
                p.heard.insert(sender.0, (sender.1, sender.2, sender.3));
            }
        }
    }

    pub(super) fn arrive(&mut self, packet: Packet) -> Result<(), Violation> {
        let Packet { from, sender: (id, incarnation, process, theirs), to, to_id, cargo } = packet;
        let cut = self.is_cut(from, to);
        let open = !cut && self.admits(to, (id, incarnation, process, theirs), to_id);
        if !open {
            // The sender notices now and then: a connection that breaks, but not every packet that is swallowed.
            if !cut || self.dice.chance(200) {
                let noticed = self.dice.within(500, 50_000);
                self.after(noticed, Event::Unreachable(from, process, id_of(&self.hosts[to], to_id)));
            }
            return Ok(());
        }
        let Some(p) = &mut self.hosts[to].process else { return Ok(()) };
        if !matches!(cargo, Cargo::Introduction(..) | Cargo::Welcome(_) | Cargo::Snapshot { .. }) {
            p.heard.insert(id, (incarnation, process, theirs));
            // Whoever keeps a connection to a node is dialed by it. An introduction is none: a founder dials nobody
            // before it cannot forget its cluster.
            p.addresses.insert(id, from);
        }
        p.heard_at.insert(id, self.now);
        match cargo {
            Cargo::Message { bytes, .. } => match stepped::decode_message(&bytes) {
                Ok((message, records)) => {
                    p.machine.arrive(PeerEvent::Message { from: id, cluster: theirs, message, records });
                }
                Err(error) => return Violation::of("wire", format!("h{to} cannot read what h{from} wrote: {error}")),
            },
            Cargo::Snapshot { term, chunks, number } => {
                let imported = p.machine.store().begin_import().and_then(|mut import| {
                    chunks.into_iter().try_for_each(|chunk| import.write(chunk))?;
                    import.finish()
                });
                match imported {
                    Ok(imported) => {
                        let (done, answer) = oneshot::channel();
                        p.machine.arrive(PeerEvent::Snapshot { from: id, term, cluster: theirs, imported, done });
                        p.waits.push(Wait::Installed(from, number, answer));
                    }
                    Err(_) => self.ship(to, from, Some(id), Cargo::Installed { number, installed: false }),
                }
            }
            Cargo::Installed { number, installed } => self.snapshot_ended(to, number, installed),
            Cargo::Introduction(member, blank) => {
                let (reply, answer) = oneshot::channel();
                p.machine.arrive(PeerEvent::Introduced { member, blank, reply });
                p.waits.push(Wait::Welcome(from, answer));
            }
            Cargo::Welcome(welcome) => {
                if let Some(leader) = welcome.leader_peer.as_deref().and_then(Host::at)
                    && !p.targets.contains(&leader)
                    && leader != to
                {
                    p.targets.push(leader);
                }
            }
            Cargo::Call(op) => self.serve(op, to, Some(from)),
            Cargo::Answer(op, reply) => self.answered(op, to, reply)?,
        }
        self.pump(to, false)
    }

    /// A node that its cluster does not know as it is says so to the others.
    pub(super) fn introduce(&mut self, host: usize) {
        let Some(p) = &mut self.hosts[host].process else { return };
        if !p.machine.must_introduce() {
            return;
        }
        let (state, me) = (p.machine.state(), p.machine.me().clone());
        let blank = state.config.is_none();
        let members = state.config.iter().flat_map(|c| c.members()).filter_map(|m| Host::at(&m.peer));
        let targets: BTreeSet<usize> = p.targets.iter().copied().chain(members).filter(|t| *t != host).collect();
        for target in targets {
            self.ship(host, target, None, Cargo::Introduction(me.clone(), blank));
        }
    }
}

fn id_of(host: &Host, expected: Option<NodeId>) -> NodeId {
    expected.or(host.identity).unwrap_or(NodeId(0))
}
