//! The thread that makes log and vote durable.
//!
//! It takes everything queued, writes consecutive entries as one batch, syncs once, and reports once: group commit
//! without a timer. The more arrives while a sync is under way, the more the next one covers. After the first error it
//! reports [`WalEvent::Failed`] once and is gone.
//!
//! [`Turns`] is the same without the thread: who holds it decides when a turn begins and when it is done. So a
//! simulator gives it time, and power cuts in the middle.
//!
//! Before: `driver` submits [`Job`]s in the order of the core's effects. After: `log`, `vote`; the
//! events go back to the driver.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use quorum::{Index, NodeId, Position, Term, Token};

use super::log::{Batch, Log, LogError};
use super::map::LogReader;
use super::prepare::{Helper, Preparation};
use super::vote::VoteFile;
use crate::metrics::Metrics;

/// A turn takes no more jobs beyond this many bytes, so that the first of them does not wait for the last ones' write.
const TURN_BYTES_MAX: usize = 4 << 20;

/// What is to be made durable (or forgotten).
#[derive(Clone, Debug)]
pub enum Job {
    /// Entries, dropping whatever the log holds from `first` on.
    Write {
        /// What to report.
        token: Token,
        /// The index of the first entry.
        first: Index,
        /// The index of the last entry.
        last: Index,
        /// Their records, in order.
        frames: Vec<Bytes>,
        /// The commit index known by now.
        commit: Index,
    },
    /// Term and vote.
    SaveVote {
        /// What to report.
        token: Token,
        /// The current term.
        term: Term,
        /// Who got this node's vote in it.
        voted_for: Option<NodeId>,
    },
    /// Empty the log: a snapshot took its place.
    Reset {
        /// What to report.
        token: Token,
        /// The last entry the snapshot covers.
        last: Position,
    },
    /// Forget entries that are durable elsewhere. Not reported.
    Cut {
        /// The last index that is no longer needed.
        upto: Index,
    },
}

/// What the thread reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalEvent {
    /// Everything up to this token is durable.
    Persisted {
        /// The highest token done.
        token: Token,
    },
    /// The disk failed: nothing more will be durable, ever. Reported once, and nothing after it.
    Failed {
        /// One sentence.
        error: String,
    },
}

enum Message {
    Job(Job),
    Stop,
}

/// The handle on the thread. Dropping it stops the thread as [`Wal::stop`] does.
#[derive(Debug)]
pub struct Wal {
    // Unbounded, so that submitting never blocks the driver. What may pile up in it is bounded where writes are
    // admitted (`Limits::in_flight_writes`, `in_flight_bytes`) and, on a follower, by the leader's window of appends.
    jobs: Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
    reader: LogReader,
}

impl Wal {
    /// Starts the thread on the parts that [`super::open`] found. `notify` is called on that thread and must not block.
    ///
    /// # Panics
    /// When the system gives no thread.
    pub fn start(log: Log, vote: VoteFile, metrics: Arc<Metrics>, notify: impl Fn(WalEvent) + Send + 'static) -> Wal {
        // Without it the log makes its segments itself, at the moment it needs them.
        let helper = Helper::start()
            .inspect_err(|error| tracing::warn!(%error, "no thread to prepare segments of the log"))
            .ok();
        let reader = log.reader();
        let (jobs, received) = channel();
        let writer = Writer::new(log, vote, metrics, helper);
        let thread = std::thread::Builder::new()
            .name("wal".to_owned())
            .spawn(move || writer.run(&received, notify))
            .unwrap_or_else(|error| panic!("cannot start the thread of the log: {error}"));
        Wal { jobs, thread: Mutex::new(Some(thread)), reader }
    }

    /// The same without a thread: jobs wait until the other half carries them out.
    #[must_use]
    pub fn detached(log: Log, vote: VoteFile, metrics: Arc<Metrics>) -> (Wal, Turns) {
        let reader = log.reader();
        let (jobs, received) = channel();
        let writer = Writer::new(log, vote, metrics, None);
        let turns = Turns { writer, jobs: received, gathered: Vec::new(), failed: false };
        (Wal { jobs, thread: Mutex::new(None), reader }, turns)
    }

    /// Hands a job in. Never blocks. After a failure, or [`Wal::stop`], jobs vanish unreported.
    pub fn submit(&self, job: Job) {
        // The receiver is gone only after the failure was reported or the thread was stopped: the driver knows already.
        let _ = self.jobs.send(Message::Job(job));
    }

    /// Reads entries while the thread writes.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// Bytes of the log on the disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.reader.bytes()
    }

    /// Carries out what was submitted before, then ends the thread and waits for it.
    pub fn stop(&self) {
        let Some(thread) = self.thread.lock().take() else { return };
        let _ = self.jobs.send(Message::Stop);
        if thread.join().is_err() {
            tracing::error!("the thread of the log panicked");
        }
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The turns of a log without a thread, one at a time: [`Turns::begin`], some time, [`Turns::finish`].
#[derive(Debug)]
pub struct Turns {
    writer: Writer,
    jobs: Receiver<Message>,
    gathered: Vec<Job>,
    failed: bool,
}

impl Turns {
    /// Takes the jobs of the next turn, as far as they have been submitted. Whether there are any.
    pub fn begin(&mut self) -> bool {
        let mut bytes = 0;
        while bytes < TURN_BYTES_MAX
            && let Ok(Message::Job(job)) = self.jobs.try_recv()
        {
            if let Job::Write { frames, .. } = &job {
                bytes += frames.iter().map(Bytes::len).sum::<usize>();
            }
            self.gathered.push(job);
        }
        !self.failed && !self.gathered.is_empty()
    }

    /// The jobs of the turn under way.
    #[must_use]
    pub fn under_way(&self) -> &[Job] {
        &self.gathered
    }

    /// Carries out the turn, and says what a thread would report. Nothing is reported after a failure.
    pub fn finish(&mut self) -> Option<WalEvent> {
        if self.failed {
            return None;
        }
        let jobs = std::mem::take(&mut self.gathered);
        let event = std::cell::Cell::new(None);
        let done = jobs.into_iter().try_for_each(|job| self.writer.take(job));
        let done = done.and_then(|()| self.writer.finish(&|reported| event.set(Some(reported))));
        if let Err(error) = done {
            self.failed = true;
            // A thread may have reported before it failed at what it does afterwards; the failure is what counts then.
            return Some(WalEvent::Failed { error: error.to_string() });
        }
        event.take()
    }

    /// What is to be done for the next segment, step by step, in between the turns.
    pub fn preparation(&mut self) -> Option<Preparation> {
        self.writer.log.preparation()
    }

    /// Takes a preparation back that is done, or failed.
    pub fn prepared(&mut self, preparation: Preparation, result: std::io::Result<()>) -> Option<WalEvent> {
        let error = self.writer.log.prepared(preparation, result).err()?;
        self.failed = true;
        Some(WalEvent::Failed { error: error.to_string() })
    }
}

/// Consecutive entries that will be one batch.
#[derive(Debug)]
struct Staged {
    first: Index,
    last: Index,
    commit: Index,
    frames: Vec<Bytes>,
}

impl Staged {
    fn batch(&self) -> Batch<'_> {
        Batch { first: self.first, last: self.last, commit: self.commit, frames: &self.frames }
    }
}

#[derive(Debug)]
struct Writer {
    log: Log,
    vote: VoteFile,
    metrics: Arc<Metrics>,
    /// Prepares the next segment.
    helper: Option<Helper>,
    staged: Option<Staged>,
    /// The highest token of this turn.
    done: Option<Token>,
    /// The highest cut of this turn: carried out after the report, which it need not delay.
    cut: Option<Index>,
    /// Bytes taken in this turn.
    bytes: usize,
}

impl Writer {
    fn new(log: Log, vote: VoteFile, metrics: Arc<Metrics>, helper: Option<Helper>) -> Writer {
        Writer { log, vote, metrics, helper, staged: None, done: None, cut: None, bytes: 0 }
    }

    fn run(mut self, jobs: &Receiver<Message>, notify: impl Fn(WalEvent)) {
        self.metrics.wal_bytes.set(i64::try_from(self.log.bytes()).unwrap_or(i64::MAX));
        // Ends with Stop, with the last sender, or with the first error.
        loop {
            match self.turn(jobs, &notify) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    notify(WalEvent::Failed { error: error.to_string() });
                    return;
                }
            }
        }
    }

    /// Waits for jobs and carries out all there are. `false` when it is to stop.
    fn turn(&mut self, jobs: &Receiver<Message>, notify: &impl Fn(WalEvent)) -> Result<bool, LogError> {
        let Ok(mut message) = jobs.recv() else { return Ok(false) };
        let mut more = true;
        loop {
            match message {
                Message::Job(job) => self.take(job)?,
                Message::Stop => more = false,
            }
            if !more || self.bytes >= TURN_BYTES_MAX {
                break;
            }
            match jobs.try_recv() {
                Ok(next) => message = next,
                Err(_) => break,
            }
        }
        self.finish(notify)?;
        Ok(more)
    }

    /// Makes durable what was taken, reports it, and does what may wait until after that.
    fn finish(&mut self, notify: &impl Fn(WalEvent)) -> Result<(), LogError> {
        let begun = (self.staged.is_some() || self.log.is_dirty()).then(Instant::now);
        match self.staged.take() {
            Some(staged) => self.log.append_durably(&staged.batch())?,
            None => self.log.sync()?,
        }
        let spent = begun.map(|at| at.elapsed());
        if let Some(token) = self.done.take() {
            notify(WalEvent::Persisted { token });
        }
        // Everything below is done while the report is on its way.
        if let Some(spent) = spent {
            self.metrics.fsync_seconds.observe(spent.as_secs_f64());
        }
        self.prepare()?;
        if let Some(upto) = self.cut.take() {
            self.log.cut(upto)?;
        }
        self.bytes = 0;
        self.metrics.wal_bytes.set(i64::try_from(self.log.bytes()).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Hands over what makes the next segment ready, and takes back what is done.
    fn prepare(&mut self) -> Result<(), LogError> {
        let Some(helper) = &self.helper else { return Ok(()) };
        if let Some((preparation, result)) = helper.done() {
            self.log.prepared(preparation, result)?;
        }
        if let Some(preparation) = self.log.preparation() {
            helper.submit(preparation);
        }
        Ok(())
    }

    fn take(&mut self, job: Job) -> Result<(), LogError> {
        match job {
            Job::Write { token, first, last, mut frames, commit } => {
                self.bytes += frames.iter().map(Bytes::len).sum::<usize>();
                match &mut self.staged {
                    Some(staged) if staged.last.next() == first => {
                        staged.last = last;
                        staged.commit = staged.commit.max(commit);
                        staged.frames.append(&mut frames);
                    }
                    _ => {
                        self.write_staged()?;
                        self.staged = Some(Staged { first, last, commit, frames });
                    }
                }
                self.done = Some(token);
            }
            Job::SaveVote { token, term, voted_for } => {
                // Durable before the entries staged so far, which were asked for earlier: harmless, they
                // are not reported yet. The other way round would not be: entries of a term must never
                // outlive the vote cast in it.
                self.vote
                    .save(term, voted_for)
                    .map_err(|source| LogError::Io { what: "save the vote beside", source })?;
                self.done = Some(token);
            }
            Job::Reset { token, last } => {
                self.write_staged()?;
                self.log.reset(last)?;
                self.done = Some(token);
            }
            Job::Cut { upto } => self.cut = self.cut.max(Some(upto)),
        }
        Ok(())
    }

    fn write_staged(&mut self) -> Result<(), LogError> {
        self.staged.take().map_or(Ok(()), |staged| self.log.append(&staged.batch()))
    }
}
