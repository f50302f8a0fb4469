//! Opening what a node has on its disk: identity, vote and log, the engine, and what they must agree on
//! before the node may run.
//!
//! The disk is whatever lies behind [`Disk`], and the engine what `open_store` makes of its folder: a simulated node
//! comes up through the very same code.
//!
//! Before: [`crate::node`]. After: [`crate::driver`], which gets the parts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quorum::bugs::{self, Bug};
use quorum::{ClusterId, Index, NodeId, Recovered, Replica, Settings};

use crate::kv::{Store, StoreError};
use crate::node::StartError;
use crate::options::NodeOptions;
use crate::storage::{self, Aside, Disk, Log, Meta, Opened, VoteFile};

/// Opens the engine in the folder it has to itself.
pub(crate) type OpenStore<'a> = &'a dyn Fn(&Path) -> Result<Store, StoreError>;

/// What is on the disk, opened and in agreement with itself.
pub(crate) struct OnDisk {
    opened: Opened,
    store: Store,
}

/// Why the disk could not be opened.
enum Unopened {
    /// The engine does not hold any more what it once had for certain.
    Damaged(String),
    Other(String),
}

impl From<Unopened> for StartError {
    fn from(unopened: Unopened) -> StartError {
        match unopened {
            Unopened::Damaged(why) | Unopened::Other(why) => StartError::Data(why),
        }
    }
}

/// What a node starts from.
pub(crate) struct Recovery {
    pub meta: Meta,
    pub vote: VoteFile,
    pub log: Log,
    pub store: Store,
    pub replica: Replica,
    /// The cluster bound to or configured.
    pub cluster: Option<ClusterId>,
    /// Whether the binding is written down.
    pub bound: bool,
    /// Whether an empty disk may found a cluster.
    pub may_form: bool,
    pub known_peers: Vec<String>,
    pub id: NodeId,
    pub incarnation: u64,
}

impl OnDisk {
    /// The identity of the disk.
    pub(crate) fn id(&self) -> NodeId {
        self.opened.meta.id()
    }

    /// Opens identity, vote, log and engine, and settles what they disagree on after a crash.
    pub(crate) fn open(
        on: &Arc<dyn Disk>,
        options: &NodeOptions,
        open_store: OpenStore<'_>,
    ) -> Result<OnDisk, StartError> {
        let mut disk = match OnDisk::open_once(on, options, open_store) {
            Err(Unopened::Damaged(why)) => {
                // The log begins where the engine was promised to hold everything before: without it, this is
                // a lost disk as any other.
                tracing::error!(why, "the engine is damaged: this node gives up its vote, and with it its identity");
                storage::renounce(&**on, &options.data_dir).map_err(|e| StartError::Data(e.to_string()))?;
                OnDisk::open_once(on, options, open_store)?
            }
            opened => opened?,
        };
        let start = disk.opened.start;
        let (last, applied) = (disk.opened.log.last(), disk.store.applied());
        let agrees = applied.index <= start.index || head_at(&disk.opened, applied.index) == Some(applied.term);
        if (applied.index > last.index || !agrees) && !bugs::is_on(Bug::EngineAheadOfLog) {
            // The engine was ahead of the log's last fsync, which can be: it may hold whatever is committed. Or it
            // took over a snapshot, and the node ended before the log was emptied: what the log has there, and behind
            // it, was never committed.
            if applied.term > disk.opened.term {
                // The vote first: a log of a later term than the saved one passes for a forgotten vote.
                disk.opened.vote.save(applied.term, None).map_err(|e| StartError::Data(e.to_string()))?;
                (disk.opened.term, disk.opened.voted_for) = (applied.term, None);
            }
            // What the engine shows may be in the system's memory only, as after a crash of the process. The log must
            // not be emptied for the sake of something that the next power loss takes away.
            disk.store.persist().map_err(|e| StartError::Data(e.to_string()))?;
            disk.opened.log.reset(applied).map_err(|e| StartError::Data(e.to_string()))?;
            (disk.opened.start, disk.opened.heads) = (applied, Vec::new());
        }
        Ok(disk)
    }

    fn open_once(on: &Arc<dyn Disk>, options: &NodeOptions, open_store: OpenStore<'_>) -> Result<OnDisk, Unopened> {
        let opened = storage::open(&options.data_dir, on.clone(), &options.limits)
            .map_err(|e| Unopened::Other(e.to_string()))?;
        let store = open_store(&opened.store_dir).map_err(|error| {
            let why = error.to_string();
            if error.is_damage() { Unopened::Damaged(why) } else { Unopened::Other(why) }
        })?;
        let (start, applied) = (opened.start, store.applied());
        if applied.index < start.index {
            return Err(Unopened::Damaged(format!(
                "it holds entries up to {applied}, and the log begins after {start}"
            )));
        }
        Ok(OnDisk { opened, store })
    }

    /// What a node starts from, before anything of it runs.
    pub(crate) fn recover(self, on: &dyn Disk, options: &NodeOptions) -> Recovery {
        let OnDisk { opened, store } = self;
        let Opened { mut meta, vote, term, voted_for, start, heads, commit, log, renewed, .. } = opened;
        let blank = start.index == Index(0) && heads.is_empty();
        // A node that stored nothing of a cluster is bound to none, even if it died between binding and storing.
        // One that lost its log is bound for ever, and founds nothing: an empty cluster must not pass for the
        // one whose data was lost.
        let has_forgotten = renewed.is_some() || storage::was_set_aside(on, &options.data_dir, Aside::Damaged);
        if blank && meta.known_peers().is_empty() && !has_forgotten {
            meta.forget_cluster();
        }
        // Nor does one that was taken out, and is started again by the command line of before: together with others
        // that were, it would make an empty cluster that clients take for theirs.
        let was_removed = storage::was_set_aside(on, &options.data_dir, Aside::Removed);
        if blank && was_removed && options.form.is_some() {
            tracing::warn!(
                "this node was removed from its cluster before (removed-…, in its data directory): it joins that cluster again, and forms no new one. \
                 To found another, give it an empty data directory"
            );
        }
        if blank && has_forgotten && options.form.is_some() {
            tracing::error!(
                "this node's data was damaged and set aside (damaged-…, in its data directory): it joins its cluster again, and forms no new one. \
                 If that cluster is lost, restore its data, or start over with an empty data directory"
            );
        }
        let (id, incarnation, known_peers) = (meta.id(), meta.incarnation(), meta.known_peers().to_vec());
        let bound = meta.cluster().is_some();
        let cluster = meta.cluster().or(options.cluster_id);
        // What was applied is committed. If the log still has the last of what the engine has, it has all of it, and
        // the engine need not wait for a leader to become whole. If it has another entry there, it lost the true one
        // with the power: nothing follows.
        let ahead = store.whole_from();
        let head = ahead.index.0.checked_sub(start.index.0 + 1).and_then(|at| heads.get(usize::try_from(at).ok()?));
        let known_committed = head.filter(|head| head.term == ahead.term).map_or(Index(0), |_| ahead.index);
        let recovered = Recovered {
            term,
            voted_for,
            start,
            start_config: (start.index > Index(0)).then(|| store.config()).flatten(),
            heads,
            commit: commit.max(store.applied().index).max(known_committed),
        };
        let replica = Replica::new(id, settings(options, id, incarnation), recovered, quorum::Time(0));
        let may_form = blank && cluster.is_none() && !has_forgotten && !was_removed && options.form.is_some();
        Recovery { meta, vote, log, store, replica, cluster, bound, may_form, known_peers, id, incarnation }
    }
}

/// The term of the entry that the log holds at `index`.
fn head_at(opened: &Opened, index: Index) -> Option<quorum::Term> {
    let at = index.0.checked_sub(opened.start.index.0 + 1)?;
    opened.heads.get(usize::try_from(at).ok()?).map(|head| head.term)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn settings(options: &NodeOptions, id: NodeId, incarnation: u64) -> Settings {
    Settings {
        heartbeat: micros(options.heartbeat),
        election_min: micros(options.election.0),
        election_max: micros(options.election.1),
        // A simulated delay is one of chance: some answers come soon.
        long_lines: options.delay.1 > Duration::ZERO,
        append_entries_max: options.limits.append_entries,
        promotion_lag_max: options.limits.promotion_lag,
        lease_reads: options.lease_reads,
        seed: (id.0 as u64) ^ ((id.0 >> 64) as u64) ^ incarnation,
        ..Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bytes::Bytes;

    use super::*;
    use crate::kv::{Command, Condition, Value};
    use crate::metrics::Metrics;
    use crate::options::Formation;
    use crate::storage::RealDisk;
    use crate::testing::rot;
    use quorum::{Position, Term};

    #[test]
    fn an_engine_ahead_of_the_log_and_of_the_vote_is_no_forgotten_vote_at_the_next_start() {
        open_behind_the_engine();
    }

    #[cfg(feature = "bugs")]
    #[test]
    fn a_log_that_is_kept_though_the_engine_is_ahead_is_noticed() {
        let noticed = std::panic::catch_unwind(|| bugs::with(&[Bug::EngineAheadOfLog], open_behind_the_engine));
        assert!(noticed.is_err());
    }

    fn options(dir: &Path) -> NodeOptions {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("address");
        NodeOptions::new("node1", dir.to_owned(), any, any, any)
    }

    fn open(dir: &Path) -> Result<OnDisk, StartError> {
        let options = options(dir);
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let on: Arc<dyn Disk> = Arc::new(RealDisk);
        OnDisk::open(&on, &options, &|dir| Store::open(dir, &options.limits, metrics.clone()))
    }

    /// A node of a cluster, whose engine holds everything before the log's first entry for certain.
    fn a_member(dir: &Path) -> NodeId {
        let mut disk = open(dir).expect("opens");
        let OnDisk { opened, store } = &mut disk;
        opened.meta.bind(ClusterId(7)).expect("bound");
        opened.meta.set_known_peers(vec!["node2:7400".to_owned()]).expect("kept");
        opened.vote.save(Term(5), Some(NodeId(9))).expect("saved");
        store.apply_config(Position::new(1, 5), &crate::fuzzing::config());
        store.persist().expect("durable");
        opened.log.reset(Position::new(1, 5)).expect("cut");
        disk.id()
    }

    #[test]
    fn a_node_without_what_its_engine_held_becomes_a_new_one_of_the_same_cluster_that_founds_nothing() {
        let hurts: [fn(&Path); 4] = [
            |store| rot::rot_files(&store.join("engine-00000001")),
            |store| std::fs::remove_dir_all(store.join("engine-00000001")).expect("removed"),
            |store| std::fs::write(store.join("current"), "nonsense").expect("written"),
            // The next one is sound, and empty: it is behind the log's beginning.
            |store| std::fs::remove_dir_all(store).expect("removed"),
        ];
        for (number, hurt) in hurts.into_iter().enumerate() {
            let dir = tempfile::tempdir().expect("folder");
            let id = a_member(dir.path());
            assert_eq!(open(dir.path()).expect("opens").id(), id, "sound");
            hurt(&dir.path().join("store"));
            let disk = open(dir.path()).expect("opens as another");
            let new = disk.id();
            assert_ne!(new, id, "{number}");
            assert!(disk.opened.renewed.is_some() && disk.store.applied() == Position::default(), "{number}");
            assert!(storage::was_set_aside(&RealDisk, dir.path(), Aside::Damaged), "for people to look at");
            let mut options = options(dir.path());
            options.form = Some(Formation { replicas: 3, write_quorum: 2 });
            let recovery = disk.recover(&RealDisk, &options);
            assert_eq!(
                (recovery.id, recovery.vote.term(), recovery.vote.voted_for()),
                (new, Term(0), None),
                "{number}"
            );
            assert_eq!(
                (recovery.cluster, recovery.bound, recovery.may_form),
                (Some(ClusterId(7)), true, false),
                "{number}"
            );
            assert_eq!(recovery.known_peers, ["node2:7400"], "{number}");
            drop(recovery);
            assert_eq!(open(dir.path()).expect("opens").id(), new, "and stays that");
        }
    }

    fn open_behind_the_engine() {
        let dir = tempfile::tempdir().expect("folder");
        let mut disk = open(dir.path()).expect("opens");
        let id = disk.opened.meta.id();
        disk.opened.vote.save(Term(3), Some(NodeId(9))).expect("saved");
        let (key, value) = (Bytes::from_static(b"k"), Value::bytes(Bytes::from_static(b"v")));
        let payload = Command::Put { key, value, condition: Condition::None }.encode();
        disk.store.apply_command(Position::new(1, 5), &payload);
        disk.store.persist().expect("durable");
        drop(disk);
        for _ in 0..2 {
            let disk = open(dir.path()).expect("opens");
            assert_eq!((disk.opened.meta.id(), disk.opened.renewed.clone()), (id, None));
            assert_eq!((disk.opened.term, disk.opened.voted_for), (Term(5), None));
            assert_eq!(disk.opened.start, Position::new(1, 5));
        }
    }
}
