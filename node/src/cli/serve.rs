//! `quorate serve`: one node in the foreground, until a signal, a `SHUTDOWN` or a failure.

use quorum::Quorum;
use tracing::{error, info};

use super::output::{Failure, print};
use super::settings::{self, Machine, ServeArgs};
use super::{Stop, files, runtime, start_logging};
use crate::node::{Ended, Node};

/// Runs the node. Returns when it has ended in good order.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let mut options = args.options(&Machine::ask()).map_err(|e| Failure::Usage(e.to_string()))?;
    if args.check {
        return print(settings::show(&options));
    }
    // The engine narrates its housekeeping; what it warns of is still shown.
    start_logging(&args.common, "info,fjall=warn,lsm_tree=warn")?;
    for line in settings::retired(|name| std::env::var_os(name).is_some()) {
        tracing::warn!("{line}");
    }
    if let Some(warning) = files::fit_connections(std::slice::from_mut(&mut options)) {
        tracing::warn!("{warning}");
    }
    if let Some(quorum) = options.form.as_ref().and_then(|f| Quorum::new(f.replicas, f.write_quorum).ok()) {
        info!("if its disk is empty this node forms a cluster: {}", quorum.explain());
    }
    runtime()?.block_on(async {
        let mut stop = Stop::listen()?;
        let name = options.name.clone();
        let (http, tcp, peer) = (options.http, options.tcp, options.peer);
        loop {
            let mut node = Node::start(options.clone()).await.map_err(start_failure)?;
            info!(node = name, %http, %tcp, %peer, "the node listens");
            tokio::select! {
                _ = node.ended() => {}
                () = stop.asked() => info!("stopping: leadership is handed over first; once more ends it at once"),
            }
            match node.stop().await {
                Ended::Asked => {
                    info!("stopped; the data stays");
                    return Ok(());
                }
                // Its place among the others is taken by the new one, as soon as that has caught up.
                ended @ Ended::Forgot { .. } => error!("node {name}: {ended}, and starts again"),
                ended => return Err(Failure::Error(format!("node {name} ended: {ended}"))),
            }
        }
    })
}

/// A node that does not start is a matter of settings (exit code 2) unless its data is at fault.
pub(crate) fn start_failure(error: crate::node::StartError) -> Failure {
    match error {
        crate::node::StartError::Data(_) => Failure::Error(error.to_string()),
        _ => Failure::Usage(error.to_string()),
    }
}
