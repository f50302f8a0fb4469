//! The log as the core sees it: heads, configurations, and how far the disk is.
//!
//! Payloads never come here: the host keeps them beside the index. Entries up to `start` were compacted; their effect
//! is in the host's durable state, and the configuration in force there is kept. This module appends, truncates and
//! answers questions; it decides nothing.

use crate::bugs::{self, Bug};
use crate::chunks::Chunks;
use crate::config::{Config, SharedConfig};
use crate::message::{Head, Kind};
use crate::types::{Index, NodeId, Position, Term};

/// The heads of the entries after `start`.
#[derive(Debug)]
pub(crate) struct Log {
    start: Position,
    start_config: Option<SharedConfig>,
    heads: Chunks<Head>,
    /// The configurations among the heads, in order, so that the newest is found without a search.
    configs: Vec<(Index, SharedConfig)>,
    durable: Index,
}

impl Log {
    /// The log as recovered: everything in it is durable.
    pub(crate) fn recovered(start: Position, start_config: Option<SharedConfig>, heads: Vec<Head>) -> Log {
        assert!(
            start.index == Index(0) || start_config.is_some(),
            "a log that starts after {start} needs the configuration in force there"
        );
        let mut log = Log { start, start_config, heads: Chunks::new(), configs: Vec::new(), durable: start.index };
        log.append(start.index.next(), heads);
        log.durable = log.last().index;
        if bugs::is_on(Bug::JointForgottenOnRestart) {
            for config in log.configs.iter_mut().map(|(_, config)| config).chain(&mut log.start_config) {
                *config = SharedConfig::new(Config { outgoing: None, ..Config::clone(config) });
            }
        }
        log
    }

    /// What precedes the first head.
    pub(crate) fn start(&self) -> Position {
        self.start
    }

    /// The last entry (or `start`).
    pub(crate) fn last(&self) -> Position {
        let index = Index(self.start.index.0 + self.heads.len() as u64);
        Position { term: self.heads.last().map_or(self.start.term, |h| h.term), index }
    }

    /// The highest index that is durable here.
    pub(crate) fn durable(&self) -> Index {
        self.durable
    }

    /// Notes that entries up to `index` (those still in the log) are durable.
    pub(crate) fn set_durable(&mut self, index: Index) {
        self.durable = self.durable.max(index.min(self.last().index));
    }

    /// The term of an entry; `None` if it was compacted or does not exist.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        self.head(index).map(|h| h.term)
    }

    fn head(&self, index: Index) -> Option<&Head> {
        let offset = index.0.checked_sub(self.start.index.0 + 1)?;
        self.heads.get(usize::try_from(offset).ok()?)
    }

    /// Whether the log has this very entry, or had it before it was compacted: what is compacted is committed, and a
    /// leader's log agrees with it.
    pub(crate) fn matches(&self, at: Position) -> bool {
        let here = self.term_at(at.index);
        at.index < self.start.index || here == Some(at.term) || here.is_some() && bugs::is_on(Bug::AppendIgnoresTerm)
    }

    /// Drops what the log holds from `first` on, and appends.
    pub(crate) fn append(&mut self, first: Index, entries: impl IntoIterator<Item = Head>) {
        assert!(first > self.start.index, "entry {first} is compacted and cannot be written again");
        assert!(first <= self.last().index.next(), "entry {first} would leave a gap after {}", self.last());
        self.truncate(first);
        let mut index = first;
        let mut term = self.last().term;
        for entry in entries {
            assert!(entry.term >= term, "terms in a log never fall: {} after {term} at {index}", entry.term);
            term = entry.term;
            if let Kind::Config(config) = &entry.kind {
                self.configs.push((index, config.clone()));
            }
            self.heads.push(entry);
            index = index.next();
        }
    }

    fn truncate(&mut self, first: Index) {
        let keep = first.0 - self.start.index.0 - 1;
        self.heads.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        self.configs.retain(|(index, _)| *index < first || bugs::is_on(Bug::TruncationKeepsConfig));
        self.durable = self.durable.min(first.prev());
    }

    /// Forgets the entries up to `upto`.
    pub(crate) fn compact(&mut self, upto: Index) {
        if upto <= self.start.index {
            return;
        }
        let Some(term) = self.term_at(upto) else { return };
        self.start_config = self.config_at(upto).cloned();
        let count = upto.0 - self.start.index.0;
        self.heads.drop_front(usize::try_from(count).unwrap_or(usize::MAX).min(self.heads.len()));
        self.configs.retain(|(index, _)| *index > upto);
        self.start = Position { term, index: upto };
        self.durable = self.durable.max(upto);
    }

    /// Replaces the whole log by a snapshot's end. Nothing of it is durable until the disk says so.
    pub(crate) fn reset(&mut self, start: Position, config: SharedConfig) {
        *self = Log::recovered(start, Some(config), Vec::new());
        if !bugs::is_on(Bug::SnapshotDurableAtOnce) {
            self.durable = Index(0);
        }
    }

    /// Whether a configuration from the one in force at `commit` on counts the node as a voter.
    pub(crate) fn votes_since(&self, commit: Index, id: NodeId) -> bool {
        let later = self.configs.iter().filter(|(at, _)| *at > commit).map(|(_, config)| config);
        self.config_at(commit).into_iter().chain(later).any(|config| config.is_voter(id))
    }

    /// Whether a configuration up to `upto`, as far as the log still has them, names the node.
    pub(crate) fn names_up_to(&self, upto: Index, id: NodeId) -> bool {
        let kept = self.configs.iter().filter(|(at, _)| *at <= upto).map(|(_, config)| config);
        self.start_config.iter().chain(kept).any(|config| config.member(id).is_some())
    }

    /// See [`crate::Replica::configs`].
    pub(crate) fn configs(&self) -> impl Iterator<Item = (Index, &SharedConfig)> {
        let first = self.start_config.iter().map(|config| (self.start.index, config));
        first.chain(self.configs.iter().map(|(index, config)| (*index, config)))
    }

    /// The newest configuration, committed or not: the one in force.
    pub(crate) fn config(&self) -> Option<&SharedConfig> {
        self.configs.last().map(|(_, config)| config).or(self.start_config.as_ref())
    }

    /// The index of the newest configuration's entry; `start` if it was compacted.
    pub(crate) fn config_index(&self) -> Index {
        self.configs.last().map_or(self.start.index, |(index, _)| *index)
    }

    /// The configuration in force at `index`.
    pub(crate) fn config_at(&self, index: Index) -> Option<&SharedConfig> {
        self.configs.iter().rev().find(|(at, _)| *at <= index).map(|(_, config)| config).or(self.start_config.as_ref())
    }

    /// The highest index, at most `upto`, whose term is not above `term`: the latest place where another log that has
    /// `term` at `upto` may still agree. Terms never fall along a log, so the search halves.
    pub(crate) fn latest_within(&self, upto: Index, term: Term) -> Position {
        let end = upto.min(self.last().index);
        if end <= self.start.index {
            return self.start;
        }
        let count = usize::try_from(end.0 - self.start.index.0).unwrap_or(usize::MAX);
        let within = self.heads.partition_point(|h| h.term <= term).min(count);
        match within.checked_sub(1).and_then(|at| self.heads.get(at)) {
            Some(head) => Position { term: head.term, index: Index(self.start.index.0 + within as u64) },
            None => self.start,
        }
    }

    /// The heads from `from` on, at most so many and so many bytes (but at least one, if there is one).
    pub(crate) fn heads_from(&self, from: Index, entries_max: usize, bytes_max: u64) -> Vec<Head> {
        let skip = usize::try_from(from.0.saturating_sub(self.start.index.0 + 1)).unwrap_or(usize::MAX);
        if skip >= self.heads.len() {
            return Vec::new();
        }
        let mut bytes = 0;
        let fits = |head: &&Head| {
            let first = bytes == 0;
            bytes += u64::from(head.bytes.max(1));
            first || bytes <= bytes_max
        };
        // Counted first, so that the copy is one allocation.
        let count = self.heads.from(skip).take(entries_max).take_while(fits).count();
        let mut heads = Vec::with_capacity(count);
        heads.extend(self.heads.from(skip).take(count).cloned());
        heads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(term: u64) -> Head {
        Head { term: Term(term), kind: Kind::Command, bytes: 10 }
    }

    fn log(terms: &[u64]) -> Log {
        Log::recovered(Position::default(), None, terms.iter().map(|t| head(*t)).collect())
    }

    #[test]
    fn overwriting_drops_the_tail_and_its_durability() {
        let mut log = log(&[1, 1, 1]);
        log.append(Index(2), [head(2)]);
        assert_eq!((log.last(), log.durable()), (Position::new(2, 2), Index(1)));
    }

    #[test]
    fn a_compacted_log_still_knows_where_it_starts() {
        let mut log = log(&[1, 2, 2, 3]);
        log.compact(Index(3));
        assert_eq!((log.start(), log.last()), (Position::new(3, 2), Position::new(4, 3)));
        assert!(log.matches(Position::new(3, 2)) && !log.matches(Position::new(3, 1)));
        assert_eq!(log.term_at(Index(2)), None);
    }

    #[test]
    fn the_latest_place_of_agreement_is_found_by_term() {
        let log = log(&[1, 1, 3, 3, 5]);
        assert_eq!(log.latest_within(Index(9), Term(4)), Position::new(4, 3));
        assert_eq!(log.latest_within(Index(3), Term(9)), Position::new(3, 3));
        assert_eq!(log.latest_within(Index(9), Term(0)), Position::default());
    }

    #[test]
    fn a_slice_is_bounded_by_bytes_but_never_empty() {
        let log = log(&[1, 1, 1]);
        assert_eq!(log.heads_from(Index(1), 9, 5).len(), 1);
        assert_eq!(log.heads_from(Index(1), 9, 20).len(), 2);
        assert_eq!(log.heads_from(Index(4), 9, 20).len(), 0);
    }

    proptest::proptest! {
        /// Against a plain list of terms that is never compacted.
        #[test]
        fn the_log_agrees_with_a_plain_list(ops in proptest::collection::vec((0u8..3, 0u64..12, 0usize..4), 1..40)) {
            let config = SharedConfig::new(crate::config::Config {
                version: 1, voters: Vec::new(), learners: Vec::new(), write_quorum: 1, preferred: None,
                failover: crate::config::Failover::Automatic, formed: true, outgoing: None,
            });
            let mut log = Log::recovered(Position::default(), Some(config), Vec::new());
            let (mut terms, mut start, mut term): (Vec<u64>, usize, u64) = (vec![0], 0, 1);
            for (op, at, count) in ops {
                match op {
                    0 => {
                        term += at % 2;
                        let first = (start + 1).max(terms.len().saturating_sub(at as usize % 4));
                        terms.truncate(first);
                        terms.extend(std::iter::repeat_n(term, count));
                        log.append(Index(first as u64), (0..count).map(|_| head(term)));
                    }
                    1 => {
                        start = start.max((at as usize).min(terms.len() - 1));
                        log.compact(Index(start as u64));
                    }
                    _ => {
                        let upto = (at as usize).min(terms.len() - 1);
                        let within = (start..=upto.max(start)).rev().find(|i| *i == start || terms[*i] <= count as u64);
                        let got = log.latest_within(Index(upto as u64), Term(count as u64));
                        proptest::prop_assert_eq!(Some(got.index.0 as usize), within);
                    }
                }
                proptest::prop_assert_eq!(log.last(), Position::new(terms.len() as u64 - 1, terms[terms.len() - 1]));
                for (i, t) in terms.iter().enumerate() {
                    let known = (i >= start).then_some(Term(*t));
                    proptest::prop_assert_eq!(log.term_at(Index(i as u64)), known);
                }
            }
        }
    }
}
