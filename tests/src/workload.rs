//! Clients that write down what they see: each with one operation at a time, unique values, and times of one clock.
//!
//! Owns the choice of operations and what an answer means for the history: whatever the product promises did not
//! happen is refused, whatever it leaves open is unknown, and so is every answer that did not come. It judges nothing:
//! that is for `quorate_history`.
//!
//! Clients never give up on a cluster that is hurt: after a refusal or a broken connection they go to the next node.

mod http;
mod redis;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate_history::generate::Dice;
use quorate_history::{Call, Condition, Consistency, History, Operation, Outcome};
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use http::HttpClient;
use redis::RedisClient;

/// Pause after an answer that is neither yes nor no, before the next node is asked: a node that
/// is down answers at once.
const PAUSE: Duration = Duration::from_millis(10);

/// Where a node listens for clients.
#[derive(Clone, Debug)]
pub struct Target {
    /// `http://host:port`
    pub http: String,
    /// `host:port` of the Redis protocol.
    pub tcp: String,
}

/// What clients do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Clients over HTTP.
    pub http_clients: usize,
    /// Clients over the Redis protocol.
    pub redis_clients: usize,
    /// Keys all of them share: few, so that they meet.
    pub keys: u64,
    /// Before the keys' numbers; a second workload on the same cluster needs another.
    pub prefix: String,
    /// What the choice of operations follows from.
    pub seed: u64,
    /// A client waits so long for an answer before it counts the outcome as unknown.
    pub patience: Duration,
    /// Between two operations of a client: bounds the load and the length of the history.
    pub pause: Duration,
}

impl Default for Settings {
    /// Eight clients on five keys, each with at most about 200 operations a second.
    fn default() -> Settings {
        Settings {
            http_clients: 5,
            redis_clients: 3,
            keys: 5,
            prefix: "h".to_owned(),
            seed: 1,
            patience: Duration::from_secs(8),
            pause: Duration::from_millis(5),
        }
    }
}

/// Clients at work.
#[derive(Debug)]
pub struct Workload {
    start: Instant,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<Operation>>>,
}

impl Cluster {
    /// Where its nodes listen for clients.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        self.nodes.iter().map(|n| Target { http: n.url.clone(), tcp: n.tcp.clone() }).collect()
    }
}

impl Workload {
    /// Starts the clients, spread over the nodes.
    #[must_use]
    pub fn start(targets: &[Target], settings: &Settings) -> Workload {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = Instant::now();
        let http = reqwest::Client::builder().no_proxy().timeout(settings.patience).build().expect("an HTTP client");
        let one = |number: usize| {
            let transport = if number < settings.http_clients {
                Transport::Http(HttpClient::new(http.clone()))
            } else {
                Transport::Redis(RedisClient::new(settings.patience))
            };
            let client = Client {
                process: number as u64,
                settings: settings.clone(),
                targets: targets.to_vec(),
                node: number,
                dice: Dice::new(settings.seed.wrapping_mul(1_000).wrapping_add(number as u64)),
                transport,
                start,
                seen: 0,
                last: None,
                stop: stop.clone(),
                acknowledged: acknowledged.clone(),
            };
            tokio::spawn(client.run())
        };
        let clients = (0..settings.http_clients + settings.redis_clients).map(one).collect();
        Workload { start, stop, acknowledged, clients }
    }

    /// Writes and deletions acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// The clock of the history, now.
    #[must_use]
    pub fn clock(&self) -> Duration {
        self.start.elapsed()
    }

    /// Waits until so many more writes are acknowledged.
    pub async fn more(&self, writes: u64) {
        let target = self.acknowledged() + writes;
        crate::wait::eventually(&format!("{writes} more writes are acknowledged"), || async {
            let count = self.acknowledged();
            if count >= target { Ok(()) } else { Err(format!("{} are missing", target - count)) }
        })
        .await;
    }

    /// Ends the clients, each after its operation; what they saw.
    ///
    /// # Panics
    /// If a client did.
    pub async fn stop(self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        let mut operations = Vec::new();
        for client in self.clients {
            operations.extend(client.await.expect("a client"));
        }
        operations.sort_by_key(|o| o.invoked);
        History { operations }
    }
}

/// Adds to a history what the cluster holds in the end: `contents` is what [`Cluster::converged`] returns.
///
/// # Panics
/// If it is not.
pub fn add_end(history: &mut History, contents: &str) {
    let mut held = std::collections::BTreeMap::new();
    for line in contents.lines() {
        let item: quorate_api::KeyValue = serde_json::from_str(line).expect("an item");
        held.insert(item.key, (item.value.as_str().unwrap_or_default().to_owned(), item.revision));
    }
    history.ends_with(|key| held.get(key).cloned());
}

/// What an operation brought, and whether the client should turn to another node.
struct Told {
    outcome: Outcome,
    elsewhere: bool,
}

impl Told {
    fn certain(outcome: Outcome) -> Told {
        Told { outcome, elsewhere: false }
    }

    /// Nothing was done there.
    fn refused() -> Told {
        Told { outcome: Outcome::Refused, elsewhere: true }
    }

    /// It may have been done, or not. A read is lost either way.
    fn unknown() -> Told {
        Told { outcome: Outcome::Unknown, elsewhere: true }
    }
}

#[derive(Debug)]
enum Transport {
    Http(HttpClient),
    Redis(RedisClient),
}

struct Client {
    process: u64,
    settings: Settings,
    targets: Vec<Target>,
    node: usize,
    dice: Dice,
    transport: Transport,
    start: Instant,
    /// The highest revision it was shown: what its session reads ask for.
    seen: u64,
    /// Key and revision of what it was shown last: what its conditions hang on.
    last: Option<(String, u64)>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl Client {
    async fn run(mut self) -> Vec<Operation> {
        let mut operations = Vec::new();
        for number in 0_u64.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let (key, call) = self.choose(number);
            let target = self.targets[self.node % self.targets.len()].clone();
            let invoked = self.now();
            let told = match &mut self.transport {
                Transport::Http(client) => client.perform(&target, &key, &call, self.seen).await,
                Transport::Redis(client) => client.perform(&target, &key, &call).await,
            };
            // An operation without an answer has no end.
            let returned = (told.outcome != Outcome::Unknown).then(|| self.now());
            self.learn(&key, &told.outcome);
            operations.push(Operation { process: self.process, key, invoked, returned, call, outcome: told.outcome });
            if told.elsewhere {
                self.node += 1;
                tokio::time::sleep(PAUSE).await;
            } else if self.dice.percent(2) {
                // Sessions are worth something only if they go on at another node.
                self.node += 1;
            }
            tokio::time::sleep(self.settings.pause).await;
        }
        operations
    }

    /// Nanoseconds since the start, on the monotonic clock all clients share.
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn choose(&mut self, number: u64) -> (String, Call) {
        let key = format!("{}-{}", self.settings.prefix, self.dice.below(self.settings.keys));
        let http = matches!(self.transport, Transport::Http(_));
        let value = format!("{}.{number}", self.process);
        let known = self.last.clone().filter(|_| http);
        match self.dice.below(100) {
            0..35 => (key, Call::Write { value, condition: Condition::None }),
            35..45 => match known {
                Some((key, revision)) => (key, Call::Write { value, condition: Condition::Revision(revision) }),
                None => (key, Call::Write { value, condition: Condition::Absent }),
            },
            45..48 => (key, Call::Write { value, condition: Condition::Present }),
            48..51 => (key, Call::Write { value, condition: Condition::Absent }),
            51..54 => (key, Call::Delete { condition: Condition::None }),
            54..62 if http => (key, Call::Read { consistency: Consistency::Session }),
            62..66 if http => (key, Call::Read { consistency: Consistency::Local }),
            _ => (key, Call::Read { consistency: Consistency::Linearizable }),
        }
    }

    fn learn(&mut self, key: &str, outcome: &Outcome) {
        let revision = match outcome {
            Outcome::Found { revision, .. } => *revision,
            Outcome::Done { revision } => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                *revision
            }
            _ => None,
        };
        if let Some(revision) = revision {
            self.seen = self.seen.max(revision);
            self.last = Some((key.to_owned(), revision));
        }
    }
}
