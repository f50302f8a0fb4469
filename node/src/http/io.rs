//! A connection's bytes, with the two timeouts that a slow or silent peer must not escape.
//!
//! - A request's head that began to arrive must be complete within [`HEAD_TIMEOUT`]. hyper has such a timeout too, but it also ends idle
//!   connections, which are welcome here, and arms a timer for every request. This one exists only while a head is incomplete.
//! - A response must make progress within [`STALL_TIMEOUT`]: nobody keeps a view of the data open by not reading.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// From the first byte of a request's head to its last. A head is one packet or a few; ten seconds is beyond any honest network.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Without a byte taken by the client's side. As long as a body may take to arrive.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// One accepted connection.
pub(super) struct Io {
    stream: TcpStream,
    /// Whether a request is being handled: what arrives then is no head that anyone waits for. Set by the service.
    busy: Arc<AtomicBool>,
    head_begun: bool,
    head_deadline: Option<Pin<Box<Sleep>>>,
    stall_deadline: Option<Pin<Box<Sleep>>>,
    head_timeout: Duration,
}

impl Io {
    /// Wraps a connection; `busy` is shared with its service.
    pub(super) fn new(stream: TcpStream, busy: Arc<AtomicBool>, head_timeout: Duration) -> Io {
        Io { stream, busy, head_begun: false, head_deadline: None, stall_deadline: None, head_timeout }
    }

    fn wrote(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            // A response is under way, so the head it answers was complete.
            self.head_begun = false;
            self.stall_deadline = None;
            return written;
        }
        expired(&mut self.stall_deadline, STALL_TIMEOUT, cx, "the client does not read its response")
    }
}

/// Pending until the deadline, which starts to run at the first call.
fn expired<T>(
    deadline: &mut Option<Pin<Box<Sleep>>>,
    after: Duration,
    cx: &mut Context<'_>,
    why: &'static str,
) -> Poll<io::Result<T>> {
    let sleep = deadline.get_or_insert_with(|| Box::pin(sleep(after)));
    sleep.as_mut().poll(cx).map(|()| Err(io::Error::new(ErrorKind::TimedOut, why)))
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let busy = this.busy.load(Ordering::Relaxed);
        if busy {
            this.head_begun = false;
        }
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(result) => {
                this.head_begun |= !busy && buf.filled().len() > before;
                Poll::Ready(result)
            }
            Poll::Pending if this.head_begun => {
                expired(&mut this.head_deadline, this.head_timeout, cx, "the request's head does not arrive")
            }
            Poll::Pending => {
                this.head_deadline = None;
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
