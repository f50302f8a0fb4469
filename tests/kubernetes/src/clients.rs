//! Clients of a cluster of pods that write down what they see, and what is made of it in the end.
//!
//! They come through the API server to each pod, so that a failure of any pod, and of the way to it, is theirs to live
//! with.

use std::time::Duration;

use quorate_history::{Call, History, Outcome, check};
use quorate_operator::names;
use quorate_tests::{Settings, Workload, eventually_in};

use crate::arena::{Arena, PATIENCE};
use crate::forward::Forward;

/// A request to a machine that is silent is given up after this, and the next pod asked.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Longest time without an acknowledged write while pods come and go. Seen with three tests at a time on two cores: up
/// to 1.6 s in a rollout of three pods, up to 1.8 s in one of some 140 deletions of a leader; a change of numbers costs
/// nothing that can be told. This is more than five times that.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

/// The same where a machine falls silent. Seen: 3.1 to 3.2 s, of which 3 are the clients' own patience with a pod that
/// does not answer. Whoever gives up on it may meet it once more, and an election on a busy machine take 3 s: that makes
/// 9 s, and this is half as much again, and a little.
pub const SILENCE_OF_MACHINE_MAX: Duration = Duration::from_secs(15);

/// Clients at work.
#[derive(Debug)]
pub struct Clients {
    workload: Workload,
    forwards: Vec<Forward>,
    /// When the first writes had been acknowledged.
    begun: Duration,
}

/// What the clients saw: judged, and nothing was lost or stale.
#[derive(Debug)]
pub struct Judged {
    history: History,
    begun: Duration,
    ended: Duration,
}

impl Clients {
    /// Starts them on a KVCluster of so many pods, and returns once writes are acknowledged.
    pub async fn start(arena: &Arena, cluster: &str, replicas: i32) -> Clients {
        let mut forwards = Vec::new();
        for pod in names::pods(cluster, replicas) {
            forwards.push(Forward::to_node(&arena.pods(), &pod).await);
        }
        let targets: Vec<_> = forwards.iter().map(Forward::target).collect();
        // Every operation passes the API server and a kubelet: few clients, or they would measure those. Many keys,
        // since each failure leaves open what became of the operations under way, and the search of whoever judges
        // grows with those of one key.
        let settings = Settings {
            http_clients: 3,
            redis_clients: 1,
            keys: 20,
            patience: ANSWER_MAX,
            pause: Duration::from_millis(20),
            ..Settings::default()
        };
        let mut clients = Clients { workload: Workload::start(&targets, &settings), forwards, begun: Duration::ZERO };
        clients.more(20).await;
        clients.begun = clients.clock();
        clients
    }

    /// Waits until so many more writes are acknowledged.
    pub async fn more(&self, writes: u64) {
        let target = self.workload.acknowledged() + writes;
        eventually_in(PATIENCE, &format!("{writes} more writes are acknowledged"), async || {
            let count = self.workload.acknowledged();
            if count >= target { Ok(()) } else { Err(format!("{} are missing", target - count)) }
        })
        .await;
    }

    /// The time of what they write down.
    #[must_use]
    pub fn clock(&self) -> Duration {
        self.workload.clock()
    }

    /// Ends them, and judges what they saw; for how long they waited, [`Judged::silent_at_most`] does.
    ///
    /// # Panics
    /// With what was lost or stale.
    pub async fn judged(self) -> Judged {
        let (begun, ended) = (self.begun, self.clock());
        let history = self.workload.stop().await;
        drop(self.forwards);
        if let Err(violation) = check(&history.operations) {
            panic!("{violation}");
        }
        Judged { history, begun, ended }
    }
}

impl Judged {
    /// Writes went on from the clients' start to their end.
    ///
    /// # Panics
    /// If for longer than this none was acknowledged to anybody.
    pub fn silent_at_most(&self, limit: Duration) {
        self.silent_at_most_within(self.begun, self.ended, limit);
    }

    /// Writes went on within a span.
    ///
    /// # Panics
    /// If for longer than this none was acknowledged to anybody.
    pub fn silent_at_most_within(&self, from: Duration, to: Duration, limit: Duration) {
        let silence = self.silence(from, to);
        println!(
            "the longest time without a write in {:.0} s: {:.2} s; {} operations",
            to.saturating_sub(from).as_secs_f64(),
            silence.as_secs_f64(),
            self.history.operations.len()
        );
        assert!(silence < limit, "no write was acknowledged for {silence:?}, and {limit:?} is the limit");
    }

    /// The longest time within a span in which no write was acknowledged: what a failure in it cost.
    #[must_use]
    pub fn silence(&self, from: Duration, to: Duration) -> Duration {
        let written = |o: &&quorate_history::Operation| {
            matches!(o.call, Call::Write { .. } | Call::Delete { .. }) && matches!(o.outcome, Outcome::Done { .. })
        };
        let answers = self.history.operations.iter().filter(written).filter_map(|o| o.returned);
        let mut moments: Vec<Duration> =
            answers.map(Duration::from_nanos).filter(|at| (from..to).contains(at)).collect();
        moments.extend([from, to]);
        moments.sort_unstable();
        moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}
