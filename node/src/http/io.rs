//! A connection's bytes, with the two timeouts that a slow or silent peer must not escape.
//!
//! - A request's head that began to arrive must be complete within [`HEAD_TIMEOUT`]. hyper has such a timeout too, but it also ends idle
//!   connections, which are welcome here, and arms a timer for every request. This one exists only while a head is incomplete.
//! - A response must make progress within [`STALL_TIMEOUT`]: nobody keeps what it holds by not reading, or by a byte now and then.

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

/// For a client to take [`STALL_BYTES`] of a response, or all there are. As long as a body may take to arrive.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Two kilobytes a second: less than any network that is of use.
const STALL_BYTES: usize = 64 << 10;

/// One accepted connection.
pub(super) struct Io {
    stream: TcpStream,
    /// Whether a request is being handled: what arrives then is no head that anyone waits for. Set by the service.
    busy: Arc<AtomicBool>,
    head_begun: bool,
    head_deadline: Option<Pin<Box<Sleep>>>,
    stall: Stall,
    head_timeout: Duration,
}

impl Io {
    /// Wraps a connection; `busy` is shared with its service.
    pub(super) fn new(stream: TcpStream, busy: Arc<AtomicBool>, head_timeout: Duration) -> Io {
        Io { stream, busy, head_begun: false, head_deadline: None, stall: Stall::new(STALL_TIMEOUT), head_timeout }
    }

    fn wrote(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            // A response is under way, so the head it answers was complete.
            self.head_begun = false;
        }
        self.stall.wrote(cx, written)
    }
}

/// How a client that was waited for takes its response.
struct Stall {
    deadline: Option<Pin<Box<Sleep>>>,
    /// Since the deadline was set.
    taken: usize,
    timeout: Duration,
}

impl Stall {
    fn new(timeout: Duration) -> Stall {
        Stall { deadline: None, taken: 0, timeout }
    }

    fn wrote(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => expired(&mut self.deadline, self.timeout, cx, "the client does not read its response"),
            Poll::Ready(Ok(count)) if self.deadline.is_some() => {
                self.taken += count;
                if self.taken >= STALL_BYTES {
                    self.over();
                }
                written
            }
            Poll::Ready(_) => written,
        }
    }

    /// Enough was taken, or all there was.
    fn over(&mut self) {
        (self.deadline, self.taken) = (None, 0);
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
        // hyper asks for it when it has nothing left to write.
        let this = self.get_mut();
        this.stall.over();
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Until the client is given up: it takes so much each time that it has been waited for.
    async fn given_up_on(bytes: usize, rounds: usize, all: bool) -> bool {
        let mut stall = Stall::new(Duration::from_millis(100));
        for _ in 0..rounds {
            let pause = sleep(Duration::from_millis(10));
            let waited = async { poll_fn(|cx| stall.wrote(cx, Poll::Pending)).await.expect_err("given up") };
            let given_up = tokio::select! { biased; () = pause => None, error = waited => Some(error) };
            if let Some(error) = given_up {
                return error.kind() == ErrorKind::TimedOut;
            }
            let written = poll_fn(|cx| stall.wrote(cx, Poll::Ready(Ok(bytes)))).await.expect("taken");
            assert_eq!(written, bytes);
            if all {
                stall.over();
            }
        }
        false
    }

    #[tokio::test]
    async fn a_client_that_takes_a_byte_now_and_then_is_given_up_and_a_slow_one_is_not() {
        assert!(given_up_on(1, 1_000, false).await);
        assert!(!given_up_on(STALL_BYTES, 20, false).await);
        assert!(!given_up_on(1, 20, true).await, "these were responses of a byte");
    }
}
