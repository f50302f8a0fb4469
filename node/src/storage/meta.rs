//! Who this disk is: the file `meta`.
//!
//! Written when the disk is formatted, when the node starts, when it joins a cluster, and when its peers change:
//! rarely, so by durable rename. An incarnation of 0 says that formatting is not complete: nothing was ever
//! promised under that id yet.
//!
//! Before: `recovery`, `driver`. After: `disk`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorum::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};

use super::disk::{Disk, FolderLock, read_small, replace_small};

/// The file's name.
pub(super) const META: &str = "meta";
const MAGIC: &[u8; 8] = b"qrtMeta1";
/// The format of the body.
const VERSION: u16 = 1;
/// Magic, version, two bytes unused, checksum.
const PREFIX_BYTES: usize = 16;
/// Far more than ids and a few addresses take.
const META_BYTES_MAX: usize = 64 << 10;
/// Peers remembered: more than a cluster has members, joining and leaving ones included.
const PEERS_MAX: usize = 64;
/// Longest address remembered: a host name has at most 253 characters.
const PEER_BYTES_MAX: usize = 512;

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Body {
    pub id: NodeId,
    pub cluster: Option<ClusterId>,
    pub incarnation: u64,
    pub known_peers: Vec<String>,
}

/// Why the identity was not changed.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// A node belongs to one cluster for ever.
    #[error("this node belongs to cluster {bound} and cannot join {asked}")]
    OtherCluster {
        /// The one it belongs to.
        bound: ClusterId,
        /// The other.
        asked: ClusterId,
    },
    /// The disk failed: stop.
    #[error("cannot write the file with the node's identity: {0}")]
    Io(#[from] io::Error),
}

/// The identity of this disk. Every change is durable when its call returns.
#[derive(Debug)]
pub struct Meta {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    body: Body,
    _lock: Option<Arc<dyn FolderLock>>,
}

impl Meta {
    pub(super) fn new(disk: Arc<dyn Disk>, folder: &Path, body: Body, lock: Option<Arc<dyn FolderLock>>) -> Meta {
        Meta { disk, folder: folder.to_owned(), body, _lock: lock }
    }

    /// The node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.body.id
    }

    /// The cluster it belongs to, if any.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.body.cluster
    }

    /// How often it was started, this time included.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.body.incarnation
    }

    /// Where other members were last known to be.
    #[must_use]
    pub fn known_peers(&self) -> &[String] {
        &self.body.known_peers
    }

    /// Binds the node to a cluster, for ever.
    ///
    /// # Errors
    /// When it belongs to another one, or the disk fails.
    pub fn bind(&mut self, cluster: ClusterId) -> Result<(), MetaError> {
        match self.body.cluster {
            Some(bound) if bound == cluster => Ok(()),
            Some(bound) => Err(MetaError::OtherCluster { bound, asked: cluster }),
            None => self.change(|body| body.cluster = Some(cluster)),
        }
    }

    /// Takes back a binding under which nothing was ever stored: the node died between binding and storing.
    /// Durable with the next change.
    pub fn forget_cluster(&mut self) {
        self.body.cluster = None;
    }

    /// Remembers where other members are; the first 64 of them, and no address longer than 512 bytes.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn set_known_peers(&mut self, mut peers: Vec<String>) -> Result<(), MetaError> {
        peers.retain(|p| p.len() <= PEER_BYTES_MAX);
        peers.truncate(PEERS_MAX);
        if peers == self.body.known_peers {
            return Ok(());
        }
        self.change(|body| body.known_peers = peers)
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut Body)) -> Result<(), MetaError> {
        let mut body = self.body.clone();
        change(&mut body);
        body.save(&*self.disk, &self.folder)?;
        self.body = body;
        Ok(())
    }
}

/// What was found in place of the file.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    Damaged,
    Version(u16),
    Body(Body),
}

impl Body {
    pub(super) fn load(disk: &dyn Disk, folder: &Path) -> io::Result<Found> {
        let file = match disk.open(&folder.join(META)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            other => other?,
        };
        Ok(read_small(&*file, META_BYTES_MAX)?.map_or(Found::Damaged, |bytes| Body::decode(&bytes)))
    }

    pub(super) fn save(&self, disk: &dyn Disk, folder: &Path) -> io::Result<()> {
        let mut bytes = vec![0; PREFIX_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes.extend(postcard::to_stdvec(self).map_err(io::Error::other)?);
        let crc = checksum(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        replace_small(disk, folder, META, &bytes)
    }

    fn decode(bytes: &[u8]) -> Found {
        if bytes.len() < PREFIX_BYTES || &bytes[..8] != MAGIC || checksum(bytes).to_le_bytes() != bytes[12..16] {
            return Found::Damaged;
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Found::Version(version);
        }
        postcard::from_bytes(&bytes[PREFIX_BYTES..]).map_or(Found::Damaged, Found::Body)
    }
}

/// Of everything but the checksum's own field.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[PREFIX_BYTES..]);
    hasher.finalize()
}
