//! Whole ranges as a stream: at one revision, in key order, with a bounded amount of memory.
//!
//! The view of the data moves to a blocking thread for one chunk at a time (the engine may read its disk) and comes back with it. The
//! next chunk is made only when the connection has taken the last one, so a slow reader costs one chunk.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::header::{HeaderValue, VARY};
use hyper::{Response, StatusCode};
use tokio::task::JoinHandle;

use super::error::{Code, Failure};
use super::face::Answer;
use super::json::{push_item, push_key, push_number, push_value};
use super::respond::{Body, full};
use crate::handle::ReadError;
use crate::kv::{StoreError, View};

/// Text made in one go: large enough to be worth the trip to a thread. One value more may go beyond it.
const CHUNK_BYTES: usize = 64 << 10;

/// Of a page: what is put together in memory before it is sent, at most, and one value more.
pub(super) const PAGE_BYTES_MAX: usize = 4 << 20;

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

/// A range.
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
        let target = if self.form == Form::Page { PAGE_BYTES_MAX } else { CHUNK_BYTES };
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

/// The response with a range: at once if it is small, as a stream if not.
pub(super) async fn respond(view: View, range: Range, form: Form) -> Answer {
    let cursor = Box::new(Cursor { view, range, form, begun: false, any: false, done: false });
    let made =
        make(cursor).await.map_err(|_| Failure::new(Code::Internal, "reading the range hit a defect of the node"))?;
    // The node ends over it, as over a key that cannot be read.
    let (cursor, chunk) = made.map_err(|_| ReadError::Stopping)?;
    let kind = match form {
        Form::Lines => HeaderValue::from_static("application/x-ndjson"),
        _ => super::respond::JSON,
    };
    let mut response = if cursor.done {
        full(StatusCode::OK, kind, chunk.into())
    } else {
        let mut response: Response<Body> = full(StatusCode::OK, kind, Bytes::new());
        let scan = Scan { cursor: Some(cursor), making: None, first: Some(chunk.into()) };
        *response.body_mut() = Body::Scan(Box::new(scan));
        response
    };
    if matches!(form, Form::Lines | Form::Page) {
        response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    }
    Ok(response)
}

impl Scan {
    /// The next chunk; an error breaks the stream off, so that a client does not take half a range for all of it.
    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
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
