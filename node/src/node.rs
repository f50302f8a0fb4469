//! Starting and stopping one node: the order in which its parts come up and go down.

use crate::handle::Handle;
use crate::options::NodeOptions;

/// A running node.
pub struct Node {
    handle: Handle,
}

/// Why a node did not start. The text is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken, or the address is not this machine's.
    #[error("cannot listen on {address} for {purpose}: {source}; choose another with {flag}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Asked,
    /// Its disk failed, or it was removed from the cluster, or another fatal reason.
    Failed(String),
}

impl Node {
    /// Binds the ports, opens the data directory and starts the node. Returns as soon as it listens; it may not have a leader yet.
    ///
    /// # Errors
    /// As [`StartError`] says.
    pub async fn start(_options: NodeOptions) -> Result<Node, StartError> {
        Err(StartError::Impossible("not yet".into()))
    }

    /// What the node can be asked.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits until the node ends, by request (`SHUTDOWN`, [`Handle::request_stop`]) or by failure.
    pub async fn ended(&mut self) -> Ended {
        Ended::Asked
    }

    /// Stops in good order: hands leadership over, closes connections, syncs. Bounded by a few seconds.
    pub async fn stop(self) -> Ended {
        Ended::Asked
    }
}
