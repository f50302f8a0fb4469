//! Reads for tasks: on the spot while the engine finds things in memory, on a thread that may wait
//! while it has to ask the disk.
//!
//! A read of what is in memory takes microseconds, less than handing it to another thread would. A read of the disk
//! takes a hundred of them or, on a busy or turning disk, ten thousand; and the thread it holds up runs other tasks,
//! the driver among them. Which it will be cannot be told beforehand; but when the data is larger than memory one slow
//! read is followed by others. So a slow one sends those after it elsewhere until enough of them in a row were fast.
//! Before: the faces. After: `store`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Command, Item, Store, StoreError};

/// A read that takes this long came from a disk, or the thread lost its processor meanwhile.
const SLOW: Duration = Duration::from_micros(500);

/// So many reads in a row must be fast before they are done on the spot again. A thread that merely lost its processor
/// costs no more than handing over this many.
const STREAK: u32 = 16;

/// How many reads are still done elsewhere.
#[derive(Debug, Default)]
pub(super) struct Slow(AtomicU32);

impl Slow {
    fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// A read took so long.
    pub(super) fn note(&self, took: Duration) {
        if took >= SLOW {
            self.0.store(STREAK, Ordering::Relaxed);
        } else if self.is_on() {
            let one_less = |left: u32| left.checked_sub(1);
            // Whoever else counts down at the same time does it as well.
            let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        }
    }
}

impl Store {
    /// As [`Store::try_get`], for tasks: see the module's description.
    ///
    /// # Errors
    /// When the engine cannot be read, or the runtime ends.
    pub async fn read(&self, key: &[u8]) -> Result<Option<Item>, StoreError> {
        if !self.slow().is_on() {
            return self.timed(|store| store.try_get(key));
        }
        let key = Bytes::copy_from_slice(key);
        self.elsewhere(move |store| store.try_get(&key)).await?
    }

    /// As [`Store::prefetch`], for tasks that are about to hand a command in: does nothing while that is fast, for
    /// handing in does it anyway.
    pub async fn prepare(&self, command: &Command) {
        if self.slow().is_on() {
            let command = command.clone();
            // What is not ready when it is needed is read then.
            let _ = self.elsewhere(move |store| store.prefetch(&command)).await;
        }
    }

    fn timed<T>(&self, read: impl FnOnce(&Store) -> T) -> T {
        let begun = Instant::now();
        let found = read(self);
        self.slow().note(begun.elapsed());
        found
    }

    async fn elsewhere<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || store.timed(read)).await;
        done.map_err(|_| StoreError::Failed("a read was given up: the node is stopping".to_owned()))
    }
}
