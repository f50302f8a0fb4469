//! The life of the process: probes first, then the lease, then the controllers; in the other order when it stops.
//!
//! Losing the lease ends the process with an error: whatever it was doing, another operator may be doing now.
//!
//! Before: `main`. After: [`crate::controller`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{FutureExt, join_all};
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::ServeArgs;
use crate::controller;
use crate::lease::Candidate;
use crate::metrics::Metrics;
use crate::node::Nodes;
use crate::probes::{self, Health};
use crate::reconcile::Context;
use crate::watch::Watched;

/// How often the API server is asked at the start whether it is there.
const KNOCK: Duration = Duration::from_secs(1);
/// How long passes under way may take to finish after a signal; the pod is killed after 30 s.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No kubeconfig and no service account, or one that cannot be used.
    #[error("no way to the API server: {0}")]
    Config(String),
    /// The port of the probes.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Which.
        address: std::net::SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// Something of the process itself.
    #[error("cannot start: {0}")]
    Start(String),
    /// Another operator may act now.
    #[error("leadership is lost: {0}")]
    LeadershipLost(String),
}

/// Serves until a signal.
///
/// # Errors
/// When it cannot start, and when the lease is lost.
pub async fn run(args: ServeArgs) -> Result<(), RunError> {
    let start = |error: &dyn std::fmt::Display| RunError::Start(error.to_string());
    let metrics = Metrics::new().map_err(|e| start(&e))?;
    let listener = probes::bind(args.listen).await.map_err(|error| RunError::Listen { address: args.listen, error })?;
    let address = listener.local_addr().map_err(|error| RunError::Listen { address: args.listen, error })?;
    let ready = Arc::new(AtomicBool::new(false));
    let health = Health { ready: Arc::clone(&ready), metrics: metrics.clone() };
    let probes = tokio::spawn(probes::serve(listener, health));

    let config = kube::Config::infer().await.map_err(|e| RunError::Config(e.to_string()))?;
    let own_namespace = args.lease_namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(|e| RunError::Config(e.to_string()))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| start(&e))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| start(&e))?;
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    .shared();

    let identity = args.identity.clone().unwrap_or_else(|| format!("operator-{}", uuid::Uuid::new_v4().simple()));
    let candidate = Candidate::new(client.clone(), &own_namespace, &args.lease_name, &identity);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), identity, namespaces = ?args.namespace, image = args.default_image, listen = %address, "starting");
    let acquired = async {
        knock(&client).await;
        ready.store(true, Ordering::Relaxed);
        if !args.no_leader_election {
            candidate.acquire().await;
        }
    };
    tokio::select! {
        () = acquired => {}
        () = stopped.clone() => {
            tracing::info!("stopped before this operator led");
            return Ok(());
        }
    }
    tracing::info!(lease = args.lease_name, "this operator acts now");
    metrics.leading(true);
    let result = lead(&args, client, &candidate, &metrics, &identity, stopped).await;
    metrics.leading(false);
    if !args.no_leader_election && result.is_ok() {
        candidate.release().await;
    }
    probes.abort();
    tracing::info!("stopped");
    result
}

/// Waits until the API server answers.
async fn knock(client: &Client) {
    while let Err(error) = client.apiserver_version().await {
        tracing::warn!(%error, "the API server does not answer");
        tokio::time::sleep(KNOCK).await;
    }
}

/// Runs the controllers while the lease is held and no signal came.
async fn lead(
    args: &ServeArgs,
    client: Client,
    candidate: &Candidate,
    metrics: &Metrics,
    identity: &str,
    stopped: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let nodes = Nodes::new().map_err(|e| RunError::Start(e.to_string()))?;
    let (stop, stopping) = watch::channel(false);
    let namespaces: Vec<Option<String>> =
        match args.namespace.iter().filter(|n| !n.is_empty()).cloned().map(Some).collect::<Vec<_>>() {
            none if none.is_empty() => vec![None],
            some => some,
        };
    let mut controllers = std::pin::pin!(join_all(namespaces.into_iter().map(|namespace| {
        let mut stopping = stopping.clone();
        let context = Context {
            client: client.clone(),
            nodes: nodes.clone(),
            identity: identity.to_owned(),
            default_image: args.default_image.clone(),
            metrics: metrics.clone(),
            watched: Arc::new(Watched::default()),
        };
        // An error means that the sender is gone, which is a stop, too.
        controller::run(context, namespace, async move { drop(stopping.wait_for(|stop| *stop).await) })
    })));
    let held =
        async { if args.no_leader_election { std::future::pending::<String>().await } else { candidate.hold().await } };
    let mut held = std::pin::pin!(held);
    tokio::select! {
        _ = &mut controllers => return Err(RunError::Start("the controllers ended by themselves".into())),
        // No graceful stop: whatever is under way must not go on.
        why = &mut held => return Err(RunError::LeadershipLost(why)),
        () = stopped => {}
    }
    tracing::info!("stopping: passes under way are finished");
    stop.send_replace(true);
    tokio::select! {
        _ = &mut controllers => Ok(()),
        why = held => Err(RunError::LeadershipLost(why)),
        () = tokio::time::sleep(STOP_PATIENCE) => {
            tracing::warn!("passes under way did not finish in time");
            Ok(())
        }
    }
}
