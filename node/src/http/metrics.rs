//! `GET /metrics`: renders the node's registry as Prometheus text.

use hyper::StatusCode;
use hyper::header::HeaderValue;
use prometheus::{Encoder, TextEncoder};

use super::error::{Code, Failure};
use super::face::{Answer, Face};
use super::respond::full;

/// Renders everything registered, with this port's connections as of now.
pub(super) fn render(face: &Face) -> Answer {
    let metrics = face.handle.metrics();
    metrics.connections.with_label_values(&["http"]).set(face.connections() as f64);
    let encoder = TextEncoder::new();
    let mut text = Vec::with_capacity(32 << 10);
    encoder
        .encode(&metrics.registry.gather(), &mut text)
        .map_err(|error| Failure::new(Code::Internal, format!("the metrics cannot be rendered: {error}")))?;
    Ok(full(StatusCode::OK, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"), text.into()))
}
