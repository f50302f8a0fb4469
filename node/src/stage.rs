//! The stages of a write, named once for spans, metric labels, the web page and the docs.
//!
//! The gap between two stages names the delay it shows: queued → persisted is the leader's own disk, persisted →
//! replicated the network and the followers' disks.

/// Where a write is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Taken from the queue by the driver and given a place in the log.
    Queued,
    /// Durable on the leader's own disk.
    Persisted,
    /// Durable on W disks.
    Replicated,
    /// Committed: no failover can lose it.
    Committed,
    /// Applied to the state that reads see.
    Applied,
}

impl Stage {
    /// Every stage, in the order a write passes them.
    pub const ALL: [Stage; 5] = [Stage::Queued, Stage::Persisted, Stage::Replicated, Stage::Committed, Stage::Applied];

    /// The value of the `stage` label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Stage::Queued => "queued",
            Stage::Persisted => "persisted",
            Stage::Replicated => "replicated",
            Stage::Committed => "committed",
            Stage::Applied => "applied",
        }
    }
}
