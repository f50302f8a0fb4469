//! The log of the process: one line for each event that matters, as text or JSON, with levels by module that may
//! be changed while it runs.
//!
//! A process has one log; in `quorate local` the nodes share it. What happens to writes is told on a target of its own,
//! [`WRITES`], which is silent unless it is asked for: one line where a client's request is answered, with its id and
//! the revision it got, and on every node lines that say up to which entry it has appended, synced, committed and
//! applied. So an id leads to a revision, and the revision through all nodes.

use std::io::IsTerminal;
use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;

/// The target of what happens to writes; `quorate::write=debug` in a filter shows it.
pub(crate) const WRITES: &str = "quorate::write";

/// The longest filter: far more modules than there are.
const FILTER_BYTES_MAX: usize = 4 << 10;

/// Puts another filter into force.
type Reload = Box<dyn Fn(EnvFilter) -> Result<(), tracing_subscriber::reload::Error> + Send + Sync>;

struct Log {
    /// What is in force, as it was written.
    filter: Mutex<String>,
    reload: Reload,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Why the log is not as it was asked to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The filter cannot be read.
    #[error(
        "{filter:?} is no log level ({reason}): give error, warn, info, debug or trace, or filters by module as in info,quorate::peer=debug"
    )]
    Filter {
        /// As it was given, cut if it is long.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The process has no log of ours.
    #[error("this process keeps no log that could be changed")]
    None,
    /// The log cannot be started or changed.
    #[error("cannot change the log: {0}")]
    Failed(String),
}

fn parsed(filter: &str) -> Result<EnvFilter, LogError> {
    let wrong = |reason: String| LogError::Filter { filter: filter.chars().take(80).collect(), reason };
    if filter.len() > FILTER_BYTES_MAX {
        return Err(wrong(format!("it has {} bytes, at most {FILTER_BYTES_MAX} are read", filter.len())));
    }
    if filter.trim().is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    EnvFilter::try_new(filter).map_err(|e| wrong(e.to_string()))
}

/// The same, and traces of writes to the collector at `endpoint`, whatever the filter of the log is. Once in a process.
#[cfg(feature = "otel")]
pub(crate) fn start_with_traces(filter: &str, json: bool, endpoint: &str) -> Result<(), LogError> {
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::layer::{Layer, SubscriberExt};
    use tracing_subscriber::util::SubscriberInitExt;

    let (shown, handle) = tracing_subscriber::reload::Layer::new(parsed(filter)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let lines = if json { lines.json().boxed() } else { lines.with_ansi(std::io::stderr().is_terminal()).boxed() };
    let traces =
        crate::traces::Traces::to(endpoint).map_err(|e| LogError::Failed(format!("no traces to {endpoint}: {e}")))?;
    let writes = Targets::new().with_target(WRITES, tracing::Level::DEBUG);
    tracing_subscriber::registry()
        .with(lines.with_filter(shown))
        .with(traces.with_filter(writes))
        .try_init()
        .map_err(|e| LogError::Failed(e.to_string()))?;
    keep(filter, Box::new(move |filter| handle.reload(filter)))
}

/// Sends the log to stderr, as far as the filter lets it through. Once in a process.
pub(crate) fn start(filter: &str, json: bool) -> Result<(), LogError> {
    // A line that cannot be written is dropped: by default its thread would complain on stderr, and
    // panic if that fails too.
    let log = tracing_subscriber::fmt()
        .with_env_filter(parsed(filter)?)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| LogError::Failed(e.to_string());
    let reload: Reload = if json {
        let log = log.json().with_filter_reloading();
        let handle = log.reload_handle();
        log.try_init().map_err(failed)?;
        Box::new(move |filter| handle.reload(filter))
    } else {
        let log = log.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
        let handle = log.reload_handle();
        log.try_init().map_err(failed)?;
        Box::new(move |filter| handle.reload(filter))
    };
    keep(filter, reload)
}

/// Remembers what is in force, and how that is changed.
fn keep(filter: &str, reload: Reload) -> Result<(), LogError> {
    let started = LOG.set(Log { filter: Mutex::new(filter.to_owned()), reload });
    started.map_err(|_| LogError::Failed("it was started before".to_owned()))
}

/// The filter in force; `None` if the process has no log of ours.
pub(crate) fn filter() -> Option<String> {
    LOG.get().map(|log| log.filter.lock().clone())
}

/// Puts another filter into force, for the whole process.
pub(crate) fn set_filter(filter: &str) -> Result<(), LogError> {
    let wanted = parsed(filter)?;
    let log = LOG.get().ok_or(LogError::None)?;
    // Held over both, so that what is shown is what is in force.
    let mut shown = log.filter.lock();
    (log.reload)(wanted).map_err(|e| LogError::Failed(e.to_string()))?;
    filter.clone_into(&mut shown);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_refused_with_what_to_give() {
        for filter in ["", "  ", "quorate=loud", &"x=info,".repeat(1_000)] {
            let text = parsed(filter).expect_err("refused").to_string();
            assert!(text.contains("error, warn, info") && text.len() < 400, "{text}");
        }
        assert!(parsed("info,quorate::peer=debug").is_ok());
    }
}
