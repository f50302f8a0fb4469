//! The few things we ask of a file system, behind a trait.
//!
//! Everything in [`crate::storage`] reads and writes through [`Disk`]: the real one here, a simulated one that loses
//! power in tests. The promises are those of POSIX: what was written is durable after [`DiskFile::sync_data`], a name
//! after [`Disk::sync_folder`], and a rename is atomic. Nothing here retries a failed sync.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// What [`DiskFile::write_blocks`] counts in: the largest block of the disks in use. A file system with larger ones is
/// written through the cache.
pub(super) const BLOCK_BYTES: usize = 4096;

/// Folders and names.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes a folder and its parents, durably. It may exist already.
    ///
    /// # Errors
    /// The system's.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes a file, or empties the one that exists.
    ///
    /// # Errors
    /// The system's.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file that exists for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, or another of the system's.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// The names in a folder, in no order.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// Gives a file or folder another name; a file that has it is replaced.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file, or a folder with all in it.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable as they are now.
    ///
    /// # Errors
    /// The system's.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// Bytes that may still be written where the folder lives.
    ///
    /// # Errors
    /// The system's.
    fn free_space(&self, folder: &Path) -> io::Result<u64>;
    /// Takes a lock that lasts until the guard is dropped or the process ends.
    ///
    /// # Errors
    /// `WouldBlock` if it is taken, or another of the system's.
    fn lock(&self, path: &Path) -> io::Result<Arc<dyn FolderLock>>;
    /// An id nobody else has: random from the system, from its seed in a simulation.
    fn draw_id(&self) -> u128;
}

/// One open file. Reads and writes name their place, so that threads may share it.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads up to `into.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all the bytes.
    ///
    /// # Errors
    /// The system's. How much was written is unknown then.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Writes whole blocks, and returns when they are durable: past the system's cache where the file system can, which
    /// spares a copy, a second call and the bookkeeping of pages. Length and offset are multiples of [`BLOCK_BYTES`],
    /// the blocks lie in memory as they do in the file, and the file has them already.
    ///
    /// # Errors
    /// The system's. What of it was written, and is durable, is unknown then.
    fn write_blocks(&self, blocks: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(blocks, offset)?;
        self.sync_data()
    }
    /// Reserves the file's blocks up to `len`; what is new reads as zeros.
    ///
    /// # Errors
    /// The system's.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Drops everything from `len` on.
    ///
    /// # Errors
    /// The system's.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Waits until all that was written is durable.
    ///
    /// # Errors
    /// The system's; nothing written since the last success may be relied on then.
    fn sync_data(&self) -> io::Result<()>;
    /// The file's length.
    ///
    /// # Errors
    /// The system's.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file is empty.
    ///
    /// # Errors
    /// The system's.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A lock that is held as long as this lives.
pub trait FolderLock: Send + Sync + fmt::Debug {}

/// Reads a whole small file; `None` if it is longer than `bytes_max`.
///
/// # Errors
/// The system's.
pub(super) fn read_small(file: &dyn DiskFile, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let len = file.len()?;
    let Some(len) = usize::try_from(len).ok().filter(|len| *len <= bytes_max) else { return Ok(None) };
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Replaces a small file so that after a crash it is either the old or the new one, whole.
///
/// # Errors
/// The system's.
pub(super) fn replace_small(disk: &dyn Disk, folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = folder.join(format!("{name}.tmp"));
    let file = disk.create(&temporary)?;
    file.write_at(bytes, 0)?;
    // The bytes first, then the name: a name that leads to half a file would pass for damage.
    file.sync_data()?;
    disk.rename(&temporary, &folder.join(name))?;
    disk.sync_folder(folder)
}

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile {
    file: File,
    /// The same file opened to be written past the cache, from its first use on; `None` where that cannot be had.
    direct: OnceLock<Option<File>>,
    /// A write past the cache was refused: none is tried again.
    cached: AtomicBool,
}

impl RealFile {
    fn shared(file: File) -> Arc<dyn DiskFile> {
        Arc::new(RealFile { file, direct: OnceLock::new(), cached: AtomicBool::new(false) })
    }

    /// Opens the file a second time, by its descriptor: its name may have changed.
    #[cfg(target_os = "linux")]
    fn open_direct(&self) -> Option<File> {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::DSYNC;
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(path).ok()
    }

    #[cfg(not(target_os = "linux"))]
    fn open_direct(&self) -> Option<File> {
        None
    }
}

#[derive(Debug)]
struct RealLock(#[allow(dead_code, reason = "held for its lock, which closing the file ends")] File);

impl FolderLock for RealLock {}

impl Disk for RealDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // One level a call: a path is as deep as its text is long, so this ends.
        self.create_folder(parent)?;
        match std::fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !path.is_dir() => Err(error),
            _ => self.sync_folder(parent),
        }
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(RealFile::shared(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(RealFile::shared(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        // Names that are no UTF-8 are none of ours.
        std::fs::read_dir(folder)?
            .filter_map(|entry| entry.map(|e| e.file_name().into_string().ok()).transpose())
            .collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if std::fs::symlink_metadata(path)?.is_dir() {
            std::fs::remove_dir_all(path)
        } else {
            std::fs::remove_file(path)
        }
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn free_space(&self, folder: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(folder)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Arc<dyn FolderLock>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Arc::new(RealLock(file))),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn draw_id(&self) -> u128 {
        uuid::Uuid::new_v4().as_u128()
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.file.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn write_blocks(&self, blocks: &[u8], offset: u64) -> io::Result<()> {
        let direct = self.direct.get_or_init(|| self.open_direct()).as_ref();
        if let Some(direct) = direct.filter(|_| !self.cached.load(Ordering::Relaxed)) {
            match direct.write_all_at(blocks, offset) {
                // Nothing was written: this file system, or this disk's blocks, are not for it.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.cached.store(true, Ordering::Relaxed),
                done => return done,
            }
        }
        self.write_at(blocks, offset)?;
        self.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::{Errno, retry_on_intr};
        match retry_on_intr(|| fallocate(&self.file, FallocateFlags::empty(), 0, len)) {
            Ok(()) => Ok(()),
            // File systems without reservation (some network and overlay ones) still get a file of the right length.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.file.set_len(len.max(self.len()?)),
            Err(error) => Err(error.into()),
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}
