//! What a node keeps on its disk, the engine's own files aside: its identity, its vote, and the log.
//!
//! [`open`] locks the folder, recovers what is there and hands out the parts; [`Wal`] makes the log and the vote
//! durable on a thread of its own from then on. Nothing here knows what a command means, who leads, or what is
//! committed beyond the number it is told.
//!
//! Every access to a file goes through [`Disk`], so that a simulator can put a disk of its own under all of this. A
//! failed write or fsync is never retried: whoever hits one stops for good (retrying reports success for data the
//! system has already dropped).
//!
//! Before: `driver` (jobs), `peer` (records off the wire). After: the disk.
//!
//! | file | what | replaced how |
//! |---|---|---|
//! | `lock` | held while a process uses the folder | never |
//! | `meta` | node id, cluster, incarnation, known peers | durable rename |
//! | `vote` | term and vote | two copies, one after the other |
//! | `wal-<ordinal>.log` | a segment of the log | appended to; removed whole |
//! | `spare.log` | a segment that was cut, to be written over | |
//! | `next.tmp`, `wal.tmp` | a segment being made | |
//! | `store/` | the engine's | |
//! | `damaged-<n>/`, `removed-<n>/` | what was set aside | the oldest go |

mod blocks;
pub mod disk;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod log;
mod map;
#[doc(hidden)]
pub mod memory;
mod meta;
mod prepare;
pub mod record;
mod recovery;
mod segment;
mod vote;
mod wal;

pub use disk::{Disk, DiskFile, FolderLock, RealDisk};
pub use log::{Batch, Log, LogError};
pub use map::{LogReader, ReadLogError};
pub use meta::{Meta, MetaError};
pub use prepare::Preparation;
pub use record::{Record, RecordError, RecordKind};
pub use recovery::{Aside, OpenError, Opened, open, renounce, set_aside, was_set_aside};
pub use vote::VoteFile;
pub use wal::{Job, Turns, Wal, WalEvent};

#[cfg(test)]
mod tests;
