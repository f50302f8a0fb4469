//! Traces of writes for an OpenTelemetry collector. Only with the feature `otel`, and only where an endpoint is given.
//!
//! Owns: spans made of the lines on the target of writes ([`WRITES`]), which exist for the log anyway, and the thread
//! that sends them. Nothing on a write's way knows of it and nothing waits for it: when spans come faster than they are
//! sent, spans are dropped.
//!
//! One write is one trace, though it passes several processes: its trace id is a hash of the cluster and the revision,
//! which every node knows, so no node has to be told. The node that took the request sends the span `request`, each
//! node that holds the entry a span `copy` below it, and below that `sync`, `commit` and `apply`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status as Outcome, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::logging::WRITES;

/// Groups of entries that a node is followed through at once: those under way, by a wide margin.
/// The oldest are given up.
const GROUPS_MAX: usize = 1_024;
/// How long the collector may take to answer; spans that come meanwhile wait in a bounded queue.
const SEND_MAX: Duration = Duration::from_secs(5);

/// What is to be sent at the end of the process.
static SENDING: OnceLock<Arc<BatchSpanProcessor>> = OnceLock::new();

/// Why there are no traces.
pub(crate) type TracesError = Box<dyn std::error::Error + Send + Sync>;

/// Makes spans of lines.
pub(crate) struct Traces {
    sending: Arc<BatchSpanProcessor>,
    /// By the node's name: in `quorate local` several share a process.
    nodes: Mutex<HashMap<String, VecDeque<Group>>>,
}

/// Entries that one node appended together, and when they came how far.
struct Group {
    cluster: String,
    first: u64,
    last: u64,
    appended: SystemTime,
    synced: Option<SystemTime>,
    committed: Option<SystemTime>,
    applied: Option<SystemTime>,
}

impl Traces {
    /// Sends to the collector at `endpoint`, over HTTP as JSON.
    pub(crate) fn to(endpoint: &str) -> Result<Traces, TracesError> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Sender::new()?)
            .with_protocol(Protocol::HttpJson)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(SEND_MAX)
            .build()?;
        let mut sending = BatchSpanProcessor::builder(exporter).build();
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        sending.set_resource(&Resource::builder().with_service_name("quorate").with_attribute(version).build());
        let sending = Arc::new(sending);
        if SENDING.set(Arc::clone(&sending)).is_err() {
            return Err("traces were started before".into());
        }
        Ok(Traces { sending, nodes: Mutex::default() })
    }

    /// A request was answered: it began `micros` before now.
    fn answered(&self, line: &Line, now: SystemTime) {
        let Some(trace) = line.revision().map(|revision| trace_id(&line.cluster, revision)) else { return };
        let mut span = span(trace, "request", "request", None, (now - Duration::from_micros(line.micros), now));
        span.span_kind = SpanKind::Server;
        // Whoever asked with an error of its own (a condition that failed) was answered all the same.
        span.status = if line.status >= 500 { Outcome::error(line.status.to_string()) } else { Outcome::Ok };
        span.attributes = vec![
            KeyValue::new("http.route", line.route.clone()),
            KeyValue::new("http.response.status_code", line.status as i64),
            KeyValue::new("quorate.request_id", line.request.clone()),
            KeyValue::new("quorate.revision", line.revision.clone()),
            KeyValue::new("quorate.term", line.term.clone()),
            KeyValue::new("quorate.copies", line.copies.clone()),
            KeyValue::new("quorate.node", line.node.clone()),
        ];
        self.sending.on_end(span);
    }

    /// A node came so far with the entries up to `line.upto`.
    fn passed(&self, line: &Line, now: SystemTime) {
        let mut nodes = self.nodes.lock();
        let Some(groups) = nodes.get_mut(&line.node) else { return };
        for group in groups.iter_mut().filter(|g| g.last <= line.upto) {
            let passed = match line.message.as_str() {
                "synced" => &mut group.synced,
                "committed" => &mut group.committed,
                "applied" => &mut group.applied,
                _ => return,
            };
            passed.get_or_insert(now);
        }
        // The own disk may be the last to have it: others committed it, and it is applied here, too.
        while let Some((synced, applied)) = groups.front().and_then(|g| Some((g.synced?, g.applied?))) {
            let Some(group) = groups.pop_front() else { break };
            self.copy(&line.node, &group, synced, applied);
        }
    }

    fn appended(&self, line: &Line, now: SystemTime) {
        let mut nodes = self.nodes.lock();
        let groups = nodes.entry(line.node.clone()).or_default();
        // Entries of another leader took the place of those that were there.
        groups.retain(|g| g.last < line.first);
        if groups.len() >= GROUPS_MAX {
            groups.pop_front();
        }
        let (cluster, first, last) = (line.cluster.clone(), line.first, line.last);
        groups.push_back(Group { cluster, first, last, appended: now, synced: None, committed: None, applied: None });
    }

    /// The spans of a node's copy of these entries.
    fn copy(&self, node: &str, group: &Group, synced: SystemTime, applied: SystemTime) {
        let (committed, ended) = (group.committed.unwrap_or(applied), synced.max(applied));
        for revision in group.first..=group.last {
            let trace = trace_id(&group.cluster, revision);
            let request = span_id(trace, "request");
            let mut copy = span(trace, "copy", &format!("copy {node}"), Some(request), (group.appended, ended));
            copy.attributes = vec![
                KeyValue::new("quorate.node", node.to_owned()),
                KeyValue::new("quorate.revision", i64::try_from(revision).unwrap_or(i64::MAX)),
                KeyValue::new("quorate.entries_in_sync", (group.last - group.first + 1) as i64),
            ];
            let parent = Some(copy.span_context.span_id());
            let parts = [
                ("sync", group.appended, synced),
                ("commit", group.appended, committed),
                ("apply", committed, applied),
            ];
            for (name, from, to) in parts {
                self.sending.on_end(span(trace, name, &format!("{name} {node}"), parent, (from, to.max(from))));
            }
            self.sending.on_end(copy);
        }
    }
}

/// Sends what is left. At the end of the process, when its nodes have ended.
pub(crate) fn end() {
    if let Some(sending) = SENDING.get()
        && let Err(error) = sending.shutdown_with_timeout(SEND_MAX)
    {
        tracing::warn!(%error, "the last spans were not sent");
    }
}

impl<S: Subscriber> Layer<S> for Traces {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if event.metadata().target() != WRITES {
            return;
        }
        let now = SystemTime::now();
        let mut line = Line::default();
        event.record(&mut line);
        match line.message.as_str() {
            "answered" => self.answered(&line, now),
            "appended" => self.appended(&line, now),
            _ => self.passed(&line, now),
        }
    }
}

/// The fields of a line about writes; what a line does not have stays empty.
#[derive(Default)]
struct Line {
    message: String,
    node: String,
    cluster: String,
    request: String,
    route: String,
    revision: String,
    term: String,
    copies: String,
    status: u64,
    micros: u64,
    first: u64,
    last: u64,
    upto: u64,
}

impl Line {
    /// Of what was written; a refused request has none.
    fn revision(&self) -> Option<u64> {
        self.revision.parse().ok()
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let place = match field.name() {
            "message" => &mut self.message,
            "node" => &mut self.node,
            "cluster" => &mut self.cluster,
            "request" => &mut self.request,
            "route" => &mut self.route,
            "revision" => &mut self.revision,
            "term" => &mut self.term,
            "copies" => &mut self.copies,
            _ => return,
        };
        value.clone_into(place);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "status" => self.status = value,
            "micros" => self.micros = value,
            "first" => self.first = value,
            "last" => self.last = value,
            "upto" => self.upto = value,
            _ => {}
        }
    }
}

fn span(
    trace: TraceId,
    name: &'static str,
    unique: &str,
    parent: Option<SpanId>,
    (start_time, end_time): (SystemTime, SystemTime),
) -> SpanData {
    SpanData {
        span_context: SpanContext::new(trace, span_id(trace, unique), TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: parent.unwrap_or(SpanId::INVALID),
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time,
        end_time,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Outcome::Unset,
        instrumentation_scope: InstrumentationScope::builder("quorate").build(),
    }
}

/// The same on every node of the cluster.
fn trace_id(cluster: &str, revision: u64) -> TraceId {
    TraceId::from_bytes(hash(&[cluster.as_bytes(), &revision.to_be_bytes()]).to_be_bytes())
}

/// The same for whoever names the span, so that a child knows its parent on another node.
fn span_id(trace: TraceId, unique: &str) -> SpanId {
    let hash = hash(&[&trace.to_bytes(), unique.as_bytes()]);
    SpanId::from_bytes(((hash >> 64) as u64 ^ hash as u64).to_be_bytes())
}

/// FNV-1a of 128 bits (draft-eastlake-fnv): ids must be the same in every build, which the standard library's
/// hasher does not promise.
fn hash(parts: &[&[u8]]) -> u128 {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    parts.iter().flat_map(|part| part.iter()).fold(BASIS, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

/// Sends a batch. On the processor's own thread, which may wait: no runtime of the nodes has to be there.
#[derive(Debug)]
struct Sender {
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Sender {
    fn new() -> Result<Sender, TracesError> {
        let client = reqwest::Client::builder().no_proxy().timeout(SEND_MAX).build()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Sender { client, runtime })
    }
}

#[async_trait::async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let ask = self.client.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body);
        self.runtime.block_on(async {
            let answer = ask.send().await?;
            let status = answer.status();
            let mut response = Response::new(answer.bytes().await?);
            *response.status_mut() = status;
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_same_on_every_node_and_different_for_every_write_and_span() {
        assert_eq!(trace_id("c", 7), trace_id("c", 7));
        let traces: std::collections::HashSet<TraceId> = (0..10_000).map(|revision| trace_id("c", revision)).collect();
        assert_eq!(traces.len(), 10_000);
        assert!(!traces.contains(&trace_id("d", 7)));
        let trace = trace_id("c", 7);
        assert_ne!(span_id(trace, "copy node1"), span_id(trace, "copy node2"));
        assert_ne!(span_id(trace, "request"), span_id(trace_id("c", 8), "request"));
    }
}
