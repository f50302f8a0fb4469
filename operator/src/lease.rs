//! One operator acts, others wait: leadership over a Lease, by compare-and-swap of its resource version.
//!
//! Whoever holds it renews it; whoever waits takes it over once it has not been renewed for its duration, measured by the waiter's own clock from when it first
//! saw that renewal (clocks of machines are not compared). A holder that cannot renew in time ends: the process exits, and nothing acts on an old right. Two
//! operators at once would do no harm to data (every change of a cluster names the version it is based on), but they would quarrel.
//!
//! Before: [`crate::run`]. After: [`crate::controller`] runs only while the lease is held.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::Instant;

/// How long a lease holds without renewal. Kubernetes' own controllers take 15 s; an operator that is away delays no failover, so there is no need for less.
const DURATION: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(3);
/// Without a renewal for this long the holder gives up, whatever it waits for then: a good while before others may take over.
const GIVE_UP: Duration = Duration::from_secs(10);
/// How often a waiter looks.
const LOOK: Duration = Duration::from_secs(2);
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// One candidate.
#[derive(Clone)]
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
}

/// The lease as it was read: who, and the renewal that shows life.
#[derive(Clone, Debug, PartialEq)]
struct Sighting {
    holder: String,
    renewed: Option<MicroTime>,
    version: Option<String>,
}

/// What came of renewing the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    Done,
    /// Somebody wrote it in between.
    Conflict,
    /// Another holds it.
    Taken,
}

impl Candidate {
    /// A candidate for the lease of this name. The identity must be unique: a pod's name.
    #[must_use]
    pub fn new(client: kube::Client, namespace: &str, name: &str, identity: &str) -> Candidate {
        Candidate { api: Api::namespaced(client, namespace), name: name.to_owned(), identity: identity.to_owned() }
    }

    /// Waits until the lease is this process's.
    pub async fn acquire(&self) {
        let mut last: Option<(Sighting, Instant)> = None;
        loop {
            match tokio::time::timeout(PATIENCE, self.try_acquire(&mut last)).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, lease = self.name, "the lease cannot be read or taken"),
                Err(_) => tracing::warn!(lease = self.name, "the API server did not answer about the lease in time"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn try_acquire(&self, last: &mut Option<(Sighting, Instant)>) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            return won(self.api.create(&PostParams::default(), &self.lease(None)).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let sighting = Sighting {
            holder: holder.clone(),
            renewed: spec.renew_time.clone(),
            version: lease.metadata.resource_version.clone(),
        };
        let since = match last {
            Some((seen, since)) if *seen == sighting => *since,
            _ => {
                if holder != self.identity && !holder.is_empty() {
                    tracing::debug!(holder, "another operator holds the lease");
                }
                let now = Instant::now();
                *last = Some((sighting, now));
                now
            }
        };
        let free = holder.is_empty() || holder == self.identity || since.elapsed() >= DURATION;
        if !free {
            return Ok(false);
        }
        won(self.api.replace(&self.name, &PostParams::default(), &self.lease(Some(&lease))).await)
    }

    /// Renews the lease until that fails for too long or another holds it. Returns why it ended.
    pub async fn hold(&self) -> String {
        let mut renewed = Instant::now();
        loop {
            let given_up = renewed + GIVE_UP;
            tokio::time::sleep_until(given_up.min(Instant::now() + RENEW)).await;
            // From before the request: others may have seen the renewal for as long when its answer comes.
            let asked = Instant::now();
            match tokio::time::timeout_at(given_up.min(asked + PATIENCE), self.renew()).await {
                Ok(Ok(Renewal::Done)) => renewed = asked,
                // No loss yet: the next one sees who wrote.
                Ok(Ok(Renewal::Conflict)) => tracing::warn!(lease = self.name, "somebody else wrote the lease"),
                Ok(Ok(Renewal::Taken)) => return format!("lease {} was taken by another operator", self.name),
                Ok(Err(error)) => tracing::warn!(%error, lease = self.name, "the lease could not be renewed"),
                Err(_) => tracing::warn!(lease = self.name, "the lease could not be renewed in time"),
            }
            if renewed.elapsed() >= GIVE_UP {
                return format!("lease {} could not be renewed for {} s", self.name, GIVE_UP.as_secs());
            }
        }
    }

    async fn renew(&self) -> Result<Renewal, kube::Error> {
        let lease = self.api.get(&self.name).await?;
        let ours = lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()) == Some(&self.identity);
        if !ours {
            return Ok(Renewal::Taken);
        }
        let won = won(self.api.replace(&self.name, &PostParams::default(), &self.lease(Some(&lease))).await)?;
        Ok(if won { Renewal::Done } else { Renewal::Conflict })
    }

    /// Gives the lease back, so that the next operator need not wait for it to run out.
    pub async fn release(&self) {
        let given_back = async {
            let mut lease = self.api.get(&self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.identity) {
                spec.holder_identity = Some(String::new());
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<(), kube::Error>(())
        };
        match tokio::time::timeout(PATIENCE, given_back).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, lease = self.name, "the lease was not given back"),
            Err(_) => tracing::warn!(lease = self.name, "the lease was not given back in time"),
        }
    }

    /// The lease in this process's hand, based on what it was.
    fn lease(&self, before: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let old = before.and_then(|l| l.spec.clone()).unwrap_or_default();
        let ours = old.holder_identity.as_deref() == Some(&self.identity);
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if ours { old.acquire_time } else { Some(now.clone()) },
            lease_transitions: if ours { old.lease_transitions } else { Some(old.lease_transitions.unwrap_or(0) + 1) },
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        let metadata = match before {
            Some(lease) => lease.metadata.clone(),
            None => ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
        };
        Lease { metadata, spec: Some(spec) }
    }
}

/// Whether a write got through, somebody else's having been first being no error.
fn won(written: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
