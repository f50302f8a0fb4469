//! What happened, one line an event, in columns: time in microseconds, host, role and term, what.

/// The lines of a run, if they are wanted.
#[derive(Debug, Default)]
pub struct Trace {
    lines: Option<Vec<String>>,
    /// Events so far, kept or not.
    pub events: u64,
}

impl Trace {
    /// A trace that keeps its lines, or only counts.
    #[must_use]
    pub fn new(kept: bool) -> Trace {
        Trace { lines: kept.then(Vec::new), events: 0 }
    }

    /// Whether lines are kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.lines.is_some()
    }

    /// Something happened.
    pub fn say(&mut self, now: u64, host: &str, role: impl FnOnce() -> String, what: impl FnOnce() -> String) {
        self.events += 1;
        if let Some(lines) = &mut self.lines {
            let seconds = format!("{}.{:06}", now / 1_000_000, now % 1_000_000);
            lines.push(format!("{seconds:>12} {host:<5} {:<8} {}", role(), what()));
        }
    }

    /// The last so many, without heartbeats.
    #[must_use]
    pub fn recent(&self, lines: usize) -> Vec<String> {
        let told = self.lines.iter().flatten().filter(|line| !line.contains("heartbeat"));
        let mut last: Vec<String> = told.rev().take(lines).cloned().collect();
        last.reverse();
        last
    }

    /// The lines.
    #[must_use]
    pub fn lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
