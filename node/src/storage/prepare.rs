//! The next segment, made ready while the current one is written to.
//!
//! The first write into blocks that are merely reserved makes the file system commit metadata with the next sync. So
//! the blocks of a segment are written (with zeros) beforehand, and its name is durable beforehand: going on in it
//! costs nothing but the batch itself.
//!
//! [`super::Log::preparation`] says what is to be done, [`Preparation::step`] does a little of it,
//! [`super::Log::prepared`] takes it back. Whoever drives the log decides where and when the steps run: [`Helper`] does
//! it on a thread in a node, a simulator may do it between two writes. It must never be waited for: a log whose next
//! segment is not ready makes one on the spot.
//!
//! Whatever a crash leaves is recognized: a file without a segment's name goes or is written over, and a segment with a
//! header that says [`SegmentHeader::prepared`] and no batch has not begun.
//!
//! Before: `log` (what), `wal` (when). After: `disk`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::disk::{Disk, DiskFile, FolderLock};
use super::segment::SegmentHeader;

/// What is written and synced in one step. Measured beside a stream of small syncs: four times as much, or no pause,
/// makes their slowest ones several times slower.
const STEP_BYTES: usize = 128 << 10;
/// The disk is left to the log for so long after each step. Together about 45 MB/s where the disk is fast: 64 MiB are
/// ready in a second and a half, and small writes at their fastest take longer than that to fill the rest of a segment.
const PAUSE: Duration = Duration::from_millis(2);
/// A segment being prepared from nothing.
pub(super) const NEXT: &str = "next.tmp";
/// Zeros to write from.
static ZEROS: [u8; STEP_BYTES] = [0; STEP_BYTES];

/// Something to do for the next segment, in small steps. Dropping it is harmless: the log then makes
/// its next segment by itself.
#[derive(Debug)]
pub struct Preparation {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folder: PathBuf,
    pub(super) work: Work,
    /// The folder stays locked as long as anyone may write to it.
    pub(super) _lock: Option<Arc<dyn FolderLock>>,
}

#[derive(Debug)]
pub(super) enum Work {
    /// Make a file whose blocks are written, with a header that tells its salt.
    File {
        /// Its name so far: of a file to be made, or of one that was written before.
        name: &'static str,
        len: u64,
        salt: u64,
        /// Bytes filled.
        filled: u64,
        file: Option<Arc<dyn DiskFile>>,
    },
    /// Make the name that the log gave it durable.
    Name { ordinal: u64 },
}

impl Preparation {
    /// Does a little. `true` when all is done.
    ///
    /// # Errors
    /// The system's. The rest is not to be tried then.
    pub fn step(&mut self) -> io::Result<bool> {
        let (name, len, filled, file, salt) = match &mut self.work {
            Work::Name { .. } => return self.disk.sync_folder(&self.folder).map(|()| true),
            Work::File { name, len, filled, file, salt } => (*name, *len, filled, file, *salt),
        };
        let Some(open) = file else {
            let path = self.folder.join(name);
            *file = Some(if name == NEXT {
                let new = self.disk.create(&path)?;
                // In one piece, where the file system can.
                new.allocate(len)?;
                new
            } else {
                *filled = len;
                self.disk.open(&path)?
            });
            return Ok(false);
        };
        if *filled < len {
            let bytes = usize::try_from(len - *filled).unwrap_or(STEP_BYTES).min(STEP_BYTES);
            open.write_at(&ZEROS[..bytes], *filled)?;
            open.sync_data()?;
            *filled += bytes as u64;
            return Ok(false);
        }
        open.write_at(&SegmentHeader::prepared(salt).encode(), 0)?;
        open.sync_data()?;
        Ok(true)
    }
}

/// A finished (or failed) preparation on its way back to the log.
pub(super) type Done = (Preparation, io::Result<()>);

/// A thread that carries out preparations. Dropping it ends the thread after the step under way.
#[derive(Debug)]
pub(super) struct Helper {
    work: Option<Sender<Preparation>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl Helper {
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start() -> io::Result<Helper> {
        // Unbounded by type alone: the log has at most one preparation out.
        let (work, received) = channel();
        let (finished, done) = channel();
        let thread =
            std::thread::Builder::new().name("wal-next".to_owned()).spawn(move || serve(&received, &finished))?;
        Ok(Helper { work: Some(work), done, thread: Some(thread) })
    }

    pub(super) fn submit(&self, preparation: Preparation) {
        if let Some(work) = &self.work {
            let _ = work.send(preparation);
        }
    }

    /// What is finished. Never blocks.
    pub(super) fn done(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.work = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that prepares segments of the log panicked");
        }
    }
}

fn serve(work: &Receiver<Preparation>, done: &Sender<Done>) {
    // Ends with the sender of either channel.
    while let Ok(mut preparation) = work.recv() {
        let result = loop {
            match preparation.step() {
                Ok(false) => {}
                Ok(true) => break Ok(()),
                Err(error) => break Err(error),
            }
            // A pause that the end of the log cuts short.
            if matches!(work.recv_timeout(PAUSE), Err(RecvTimeoutError::Disconnected)) {
                return;
            }
        };
        if done.send((preparation, result)).is_err() {
            return;
        }
    }
}
