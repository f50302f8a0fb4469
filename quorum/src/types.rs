//! The words of the protocol: terms, indexes, identities, time.
//!
//! Newtypes, so that a term is never passed where an index is meant. Nothing here knows how the
//! values are stored or sent.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A point in time in microseconds since an origin of the host's choosing. It only ever grows: the host passes a
/// monotonic clock's reading with each step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The time `micros` later.
    #[must_use]
    pub fn after(self, micros: u64) -> Time {
        Time(self.0.saturating_add(micros))
    }

    /// Microseconds since `earlier`; zero if `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A reign: at most one leader per term. Zero is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Term(pub u64);

impl Term {
    /// The term after this one.
    #[must_use]
    pub fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in the log, from 1. Zero is before the first entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Index(pub u64);

impl Index {
    /// The index after this one.
    #[must_use]
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The index before this one; zero stays zero.
    #[must_use]
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An entry's index and term. By the log matching property it names a whole log up to there.
///
/// The order is that of "more up to date" (Raft, 5.4.1): first the term, then the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The term the entry was written in.
    pub term: Term,
    /// Its place in the log.
    pub index: Index,
}

impl Position {
    /// A position from bare numbers.
    #[must_use]
    pub fn new(index: u64, term: u64) -> Position {
        Position { term: Term(term), index: Index(index) }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// The identity of one formatted disk: a UUID drawn when the disk was first used. A node that lost
/// its disk has another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u128);

/// The identity of a cluster, drawn by the node that formed it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

macro_rules! uuid_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            /// The hyphenated form of a UUID; ids below 2^16 (those of tests and golden scripts) as a bare number.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let n = self.0;
                if n <= 0xffff {
                    return write!(f, "{n}");
                }
                write!(
                    f,
                    "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
                    n >> 96,
                    n >> 80 & 0xffff,
                    n >> 64 & 0xffff,
                    n >> 48 & 0xffff,
                    n & 0xffff_ffff_ffff
                )
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if let Ok(small) = text.parse::<u16>() {
                    return Ok($name(u128::from(small)));
                }
                let digits: String = text.chars().filter(|c| *c != '-').collect();
                if digits.len() != 32 {
                    return Err(InvalidId(text.to_owned()));
                }
                u128::from_str_radix(&digits, 16).map($name).map_err(|_| InvalidId(text.to_owned()))
            }
        }
    };
}

uuid_text!(NodeId);
uuid_text!(ClusterId);

/// Text that is no UUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a UUID")]
pub struct InvalidId(pub String);

/// Names one thing the host was asked to make durable. Tokens grow; the host reports them done in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What a replica is to its cluster at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks for votes (or, before that, whether votes would be granted).
    Candidate,
    /// Orders the writes of its term.
    Leader,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
        })
    }
}
