//! Responses: the body type, and the few forms nearly every response has.
//!
//! A response to a put or a get is built from one buffer: its numbers are slices of it, shared between headers and body.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use super::scan::Scan;

/// Log index of the last write of what is shown.
pub(super) const REVISION: HeaderName = HeaderName::from_static("x-quorate-revision");
/// Writes since the key was created.
pub(super) const VERSION: HeaderName = HeaderName::from_static("x-quorate-version");
/// The term, of the write or of the node that reads.
pub(super) const TERM: HeaderName = HeaderName::from_static("x-quorate-term");
/// Name of the node that answers.
pub(super) const NODE: HeaderName = HeaderName::from_static("x-quorate-node");
/// Durable copies when the write was acknowledged.
pub(super) const COPIES: HeaderName = HeaderName::from_static("x-quorate-copies");

/// `true` on the answer to a write that was done before, under the same idempotency key.
pub(super) const REPEATED: HeaderName = HeaderName::from_static("x-quorate-repeated");

/// The type of JSON.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Headers of the largest response of the hot routes: content type, etag, five of ours, and hyper's two.
const HEADERS: usize = 12;

/// What follows the head of a response.
pub(super) enum Body {
    /// These bytes, or nothing more.
    Full(Option<Bytes>),
    /// A range of the data, chunk by chunk.
    Scan(Box<Scan>),
    /// Events, for as long as the client listens.
    Events(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match self.get_mut() {
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::Scan(scan) => scan.poll_chunk(cx).map(|chunk| chunk.map(|c| c.map(Frame::data))),
            Body::Events(events) => events.as_mut().poll_next(cx).map(|event| event.map(|e| Ok(Frame::data(e)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Body::Scan(_) | Body::Events(_) => SizeHint::default(),
        }
    }
}

/// A response with these bytes.
pub(super) fn full(status: StatusCode, kind: HeaderValue, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::Full((!bytes.is_empty()).then_some(bytes)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.reserve(HEADERS);
    headers.insert(CONTENT_TYPE, kind);
    response
}

/// Bytes that hold a place for as long as some of them have not been sent.
pub(super) fn keeping(bytes: Vec<u8>, place: OwnedSemaphorePermit) -> Bytes {
    struct Kept(Vec<u8>, #[expect(dead_code, reason = "given back when it is dropped")] OwnedSemaphorePermit);
    impl AsRef<[u8]> for Kept {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Kept(bytes, place))
}

/// A response with this JSON text.
pub(super) fn json(status: StatusCode, text: Bytes) -> Response<Body> {
    full(status, JSON, text)
}

/// A response with what serializes.
pub(super) fn json_of(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    json(status, serde_json::to_vec(value).unwrap_or_default().into())
}

/// Text put together piece by piece, whose pieces become header values without being copied.
pub(super) struct Sheet(Vec<u8>);

/// A piece of a [`Sheet`].
pub(super) type Piece = std::ops::Range<usize>;

impl Sheet {
    /// An empty sheet with room for the text of any hot response.
    pub(super) fn new() -> Sheet {
        Sheet(Vec::with_capacity(192))
    }

    /// Appends text.
    pub(super) fn text(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    /// Appends a number.
    pub(super) fn number(&mut self, number: u64) -> Piece {
        let start = self.0.len();
        self.0.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        start..self.0.len()
    }

    /// Appends an entity tag.
    pub(super) fn etag(&mut self, revision: u64) -> Piece {
        let start = self.0.len();
        self.0.push(b'"');
        self.number(revision);
        self.0.push(b'"');
        start..self.0.len()
    }

    /// How long the text is so far.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The finished text, to be sliced.
    pub(super) fn finish(self) -> Bytes {
        self.0.into()
    }
}

/// A piece of a finished sheet as a header value. Sheets hold digits and quotes there, which are always valid.
pub(super) fn header(sheet: &Bytes, piece: Piece) -> HeaderValue {
    HeaderValue::from_maybe_shared(sheet.slice(piece)).unwrap_or(HeaderValue::from_static("0"))
}
