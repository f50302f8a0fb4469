//! The operator's own HTTP port: `/healthz` (the process answers), `/readyz` (the API server has answered it), `/metrics`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// What the port tells.
#[derive(Clone, Debug)]
pub struct Health {
    /// Whether the API server has answered.
    pub ready: Arc<AtomicBool>,
    /// Counts.
    pub metrics: Metrics,
}

/// Binds the port.
///
/// # Errors
/// When it is taken.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, std::io::Error> {
    TcpListener::bind(address).await
}

/// Answers until it is dropped.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, health: Health) -> Result<(), std::io::Error> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(|State(health): State<Health>| async move { health.metrics.text() }))
        .with_state(health);
    axum::serve(listener, router).await
}

async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the API server has not answered yet\n")
    }
}
