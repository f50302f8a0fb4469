//! The nodes of `quorate local` while they run: who is up, who is held still, who was stopped, and what
//! the page may do to them.
//!
//! One owner, one order at a time. Stopping hands leadership over, as everywhere; pausing does not, and is
//! the way to see an election.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use super::super::Stop;
use super::super::output::Failure;
use crate::handle::Handle;
use crate::http::console::{Act, Asked, Order, Place, Situation, Standing};
use crate::node::{Ended, Node, StartError};
use crate::options::NodeOptions;

/// All nodes of the cluster.
pub(super) struct Fleet {
    slots: Vec<Slot>,
    running: JoinSet<(usize, Ended)>,
    stop: watch::Sender<bool>,
    delay: (Duration, Duration),
    situation: watch::Sender<Situation>,
}

/// One of them.
struct Slot {
    options: NodeOptions,
    handle: Option<Handle>,
    standing: Standing,
    /// Why it ended, unless it was asked to.
    reason: Option<String>,
    /// Whether it was stopped from the page, which may start it again.
    by_page: bool,
}

impl Fleet {
    /// Nothing runs yet. What is known of the nodes is told to the page from now on.
    pub(super) fn new(nodes: &[NodeOptions]) -> (Fleet, watch::Receiver<Situation>) {
        let slot = |options: &NodeOptions| Slot {
            options: options.clone(),
            handle: None,
            standing: Standing::Stopped,
            reason: None,
            by_page: false,
        };
        let delay = nodes.first().map_or((Duration::ZERO, Duration::ZERO), |n| n.delay);
        let (situation, told) = watch::channel(Situation::default());
        let slots = nodes.iter().map(slot).collect();
        (Fleet { slots, running: JoinSet::new(), stop: watch::Sender::new(false), delay, situation }, told)
    }

    /// Turns true when everything stops.
    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// The nodes that run.
    pub(super) fn handles(&self) -> Vec<Handle> {
        self.slots.iter().filter_map(|s| s.handle.clone()).collect()
    }

    /// Whether any node runs.
    pub(super) fn runs(&self) -> bool {
        !self.running.is_empty()
    }

    /// Starts every node.
    pub(super) async fn start_all(&mut self) -> Result<(), StartError> {
        for at in 0..self.slots.len() {
            self.start(at).await?;
        }
        Ok(())
    }

    async fn start(&mut self, at: usize) -> Result<(), StartError> {
        self.stand(at, Standing::Starting, None);
        let formed = self.handles().iter().any(|h| h.state().config.is_some());
        let slot = &mut self.slots[at];
        let mut options = slot.options.clone();
        options.delay = self.delay;
        if formed {
            // Whatever became of its folder, it must not found a second cluster beside this one.
            options.form = None;
        }
        match Node::start(options).await {
            Ok(node) => {
                slot.handle = Some(node.handle().clone());
                slot.by_page = false;
                self.running.spawn(attend(at, node, self.stop.subscribe()));
                self.stand(at, Standing::Running, None);
                Ok(())
            }
            Err(error) => {
                self.stand(at, Standing::Stopped, Some(error.to_string()));
                Err(error)
            }
        }
    }

    /// Does what the page asks for until a signal comes or every node has ended, other than by the page. The first
    /// failure is the result in the latter case.
    pub(super) async fn attend(&mut self, orders: &mut mpsc::Receiver<Asked>, stop: &mut Stop) -> Option<Failure> {
        let mut failure = None;
        loop {
            tokio::select! {
                () = stop.asked() => return None,
                Some(ended) = self.running.join_next() => {
                    failure = failure.or(self.note_end(ended));
                    if self.running.is_empty() && !self.slots.iter().any(|s| s.by_page) {
                        return failure;
                    }
                }
                Some((order, reply)) = orders.recv() => {
                    let result = tokio::select! {
                        result = self.obey(order) => result,
                        () = stop.asked() => return None,
                    };
                    // Who asked may be gone.
                    let _ = reply.send(result);
                }
            }
        }
    }

    async fn obey(&mut self, order: Order) -> Result<(), String> {
        let (name, act) = match order {
            Order::Node { name, act } => (name, act),
            Order::Delay(range) => {
                self.delay = range;
                self.handles().iter().for_each(|h| h.set_delay(range));
                self.tell();
                return Ok(());
            }
        };
        let at = self.slots.iter().position(|s| s.options.name == name);
        let at = at.ok_or_else(|| format!("there is no node named {name:?}"))?;
        let slot = &mut self.slots[at];
        match (act, slot.standing, &slot.handle) {
            (Act::Start, Standing::Stopped, _) => self.start(at).await.map_err(|e| e.to_string()),
            (Act::Stop, Standing::Running | Standing::Paused, Some(handle)) => {
                slot.by_page = true;
                handle.request_stop();
                handle.pause(false);
                self.stand(at, Standing::Stopping, None);
                Ok(())
            }
            (Act::Pause, Standing::Running, Some(handle)) => {
                handle.pause(true);
                self.stand(at, Standing::Paused, None);
                Ok(())
            }
            (Act::Resume, Standing::Paused, Some(handle)) => {
                handle.pause(false);
                self.stand(at, Standing::Running, None);
                Ok(())
            }
            (_, standing, _) => Err(format!("{name} is {standing}")),
        }
    }

    /// Stops everything, and waits for it. The first failure on the way.
    pub(super) async fn stop_all(&mut self) -> Option<Failure> {
        for handle in self.handles() {
            // All of them: an heir would be waited for in vain.
            handle.expect_no_heir();
            handle.pause(false);
        }
        self.stop.send_replace(true);
        let mut failure = None;
        while let Some(ended) = self.running.join_next().await {
            failure = failure.or(self.note_end(ended));
        }
        failure
    }

    /// A node has ended; a failure, if it was one. Says so of each that does so alone.
    fn note_end(&mut self, ended: Result<(usize, Ended), JoinError>) -> Option<Failure> {
        let (name, reason) = match ended {
            Ok((at, Ended::Asked)) => {
                self.end(at, None);
                return None;
            }
            Ok((at, ended)) => {
                self.end(at, Some(ended.to_string()));
                (self.slots[at].options.name.clone(), ended.to_string())
            }
            Err(error) => ("a node".to_owned(), error.to_string()),
        };
        let message = format!("{name} ended: {reason}");
        if !self.running.is_empty() {
            eprintln!("{message}; the other nodes go on");
        }
        Some(Failure::Error(message))
    }

    fn end(&mut self, at: usize, reason: Option<String>) {
        self.slots[at].handle = None;
        self.stand(at, Standing::Stopped, reason);
    }

    fn stand(&mut self, at: usize, standing: Standing, reason: Option<String>) {
        (self.slots[at].standing, self.slots[at].reason) = (standing, reason);
        self.tell();
    }

    /// Tells the page how things are.
    fn tell(&self) {
        let place = |s: &Slot| Place {
            name: s.options.name.clone(),
            http: format!("http://{}", s.options.http),
            standing: s.standing,
            reason: s.reason.clone(),
        };
        let nodes = self.slots.iter().map(place).collect();
        self.situation.send_replace(Situation::new(nodes, self.delay));
    }
}

/// Runs one node until it ends or everything stops.
async fn attend(at: usize, mut node: Node, mut stopping: watch::Receiver<bool>) -> (usize, Ended) {
    tokio::select! {
        _ = node.ended() => {}
        () = async { drop(stopping.wait_for(|stop| *stop).await) } => {}
    }
    (at, node.stop().await)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn fleet(names: &[&str]) -> (Fleet, watch::Receiver<Situation>) {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("address");
        let options = |name: &&str| NodeOptions::new(name, std::env::temp_dir().join(name), any, any, any);
        Fleet::new(&names.iter().map(options).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn the_first_node_to_fail_is_the_result_and_the_others_are_waited_for() {
        let (mut fleet, situation) = fleet(&["node1", "node2"]);
        fleet.running.spawn(async { (0, Ended::Asked) });
        fleet.running.spawn(async { (1, Ended::Failed("its disk failed".to_owned())) });
        assert_eq!(fleet.stop_all().await, Some(Failure::Error("node2 ended: its disk failed".to_owned())));
        assert!(!fleet.runs());
        assert_eq!(situation.borrow().nodes[1].reason.as_deref(), Some("its disk failed"));
    }

    #[tokio::test]
    async fn what_the_page_asks_for_in_vain_is_refused_with_how_the_node_is() {
        let (mut fleet, _situation) = fleet(&["node1"]);
        for act in [Act::Stop, Act::Pause, Act::Resume] {
            let order = Order::Node { name: "node1".to_owned(), act };
            assert_eq!(fleet.obey(order).await, Err("node1 is stopped".to_owned()));
        }
        let order = Order::Node { name: "node7".to_owned(), act: Act::Start };
        assert_eq!(fleet.obey(order).await, Err("there is no node named \"node7\"".to_owned()));
    }
}
