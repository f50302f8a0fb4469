//! The TCP port: lines of text with a JSON answer each, and the Redis protocol, on one listener.
//!
//! Owns the connections of that port, from accepting to closing. It asks everything of the node through [`Handle`] and never touches the
//! log, the disk or another node. Before: clients. After: [`crate::handle`].
//!
//! `detect` tells the protocol from the first byte, `resp` and `lines` parse and write it, `session` is the loop of one connection,
//! `commands` and `admin` are what Redis clients may ask, `keys` walks over the keys, `meters` holds the metrics.

mod admin;
#[doc(hidden)]
pub mod bench;
mod commands;
mod detect;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod keys;
mod lines;
mod meters;
mod resp;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::handle::Handle;
use crate::options::OVERHEAD_BYTES;
use keys::Cursors;
use meters::Meters;
use session::{STALL_MAX, Session};

/// How long sessions may take, once the node stops, to answer what they took. Long enough for a write that is under way on a healthy
/// cluster, short enough that stopping stays a matter of seconds.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// Pause after `accept` failed: out of file descriptors is the usual reason, and it passes as connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Silence after which the system asks a peer whether it still exists, and the pause between asking again: a peer that vanished without
/// a word is noticed within a few minutes at the cost of a packet a minute.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));

/// Bytes of one argument that are still read in order to refuse it politely, in multiples of the largest value.
const ARGUMENT_VALUES: usize = 2;

/// Arguments beyond the keys and values of the largest MSET: the name and options.
const OPTIONS_MAX: usize = 16;

/// What all connections of the port share.
pub(super) struct Face {
    handle: Handle,
    meters: Meters,
    cursors: Mutex<Cursors>,
    /// KEYS under way.
    keys: Semaphore,
    caps: resp::Caps,
    /// How long a peer may take for a command, or take nothing of its answers.
    stall: Duration,
    started: Instant,
    last_client: AtomicU64,
    open: AtomicUsize,
}

impl Face {
    fn new(handle: Handle, stall: Duration) -> Face {
        let limits = &handle.options().limits;
        let caps = resp::Caps {
            arguments: limits.batch_keys.saturating_mul(2).saturating_add(OPTIONS_MAX),
            argument_bytes: limits.value_bytes.saturating_mul(ARGUMENT_VALUES).saturating_add(OVERHEAD_BYTES),
            // Offsets within a command are kept in 32 bits.
            command_bytes: limits.command_bytes().min(u32::MAX as usize),
        };
        Face {
            meters: Meters::new(handle.metrics()),
            cursors: Mutex::default(),
            keys: Semaphore::new(keys::KEYS_UNDER_WAY_MAX),
            caps,
            stall,
            started: Instant::now(),
            last_client: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            handle,
        }
    }
}

/// Counts a connection for as long as it lives.
struct Counted(Arc<Face>);

impl Counted {
    fn new(face: &Arc<Face>) -> Counted {
        face.open.fetch_add(1, Ordering::Relaxed);
        face.meters.connections.inc();
        Counted(Arc::clone(face))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.meters.connections.dec();
    }
}

/// Serves the port until the node is asked to stop; then stops accepting, lets every session answer what it took, for a bounded time,
/// and returns when the last one has ended.
pub async fn serve(listener: TcpListener, handle: Handle) {
    serve_until_stopped(listener, handle, STALL_MAX).await;
}

async fn serve_until_stopped(listener: TcpListener, handle: Handle, stall: Duration) {
    let mut stop = handle.stopping();
    let limit = handle.options().limits.tcp_connections;
    let face = Arc::new(Face::new(handle, stall));
    let mut sessions: JoinSet<()> = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            Some(ended) = sessions.join_next(), if !sessions.is_empty() => {
                if let Err(error) = ended {
                    warn!(%error, "a TCP session ended badly");
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if sessions.len() >= limit => refuse(&stream),
                Ok((stream, peer)) => start(&mut sessions, &face, stream, peer),
                Err(error) => {
                    warn!(%error, "cannot accept TCP connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let ended = tokio::time::timeout(DRAIN_MAX, async { while sessions.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        warn!(sessions = sessions.len(), "TCP sessions did not end in time and are cut off");
        sessions.shutdown().await;
    }
}

fn start(sessions: &mut JoinSet<()>, face: &Arc<Face>, stream: TcpStream, peer: SocketAddr) {
    if let Err(error) = tune(&stream) {
        // The peer may be gone already; the session finds out.
        debug!(%error, %peer, "cannot set options of a TCP connection");
    }
    let counted = Counted::new(face);
    let id = face.last_client.fetch_add(1, Ordering::Relaxed) + 1;
    let session = Session::new(Arc::clone(face), stream, peer, id);
    sessions.spawn(async move {
        let _counted = counted;
        if let Err(error) = session.run().await {
            debug!(%error, %peer, "a TCP connection ended early");
        }
    });
}

fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE.0).with_interval(KEEPALIVE.1);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// One connection too many: told so, in the words Redis clients know, if the socket takes it at once.
fn refuse(stream: &TcpStream) {
    let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
}

/// Resolves when the node was asked to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|asked| *asked).await;
}

#[cfg(test)]
mod tests;
