//! The arithmetic of quorums, alone.
//!
//! The user names N (voters) and W (copies that acknowledge a write). Everything else follows, and is never stored:
//!
//! - **E**, votes that elect: `max(N − W + 1, ⌊N/2⌋ + 1)`, so that `W + E > N` (every election meets a holder of every
//!   acknowledged write) and `2E > N` (one leader per term).
//! - **C**, copies that commit, confirm a read and keep a leader in office: `N − E + 1`, so that `C + E > N`. It equals
//!   `min(W, ⌈N/2⌉)`.
//!
//! This module never sees a node's state: it takes numbers and returns numbers.

use crate::bugs::{self, Bug};

/// The largest cluster. Beyond it a write quorum protects no better and every write costs more.
pub const VOTERS_MAX: usize = 9;

/// N and W, with N ≥ W ≥ 1, and what follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quorum {
    voters: usize,
    write: usize,
}

/// Why a pair of N and W is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuorumError {
    /// No voters, or more than [`VOTERS_MAX`].
    #[error("{0} copies are not possible: between 1 and {VOTERS_MAX}")]
    Voters(usize),
    /// W is zero: a write nobody holds is not a write.
    #[error("a write quorum of 0 would acknowledge writes that no disk holds: at least 1")]
    Zero,
    /// W is above N: no write could ever be acknowledged.
    #[error("a write quorum of {write} cannot be met by {voters} copies: at most {voters}")]
    AboveVoters {
        /// W.
        write: usize,
        /// N.
        voters: usize,
    },
}

impl Quorum {
    /// Checks that N and W are possible.
    ///
    /// # Errors
    /// When N is not in 1…[`VOTERS_MAX`] or W is not in 1…N.
    pub fn new(voters: usize, write: usize) -> Result<Quorum, QuorumError> {
        if voters == 0 || voters > VOTERS_MAX {
            return Err(QuorumError::Voters(voters));
        }
        if write == 0 {
            return Err(QuorumError::Zero);
        }
        if write > voters {
            return Err(QuorumError::AboveVoters { write, voters });
        }
        Ok(Quorum { voters, write })
    }

    /// N: the copies of the data.
    #[must_use]
    pub fn voters(self) -> usize {
        self.voters
    }

    /// W: the durable copies at which a write is acknowledged.
    #[must_use]
    pub fn write(self) -> usize {
        self.write
    }

    /// E: the votes that elect a leader.
    #[must_use]
    pub fn election(self) -> usize {
        if bugs::is_on(Bug::ElectionByWriteQuorumAlone) {
            return self.voters - self.write + 1;
        }
        (self.voters - self.write + 1).max(self.voters / 2 + 1)
    }

    /// C: the durable copies that commit an entry, and the voters that confirm a leader.
    #[must_use]
    pub fn commit(self) -> usize {
        self.voters - self.election() + 1
    }

    /// How many voters may be down while acknowledged writes go on, the leader being up.
    #[must_use]
    pub fn writes_survive(self) -> usize {
        self.voters - self.write
    }

    /// How many voters may be down, the leader among them, while another leader is elected and serves reads.
    #[must_use]
    pub fn failover_survives(self) -> usize {
        self.voters - self.election()
    }

    /// What a person should know of these numbers, in one sentence.
    #[must_use]
    pub fn explain(self) -> String {
        let nodes = |n: usize| {
            if n == 1 { "1 node".to_owned() } else { format!("{n} nodes") }
        };
        format!(
            "{} of {} copies hold a write durably before it is acknowledged; writes go on with {} down, a failed leader is replaced with {} down",
            self.write,
            self.voters,
            nodes(self.writes_survive()),
            nodes(self.failover_survives()),
        )
    }
}

/// The highest value that at least `count` of `values` have reached. `None` if there are fewer values than that.
///
/// With durable log indexes as values and C as count this is the commit index; with W, the acknowledged one.
#[must_use]
pub fn reached_by<T: Ord + Copy>(values: &mut [T], count: usize) -> Option<T> {
    if count == 0 || count > values.len() {
        return None;
    }
    let at = values.len() - count;
    let (_, value, _) = values.select_nth_unstable(at);
    Some(*value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legal() -> impl Iterator<Item = Quorum> {
        (1..=7).flat_map(|n| (1..=n).map(move |w| Quorum::new(n, w).expect("legal")))
    }

    /// Subsets of `n` nodes as bit masks, of exactly `size`.
    fn subsets(n: usize, size: usize) -> Vec<u32> {
        (0..1u32 << n).filter(|mask| mask.count_ones() as usize == size).collect()
    }

    #[test]
    fn every_election_meets_every_acknowledged_write_every_commit_and_every_other_election() {
        for q in legal() {
            for electors in subsets(q.voters(), q.election()) {
                for size in [q.write(), q.commit(), q.election()] {
                    for holders in subsets(q.voters(), size) {
                        assert_ne!(electors & holders, 0, "{q:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_smaller_election_quorum_and_no_smaller_commit_quorum_would_do() {
        for q in legal() {
            let smaller = q.election() - 1;
            assert!(q.write() + smaller <= q.voters() || 2 * smaller <= q.voters(), "{q:?}");
            assert!(q.commit() - 1 + q.election() <= q.voters(), "{q:?}");
            assert_eq!(q.commit(), q.write().min(q.voters().div_ceil(2)), "{q:?}");
        }
    }

    #[test]
    fn the_table_of_the_protocol_page_holds() {
        // N, W, E, C, writes go on with … down, takeover with … down
        for (n, w, e, c, writes, takeover) in [
            (1, 1, 1, 1, 0, 0),
            (2, 2, 2, 1, 0, 0),
            (3, 1, 3, 1, 2, 0),
            (3, 2, 2, 2, 1, 1),
            (3, 3, 2, 2, 0, 1),
            (4, 2, 3, 2, 2, 1),
            (5, 2, 4, 2, 3, 1),
            (5, 3, 3, 3, 2, 2),
            (5, 4, 3, 3, 1, 2),
            (6, 3, 4, 3, 3, 2),
            (6, 4, 4, 3, 2, 2),
            (7, 3, 5, 3, 4, 2),
        ] {
            let q = Quorum::new(n, w).expect("legal");
            let got = (q.election(), q.commit(), q.writes_survive(), q.failover_survives());
            assert_eq!(got, (e, c, writes, takeover), "N={n} W={w}");
        }
    }

    #[test]
    fn impossible_numbers_are_refused_with_a_reason() {
        assert_eq!(Quorum::new(0, 1), Err(QuorumError::Voters(0)));
        assert_eq!(Quorum::new(10, 1), Err(QuorumError::Voters(10)));
        assert_eq!(Quorum::new(3, 0), Err(QuorumError::Zero));
        assert_eq!(Quorum::new(3, 4), Err(QuorumError::AboveVoters { write: 4, voters: 3 }));
    }

    proptest::proptest! {
        #[test]
        fn reached_by_agrees_with_counting(mut values in proptest::collection::vec(0u64..20, 0..8), count in 0usize..9) {
            let counted = (0..20).rev().find(|v| count > 0 && values.iter().filter(|x| *x >= v).count() >= count);
            proptest::prop_assert_eq!(reached_by(&mut values, count), counted);
        }
    }
}
