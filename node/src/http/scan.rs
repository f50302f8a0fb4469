//! Whole ranges as a stream: at one revision, in key order, with a bounded amount of memory.
//!
//! The view of the data moves to a blocking thread for one chunk at a time (the engine may read its disk) and comes back with it. The
//! next chunk is made only when the connection has taken the last one, so a slow reader costs one chunk, and what the view pins. How many there may be
//! of either, and for how long, is [`Ranges`]' to say.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::{HeaderValue, VARY};
use hyper::{Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::error::{Code, Failure};
use super::face::{Answer, Face};
use super::json::{push_item, push_key, push_number, push_value};
use super::respond::{Body, REVISION, full, keeping};
use crate::handle::ReadError;
use crate::kv::{StoreError, View};

/// Text made in one go: large enough to be worth the trip to a thread. One value more may go beyond it.
const CHUNK_BYTES: usize = 64 << 10;

/// Of a page: what is put together in memory before it is sent, at most, and one value more.
pub(super) const PAGE_BYTES_MAX: usize = 4 << 20;

/// Pages and short ranges that are being put together or on their way out, all together: thirty-two of the largest.
const TEXT_BYTES_MAX: usize = 128 << 20;

/// In so large pieces that memory is given out.
const UNIT_BYTES: usize = 64 << 10;

/// Streams at once. Each may be the last to hold two tables of the overlay, 128 MiB, and keeps the engine from removing old files: at the very worst they
/// are a gigabyte together. Listings go page by page; who streams makes a backup.
pub(super) const STREAMS_MAX: usize = 8;

/// A stream that takes longer is broken off: what it pins must come free. In so long even a slow network takes some ten gigabytes.
const STREAM_TIME_MAX: Duration = Duration::from_secs(3600);

/// What all ranges of a port share.
pub(super) struct Ranges {
    text: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// How long a range waits for others to end.
    patience: Duration,
}

impl Ranges {
    /// None under way.
    pub(super) fn new(patience: Duration) -> Ranges {
        Ranges::bounded(patience, TEXT_BYTES_MAX, STREAMS_MAX)
    }

    fn bounded(patience: Duration, text_bytes: usize, streams: usize) -> Ranges {
        let text = Arc::new(Semaphore::new(text_bytes / UNIT_BYTES));
        Ranges { text, streams: Arc::new(Semaphore::new(streams)), patience }
    }

    /// Room for text, or a stream's place.
    async fn room(&self, of: &Arc<Semaphore>, units: usize) -> Result<OwnedSemaphorePermit, Failure> {
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        match tokio::time::timeout(self.patience, Arc::clone(of).acquire_many_owned(units)).await {
            Ok(Ok(room)) => Ok(room),
            _ => Err(Failure::new(Code::Overloaded, "too many ranges are being read: try again in a moment")),
        }
    }
}

/// How the items of a range look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One JSON object, key → value.
    Object,
    /// `{"keys":[…]}`.
    Keys,
    /// One [`quorate_api::KeyValue`] a line.
    Lines,
    /// [`quorate_api::Page`]: ends with where to go on, and is never streamed.
    Page,
}

impl Form {
    /// Text made in one go, and one value more.
    fn target(self) -> usize {
        if self == Form::Page { PAGE_BYTES_MAX } else { CHUNK_BYTES }
    }
}

/// A range.
#[derive(Clone)]
pub(super) struct Range {
    /// Keys that start so.
    pub prefix: Vec<u8>,
    /// And come after this one.
    pub after: Option<Vec<u8>>,
    /// And so many at most.
    pub limit: u64,
}

/// A range on its way out.
pub(super) struct Scan {
    cursor: Option<Box<Cursor>>,
    making: Option<Making>,
    first: Option<Bytes>,
    until: Instant,
    _place: OwnedSemaphorePermit,
}

/// The next piece of text and where the scan stands then, unless the engine cannot be read.
type Making = JoinHandle<Result<(Box<Cursor>, Vec<u8>), StoreError>>;

/// Where a scan stands.
struct Cursor {
    view: View,
    range: Range,
    form: Form,
    begun: bool,
    any: bool,
    done: bool,
}

impl Cursor {
    /// The next piece of text, about [`CHUNK_BYTES`] of it.
    fn advance(&mut self) -> Result<Vec<u8>, StoreError> {
        let mut out = Vec::with_capacity(4 << 10);
        if !self.begun {
            self.begun = true;
            self.open(&mut out);
        }
        let target = self.form.target();
        let mut last: Option<Bytes> = None;
        let mut more = false;
        for entry in self.view.try_scan(&self.range.prefix, self.range.after.as_deref()) {
            let (key, item) = entry?;
            if self.range.limit == 0 || out.len() >= target {
                more = true;
                break;
            }
            self.range.limit -= 1;
            if self.any && self.form != Form::Lines {
                out.push(b',');
            }
            self.any = true;
            match self.form {
                Form::Keys => push_key(&mut out, &key),
                Form::Object => {
                    push_key(&mut out, &key);
                    out.push(b':');
                    push_value(&mut out, &item.value);
                }
                Form::Lines => {
                    push_item(&mut out, &key, &item);
                    out.push(b'\n');
                }
                Form::Page => push_item(&mut out, &key, &item),
            }
            last = Some(key);
        }
        self.done = !more || self.range.limit == 0 || self.form == Form::Page;
        if self.done {
            self.close(&mut out, last.as_deref().filter(|_| more));
        }
        if let Some(key) = last {
            self.range.after = Some(key.to_vec());
        }
        Ok(out)
    }

    fn open(&self, out: &mut Vec<u8>) {
        match self.form {
            Form::Object => out.push(b'{'),
            Form::Keys => out.extend_from_slice(b"{\"keys\":["),
            Form::Lines => {}
            Form::Page => {
                out.push(b'{');
                push_number(out, "revision", self.view.revision());
                out.extend_from_slice(b",\"items\":[");
            }
        }
    }

    fn close(&self, out: &mut Vec<u8>, next: Option<&[u8]>) {
        match self.form {
            Form::Object => out.push(b'}'),
            Form::Keys => out.extend_from_slice(b"]}"),
            Form::Lines => {}
            Form::Page => {
                out.push(b']');
                if let Some(key) = next {
                    out.extend_from_slice(b",\"next\":");
                    push_key(out, key);
                }
                out.push(b'}');
            }
        }
    }
}

fn make(mut cursor: Box<Cursor>) -> Making {
    tokio::task::spawn_blocking(move || {
        let chunk = cursor.advance()?;
        Ok((cursor, chunk))
    })
}

/// The beginning of a range as of now, with the memory that it takes.
async fn begin(face: &Face, range: Range, form: Form) -> Result<(Box<Cursor>, Vec<u8>, OwnedSemaphorePermit), Failure> {
    let ranges = &face.ranges;
    let mut room = ranges.room(&ranges.text, form.target() / UNIT_BYTES).await?;
    // Not before there is room: what waits must pin nothing.
    let view = face.handle.view();
    let cursor = Box::new(Cursor { view, range, form, begun: false, any: false, done: false });
    let made =
        make(cursor).await.map_err(|_| Failure::new(Code::Internal, "reading the range hit a defect of the node"))?;
    // The node ends over it, as over a key that cannot be read.
    let (cursor, chunk) = made.map_err(|_| ReadError::Stopping)?;
    let spare = room.num_permits().saturating_sub(chunk.len().div_ceil(UNIT_BYTES));
    drop(room.split(spare));
    Ok((cursor, chunk, room))
}

/// The response with a range: at once if it is small, as a stream if not.
pub(super) async fn respond(face: &Face, range: Range, form: Form) -> Answer {
    let (mut cursor, mut chunk, mut room) = begin(face, range.clone(), form).await?;
    let mut place = None;
    if !cursor.done {
        let streams = &face.ranges.streams;
        place = Arc::clone(streams).try_acquire_owned().ok();
        if place.is_none() {
            drop((cursor, chunk, room));
            place = Some(face.ranges.room(streams, 1).await?);
            (cursor, chunk, room) = begin(face, range, form).await?;
        }
    }
    let kind = match form {
        Form::Lines => HeaderValue::from_static("application/x-ndjson"),
        _ => super::respond::JSON,
    };
    let revision = cursor.view.revision();
    let chunk = keeping(chunk, room);
    let mut response = match place {
        Some(place) if !cursor.done => {
            let until = Instant::now() + STREAM_TIME_MAX;
            let scan = Scan { cursor: Some(cursor), making: None, first: Some(chunk), until, _place: place };
            let mut response: Response<Body> = full(StatusCode::OK, kind, Bytes::new());
            *response.body_mut() = Body::Scan(Box::new(scan));
            response
        }
        _ => full(StatusCode::OK, kind, chunk),
    };
    if matches!(form, Form::Lines | Form::Page) {
        response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        response.headers_mut().insert(REVISION, revision.into());
    }
    Ok(response)
}

impl Scan {
    /// The next chunk; an error breaks the stream off, so that a client does not take half a range for all of it.
    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if Instant::now() >= self.until && (self.cursor.take().is_some() | self.making.take().is_some()) {
            let error = io::Error::new(io::ErrorKind::TimedOut, "the range took longer to be read than any may");
            return Poll::Ready(Some(Err(error)));
        }
        if self.making.is_none() {
            match self.cursor.take() {
                Some(cursor) => self.making = Some(make(cursor)),
                None => return Poll::Ready(None),
            }
        }
        let Some(making) = &mut self.making else { return Poll::Ready(None) };
        match Pin::new(making).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(made) => {
                self.making = None;
                let made = made.map_err(io::Error::other).and_then(|made| made.map_err(io::Error::other));
                Poll::Ready(Some(made.map(|(cursor, chunk)| {
                    self.cursor = (!cursor.done).then_some(cursor);
                    chunk.into()
                })))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Store;

    #[tokio::test]
    async fn a_stream_that_takes_too_long_is_broken_off_and_pins_nothing_any_more() {
        let ranges = Ranges::new(Duration::ZERO);
        let place = ranges.room(&ranges.streams, 1).await.expect("a place");
        let view = Store::memory().view();
        let range = Range { prefix: Vec::new(), after: None, limit: u64::MAX };
        let cursor = Box::new(Cursor { view, range, form: Form::Object, begun: true, any: true, done: false });
        let first = Some(Bytes::from_static(b"{"));
        let mut scan = Scan { cursor: Some(cursor), making: None, first, until: Instant::now(), _place: place };
        let mut next = async || std::future::poll_fn(|cx| scan.poll_chunk(cx)).await;
        assert_eq!(next().await.expect("a chunk").expect("what is made"), "{");
        assert_eq!(next().await.expect("a chunk").expect_err("the time is over").kind(), io::ErrorKind::TimedOut);
        assert!(next().await.is_none() && scan.cursor.is_none());
    }

    #[tokio::test]
    async fn ranges_wait_for_one_another_and_are_refused_when_that_takes_too_long() {
        let ranges = Ranges::bounded(Duration::from_secs(30), 2 * UNIT_BYTES, 1);
        let mut both = ranges.room(&ranges.text, 2).await.expect("all there is");
        let waiting = ranges.room(&ranges.text, 1);
        drop(both.split(1));
        drop(waiting.await.expect("room again"));
        let hasty = Ranges { patience: Duration::from_millis(1), ..ranges };
        let refused = hasty.room(&hasty.text, 2).await.expect_err("one of two is taken");
        assert_eq!(refused.code(), Code::Overloaded);
    }
}
