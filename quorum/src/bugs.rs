//! Deliberate bugs: rules of the protocol that a test may switch off, one at a time, to see whether its checks notice.
//!
//! A checker that finds nothing proves nothing. So each rule that was easy to miss, and each mistake that others or
//! this very tree once made, has a switch here; the random clusters of `tests/bugs.rs` must find every one of them
//! within a stated number of seeds.
//!
//! None of this reaches the product. Without the feature `bugs`, which nothing enables by default, [`is_on`] is a
//! constant `false` and the switch at each place is removed by the compiler. With it, a bug is on for one thread and
//! for as long as `with` runs.

macro_rules! bugs {
    ($($bug:ident $place:ident $name:literal $breaks:literal $seen:literal)*) => {
        /// A rule that can be broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Bug {
            $(#[doc = $breaks] $bug,)*
        }

        #[cfg(feature = "bugs")]
        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$bug),*];

            /// What it is called in tables and on command lines.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Bug::$bug => $name),* }
            }

            /// What goes wrong with it, in one sentence.
            #[must_use]
            pub fn breaks(self) -> &'static str {
                match self { $(Bug::$bug => $breaks),* }
            }

            /// Who was hurt by it, or who warns of it.
            #[must_use]
            pub fn seen(self) -> &'static str {
                match self { $(Bug::$bug => $seen),* }
            }

            /// Where its switch is.
            #[must_use]
            pub fn place(self) -> Place {
                match self { $(Bug::$bug => Place::$place),* }
            }

            /// The bug of that name.
            #[must_use]
            pub fn named(name: &str) -> Option<Bug> {
                Bug::ALL.iter().copied().find(|bug| bug.name() == name)
            }
        }
    };
}

/// The part that a bug sits in.
#[cfg(feature = "bugs")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// This crate: clusters in memory can meet it.
    Core,
    /// The node's storage and apply code: it takes real files under a simulated disk.
    Node,
}

bugs! {
    // Who is elected.
    ElectionByWriteQuorumAlone Core "election-by-write-quorum-alone"
        "E is N − W + 1 and not at least a majority: one term has two leaders."
        "Flexible Paxos taken literally; N=5 W=4 in the design of this protocol"
    MajorityElects Core "majority-elects"
        "A majority elects whatever W is: with W below it the winner may lack acknowledged writes."
        "MySQL semi-sync and PostgreSQL, when any replica is promoted"
    VoteIgnoresLog Core "vote-ignores-log"
        "A vote goes to a candidate whose log is behind the voter's."
        "failover by an operator from a stale view (CloudNativePG)"
    VoteBeforeSaved Core "vote-before-saved"
        "A vote leaves before it is durable: after a crash it is cast twice."
        "Raft (5.1) warns of it"
    // What is durable.
    PromiseBeforeDurable Core "promise-before-durable"
        "A follower acknowledges entries that its disk does not have yet."
        "NATS JetStream: acknowledged before fsync, lost with the power"
    OwnCopyBeforeDurable Core "own-copy-before-durable"
        "A leader counts its own copy before its own fsync."
        "KurrentDB, NATS JetStream"
    OverwrittenCountsAsDurable Core "overwritten-counts-as-durable"
        "The sync of entries that were overwritten counts for those that replaced them."
        "the reason for `Promises::truncate`"
    SnapshotDurableAtOnce Core "snapshot-durable-at-once"
        "The end of a snapshot is taken for durable before the disk says so."
        "our own log: a snapshot was acknowledged before it was written"
    // What the logs agree on.
    AppendIgnoresTerm Core "append-ignores-term"
        "An append is taken if the log reaches its start, whatever entry is there."
        "the consistency check of Raft (5.3), left out"
    LateAppendTruncates Core "late-append-truncates"
        "An append that comes late and repeats known entries drops those behind them."
        "a classic of first implementations of Raft"
    CommitBeyondAgreement Core "commit-beyond-agreement"
        "A heartbeat names the leader's commit index to followers whose tails were never compared, and they commit."
        "a classic of first implementations of Raft"
    LateSnapshotInstalled Core "late-snapshot-installed"
        "A snapshot that comes late is installed over a log that reaches further."
        "our own log: it dropped an acknowledged tail"
    LostAppendNotRepeated Core "lost-append-not-repeated"
        "An append whose answer does not come is never sent again: its follower waits for it for ever."
        "a classic of first implementations of Raft; pipelines that trust their connection"
    // What commits, and what is acknowledged.
    OlderTermCommitsByCounting Core "older-term-commits-by-counting"
        "Copies of an entry of an earlier term commit it, with none of the leader's own term on top."
        "Raft, figure 8"
    AcknowledgedAtC Core "acknowledged-at-c"
        "A write is acknowledged at C copies and not at W."
        "MySQL semi-sync and TiKV DR auto-sync fall back to fewer acknowledgements"
    LearnerCounts Core "learner-counts"
        "The copy of a learner counts as that of a voter."
        "a rule of every membership change (Raft thesis, 4.2.1)"
    // Reads.
    ReadWithoutConfirmation Core "read-without-confirmation"
        "A leader serves reads without asking whether it still leads."
        "etcd: a leader that was paused and replaced meanwhile"
    ReadByEarlierRound Core "read-by-earlier-round"
        "A read is confirmed by a heartbeat round that began before the read."
        "Raft thesis, 6.4"
    ReadBeforeOwnTerm Core "read-before-own-term"
        "A new leader serves reads at a commit index from before its term."
        "etcd: reads by index before the first commit of the term"
    StaleRoundAccepted Core "stale-round-accepted"
        "The answer to a heartbeat of a past reign confirms a round of the present one."
        "our own log: a read was confirmed by nobody"
    LeaseWithoutRefusalAfterStart Core "lease-without-refusal-after-start"
        "A voter that has just started votes, though it may have promised a leader's lease not to."
        "lease reads of Raft where the promise lives in memory alone"
    LeaseSurvivesTransfer Core "lease-survives-transfer"
        "A leader goes on serving reads by its lease after it told another to campaign."
        "Raft thesis, 6.4.1, with leadership transfer"
    CheckQuorumOff Core "check-quorum-off"
        "A leader that hears nobody stays in office."
        "etcd before check-quorum: a cut-off leader went on for ever"
    // Changes of N and W.
    ChangeWithoutJoint Core "change-without-joint"
        "A change of members or W is one step: old and new quorums need not meet."
        "the reason for joint consensus (Raft, 6)"
    FinalBeforeJointCommitted Core "final-before-joint-committed"
        "The final configuration is appended before the joint one is committed."
        "the reason for joint consensus (Raft, 6)"
    ChangeOverChange Core "change-over-change"
        "A leader starts a change before an entry of its own term, and the change before it, are committed."
        "single-server changes as first published (Ongaro, raft-dev, 2015)"
    JointForgottenOnRestart Core "joint-forgotten-on-restart"
        "A restarted node takes a joint configuration for its new half alone."
        "a rule of recovery: the log's configuration is in force as it stands"
    TruncationKeepsConfig Core "truncation-keeps-config"
        "A configuration whose entry was truncated stays in force."
        "Raft thesis, 4.1"
    SnapshotKeepsOldConfig Core "snapshot-keeps-old-config"
        "Installing a snapshot drops the configuration it carries."
        "snapshots without members (Raft, 7)"
    PromotionIgnoresLag Core "promotion-ignores-lag"
        "A learner becomes a voter however far behind it is: writes wait for it."
        "etcd, before it had learners"
    SetAsideBeforeCommitted Core "set-aside-before-committed"
        "A node throws its data away at a configuration without it that is not committed."
        "pods of a shrinking cluster deleted too early: stuck for ever"
    // The disk.
    SyncSkipped Node "sync-skipped"
        "The log reports entries as durable without a sync."
        "NATS JetStream, KurrentDB"
    SyncErrorRetried Node "sync-error-retried"
        "A failed sync of the log is tried again, and its success is believed."
        "CockroachDB, PostgreSQL (fsyncgate)"
    RollWithoutSync Node "roll-without-sync"
        "The log goes on in a new segment while the end of the old one is not durable."
        "a rule of `Log::roll`"
    VoteNotSynced Node "vote-not-synced"
        "Term and vote are written but not synced."
        "Raft (5.1) warns of it"
    TornTailCutTooFar Node "torn-tail-cut-too-far"
        "Recovery drops the last whole batch along with the torn one."
        "a rule of `recovery`: what is whole was perhaps acknowledged"
    DamageTakenForTornTail Node "damage-taken-for-torn-tail"
        "A damaged batch in the middle of the log is cut off with all behind it, and the node goes on."
        "NATS: one damaged record in a minority lost committed entries"
    DamagedKeepsIdentity Node "damaged-keeps-identity"
        "A node whose log was damaged starts empty under its old identity."
        "etcd and ZooKeeper members restored from nothing"
    EngineAheadOfLog Node "engine-ahead-of-log"
        "A log that disagrees with what the engine has applied is kept."
        "the crash between a snapshot's installation and the emptying of the log"
    ReplayRepeatsEffects Node "replay-repeats-effects"
        "After a crash in the middle of a drain, commands act again on keys that have their effect already."
        "the reason for `Known::Ahead` in `kv/apply.rs`"
    IdempotencyKeyForgotten Node "idempotency-key-forgotten"
        "What is remembered of idempotency keys does not survive a restart or a snapshot: a retry is done a second time."
        "tables of recent requests that are kept in memory alone"
    ReceivedStampedAnew Node "received-stamped-anew"
        "A follower stamps a command that has an idempotency key by its own clock, in place of the leader's: one entry has several contents."
        "replicas that read their own clock for what is replicated"
    ReplacedEntriesApplied Node "replaced-entries-applied"
        "What is committed is read from the log while the write that replaces it there is still under way."
        "our own log: replaced entries were applied"
}

/// The page that lists them. What it says of where and within how many seeds a bug is found is what the
/// tests hold themselves to.
#[cfg(feature = "bugs")]
pub const PAGE: &str = include_str!("../../docs/deliberate-bugs.md");

/// What a cell of the page says of a search: `elections, 56 of 400`.
#[cfg(feature = "bugs")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stated {
    /// The kind of run.
    pub kind: &'static str,
    /// Seeds that it took, in the median of five searches.
    pub median: u64,
    /// Seeds that it may take.
    pub within: u64,
}

#[cfg(feature = "bugs")]
impl Stated {
    /// Reads a cell; nothing if it states no search.
    #[must_use]
    pub fn read(cell: &'static str) -> Option<Stated> {
        let (kind, seeds) = cell.split_once(", ")?;
        let (median, within) = seeds.split_once(" of ")?;
        Some(Stated { kind, median: median.parse().ok()?, within: within.parse().ok()? })
    }
}

/// The rows of the page's table whose first column has this heading: all cells, without the heading.
#[cfg(feature = "bugs")]
pub fn table(heading: &str) -> impl Iterator<Item = Vec<&'static str>> {
    let plain = |cell: &'static str| cell.strip_prefix('`').and_then(|c| c.strip_suffix('`')).unwrap_or(cell);
    let cells = move |line: &'static str| line.trim_matches('|').split('|').map(|c| plain(c.trim())).collect();
    let from = PAGE.lines().skip_while(move |line| !line.starts_with(&format!("| {heading} |")));
    from.skip(2).take_while(|line| line.starts_with('|')).map(cells)
}

/// Does `work` for each of them, by as many threads as there are processors; the results in their order.
///
/// # Panics
/// When `work` does.
#[cfg(feature = "bugs")]
pub fn each<I: Sync, T: Send>(of: &[I], work: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(item) = of.get(at) else { return done };
            done.push((at, work(item)));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut all: Vec<(usize, T)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        running.into_iter().flat_map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}

/// Whether a bug is on: never, in the product.
#[cfg(not(feature = "bugs"))]
#[inline(always)]
#[must_use]
pub const fn is_on(_: Bug) -> bool {
    false
}

#[cfg(feature = "bugs")]
thread_local! {
    static ON: std::cell::RefCell<Vec<Bug>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Whether a bug is on in this thread.
#[cfg(feature = "bugs")]
#[must_use]
pub fn is_on(bug: Bug) -> bool {
    ON.with_borrow(|on| on.contains(&bug))
}

/// Runs `work` with these bugs, and no others, on in this thread; afterwards, even after a panic, those of before are.
#[cfg(feature = "bugs")]
pub fn with<T>(bugs: &[Bug], work: impl FnOnce() -> T) -> T {
    struct Restore(Vec<Bug>);
    impl Drop for Restore {
        fn drop(&mut self) {
            ON.set(std::mem::take(&mut self.0));
        }
    }
    let _restore = Restore(ON.replace(bugs.to_vec()));
    work()
}

#[cfg(all(test, not(feature = "bugs")))]
mod tests {
    use super::*;

    /// Evaluated by the compiler: were a switch anything but a constant, this would not build.
    const OFF: bool = !is_on(Bug::AcknowledgedAtC) && !is_on(Bug::SyncSkipped);

    #[test]
    fn without_the_feature_a_switch_is_a_constant() {
        const { assert!(OFF) }
    }
}

#[cfg(all(test, feature = "bugs"))]
mod tests {
    use super::*;

    #[test]
    fn a_bug_is_on_for_its_thread_and_for_a_while() {
        let _ = std::panic::catch_unwind(|| {
            with(&[Bug::VoteIgnoresLog], || panic!("while it is on: {}", is_on(Bug::VoteIgnoresLog)))
        });
        assert!(!is_on(Bug::VoteIgnoresLog), "not after a panic");
        with(&[Bug::VoteIgnoresLog], || {
            assert!(is_on(Bug::VoteIgnoresLog) && !is_on(Bug::MajorityElects));
            let elsewhere = std::thread::spawn(|| is_on(Bug::VoteIgnoresLog)).join();
            assert!(matches!(elsewhere, Ok(false)));
        });
    }

    #[test]
    fn every_bug_has_a_name_of_its_own_and_says_what_it_breaks() {
        let names: std::collections::BTreeSet<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
        for bug in Bug::ALL {
            assert_eq!(Bug::named(bug.name()), Some(*bug));
            assert!(bug.breaks().ends_with('.') && !bug.seen().is_empty(), "{bug:?}");
        }
    }
}
