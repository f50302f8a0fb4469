//! What a state is made of, small and flat: a run visits millions of them.

use crate::rules::Set;

/// The most nodes of a model.
pub const NODES: usize = 5;

/// The most entries of a log. A run that needs more than that stops there, as at every other bound.
pub const ENTRIES: usize = 8;

/// The most writes of clients.
pub const WRITES: usize = 3;

/// What an entry says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A new leader's first.
    #[default]
    Empty,
    /// A client's write; each has its own number, so that two of the same place and term can be told apart.
    Write(u8),
    /// A configuration, by its number in the table.
    Config(u8),
}

/// One entry of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    /// The term it was written in.
    pub term: u8,
    /// What it says.
    pub kind: Kind,
}

/// A log, from index 1. What is behind its end is always `Entry::default()`, so that equal logs are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Log {
    len: u8,
    entries: [Entry; ENTRIES],
}

impl Log {
    /// How many entries.
    #[must_use]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether there are none: a blank node's.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether another entry has room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        usize::from(self.len) < ENTRIES
    }

    /// The entry at an index from 1.
    #[must_use]
    pub fn get(&self, index: u8) -> Option<Entry> {
        if index == 0 || index > self.len { None } else { Some(self.entries[usize::from(index) - 1]) }
    }

    /// The term at an index; 0 before the first.
    #[must_use]
    pub fn term_at(&self, index: u8) -> Option<u8> {
        if index == 0 { Some(0) } else { self.get(index).map(|e| e.term) }
    }

    /// Term and index of the end, in the order that decides elections.
    #[must_use]
    pub fn last(&self) -> (u8, u8) {
        (self.term_at(self.len).unwrap_or(0), self.len)
    }

    /// All entries.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries[..usize::from(self.len)]
    }

    /// Adds an entry.
    pub fn push(&mut self, entry: Entry) {
        self.entries[usize::from(self.len)] = entry;
        self.len += 1;
    }

    /// Drops what is behind `len`.
    pub fn truncate(&mut self, len: u8) {
        while self.len > len {
            self.len -= 1;
            self.entries[usize::from(self.len)] = Entry::default();
        }
    }

    /// Drops the oldest `len` entries' successors: the first `len` entries alone.
    #[must_use]
    pub fn prefix(mut self, len: u8) -> Log {
        self.truncate(len);
        self
    }

    /// The newest configuration up to `upto`, with its index.
    #[must_use]
    pub fn config(&self, upto: u8) -> Option<(u8, u8)> {
        (1..=upto.min(self.len)).rev().find_map(|i| match self.get(i) {
            Some(Entry { kind: Kind::Config(number), .. }) => Some((number, i)),
            _ => None,
        })
    }

    /// Where this log last agrees with another by index and term, as an append finds out. Nothing but the term is
    /// compared: that is the protocol's belief, and the model must not know better.
    #[must_use]
    pub fn agrees_with(&self, other: &Log) -> u8 {
        let shorter = self.len.min(other.len);
        (0..=shorter).rev().find(|i| self.term_at(*i) == other.term_at(*i)).unwrap_or(0)
    }

    /// How many entries the two begin with in common, truly.
    #[must_use]
    pub fn shares(&self, other: &Log) -> u8 {
        let same = self.entries().iter().zip(other.entries()).take_while(|(a, b)| a == b);
        u8::try_from(same.count()).unwrap_or(u8::MAX)
    }

    /// Renames the configurations in it.
    pub fn map_configs(&mut self, to: impl Fn(u8) -> u8) {
        for entry in &mut self.entries[..usize::from(self.len)] {
            if let Kind::Config(number) = &mut entry.kind {
                *number = to(*number);
            }
        }
    }
}

/// What a node is in its term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Follows, or waits.
    #[default]
    Follower,
    /// Has asked for votes, and got these.
    Candidate {
        /// Who granted, itself included.
        granted: Set,
    },
    /// Leads.
    Leader {
        /// Its first own entry.
        first_own: u8,
        /// Its commit index.
        commit: u8,
        /// The durable copies it knows of, by node; its own are on its disk.
        copies: [u8; NODES],
    },
}

/// One node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// Its term, durable.
    pub term: u8,
    /// Its vote in the term, durable.
    pub vote: Option<u8>,
    /// Its role.
    pub role: Role,
    /// Its log.
    pub log: Log,
    /// What its disk holds of it.
    pub disk: Log,
    /// Its disk was lost, and the identity with it: nothing happens to it any more.
    pub gone: bool,
}

impl Node {
    /// How many entries of its log its disk holds.
    #[must_use]
    pub fn durable(&self) -> u8 {
        self.disk.shares(&self.log)
    }

    /// A number of all that has nothing to do with nodes' names: equal for nodes that some renaming makes equal.
    #[must_use]
    pub fn nameless(&self) -> u64 {
        let (tag, more) = match self.role {
            Role::Follower => (0, 0),
            Role::Candidate { granted } => (1, u64::from(granted.count_ones())),
            Role::Leader { first_own, commit, copies } => (
                2,
                u64::from(first_own) << 16 | u64::from(commit) << 8 | copies.iter().map(|c| u64::from(*c)).sum::<u64>(),
            ),
        };
        let mut key = u64::from(self.term) << 3 | tag << 1 | u64::from(self.gone);
        let logs = self.log.entries().iter().chain(self.disk.entries()).map(|e| match e.kind {
            Kind::Empty => u64::from(e.term) << 4,
            Kind::Write(w) => u64::from(e.term) << 4 | 1 << 2 | u64::from(w),
            Kind::Config(_) => u64::from(e.term) << 4 | 2 << 2,
        });
        // Equal keys of different nodes cost time, nothing else.
        for word in logs.chain([more, u64::from(self.log.len()), u64::from(self.vote.is_some())]) {
            key = (key ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        key
    }

    /// Whether it leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        matches!(self.role, Role::Leader { .. })
    }
}

/// An entry that was committed, and by the leader of which term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Committed {
    /// The entry.
    pub entry: Entry,
    /// The term of the leader who counted first.
    pub by: u8,
}

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Acked {
    /// Where it is.
    pub index: u8,
    /// The term of the leader who said so.
    pub by: u8,
}

/// The nodes, and what an observer remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    /// The nodes; those beyond the model's bound are never touched.
    pub nodes: [Node; NODES],
    /// Everything that was ever committed, in order.
    pub committed: Vec<Committed>,
    /// The acknowledged writes, by number.
    pub acked: [Option<Acked>; WRITES],
    /// Who ever led each term, from term 1.
    pub leaders: Vec<Set>,
    /// Writes, changes and wipes so far.
    pub writes: u8,
    /// Changes begun so far.
    pub changes: u8,
    /// Disks lost so far.
    pub wipes: u8,
    /// Two different entries were committed at one index.
    pub contradiction: bool,
    /// A write was acknowledged that fewer than W disks held.
    pub broken_promise: bool,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A node enters the next term and votes for itself.
    Campaign(u8),
    /// A node hears a candidate's request, and votes or not. The candidate that has enough votes leads at once.
    AskVote {
        /// Who is asked.
        voter: u8,
        /// Who asks.
        candidate: u8,
    },
    /// A node hears from a leader, takes the next entry it lacks, and confirms what is on its disk.
    Append {
        /// Who leads.
        leader: u8,
        /// Who hears.
        follower: u8,
    },
    /// A node's disk catches up with its log.
    Sync(u8),
    /// A client's write reaches a leader.
    Write(u8),
    /// A leader is told to change to the configuration of this number.
    Change {
        /// Who leads.
        leader: u8,
        /// The number of the configuration to be.
        to: u8,
    },
    /// A node stops and starts again with what its disk holds.
    Crash(u8),
    /// A node's disk is lost.
    Wipe(u8),
}
