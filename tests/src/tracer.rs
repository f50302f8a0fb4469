//! A node's disk as a thing that can be hurt: strace, attached to the one thread that writes the log, delays its
//! system calls or has them fail.
//!
//! The product has no switch for this and the file system under it is the real one. The engine's threads are left
//! alone: what is acknowledged hangs on the log's thread only. Needs Debian's `strace`, and the right to trace a
//! process of one's own (root, or `ptrace_scope` 0).

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::process::Node;
use crate::wait::eventually;

/// The thread of a node that owns its log.
const WRITER: &str = "wal";

/// What happens to the log's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Every sync takes so much longer, and every write, since most are synchronous (`O_DSYNC`).
    SlowSync(Duration),
    /// Every sync fails with an input/output error, and every write.
    FailingSync,
    /// Every write to a file fails for want of space. Only positioned writes, which the log's files alone see: a plain
    /// `write` of that thread also rings the runtime's eventfd, which no full disk ever refuses.
    NoSpace,
}

/// Trouble that lasts as long as this does.
#[derive(Debug)]
pub struct Tracer(Child);

impl Tracer {
    /// Hurts the disk of a node that runs; returns when the trouble is there.
    ///
    /// # Panics
    /// If strace is absent or may not attach.
    pub async fn attach(node: &Node, trouble: Trouble) -> Tracer {
        let thread = node.thread(WRITER);
        let inject = match trouble {
            Trouble::SlowSync(time) => format!("inject=fsync,fdatasync,pwrite64:delay_enter={}", time.as_micros()),
            Trouble::FailingSync => "inject=fsync,fdatasync,pwrite64:error=EIO".to_owned(),
            Trouble::NoSpace => "inject=pwrite64:error=ENOSPC".to_owned(),
        };
        let trace = if trouble == Trouble::NoSpace { "pwrite64" } else { "fsync,fdatasync,pwrite64" };
        let mut strace = Command::new("strace");
        strace.args([
            "-q",
            "-o",
            "/dev/null",
            "-e",
            &format!("trace={trace}"),
            "-e",
            &inject,
            "-p",
            &thread.to_string(),
        ]);
        let child = strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut tracer = Tracer(child.expect("strace (scripts/setup installs it)"));
        eventually("strace is attached to the log's thread", || {
            let ended = tracer.0.try_wait().ok().flatten();
            let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
            let traced = status.lines().any(|l| l.strip_prefix("TracerPid:").is_some_and(|p| p.trim() != "0"));
            // Ended in good order: the trouble came at once, and the node has ended of it.
            let done = ended.is_some_and(|status| status.success());
            assert!(done || ended.is_none(), "strace cannot attach to a process of ours: {ended:?}");
            async move { if traced || done { Ok(()) } else { Err("not yet".to_owned()) } }
        })
        .await;
        tracer
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Asked politely it lets go of the thread first.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}
