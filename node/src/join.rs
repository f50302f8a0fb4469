//! Finding the cluster: a node that is not (or no longer, or elsewhere) a member introduces itself until it is.
//!
//! Introductions go to the nodes named on the command line, to those written down when the node last belonged,
//! and from there to the leader. They change nothing by themselves: whether the node is taken in is decided
//! through the leader's log.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use quorate_api::Status;
use quorum::Member;

use crate::handle::{Handle, NodeState};
use crate::peer::{Introduction, Network};

/// How often a node that is not a member introduces itself.
const EVERY: Duration = Duration::from_millis(500);

/// After so many rounds without a leader a member asks around: longer than an election takes.
const ALONE_ROUNDS: u32 = 4;

/// How long one of the nodes asked may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Most addresses tried in one round, those learnt on the way included.
const ADDRESSES_MAX: usize = 32;

/// Introduces the node whenever its cluster does not know it as it is. Ends when the node is asked to stop.
pub(crate) async fn run(handle: Handle, network: Network, me: Member, targets: Vec<String>) {
    let mut stopping = handle.stopping();
    let mut joiner = Joiner {
        handle,
        network,
        me,
        targets,
        http: reqwest::Client::new(),
        said: HashMap::new(),
        rounds: Rounds::default(),
    };
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = async { drop(stopping.wait_for(|stop| *stop).await) } => return,
            _ = interval.tick() => joiner.maybe_introduce().await,
        }
    }
}

/// Decides round by round whether a node has to say that it is there.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// Rounds in a row without a leader.
    alone: u32,
}

impl Rounds {
    /// Yes, if its cluster does not know it, or not under these addresses. And if no leader has talked to it for a
    /// while: it may be a member in its own eyes alone, taken out while it was away, or taken in by an entry that was
    /// never committed. Those it knows may all have left, so asking them for votes is not enough; whoever is there
    /// knows the leader. That does not take it in again: the leader sends it the log first, see [`crate::driver`].
    pub(crate) fn must_introduce(&mut self, state: &NodeState, me: &Member) -> bool {
        self.alone = if state.leader.is_none() { self.alone.saturating_add(1) } else { 0 };
        let known = state.config.as_ref().and_then(|c| c.member(me.id)).is_some_and(|m| m == me);
        !state.removed && (!known || self.alone >= ALONE_ROUNDS)
    }
}

struct Joiner {
    handle: Handle,
    network: Network,
    me: Member,
    targets: Vec<String>,
    http: reqwest::Client,
    /// What each address last answered, so that it is logged once.
    said: HashMap<String, String>,
    rounds: Rounds,
}

impl Joiner {
    async fn maybe_introduce(&mut self) {
        let state = self.handle.state();
        if !self.rounds.must_introduce(&state, &self.me) {
            return;
        }
        let blank = state.config.is_none();
        // A member whose addresses changed tells the leader of the configuration it has.
        let mut asked = BTreeSet::new();
        let mut to_ask = self.targets.clone();
        to_ask.extend(
            state.config.iter().flat_map(|c| c.members()).filter(|m| m.id != self.me.id).map(|m| m.peer.clone()),
        );
        while let Some(target) = to_ask.pop() {
            if asked.len() >= ADDRESSES_MAX || !asked.insert(target.clone()) {
                continue;
            }
            if target.starts_with("http://") || target.starts_with("https://") {
                to_ask.extend(self.peers_at(&target).await);
            } else if self.introduce(&target, blank, &mut to_ask).await {
                return;
            }
        }
    }

    /// The peer addresses that a node's status names: its leader's, or else its own.
    async fn peers_at(&mut self, url: &str) -> Vec<String> {
        let asked = async {
            let answer =
                self.http.get(format!("{}/v1/status", url.trim_end_matches('/'))).timeout(PATIENCE).send().await?;
            answer.error_for_status()?.json::<Status>().await
        };
        match asked.await {
            Ok(status) => {
                let leader = status.members.iter().find(|m| status.leader.as_ref() == Some(&m.name));
                vec![leader.map_or(status.node.peer.clone(), |m| m.peer.clone())]
            }
            Err(error) => {
                self.say(url, format!("no status from {url}: {error}"));
                Vec::new()
            }
        }
    }

    async fn introduce(&mut self, address: &str, blank: bool, to_ask: &mut Vec<String>) -> bool {
        let introduction = Introduction { member: self.me.clone(), blank };
        match self.network.introduce(address, introduction).await {
            Ok(welcome) => {
                to_ask.extend(welcome.leader_peer);
                self.say(address, welcome.message);
                welcome.accepted
            }
            Err(error) => {
                self.say(address, error.to_string());
                false
            }
        }
    }

    fn say(&mut self, address: &str, message: String) {
        if self.said.get(address) != Some(&message) {
            tracing::info!(address, message, "introduced this node");
            self.said.insert(address.to_owned(), message);
        }
    }
}
