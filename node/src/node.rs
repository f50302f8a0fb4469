//! Starting and stopping one node: the order in which its parts come up and go down.
//!
//! Up: ports (so that a taken one is noticed before anything is touched), the folder, the engine, the WAL thread, the
//! network, the driver, the faces. Down: the driver hands leadership over and ends; then the faces, which answer what
//! is left; then the folder is free again.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorum::{Index, Member, NodeId, Quorum};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::driver::{self, Parts, world::Real};
use crate::forward::{self, PeerForward};
use crate::handle::{Handle, Shared};
use crate::kv::{Import, Imported, Store};
use crate::metrics::Metrics;
use crate::opening::{OnDisk, Recovery};
use crate::options::NodeOptions;
use crate::peer::{Identity, LogSource, Network, NetworkOptions, SnapshotSink, SnapshotSource, SnapshotStore};
use crate::storage::{self, Aside, LogReader, RealDisk, Wal};
use crate::{http, join, tcp};

/// Messages of other nodes that wait for the driver; beyond it their connections are not read.
const PEER_EVENTS: usize = 4_096;

/// How long the faces may take to end their connections.
const FACES_END: Duration = Duration::from_secs(3);

/// A running node.
pub struct Node {
    handle: Handle,
    driver: JoinHandle<Ended>,
    faces: Vec<JoinHandle<()>>,
    ended: Option<Ended>,
}

/// Why a node did not start. The text is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken, or the address is not this machine's.
    #[error("cannot listen on {address} for {purpose}: {source}; choose another with {flag}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// `HTTP`, `TCP` or `peers`.
        purpose: &'static str,
        /// The flag that changes it.
        flag: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// Numbers that cannot be.
    #[error("{0}")]
    Impossible(String),
    /// The data directory cannot be used.
    #[error("{0}")]
    Data(String),
}

/// Why a node ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// It was asked to.
    #[error("it was asked to")]
    Asked,
    /// Its disk failed, or another fatal reason.
    #[error("{0}")]
    Failed(String),
    /// Its disk has lost entries that it had confirmed to hold. Started again it is a new node.
    #[error("the disk has lost entries up to {confirmed} that this node had confirmed; it becomes a new node")]
    Forgot {
        /// The entry it had confirmed, at least.
        confirmed: u64,
    },
    /// A committed configuration does without it.
    #[error(
        "configuration {version} of its cluster does without this node; its data was set aside, started again it is a new node"
    )]
    Removed {
        /// That configuration's version.
        version: u64,
    },
}

impl Node {
    /// Binds the ports, opens the data directory and starts the node. Returns as soon as it listens; it
    /// may not have a leader yet.
    ///
    /// # Errors
    /// As [`StartError`] says.
    pub async fn start(options: NodeOptions) -> Result<Node, StartError> {
        if let Some(formation) = &options.form {
            Quorum::new(formation.replicas, formation.write_quorum)
                .map_err(|e| StartError::Impossible(e.to_string()))?;
        }
        let http = listen(options.http, "HTTP", "--http-port").await?;
        let tcp = listen(options.tcp, "the line and Redis protocols", "--tcp-port").await?;
        let peer = listen(options.peer, "other nodes", "--peer-port").await?;
        let metrics = Arc::new(Metrics::new().map_err(|e| StartError::Impossible(e.to_string()))?);
        let opening = { (options.clone(), metrics.clone()) };
        let disk = tokio::task::spawn_blocking(move || open_real(&opening.0, &opening.1))
            .await
            .map_err(|e| StartError::Data(format!("opening the data directory failed: {e}")))??;
        let ports = [local_port(&http), local_port(&tcp), local_port(&peer)];
        let me = member(disk.id(), &options, ports);
        Ok(Parted { options, disk, me, metrics }.run(http, tcp, peer))
    }

    /// What the node can be asked.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits until the node ends, by request (`SHUTDOWN`, [`Handle::request_stop`]) or by failure. The faces are to be
    /// ended with [`Node::stop`] then.
    pub async fn ended(&mut self) -> Ended {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        let ended = match (&mut self.driver).await {
            Ok(ended) => ended,
            Err(panic) => Ended::Failed(format!("an invariant was violated and the node stopped: {panic}")),
        };
        // Whatever the reason, the faces are told.
        self.handle.request_stop();
        self.ended = Some(ended.clone());
        ended
    }

    /// Stops in good order: hands leadership over, closes connections, syncs. Bounded by a few seconds.
    pub async fn stop(mut self) -> Ended {
        self.handle.request_stop();
        let ended = self.ended().await;
        let faces = std::mem::take(&mut self.faces);
        let all = async {
            for face in faces {
                let _ = face.await;
            }
        };
        if tokio::time::timeout(FACES_END, all).await.is_err() {
            tracing::warn!("some connections did not end in time and were dropped");
        }
        let why = ended.clone();
        let dir = self.handle.options().data_dir.clone();
        // The engine closes with the last handle, and waits for its threads: not on a task, and before anyone is told
        // that the node has stopped.
        let closing = tokio::task::spawn_blocking(move || {
            drop(self);
            match why {
                Ended::Removed { .. } => Node::set_aside(&dir),
                Ended::Forgot { .. } => Node::renounce(&dir),
                Ended::Asked | Ended::Failed(_) => {}
            }
        });
        if closing.await.is_err() {
            tracing::error!("closing the storage engine failed");
        }
        ended
    }

    fn renounce(dir: &Path) {
        if let Err(error) = storage::renounce(&RealDisk, dir) {
            tracing::error!(%error, "the node's identity could not be given up: set its data aside by hand before it is started again");
        }
    }

    fn set_aside(dir: &Path) {
        match storage::set_aside(&RealDisk, dir, Aside::Removed) {
            Ok(aside) => tracing::warn!(folder = %aside.display(), "removed from the cluster: the data was set aside"),
            Err(error) => tracing::error!(%error, "removed from the cluster, but the data could not be set aside"),
        }
    }
}

/// Everything that is there before the parts are connected.
struct Parted {
    options: NodeOptions,
    disk: OnDisk,
    me: Member,
    metrics: Arc<Metrics>,
}

impl Parted {
    fn run(self, http: TcpListener, tcp: TcpListener, peer: TcpListener) -> Node {
        let Parted { options, disk, me, metrics } = self;
        let Recovery { meta, vote, log, store, replica, cluster, bound, may_form, known_peers, id, incarnation } =
            disk.recover(&RealDisk, &options);
        // Unbounded, so that the log never waits for the driver: one event a turn of the log, which had a job
        // of the driver's at least.
        let (wal_tx, wal_events) = mpsc::unbounded_channel();
        let wal = Wal::start(log, vote, metrics.clone(), move |event| {
            // The driver may have ended; nobody needs the news then.
            let _ = wal_tx.send(event);
        });
        let reader = wal.reader();
        let (peer_tx, peers) = mpsc::channel(PEER_EVENTS);
        let network: Network = Network::start(
            Identity { id, incarnation, cluster, member: me.clone() },
            peer,
            network_options(&options),
            metrics.clone(),
            peer_tx,
            Arc::new(Logs(reader.clone())),
            Snapshots(store.clone()),
        );
        let forward = Arc::new(PeerForward(network.clone()));
        let (shared, asked, applied) = Shared::begin(options, me.clone(), incarnation, store, metrics, forward);
        let handle = Handle { shared: shared.clone() };
        let options = handle.options();
        let targets: Vec<String> = options.join.iter().cloned().chain(known_peers).collect();
        // Bounded where calls arrive: so many of each peer may be under way.
        let (calls_tx, calls) = mpsc::unbounded_channel();
        let parts = Parts {
            replica,
            me: me.clone(),
            cluster,
            bound,
            may_form,
            data_dir: options.data_dir.clone(),
            meta: Arc::new(Mutex::new(meta)),
            wal,
            log: reader,
            world: Arc::new(Real(network.clone())),
            applied,
            asked,
            peers,
            wal_events,
            calls: calls_tx,
            shared,
        };
        let driver = tokio::spawn(driver::run(parts, network.clone()));
        let faces = vec![
            tokio::spawn(http::serve(http, handle.clone())),
            tokio::spawn(tcp::serve(tcp, handle.clone())),
            tokio::spawn(forward::serve(handle.clone(), calls)),
            tokio::spawn(join::run(handle.clone(), network, me, targets)),
        ];
        Node { handle, driver, faces, ended: None }
    }
}

fn open_real(options: &NodeOptions, metrics: &Arc<Metrics>) -> Result<OnDisk, StartError> {
    let open_store = |dir: &Path| Store::open(dir, &options.limits, metrics.clone());
    OnDisk::open(&(Arc::new(RealDisk) as Arc<dyn storage::Disk>), options, &open_store)
}

async fn listen(address: SocketAddr, purpose: &'static str, flag: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, purpose, flag, source })
}

fn local_port(listener: &TcpListener) -> u16 {
    // A bound listener has an address; 0 would only make this node unreachable for the others, which they would say.
    listener.local_addr().map_or(0, |a| a.port())
}

fn member(id: NodeId, options: &NodeOptions, [http, tcp, peer]: [u16; 3]) -> Member {
    let host = if options.host.contains(':') && !options.host.starts_with('[') {
        format!("[{}]", options.host)
    } else {
        options.host.clone()
    };
    Member {
        id,
        name: options.name.clone(),
        peer: format!("{host}:{peer}"),
        http: format!("http://{host}:{http}"),
        tcp: format!("{host}:{tcp}"),
    }
}

fn network_options(options: &NodeOptions) -> NetworkOptions {
    NetworkOptions {
        election_max: options.election.1,
        delay: options.delay,
        call_timeout: options.request_timeout,
        ..NetworkOptions::default()
    }
}

/// The log, for followers that lag behind what is in memory.
struct Logs(LogReader);

impl LogSource for Logs {
    fn read(&self, from: Index, to: Index, bytes_max: usize) -> Result<Vec<Bytes>, String> {
        let records = self.0.read(from, to, bytes_max).map_err(|e| e.to_string())?;
        Ok(records.into_iter().map(|r| r.frame().clone()).collect())
    }
}

/// The store, for snapshots that arrive.
struct Snapshots(Store);

impl SnapshotStore for Snapshots {
    type Imported = Imported;
    type Sink = Import;

    fn begin_import(&self) -> Result<Import, String> {
        self.0.begin_import().map_err(|e| e.to_string())
    }
}

impl SnapshotSink for Import {
    type Imported = Imported;

    fn write(&mut self, chunk: Bytes) -> Result<(), String> {
        Import::write(self, chunk).map_err(|e| e.to_string())
    }

    fn finish(self) -> Result<Imported, String> {
        Import::finish(self).map_err(|e| e.to_string())
    }
}

impl SnapshotSource for crate::kv::Export {
    fn last(&self) -> Index {
        self.position().index
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>, String> {
        crate::kv::Export::next_chunk(self).map_err(|e| e.to_string())
    }
}

/// Whether a data directory holds a node's data already; for `local`, which then takes the cluster up again.
#[must_use]
pub fn has_data(dir: &Path) -> bool {
    dir.join("meta").is_file()
}
