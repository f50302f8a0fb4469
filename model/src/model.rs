//! The rules as steps between states, and what must hold in every one of them.
//!
//! Read [`Model::campaign`], [`Model::vote`], [`Model::append`] and [`Model::advance`] beside
//! `quorum/src/replica/{candidate,follower,leader}.rs`: they are the same rules, without time and without pipelines.

use stateright::{Checker, Model as Checked, Property};

use crate::rules::{Bounds, Conf, Rules, Set, Table};
use crate::state::{Acked, Action, Committed, Entry, Kind, NODES, Node, Role, State, WRITES};

/// Rules, bounds and configurations: what can be checked.
#[derive(Debug)]
pub struct Model {
    bounds: Bounds,
    rules: Rules,
    table: Table,
    /// Numbers of the configurations that a change may go to; the first is where the run starts.
    simple: u8,
    /// Renamings of nodes that leave every configuration one of the model's, each with what it makes of the
    /// configurations' numbers. States that differ by one of these are the same state. Empty for paths that a person
    /// reads: nodes would change names on the way.
    renamings: Vec<([u8; NODES], Vec<u8>)>,
}

impl Model {
    /// A model that starts in the first of `confs`, whose voters hold that configuration and nothing else, and
    /// may change to any of them.
    #[must_use]
    pub fn new(confs: &[Conf], bounds: Bounds, rules: Rules) -> Model {
        assert!(usize::from(bounds.nodes) <= NODES && usize::from(bounds.writes) <= WRITES, "within the arrays");
        let table = Table::new(confs, rules.election);
        let simple = u8::try_from(confs.len()).expect("few configurations");
        Model { bounds, rules, table, simple, renamings: Vec::new() }
    }

    /// The same model, with states that differ only by the names of nodes taken for one.
    #[must_use]
    pub fn symmetric(mut self) -> Model {
        let mut orders = vec![Vec::new()];
        for _ in 0..self.bounds.nodes {
            let longer = orders.iter().flat_map(|order: &Vec<u8>| {
                let free = (0..self.bounds.nodes).filter(|n| !order.contains(n));
                free.map(|n| order.iter().copied().chain([n]).collect())
            });
            orders = longer.collect();
        }
        let start = self.table.conf(0);
        for order in orders {
            let mut names = [0; NODES];
            for (slot, name) in names.iter_mut().zip((0..).map(|n: u8| *order.get(usize::from(n)).unwrap_or(&n))) {
                *slot = name;
            }
            let all = 0..self.table.count();
            let numbers: Option<Vec<u8>> = all.map(|c| self.table.find(self.table.conf(c).renamed(&names))).collect();
            if let Some(numbers) = numbers.filter(|_| start.renamed(&names) == start) {
                self.renamings.push((names, numbers));
            }
        }
        self
    }

    /// The configurations' table.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// How many nodes.
    #[must_use]
    pub fn nodes(&self) -> u8 {
        self.bounds.nodes
    }

    fn each(&self) -> std::ops::Range<u8> {
        0..self.bounds.nodes
    }

    /// The configuration in force at a node: the newest of its log.
    fn in_force(node: &Node) -> Option<u8> {
        node.log.config(u8::MAX).map(|(number, _)| number)
    }

    fn is_voter(&self, number: u8, node: u8) -> bool {
        let conf = self.table.conf(number);
        (conf.voters | conf.old.map_or(0, |(voters, _)| voters)) >> node & 1 == 1
    }

    /// Anybody that some configuration of its log names: it may not know that it was left out.
    fn may_campaign(&self, s: &State, n: u8) -> bool {
        let node = &s.nodes[usize::from(n)];
        let named = |e: &Entry| matches!(e.kind, Kind::Config(number) if self.is_voter(number, n));
        !node.gone && !node.leads() && node.term < self.bounds.terms && node.log.entries().iter().any(named)
    }

    fn campaign(&self, s: &mut State, n: u8) {
        let node = &mut s.nodes[usize::from(n)];
        node.term += 1;
        node.vote = Some(n);
        node.role = Role::Candidate { granted: 1 << n };
        self.maybe_lead(s, n);
    }

    fn vote(&self, s: &mut State, voter: u8, candidate: u8) {
        let asking = s.nodes[usize::from(candidate)];
        let node = &mut s.nodes[usize::from(voter)];
        if asking.term > node.term {
            node.term = asking.term;
            node.vote = None;
            node.role = Role::Follower;
        }
        let free = node.vote.is_none() || node.vote == Some(candidate);
        let judges = self.rules.blank_votes || !node.log.is_empty();
        if !free || !judges || asking.log.last() < node.log.last() {
            return;
        }
        node.vote = Some(candidate);
        if let Role::Candidate { granted } = &mut s.nodes[usize::from(candidate)].role {
            *granted |= 1 << voter;
        }
        self.maybe_lead(s, candidate);
    }

    fn maybe_lead(&self, s: &mut State, n: u8) {
        let node = &mut s.nodes[usize::from(n)];
        let (Role::Candidate { granted }, Some(number)) = (node.role, Self::in_force(node)) else { return };
        if !self.table.elects(number, granted) || !node.log.has_room() {
            return;
        }
        node.role = Role::Leader { first_own: node.log.len() + 1, commit: 0, copies: [0; NODES] };
        node.log.push(Entry { term: node.term, kind: Kind::Empty });
        let term = usize::from(node.term);
        if s.leaders.len() < term {
            s.leaders.resize(term, 0);
        }
        s.leaders[term - 1] |= 1 << n;
        self.written(s, n);
    }

    /// After a node's log has grown: a disk that is never slow has it at once.
    fn written(&self, s: &mut State, n: u8) {
        if !self.bounds.slow_disks {
            self.sync(s, n);
        }
        self.advance(s, n);
    }

    fn sync(&self, s: &mut State, n: u8) {
        let node = &mut s.nodes[usize::from(n)];
        node.disk = node.log;
        self.advance(s, n);
    }

    fn append(&self, s: &mut State, leader: u8, follower: u8) {
        let from = s.nodes[usize::from(leader)];
        let node = &mut s.nodes[usize::from(follower)];
        if from.term > node.term {
            node.term = from.term;
            node.vote = None;
        }
        node.role = Role::Follower;
        let agreed = node.log.agrees_with(&from.log);
        if let Some(entry) = from.log.get(agreed + 1) {
            node.log.truncate(agreed);
            node.log.push(entry);
            if !self.bounds.slow_disks {
                node.disk = node.log;
            }
        }
        let agreed = node.log.agrees_with(&from.log);
        let confirmed = if self.rules.disk_before_ack { agreed.min(node.durable()) } else { agreed };
        if let Role::Leader { copies, .. } = &mut s.nodes[usize::from(leader)].role {
            let known = &mut copies[usize::from(follower)];
            *known = confirmed.max(*known);
        }
        self.advance(s, leader);
    }

    /// A leader counts: commits at C, acknowledges at W, takes a change's next step, and leaves when its last
    /// configuration leaves it out.
    fn advance(&self, s: &mut State, n: u8) {
        let node = s.nodes[usize::from(n)];
        let (Role::Leader { first_own, mut commit, mut copies }, Some(number)) = (node.role, Self::in_force(&node))
        else {
            return;
        };
        copies[usize::from(n)] = if self.rules.disk_before_ack { node.durable() } else { node.log.len() };
        let holders =
            |index: u8| -> Set { self.each().filter(|m| copies[usize::from(*m)] >= index).map(|m| 1 << m).sum() };
        let counts = |i: u8| !self.rules.own_term_commits || node.log.term_at(i) == Some(node.term);
        let reached =
            (commit + 1..=node.log.len()).rev().find(|i| counts(*i) && self.table.commits(number, holders(*i)));
        let before = commit;
        commit = reached.unwrap_or(commit);
        s.nodes[usize::from(n)].role = Role::Leader { first_own, commit, copies };
        self.note_committed(s, &node, before, commit);
        for index in 1..=commit {
            let Some(Entry { kind: Kind::Write(write), .. }) = node.log.get(index) else { continue };
            let enough = if self.rules.acknowledge_at_w {
                self.table.acknowledges(number, holders(index))
            } else {
                self.table.commits(number, holders(index))
            };
            // As the product does, and clients of earlier reigns are gone.
            if enough && index >= first_own && s.acked[usize::from(write)].is_none() {
                s.acked[usize::from(write)] = Some(Acked { index, by: node.term });
                self.note_promise(s, &node, number, index);
            }
        }
        self.maybe_finish_change(s, n);
    }

    fn note_committed(&self, s: &mut State, leader: &Node, before: u8, commit: u8) {
        for index in before + 1..=commit {
            let entry = leader.log.get(index).unwrap_or_default();
            match s.committed.get_mut(usize::from(index) - 1) {
                Some(known) if known.entry == entry => known.by = known.by.min(leader.term),
                Some(_) => s.contradiction = true,
                None => s.committed.push(Committed { entry, by: leader.term }),
            }
        }
    }

    /// Looks at the disks themselves: do W of each half hold the acknowledged entry? A disk that was
    /// lost since may have held it.
    fn note_promise(&self, s: &mut State, leader: &Node, number: u8, index: u8) {
        let holds = |m: &u8| {
            let node = &s.nodes[usize::from(*m)];
            node.gone || node.disk.shares(&leader.log) >= index
        };
        let holders: Set = self.each().filter(holds).map(|m| 1 << m).sum();
        s.broken_promise |= !self.table.acknowledges(number, holders);
    }

    fn maybe_finish_change(&self, s: &mut State, n: u8) {
        let node = &mut s.nodes[usize::from(n)];
        let (Role::Leader { commit, .. }, Some((number, at))) = (node.role, node.log.config(u8::MAX)) else { return };
        if at > commit {
            return;
        }
        let conf = self.table.conf(number);
        if conf.old.is_some() {
            if node.log.has_room() {
                let last = self.table.number(Conf { old: None, ..conf });
                node.log.push(Entry { term: node.term, kind: Kind::Config(last) });
                self.written(s, n);
            }
        } else if !self.is_voter(number, n) {
            node.role = Role::Follower;
        }
    }

    fn may_change(&self, s: &State, n: u8, to: u8) -> bool {
        let node = &s.nodes[usize::from(n)];
        let (Role::Leader { first_own, commit, .. }, Some((number, at))) = (node.role, node.log.config(u8::MAX)) else {
            return false;
        };
        let conf = self.table.conf(number);
        let settled = !self.rules.own_entry_before_change || (commit >= first_own && at <= commit);
        s.changes < self.bounds.changes && settled && conf.old.is_none() && number != to && node.log.has_room()
    }

    fn change(&self, s: &mut State, n: u8, to: u8) {
        let node = &mut s.nodes[usize::from(n)];
        let from = self.table.conf(Self::in_force(node).unwrap_or(0));
        let target = self.table.conf(to);
        let next = if self.rules.joint { Conf { old: Some((from.voters, from.w)), ..target } } else { target };
        node.log.push(Entry { term: node.term, kind: Kind::Config(self.table.number(next)) });
        s.changes += 1;
        self.written(s, n);
    }

    fn wipe(&self, s: &mut State, n: u8) {
        s.wipes += 1;
        s.nodes[usize::from(n)] = Node { gone: self.rules.wiped_is_another, ..Node::default() };
    }

    /// A later leader lacks a committed entry.
    fn all_committed_stay(s: &State) -> bool {
        s.nodes.iter().filter(|n| n.leads()).all(|leader| {
            let lacks = |(c, i): (&Committed, u8)| c.by < leader.term && leader.log.get(i) != Some(c.entry);
            !s.committed.iter().zip(1..).any(lacks)
        })
    }

    fn all_acked_stay(s: &State) -> bool {
        s.nodes.iter().filter(|n| n.leads()).all(|leader| {
            let kept = |(a, write): (&Option<Acked>, u8)| {
                a.is_none_or(|a| {
                    a.by > leader.term || leader.log.get(a.index).map(|e| e.kind) == Some(Kind::Write(write))
                })
            };
            // The leader of the very term that acknowledged it holds it too, or it is a second leader of the term.
            s.acked.iter().zip(0..).all(kept)
        })
    }

    /// Two clients were told that their writes are at the same place.
    fn acked_apart(s: &State) -> bool {
        let places: Vec<u8> = s.acked.iter().flatten().map(|a| a.index).collect();
        places.iter().enumerate().all(|(i, place)| !places[..i].contains(place))
    }

    /// Of any two leaders the older one has no quorum left: enough nodes to confirm it are in its own term
    /// or an earlier one no more.
    fn quorums_meet(&self, s: &State) -> bool {
        self.each().all(|old| {
            let leader = &s.nodes[usize::from(old)];
            let later = s.nodes.iter().any(|n| n.leads() && n.term > leader.term);
            let loyal = |m: &u8| !s.nodes[usize::from(*m)].gone && s.nodes[usize::from(*m)].term <= leader.term;
            let set: Set = self.each().filter(loyal).map(|m| 1 << m).sum();
            !(leader.leads() && later && Self::in_force(leader).is_some_and(|c| self.table.commits(c, set)))
        })
    }

    /// The same state under the names that make it smallest: first by what can be said of each node without a name,
    /// which leaves few renamings to try in full.
    fn canonical(&self, state: State) -> State {
        if self.renamings.is_empty() {
            return state;
        }
        let keys = state.nodes.map(|node| node.nameless());
        let arranged = |names: &[u8; NODES]| {
            let mut arranged = [0; NODES];
            for (key, to) in keys.iter().zip(names) {
                arranged[usize::from(*to)] = *key;
            }
            arranged
        };
        let smallest = self.renamings.iter().map(|(names, _)| arranged(names)).min();
        let tied = self.renamings.iter().filter(|(names, _)| Some(arranged(names)) == smallest);
        tied.map(|(names, numbers)| state.renamed(names, numbers)).min().unwrap_or(state)
    }

    /// Checks everything, and panics with the shortest path found to what does not hold; returns how many
    /// different states were visited.
    ///
    /// `threads` share the work.
    pub fn prove(self, threads: usize) -> usize {
        let checker = self.checker().threads(threads).spawn_bfs().join();
        let nothing = Vec::new();
        for property in checker.model().properties() {
            let found = checker.discovery(property.name);
            let holds = matches!(property.expectation, stateright::Expectation::Always);
            assert!(
                found.is_some() != holds,
                "{}: {}\n{}",
                property.name,
                if holds { "does not hold" } else { "never happens: the model proves nothing about it" },
                checker.model().tell(&found.map_or(nothing.clone(), stateright::Path::into_vec)),
            );
        }
        checker.unique_state_count()
    }

    /// The shortest path to a state in which what `name` says does not hold, told line by line. Panics if everything
    /// holds: the mistake in the rules was not found.
    #[must_use]
    pub fn refute(self, name: &'static str) -> String {
        let model = Only { model: self, name };
        let checker = model.checker().spawn_bfs().join();
        let states = checker.unique_state_count();
        let path = checker.discovery(name);
        let path =
            path.unwrap_or_else(|| panic!("{name}: holds in all of {states} states, though the rules are broken"));
        format!("{name}: does not hold ({states} states visited)\n{}", checker.model().model.tell(&path.into_vec()))
    }
}

/// The names of what must hold.
pub mod always {
    /// One leader per term.
    pub const ONE_LEADER: &str = "one leader per term";
    /// Leader completeness for acknowledged writes.
    pub const ACKED_STAY: &str = "an acknowledged write is in the log of every later leader";
    /// Of two writes in one place, one is lost.
    pub const ACKED_APART: &str = "no two acknowledged writes have the same place";
    /// Leader completeness for committed entries.
    pub const COMMITTED_STAY: &str = "a committed entry is in the log of every later leader";
    /// State machine safety.
    pub const COMMITTED_AGREE: &str = "committed entries agree";
    /// Quorums of the configurations in force intersect.
    pub const QUORUMS_MEET: &str = "of two leaders the older one has no quorum left";
    /// The promise itself.
    pub const PROMISE: &str = "an acknowledged write is on W disks";
}

impl Checked for Model {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut s = State::default();
        for n in self.each().filter(|n| self.table.conf(0).voters >> n & 1 == 1) {
            let node = &mut s.nodes[usize::from(n)];
            node.log.push(Entry { term: 0, kind: Kind::Config(0) });
            node.disk = node.log;
        }
        // Held by all the voters: it is committed, as the product's first configuration is before a cluster opens.
        s.committed.push(Committed { entry: Entry { term: 0, kind: Kind::Config(0) }, by: 0 });
        vec![s]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        let alive = |n: u8| !s.nodes[usize::from(n)].gone;
        for n in self.each().filter(|n| alive(*n)) {
            let node = &s.nodes[usize::from(n)];
            if self.may_campaign(s, n) {
                actions.push(Action::Campaign(n));
            }
            if node.disk != node.log {
                actions.push(Action::Sync(n));
            }
            if node.role != Role::Follower || node.disk != node.log {
                actions.push(Action::Crash(n));
            }
            if s.wipes < self.bounds.wipes && !node.disk.is_empty() {
                actions.push(Action::Wipe(n));
            }
            for m in self.each().filter(|m| *m != n && alive(*m)) {
                let other = &s.nodes[usize::from(m)];
                if matches!(node.role, Role::Candidate { .. }) && other.term <= node.term {
                    actions.push(Action::AskVote { voter: m, candidate: n });
                }
                // A second leader of a term would stop with an assertion in the product.
                if node.leads() && other.term <= node.term && !(other.leads() && other.term == node.term) {
                    actions.push(Action::Append { leader: n, follower: m });
                }
            }
            if node.leads() {
                if s.writes < self.bounds.writes && node.log.has_room() {
                    actions.push(Action::Write(n));
                }
                actions.extend(
                    (0..self.simple).filter(|to| self.may_change(s, n, *to)).map(|to| Action::Change { leader: n, to }),
                );
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        match action {
            Action::Campaign(n) => self.campaign(&mut s, n),
            Action::AskVote { voter, candidate } => self.vote(&mut s, voter, candidate),
            Action::Append { leader, follower } => self.append(&mut s, leader, follower),
            Action::Sync(n) => self.sync(&mut s, n),
            Action::Write(n) => {
                let write = s.writes;
                s.writes += 1;
                let node = &mut s.nodes[usize::from(n)];
                node.log.push(Entry { term: node.term, kind: Kind::Write(write) });
                self.written(&mut s, n);
            }
            Action::Change { leader, to } => self.change(&mut s, leader, to),
            Action::Crash(n) => {
                let node = &mut s.nodes[usize::from(n)];
                node.log = node.disk;
                node.role = Role::Follower;
            }
            Action::Wipe(n) => self.wipe(&mut s, n),
        }
        (s != *last).then(|| self.canonical(s))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(always::ONE_LEADER, |_, s: &State| s.leaders.iter().all(|set| set.count_ones() <= 1)),
            Property::always(always::ACKED_STAY, |_, s: &State| Self::all_acked_stay(s)),
            Property::always(always::ACKED_APART, |_, s: &State| Self::acked_apart(s)),
            Property::always(always::COMMITTED_STAY, |_, s: &State| Self::all_committed_stay(s)),
            Property::always(always::COMMITTED_AGREE, |_, s: &State| !s.contradiction),
            Property::always(always::QUORUMS_MEET, |m: &Model, s: &State| m.quorums_meet(s)),
            Property::always(always::PROMISE, |_, s: &State| !s.broken_promise),
            Property::sometimes("the last term has a leader", |m: &Model, s: &State| {
                s.leaders.len() == usize::from(m.bounds.terms)
            }),
        ];
        if self.bounds.writes > 0 {
            properties
                .push(Property::sometimes("a write is acknowledged and a later term has a leader", |_, s: &State| {
                    s.acked.iter().flatten().any(|a| s.nodes.iter().any(|n| n.leads() && n.term > a.by))
                }));
        }
        if self.bounds.changes > 0 {
            properties.push(Property::sometimes("a change is finished", |m: &Model, s: &State| {
                s.committed
                    .iter()
                    .any(|c| matches!(c.entry.kind, Kind::Config(n) if n > 0 && m.table.conf(n).old.is_none()))
            }));
            properties.push(Property::sometimes("a change is finished by a later leader", |m: &Model, s: &State| {
                let joint = s
                    .committed
                    .iter()
                    .find(|c| matches!(c.entry.kind, Kind::Config(n) if m.table.conf(n).old.is_some()));
                joint.is_some_and(|c| c.by > c.entry.term)
            }));
        }
        if self.bounds.wipes > 0 {
            properties.push(Property::sometimes("a disk is lost after a write was acknowledged", |_, s: &State| {
                s.wipes > 0 && s.acked.iter().flatten().count() > 0
            }));
        }
        properties
    }
}

/// A model of which only one property is looked at: the shortest path to that, not to whatever else breaks first.
struct Only {
    model: Model,
    name: &'static str,
}

impl Checked for Only {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.model.init_states()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.model.actions(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        self.model.next_state(last, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(self.name, |only: &Only, s: &State| {
            let properties = only.model.properties();
            let property = properties.iter().find(|p| p.name == only.name).expect("a property of the model");
            (property.condition)(&only.model, s)
        })]
    }
}
