//! What processes owe: answers to clients, to other nodes and to whoever asked for a change,
//! handed on when they have come.
//!
//! Before: [`super::turn`]. After: the clients, and [`super::network`] for what goes back to another host.

use quorate::handle::{ReadError, WriteError, Written};
use tokio::sync::oneshot;

use super::{Cargo, Cluster};
use crate::clients::Reply;
use crate::host::Wait;
use crate::invariants::{Disks, durability};
use crate::truth::Violation;

impl Cluster {
    /// Hands on every answer that has come.
    pub(super) fn settle(&mut self, host: usize) -> Result<(), Violation> {
        let Some(p) = &mut self.hosts[host].process else { return Ok(()) };
        let mut still = Vec::new();
        for wait in std::mem::take(&mut p.waits) {
            match wait {
                Wait::Write(op, back, mut answer) => match answer.try_recv() {
                    Ok(result) => {
                        if let Ok(written) = &result {
                            self.acknowledged(host, op, written)?;
                        }
                        self.hand_on(host, op, back, Reply::Write(result))?;
                    }
                    Err(oneshot::error::TryRecvError::Empty) => still.push(Wait::Write(op, back, answer)),
                    Err(_) => {
                        let unknown = WriteError::Unknown("the node stopped".into());
                        self.hand_on(host, op, back, Reply::Write(Err(unknown)))?;
                    }
                },
                Wait::Barrier(op, back, mut answer) => match answer.try_recv() {
                    Ok(result) => self.hand_on(host, op, back, Reply::Barrier(result))?,
                    Err(oneshot::error::TryRecvError::Empty) => still.push(Wait::Barrier(op, back, answer)),
                    Err(_) => self.hand_on(host, op, back, Reply::Barrier(Err(ReadError::Stopping)))?,
                },
                Wait::Read(op, index) => {
                    let due = self.hosts[host].process.as_ref().is_some_and(|p| {
                        let readable = p.machine.store().readable_from().0;
                        p.machine.applied().0 >= index.max(readable)
                    });
                    if due {
                        self.read(host, op, index)?;
                    } else {
                        still.push(Wait::Read(op, index));
                    }
                }
                Wait::Change(mut answer) => {
                    if matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
                        still.push(Wait::Change(answer));
                    }
                }
                Wait::Leadership(mut answer) => {
                    if matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
                        still.push(Wait::Leadership(answer));
                    }
                }
                Wait::Welcome(from, mut answer) => match answer.try_recv() {
                    Ok(welcome) => self.ship(host, from, None, Cargo::Welcome(welcome)),
                    Err(oneshot::error::TryRecvError::Empty) => still.push(Wait::Welcome(from, answer)),
                    Err(_) => {}
                },
                Wait::Installed(from, number, mut answer) => match answer.try_recv() {
                    Err(oneshot::error::TryRecvError::Empty) => still.push(Wait::Installed(from, number, answer)),
                    result => {
                        let installed = matches!(result, Ok(true));
                        if installed {
                            self.say(host, || "INSTALLED a snapshot".into());
                        }
                        self.ship(host, from, None, Cargo::Installed { number, installed });
                    }
                },
            }
        }
        if let Some(p) = &mut self.hosts[host].process {
            // Whatever was added meanwhile comes behind.
            still.append(&mut p.waits);
            p.waits = still;
        }
        Ok(())
    }

    pub(super) fn hand_on(&mut self, host: usize, op: u64, back: Option<usize>, reply: Reply) -> Result<(), Violation> {
        match back {
            Some(origin) => {
                self.ship(host, origin, None, Cargo::Answer(op, reply));
                Ok(())
            }
            None => self.answered(op, host, reply),
        }
    }

    /// What the disks hold.
    pub(super) fn disks(&self) -> Disks<'_> {
        let mut disks = Disks::new();
        // A copied folder gives two machines one identity: the first one's is the original.
        for h in self.hosts.iter().rev() {
            disks.extend(h.identity.map(|id| (id, Some(&h.durable))));
        }
        disks.extend(self.lost.iter().map(|id| (*id, None)));
        disks
    }

    /// A leader says that a write is done: before anybody hears of it.
    pub(super) fn acknowledged(&mut self, host: usize, op: u64, written: &Written) -> Result<(), Violation> {
        let Some(p) = &self.hosts[host].process else { return Ok(()) };
        let (Some(cluster), Some(config)) = (p.machine.state().cluster, p.machine.replica().config().cloned()) else {
            return Ok(());
        };
        let Some(chronicle) = self.chronicles.get(&cluster.0) else { return Ok(()) };
        let copies = self.clients.copies_of(op);
        durability::acknowledged(chronicle, &config, &self.disks(), written.revision, copies)?;
        self.clients.check_outcome(op, chronicle, written)
    }
}
