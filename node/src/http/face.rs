//! From a request to its response: match the route, do it, measure it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use prometheus::Histogram;

use super::error::{Code, Failure, Shape};
use super::events::Events;
use super::origin::Guard;
use super::relay::{self, Relay};
use super::respond::{Body, COPIES, REVISION, TERM};
use super::route::{NoRoute, Route, resolve, shape};
use super::scan::Ranges;
use super::server::Answers;
use super::{admin, health, lab, metrics, request, ui, v1};
use crate::handle::Handle;
use crate::logging::WRITES;

/// What every handler gives back.
pub(super) type Answer = Result<Response<Body>, Failure>;

/// Room in a JSON body beside the value: for the longest key, however it is escaped, and for the escapes of ordinary text. (A value near the
/// limit that consists of escapes goes through `/v1` instead, which takes it raw.)
const BODY_MARGIN_BYTES: usize = 64 << 10;

/// A client's own name for a request: comes back in the answer, and stands in the log (see [`crate::logging`]).
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer one is none: the log's lines stay short.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Everything the handlers share.
pub(super) struct Face {
    /// The node.
    pub handle: Handle,
    /// Its name, ready to be sent.
    pub node: HeaderValue,
    /// Connections open on this port.
    pub open: Arc<AtomicUsize>,
    /// Largest body with a value alone in it, and of anything else.
    pub value_bytes_max: usize,
    pub body_bytes_max: usize,
    /// Longest URI.
    uri_bytes_max: usize,
    /// Durations of what went well, by route number: looked up once, since finding a label costs more than observing.
    ok_seconds: Vec<Histogram>,
    /// Who follows this node, and through it the cluster.
    events: Events,
    /// Listings and exports under way.
    pub ranges: Ranges,
    /// Requests on their way to other members.
    pub relay: Relay,
    guard: Guard,
}

/// A handler whose panic is an answer too. (A release build aborts on a panic instead: the process manager starts the node again.)
async fn shielded(handler: impl Future<Output = Answer>) -> Answer {
    let failed = |_| Err(Failure::new(Code::Internal, "this request hit a defect of the node: see its log"));
    AssertUnwindSafe(handler).catch_unwind().await.unwrap_or_else(failed)
}

impl Face {
    /// A face of this node.
    pub(super) fn new(handle: Handle, open: Arc<AtomicUsize>) -> Face {
        let seconds = &handle.metrics().request_seconds;
        let ok_seconds = Route::ALL.iter().map(|r| seconds.with_label_values(&[r.name(), "ok"])).collect();
        let limits = &handle.options().limits;
        Face {
            node: HeaderValue::from_str(&handle.options().name).unwrap_or(HeaderValue::from_static("?")),
            open,
            value_bytes_max: limits.value_bytes,
            body_bytes_max: limits.value_bytes + BODY_MARGIN_BYTES,
            // Every byte of a key may be sent as %XX; the rest is for the path before it and the query behind it.
            uri_bytes_max: 3 * limits.key_bytes + 4096,
            ok_seconds,
            events: Events::new(),
            ranges: Ranges::new(handle.options().request_timeout),
            relay: Relay::new(),
            guard: Guard::of_node(handle.options()),
            handle,
        }
    }

    /// Connections open on this port.
    pub(super) fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Answers one request, when the node is not held still. Never fails and never panics: what goes wrong is an answer too.
    async fn answer_one(&self, request: Request<Incoming>) -> Response<Body> {
        let arrived = Instant::now();
        self.handle.awake().await;
        let shape = shape(request.uri().path());
        let resolved = match resolve(request.method().as_str(), request.uri().path()) {
            Ok((route, _)) => Ok(route),
            Err(NoRoute::Method(allow)) => Err(Failure::method_not_allowed(allow)),
            Err(NoRoute::Path) => {
                Err(Failure::new(Code::RouteNotFound, "there is no such route: GET / lists those there are"))
            }
        };
        let resolved = resolved.and_then(|route| self.guard.check(&request).map(|()| route));
        let id = request.headers().get(&REQUEST_ID).filter(|id| id.len() <= REQUEST_ID_BYTES_MAX).cloned();
        let (route, answer) = match resolved {
            Ok(route) => (route, shielded(self.perform(route, request)).await),
            Err(failure) => (Route::Other, Err(failure)),
        };
        let mut response = self.finish(route, shape, arrived, answer);
        let id = if tracing::enabled!(target: WRITES, tracing::Level::DEBUG) {
            self.tell(route, id, arrived, &response)
        } else {
            id
        };
        if let Some(id) = id {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }

    /// Logs how a write was answered, under the id that its client gave it, or a new one. Other requests leave no line.
    fn tell(
        &self,
        route: Route,
        id: Option<HeaderValue>,
        arrived: Instant,
        response: &Response<Body>,
    ) -> Option<HeaderValue> {
        if !route.writes() {
            return id;
        }
        let id = id.or_else(|| HeaderValue::try_from(uuid::Uuid::new_v4().simple().to_string()).ok())?;
        let text = |value: Option<&HeaderValue>| value.and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
        let of = |name| text(response.headers().get(name));
        tracing::debug!(
            target: WRITES,
            node = %self.handle.options().name,
            cluster = self.handle.shared.cluster(),
            request = text(Some(&id)),
            route = route.name(),
            status = response.status().as_u16(),
            revision = of(&REVISION),
            term = of(&TERM),
            copies = of(&COPIES),
            micros = arrived.elapsed().as_micros() as u64,
            "answered"
        );
        Some(id)
    }

    fn finish(&self, route: Route, shape: Shape, arrived: Instant, answer: Answer) -> Response<Body> {
        let seconds = arrived.elapsed().as_secs_f64();
        let (response, outcome) = match answer {
            Ok(response) if response.status().is_success() || response.status() == StatusCode::NOT_MODIFIED => {
                self.ok_seconds[route as usize].observe(seconds);
                return response;
            }
            // The lab routes say "not found" in a shape of their own.
            Ok(response) if response.status() == StatusCode::NOT_FOUND => (response, Code::KeyNotFound.name()),
            Ok(response) => (response, "not_ready"),
            Err(failure) => {
                let code = failure.code();
                let metrics = self.handle.metrics();
                match code {
                    Code::OutcomeUnknown => metrics.unknown_outcomes.inc(),
                    Code::KeyNotFound => {}
                    _ => metrics.refused.with_label_values(&[code.name()]).inc(),
                }
                (failure.into_response(shape), code.name())
            }
        };
        self.handle.metrics().request_seconds.with_label_values(&[route.name(), outcome]).observe(seconds);
        response
    }

    async fn perform(&self, route: Route, request: Request<Incoming>) -> Answer {
        let uri_bytes = request.uri().path_and_query().map_or(0, |p| p.as_str().len());
        if uri_bytes > self.uri_bytes_max {
            let message = format!("the URI has {uri_bytes} bytes, the limit is {}", self.uri_bytes_max);
            return Err(Failure::new(Code::UriTooLong, message));
        }
        match route {
            Route::V1Put => v1::put(self, request).await,
            Route::V1Get => v1::get(self, request).await,
            Route::Write => lab::write(self, request).await,
            // Everything else is boxed, so that the future each connection keeps room for is that of the hot routes.
            _ => Box::pin(self.perform_other(route, request)).await,
        }
    }

    async fn perform_other(&self, route: Route, request: Request<Incoming>) -> Answer {
        match route {
            Route::V1Delete => v1::delete(self, request).await,
            Route::V1List => v1::list(self, request).await,
            Route::Read => lab::read(self, &request).await,
            Route::Data => lab::data(self).await,
            Route::Keys => lab::keys(self, &request).await,
            Route::KvPut => lab::kv_put(self, request).await,
            Route::KvGet => lab::kv_get(self, &request).await,
            Route::KvDelete => lab::kv_delete(self, &request).await,
            Route::Health => Ok(health::health(self)),
            Route::Root => Ok(ui::root(self, &request)),
            Route::Ui => ui::asset(&request),
            Route::V1Events => self.events.answer(&self.handle, &request),
            Route::V1Nodes => relay::at_member(self, request).await,
            Route::Map => lab::map(self, &request),
            Route::Workers => Ok(lab::workers(self)),
            Route::Gone => Err(lab::gone()),
            Route::V1Status => Ok(admin::status(self)),
            Route::V1Config => admin::config(self, request).await,
            Route::V1Transfer => admin::transfer(self, request).await,
            Route::V1Members => admin::members(self, request).await,
            Route::V1Campaign => admin::campaign(self, &request).await,
            Route::V1Log => admin::log(self, request).await,
            Route::V1Later => Err(request::not_implemented("this route")),
            Route::Metrics => metrics::render(self),
            Route::Livez => Ok(health::livez()),
            Route::Readyz => Ok(health::readyz(self)),
            Route::V1Put | Route::V1Get | Route::Write | Route::Other => {
                Err(Failure::new(Code::Internal, "a route was not dispatched"))
            }
        }
    }
}

impl Answers for Face {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        self.answer_one(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_handler_that_panics_is_a_500_and_not_the_end_of_the_server() {
        let answer = shielded(async { panic!("on purpose") }).await;
        let response = answer.map(|_| ()).expect_err("a failure").into_response(Shape::V1);
        assert_eq!(response.status(), 500);
    }

    #[test]
    fn routes_are_numbered_as_their_histograms_are() {
        for (number, route) in Route::ALL.iter().enumerate() {
            assert_eq!(*route as usize, number);
        }
    }
}
