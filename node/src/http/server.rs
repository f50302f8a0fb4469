//! Accepting connections, and ending them.
//!
//! An accept loop of its own instead of a framework's, because connections are counted and bounded here, get their socket options, and
//! are drained for a bounded time when the node stops. What a request means is [`super::face`]'s business.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};

use super::face::Face;
use super::io::{HEAD_TIMEOUT, Io};
use super::respond::Body;
use crate::handle::Handle;

/// How long connections may finish what they are doing when the node stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Pause after a failed accept, which means that the process has no file descriptors left: trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An idle connection is asked for a sign of life after this long, and then every [`KEEPALIVE_INTERVAL`]; the system's own count of
/// unanswered ones ends it. A client whose machine vanished is gone within minutes rather than hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Header lines of a request; browsers behind proxies send about thirty.
const HEADERS_MAX: usize = 100;

/// What one connection buffers of a request before it is handled: the longest allowed URI and headers of 16 KiB beside it.
const BUFFER_BYTES_MAX: usize = 32 << 10;

/// What a connection over the limit is told before it is closed.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n\
content-length: 95\r\n\r\n{\"error\":{\"code\":\"overloaded\",\"message\":\"this node has as many connections as it allows now\"}}\n";

/// Who answers the requests of a port.
pub(super) trait Answers: Send + Sync + 'static {
    /// The response, whatever happens.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

/// A port's bounds, and when to end.
pub(super) struct Port {
    /// Connections open on it, counted here.
    pub open: Arc<AtomicUsize>,
    /// Most of them.
    pub limit: usize,
    /// How long a head may take to arrive.
    pub head_timeout: Duration,
    /// Turns true when the port is to end.
    pub stopping: watch::Receiver<bool>,
}

/// What connections share with the loop that accepts them.
struct Server<A> {
    answers: A,
    stopping: AtomicBool,
    stop: Notify,
    head_timeout: Duration,
}

/// Counts a connection for as long as it lives.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves HTTP on the listener until the node is asked to stop, then lets connections finish for a bounded time.
pub async fn serve(listener: TcpListener, handle: Handle) {
    serve_with(listener, handle, HEAD_TIMEOUT).await;
}

/// As [`serve`], with another timeout for heads: tests have no ten seconds.
pub(super) async fn serve_with(listener: TcpListener, handle: Handle, head_timeout: Duration) {
    let open = Arc::new(AtomicUsize::new(0));
    let limit = handle.options().limits.http_connections;
    let stopping = handle.stopping();
    let face = Face::new(handle, Arc::clone(&open));
    serve_port(listener, face, Port { open, limit, head_timeout, stopping }).await;
}

/// Serves any port whose requests someone answers.
pub(super) async fn serve_port<A: Answers>(listener: TcpListener, answers: A, port: Port) {
    let Port { open, limit, head_timeout, mut stopping } = port;
    let server = Arc::new(Server { answers, stopping: AtomicBool::new(false), stop: Notify::new(), head_timeout });
    // Every connection holds a sender; when all are dropped, the receiver knows that none is left.
    let (alive, mut all_ended) = mpsc::channel::<()>(1);
    {
        let mut stop = pin!(stopping.wait_for(|stop| *stop));
        loop {
            let accepted = tokio::select! {
                biased;
                _ = &mut stop => break,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an HTTP connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let count = Open(Arc::clone(&open));
            if open.fetch_add(1, Ordering::Relaxed) >= limit {
                // A fresh socket's buffer takes this at once; if not, closing says enough.
                let _ = stream.try_write(FULL);
                continue;
            }
            tokio::spawn(connection(stream, Arc::clone(&server), (count, alive.clone())));
        }
    }
    drop(listener);
    drop(alive);
    server.stopping.store(true, Ordering::SeqCst);
    server.stop.notify_waiters();
    if tokio::time::timeout(DRAIN, all_ended.recv()).await.is_err() {
        tracing::info!(connections = open.load(Ordering::Relaxed), "HTTP connections were cut when the node stopped");
    }
}

/// Whether a failed accept concerns only the connection that was to be accepted.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}

/// How the protocol is spoken on every connection.
pub(super) fn protocol() -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol.header_read_timeout(None).max_headers(HEADERS_MAX).max_buf_size(BUFFER_BYTES_MAX);
    protocol
}

async fn connection<A: Answers>(stream: TcpStream, server: Arc<Server<A>>, _while_open: (Open, mpsc::Sender<()>)) {
    // Without these the connection works too, only worse.
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);

    let busy = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(Io::new(stream, Arc::clone(&busy), server.head_timeout));
    let service = service_fn(|request: Request<Incoming>| {
        busy.store(true, Ordering::Relaxed);
        let (busy, server) = (&busy, &server);
        async move {
            let response = server.answers.answer(request).await;
            busy.store(false, Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut served = pin!(protocol().serve_connection(io, service));

    // The signal to stop is polled once, to register for it; after that a flag is looked at. Polling it at every turn would make all
    // connections share a lock for each request.
    let mut stop = pin!(server.stop.notified());
    let mut registered = false;
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = served.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        if !registered {
            registered = true;
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
        }
        if server.stopping.load(Ordering::SeqCst) { Poll::Ready(None) } else { Poll::Pending }
    })
    .await;
    let ended = match ended {
        Some(ended) => ended,
        None => {
            served.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN, served).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_answer_to_a_connection_too_many_is_well_formed() {
        let text = std::str::from_utf8(super::FULL).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{} in {head}", body.len());
        let _: quorate_api::ErrorBody = serde_json::from_str(body).expect("the shape of errors");
    }
}
