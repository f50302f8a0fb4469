//! What is true of the clusters of a run: every entry ever written, what is committed, and the
//! state that follows from it.
//!
//! The simulator sees all nodes at once, so it need not guess. The state is computed here a second time, by code that
//! shares nothing with the node's but the format of commands.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate::kv::{Command, Condition, Outcome};
use quorate::storage::RecordKind;
use quorum::{Config, NodeId};

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant; the name of its file.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

impl Violation {
    /// Says so.
    ///
    /// # Errors
    /// Always.
    pub fn of<T>(invariant: &'static str, what: impl Into<String>) -> Result<T, Violation> {
        Err(Violation { invariant, what: what.into() })
    }
}

/// An entry as it was written somewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its kind.
    pub kind: RecordKind,
    /// What it carries.
    pub payload: Bytes,
}

/// A value at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The bytes.
    pub value: Bytes,
    /// The index of the write.
    pub revision: u64,
    /// Writes since the key was created.
    pub version: u64,
}

/// A committed entry.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its term.
    pub term: u64,
    /// The term in which it was committed, which may be a later one.
    pub committed_in: u64,
    /// Its configuration, if it is one.
    pub config: Option<Config>,
    /// The command's bytes, if it is one.
    pub payload: Bytes,
    /// What the command led to.
    pub outcome: Option<Outcome>,
    /// The hash of the state after it: of all items, in no order.
    pub state: u64,
}

/// One cluster's truth.
#[derive(Debug, Default)]
pub struct Chronicle {
    /// By index and term.
    pub written: BTreeMap<(u64, u64), Entry>,
    /// The configurations among them.
    pub configs: BTreeMap<(u64, u64), Config>,
    /// From index 1.
    pub committed: Vec<Committed>,
    /// Each key's history: what it was from an index on.
    keys: BTreeMap<Bytes, Vec<(u64, Option<Stored>)>>,
    /// Who led a term, and in which process.
    pub leaders: BTreeMap<u64, (NodeId, u64)>,
    /// Who voted for whom.
    pub votes: BTreeMap<(u64, NodeId), NodeId>,
    /// The highest index some client knows of.
    pub known: u64,
    /// Writes acknowledged, in their order: index and command.
    pub acknowledged: BTreeMap<u64, Bytes>,
    /// What was done once: by its key, where, the command, and what it led to.
    once: BTreeMap<Bytes, (u64, Command, Outcome)>,
}

impl Chronicle {
    /// The term of a committed entry.
    #[must_use]
    pub fn term_at(&self, index: u64) -> Option<u64> {
        self.at(index).map(|c| c.term)
    }

    /// A committed entry.
    #[must_use]
    pub fn at(&self, index: u64) -> Option<&Committed> {
        self.committed.get(usize::try_from(index.checked_sub(1)?).ok()?)
    }

    /// The committed configurations in force from an index on.
    pub fn configs_since(&self, index: u64) -> impl Iterator<Item = &Config> {
        let (upto, later) = self.committed.split_at(self.committed.len().min(index as usize));
        let there = upto.iter().rev().find_map(|c| c.config.as_ref());
        there.into_iter().chain(later.iter().filter_map(|c| c.config.as_ref()))
    }

    /// The last committed index.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.committed.len() as u64
    }

    /// What a key held after the entry at `index`.
    #[must_use]
    pub fn value_at(&self, key: &[u8], index: u64) -> Option<&Stored> {
        let history = self.keys.get(key)?;
        let upto = history.partition_point(|(from, _)| *from <= index);
        history.get(upto.checked_sub(1)?)?.1.as_ref()
    }

    /// What a key holds at the end.
    #[must_use]
    pub fn value(&self, key: &[u8]) -> Option<&Stored> {
        self.value_at(key, u64::MAX)
    }

    /// Takes the next committed entry, from the first who says that it is.
    pub fn commit(&mut self, (term, committed_in): (u64, u64), entry: &Entry, config: Option<Config>) {
        let index = self.last() + 1;
        let mut state = self.committed.last().map_or(0, |c| c.state);
        let mut outcome = None;
        if entry.kind == RecordKind::Command {
            outcome = Some(self.apply(index, &entry.payload, &mut state));
        }
        let payload = entry.payload.clone();
        self.committed.push(Committed { term, committed_in, config, payload, outcome, state });
    }

    fn apply(&mut self, index: u64, payload: &Bytes, state: &mut u64) -> Outcome {
        let Some(command) = Command::decode(payload) else { return Outcome::Unreadable };
        let Command::Once { key, command, .. } = command else { return self.plain(index, command, state) };
        match self.once.get(&key) {
            Some((_, first, outcome)) if *first == *command => outcome.clone(),
            Some(_) => Outcome::KeyReused,
            None => {
                let outcome = self.plain(index, (*command).clone(), state);
                self.once.insert(key, (index, *command, outcome.clone()));
                outcome
            }
        }
    }

    /// Where the request of this key was done.
    #[must_use]
    pub fn done_at(&self, request: &[u8]) -> Option<u64> {
        self.once.get(request).map(|(index, ..)| *index)
    }

    fn plain(&mut self, index: u64, command: Command, state: &mut u64) -> Outcome {
        match command {
            Command::Once { .. } => Outcome::Unreadable,
            Command::Put { key, value, condition } => match self.refused(&key, condition) {
                Some(failed) => failed,
                None => Outcome::Put { version: self.set(index, &key, Some(value.data), state) },
            },
            Command::Delete { key, condition } => match self.refused(&key, condition) {
                Some(failed) => failed,
                None => {
                    let existed = self.value(&key).is_some();
                    if existed {
                        self.set(index, &key, None, state);
                    }
                    Outcome::Deleted { count: u64::from(existed) }
                }
            },
            Command::PutMany { pairs } => {
                let mut version = 0;
                for (key, value) in pairs {
                    version = self.set(index, &key, Some(value.data), state);
                }
                Outcome::Put { version }
            }
            Command::DeleteMany { keys } => {
                let mut count = 0;
                for key in keys {
                    if self.value(&key).is_some() {
                        self.set(index, &key, None, state);
                        count += 1;
                    }
                }
                Outcome::Deleted { count }
            }
            Command::Increment { key, by } => {
                let old = self.value(&key).map(|s| String::from_utf8_lossy(&s.value).parse::<i64>());
                match old.unwrap_or(Ok(0)).ok().and_then(|n| n.checked_add(by)) {
                    None => Outcome::NotANumber,
                    Some(value) => {
                        let version = self.set(index, &key, Some(Bytes::from(value.to_string())), state);
                        Outcome::Incremented { value, version }
                    }
                }
            }
        }
    }

    fn refused(&self, key: &[u8], condition: Condition) -> Option<Outcome> {
        let current = self.value(key).map(|s| s.revision);
        let holds = match condition {
            Condition::None => true,
            Condition::Absent => current.is_none(),
            Condition::Present => current.is_some(),
            Condition::Revision(wanted) => current == Some(wanted),
        };
        (!holds).then_some(Outcome::ConditionFailed { current })
    }

    fn set(&mut self, index: u64, key: &Bytes, value: Option<Bytes>, state: &mut u64) -> u64 {
        let old = self.value(key).cloned();
        let version = old.as_ref().map_or(0, |s| s.version) + 1;
        if let Some(old) = &old {
            *state ^= hash_item(key, old);
        }
        let new = value.map(|value| Stored { value, revision: index, version });
        if let Some(new) = &new {
            *state ^= hash_item(key, new);
        }
        self.keys.entry(key.clone()).or_default().push((index, new));
        version
    }
}

/// One item's part in the hash of a state.
#[must_use]
pub fn hash_item(key: &[u8], item: &Stored) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let numbers = [item.revision.to_le_bytes(), item.version.to_le_bytes()];
    for byte in key.iter().chain(&[0]).chain(item.value.iter()).chain(numbers.iter().flatten()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // Spread, since the parts are combined by exclusive or.
    (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}
