//! Writers as careful clients are: each write has a value of its own, refusals are retried through the next node, and
//! an outcome that is not known is kept apart from both success and failure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::client::Answer;
use crate::cluster::Cluster;

/// Pause after a refusal, before the next node is asked.
const PAUSE: Duration = Duration::from_millis(10);

/// What writers saw.
#[derive(Debug, Default)]
pub struct Record {
    /// Key and value of every acknowledged write.
    pub acknowledged: BTreeMap<String, String>,
    /// Key and value of every write whose outcome is unknown.
    pub unknown: BTreeMap<String, String>,
    /// How often a write was refused and tried again.
    pub refused: u64,
    /// When writes were acknowledged, in order.
    pub moments: Vec<Instant>,
}

impl Record {
    /// The longest time without an acknowledged write.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        self.moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Checks what all nodes agree on: every acknowledged write is there; whatever else is there was written
    /// with an unknown outcome.
    ///
    /// # Panics
    /// If a write was lost or one nobody made is there.
    pub fn verify(&self, contents: &str) {
        let mut held = BTreeMap::new();
        for line in contents.lines() {
            let item: quorate_api::KeyValue = serde_json::from_str(line).expect("an item");
            held.insert(item.key, item.value.as_str().unwrap_or_default().to_owned());
        }
        let lost: Vec<&String> =
            self.acknowledged.iter().filter(|(k, v)| held.get(*k) != Some(v)).map(|(k, _)| k).collect();
        assert!(
            lost.is_empty(),
            "{} of {} acknowledged writes are lost: {lost:?}",
            lost.len(),
            self.acknowledged.len()
        );
        for (key, value) in held.iter().filter(|(k, _)| k.starts_with("load-")) {
            let known = self.acknowledged.get(key).or_else(|| self.unknown.get(key));
            assert_eq!(known, Some(value), "{key} is there, but nobody was told that it might be");
        }
    }

    /// A line for people.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{} acknowledged, {} unknown, {} refusals retried, longest time without an acknowledged write {} ms",
            self.acknowledged.len(),
            self.unknown.len(),
            self.refused,
            self.longest_gap().as_millis()
        )
    }
}

/// Writers at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    writers: Vec<JoinHandle<Record>>,
}

enum Outcome {
    Acknowledged,
    Refused,
    Unknown,
}

async fn write(http: &reqwest::Client, url: &str, key: &str, value: &str) -> Outcome {
    match Answer::try_of(http.put(format!("{url}/v1/kv/{key}")).body(value.to_owned())).await {
        Ok(answer) if answer.status == 200 => Outcome::Acknowledged,
        Ok(answer) if answer.status == 503 => Outcome::Refused,
        Ok(answer) if answer.status == 504 => Outcome::Unknown,
        Ok(answer) => panic!("a write was answered with {} {}", answer.status, answer.text()),
        // Nothing was sent: certain not to have happened.
        Err(error) if error.is_connect() => Outcome::Refused,
        Err(_) => Outcome::Unknown,
    }
}

impl Load {
    /// Starts writers, each with keys `load-<writer>-<number>`, spread over all nodes.
    #[must_use]
    pub fn start(cluster: &Cluster, writers: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let urls: Vec<String> = cluster.nodes.iter().map(|n| n.url.clone()).collect();
        let one = |writer: usize| {
            let (stop, count, urls, http) = (stop.clone(), count.clone(), urls.clone(), cluster.http.clone());
            tokio::spawn(async move {
                let mut record = Record::default();
                let mut node = writer;
                for number in 0_u64.. {
                    let (key, value) = (format!("load-{writer}-{number}"), format!("value of {writer}.{number}"));
                    loop {
                        if stop.load(Ordering::Relaxed) {
                            return record;
                        }
                        match write(&http, &urls[node % urls.len()], &key, &value).await {
                            Outcome::Acknowledged => {
                                record.moments.push(Instant::now());
                                record.acknowledged.insert(key, value);
                                count.fetch_add(1, Ordering::Relaxed);
                                break;
                            }
                            Outcome::Unknown => {
                                record.unknown.insert(key, value);
                                node += 1;
                                break;
                            }
                            Outcome::Refused => {
                                record.refused += 1;
                                node += 1;
                                tokio::time::sleep(PAUSE).await;
                            }
                        }
                    }
                }
                record
            })
        };
        Load { writers: (0..writers).map(one).collect(), stop, count }
    }

    /// Waits until so many more writes are acknowledged.
    pub async fn more(&self, writes: u64) {
        let target = self.count.load(Ordering::Relaxed) + writes;
        crate::wait::eventually(&format!("{writes} more writes are acknowledged"), || async {
            let count = self.count.load(Ordering::Relaxed);
            if count >= target { Ok(()) } else { Err(format!("{} are missing", target - count)) }
        })
        .await;
    }

    /// Acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Ends the writers; what they saw.
    pub async fn stop(self) -> Record {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Record::default();
        for writer in self.writers {
            let one = writer.await.expect("a writer");
            all.acknowledged.extend(one.acknowledged);
            all.unknown.extend(one.unknown);
            all.refused += one.refused;
            all.moments.extend(one.moments);
        }
        all.moments.sort_unstable();
        all
    }
}
