//! A namespace of a test's own, with an operator of its own in it.
//!
//! A test that failed tells what there was, and leaves nothing behind either, unless `KEEP=1` asks for the namespace to
//! be looked at.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use quorate_operator::crd::{KVCluster, KVClusterStatus};
use quorate_tests::eventually_in;

use crate::THREE_COPIES;
use crate::command::{self, Said};

/// Longest wait for pods to start, volumes to be made and statuses to be written: all of it on a machine that does
/// other things too.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Longest wait for the answer to one request: longer than any request may take a node.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// The release's name in every namespace, but for the one that serves them all.
pub const RELEASE: &str = "quorate";

/// The chart.
pub const CHART: &str = "charts/quorate";

/// The last lines of each thing that a failed test tells.
const TOLD_MAX: usize = 60;

/// A failed test does not wait for an API server that is gone.
const QUICKLY: &str = "--request-timeout=10s";

/// A namespace, and a release of the chart in it that serves it alone.
#[derive(Debug)]
pub struct Arena {
    /// The namespace's name.
    pub namespace: String,
    /// The Kubernetes API.
    pub client: ClientBox,
    /// The release in it.
    release: &'static str,
    begun: Instant,
    ended: bool,
}

/// A client that can be printed (it has nothing to say).
#[derive(Clone)]
pub struct ClientBox(pub Client);

impl std::fmt::Debug for ClientBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Arena {
    /// Makes the namespace, and installs the chart for it alone, with one operator.
    ///
    /// # Panics
    /// If no cluster can be reached, or Helm fails.
    pub async fn new(name: &str) -> Arena {
        let arena = Arena::empty(name).await;
        arena.install(&[]).await.good("helm install");
        arena
    }

    /// Makes the namespace alone.
    ///
    /// # Panics
    /// If no cluster can be reached.
    pub async fn empty(name: &str) -> Arena {
        let client = Client::try_default()
            .await
            .unwrap_or_else(|e| panic!("no cluster ({e}): make kind-up, and set KUBECONFIG"));
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let wanted = serde_json::from_value(serde_json::json!({
            "metadata": {
                "generateName": format!("quorate-{name}-"),
                "labels": {"pod-security.kubernetes.io/enforce": "restricted", "quorate.dev/test": name},
            }
        }));
        let made = namespaces.create(&PostParams::default(), &wanted.expect("a namespace")).await;
        let namespace = made.unwrap_or_else(|e| panic!("no namespace can be made: {e}")).name_any();
        Arena { namespace, client: ClientBox(client), release: RELEASE, begun: Instant::now(), ended: false }
    }

    /// Makes the namespace, and installs the chart by README's own line, under a name that the line does not have: with
    /// the chart's defaults it serves every namespace there is. Whoever does that has the cluster to himself: it is
    /// waited for that nobody else has a KVCluster.
    ///
    /// # Panics
    /// If somebody has one and keeps it, or Helm fails.
    pub async fn everywhere(name: &str, release: &'static str) -> Arena {
        let mut arena = Arena::empty(name).await;
        arena.release = release;
        let all: Api<KVCluster> = Api::all(arena.client.0.clone());
        eventually_in(PATIENCE, "no KVCluster is left that this operator would take for its own", async || {
            match all.list(&ListParams::default()).await {
                Ok(found) if found.items.is_empty() => Ok(()),
                Ok(found) => {
                    Err(format!("{:?}", found.items.iter().map(|k| (k.namespace(), k.name_any())).collect::<Vec<_>>()))
                }
                // Nobody has installed the definition yet.
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        let line = command::documented("README.md", "helm install quorate ");
        let words: Vec<&str> = line.iter().map(|w| if w == RELEASE { release } else { w.as_str() }).collect();
        arena.helm(&words[1..]).await.good(&line.join(" "));
        arena
    }

    /// As [`Arena::new`], and in it the cluster `demo` of README, at rest.
    pub async fn with_demo(name: &str) -> Arena {
        let arena = Arena::new(name).await;
        arena.apply(THREE_COPIES).await.good("kubectl apply");
        arena.settled("demo").await;
        arena
    }

    /// `helm install`, with more arguments.
    pub async fn install(&self, more: &[&str]) -> Said {
        self.release("install", CHART, more).await
    }

    /// `helm install` or `helm upgrade` of a chart in a folder, for this namespace alone and with one operator.
    pub async fn release(&self, verb: &str, chart: &str, more: &[&str]) -> Said {
        let namespaces = format!("namespaces={{{}}}", self.namespace);
        let mut arguments = vec![verb, self.release, chart, "--wait", "--timeout", "2m"];
        arguments.extend(["--set", &namespaces, "--set", "replicas=1"]);
        arguments.extend(more);
        self.helm(&arguments).await
    }

    /// `helm` on the release in this namespace.
    pub async fn helm(&self, arguments: &[&str]) -> Said {
        let mut all = vec!["--namespace", &self.namespace];
        all.extend(arguments);
        command::run("helm", &all, "").await
    }

    /// `kubectl` in this namespace.
    pub async fn kubectl(&self, arguments: &[&str]) -> Said {
        let mut all = vec!["--namespace", &self.namespace];
        all.extend(arguments);
        command::run("kubectl", &all, "").await
    }

    /// `kubectl apply` of a manifest.
    pub async fn apply(&self, manifest: &str) -> Said {
        command::run("kubectl", &["--namespace", &self.namespace, "apply", "-f", "-"], manifest).await
    }

    /// Changes fields of a KVCluster's spec.
    ///
    /// # Panics
    /// If that is refused.
    pub async fn patch(&self, cluster: &str, spec: &str) {
        let patch = format!("{{\"spec\":{spec}}}");
        self.kubectl(&["patch", "kvc", cluster, "--type", "merge", "-p", &patch]).await.good("kubectl patch");
    }

    /// KVClusters of the namespace.
    #[must_use]
    pub fn clusters(&self) -> Api<KVCluster> {
        Api::namespaced(self.client.0.clone(), &self.namespace)
    }

    /// Pods of the namespace.
    #[must_use]
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.0.clone(), &self.namespace)
    }

    /// Volume claims of the namespace.
    #[must_use]
    pub fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.0.clone(), &self.namespace)
    }

    /// What the operator says of a KVCluster now.
    pub async fn status(&self, cluster: &str) -> Result<KVClusterStatus, String> {
        let found = self.clusters().get(cluster).await.map_err(|e| e.to_string())?;
        found.status.ok_or_else(|| "no status yet".to_owned())
    }

    /// Waits until a condition of a KVCluster has a value.
    pub async fn condition(&self, cluster: &str, condition: &str, value: &str) {
        eventually_in(PATIENCE, &format!("{cluster} is {condition}={value}"), async || {
            let status = self.status(cluster).await?;
            if is(&status, condition, value) { Ok(()) } else { Err(format!("{:?}", status.conditions)) }
        })
        .await;
    }

    /// Waits until a KVCluster is available and all its pods are ready; returns what it says then.
    pub async fn settled(&self, cluster: &str) -> KVClusterStatus {
        eventually_in(PATIENCE, &format!("{cluster} settles"), async || {
            let found = self.clusters().get(cluster).await.map_err(|e| e.to_string())?;
            let (spec, generation) = (found.spec, found.metadata.generation);
            let status = found.status.ok_or("no status yet")?;
            let current = status.observed_generation == generation;
            let rests = is(&status, "Available", "True") && is(&status, "Progressing", "False");
            if current && rests && is(&status, "Degraded", "False") && status.ready_replicas == spec.replicas {
                Ok(status)
            } else {
                Err(format!("{status:?}"))
            }
        })
        .await
    }

    /// Waits until there is another pod of the name than the one of this identity, and it is ready.
    pub async fn replaced(&self, pod: &str, before: &str) {
        eventually_in(PATIENCE, &format!("{pod} is made anew"), async || {
            let found = self.pods().get(pod).await.map_err(|e| e.to_string())?;
            let conditions = found.status.as_ref().and_then(|s| s.conditions.as_ref());
            let ready = conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
            if found.uid().as_deref() != Some(before) && ready { Ok(()) } else { Err(format!("{:?}", found.status)) }
        })
        .await;
    }

    /// The identity of a pod, and the machine it runs on.
    ///
    /// # Panics
    /// If it is not there or runs nowhere.
    pub async fn pod(&self, pod: &str) -> (String, String) {
        let found = self.pods().get(pod).await.unwrap_or_else(|e| panic!("{pod}: {e}"));
        let machine = found.spec.as_ref().and_then(|s| s.node_name.clone());
        (found.uid().unwrap_or_default(), machine.unwrap_or_else(|| panic!("{pod} runs nowhere")))
    }

    /// Waits until there are Events of these reasons about a KVCluster: each is written after what it tells of, the
    /// status among it.
    ///
    /// # Panics
    /// If the page does not name one.
    pub async fn told(&self, cluster: &str, reasons: &[&str]) {
        let page = std::fs::read_to_string(command::root().join("docs/kubernetes.md")).expect("the page");
        for reason in reasons {
            assert!(page.contains(&format!("`{reason}`")), "docs/kubernetes.md has no {reason}");
        }
        let events: Api<Event> = Api::namespaced(self.client.0.clone(), &self.namespace);
        eventually_in(PATIENCE, &format!("Events tell of {reasons:?}"), async || {
            let events = events.list(&ListParams::default()).await.map_err(|e| e.to_string())?.items;
            let about = |e: &Event| e.regarding.as_ref().is_some_and(|r| r.name.as_deref() == Some(cluster));
            let told: BTreeSet<String> = events.into_iter().filter(about).filter_map(|e| e.reason).collect();
            if reasons.iter().all(|reason| told.contains(*reason)) { Ok(()) } else { Err(format!("only of {told:?}")) }
        })
        .await;
    }

    /// Waits until the leader's label is on this pod alone.
    pub async fn labelled(&self, leader: &str) {
        eventually_in(PATIENCE, &format!("the label is on {leader} alone"), async || {
            let of = ListParams::default().labels("quorate.dev/role=leader");
            let labelled = self.pods().list(&of).await.map_err(|e| e.to_string())?.items;
            let names: Vec<String> = labelled.iter().map(ResourceExt::name_any).collect();
            if names == [leader] { Ok(()) } else { Err(format!("{names:?}")) }
        })
        .await;
    }

    /// The pod of the operator.
    ///
    /// # Errors
    /// When there is none.
    pub async fn operator(&self) -> Result<String, String> {
        let of = ListParams::default().labels("app.kubernetes.io/name=quorate-operator");
        let pods = self.pods().list(&of).await.map_err(|e| e.to_string())?.items;
        pods.first().map(ResourceExt::name_any).ok_or_else(|| "no operator".to_owned())
    }

    /// Sends a request to a Service through the API server. The body that came back, if the status was one of success.
    pub async fn through(&self, service: &str, method: &str, path: &str, body: &str) -> Result<String, String> {
        self.proxied(&format!("services/{service}:http"), method, path, body).await
    }

    /// What a port of a pod has at a path; asked through the API server.
    pub async fn says(&self, pod: &str, port: i32, path: &str) -> Result<String, String> {
        self.proxied(&format!("pods/{pod}:{port}"), "GET", path, "").await
    }

    async fn proxied(&self, whom: &str, method: &str, path: &str, body: &str) -> Result<String, String> {
        let uri = format!("/api/v1/namespaces/{}/{whom}/proxy{path}", self.namespace);
        let request = http::Request::builder().method(method).uri(uri).header("content-type", "text/plain");
        let request = request.body(body.as_bytes().to_vec()).map_err(|e| e.to_string())?;
        // The library asks again for as long as the answer is that nobody serves there.
        match tokio::time::timeout(ANSWER_MAX, self.client.0.request_text(request)).await {
            Ok(answer) => answer.map_err(|e| e.to_string()),
            Err(_) => Err(format!("no other answer than to ask again, for {ANSWER_MAX:?}")),
        }
    }

    /// Removes the release, and sends the namespace after it. That takes Kubernetes half a minute, most of it spent
    /// waiting: scripts/kubernetes/test looks once, after all tests, whether all of them are gone.
    pub async fn end(mut self) {
        let mut arguments = vec!["uninstall", self.release, "--ignore-not-found"];
        if self.release != RELEASE {
            // Whoever comes next is not to meet this one's operators on their way out.
            arguments.extend(["--wait", "--cascade=foreground"]);
        }
        self.helm(&arguments).await.good("helm uninstall");
        let namespaces: Api<Namespace> = Api::all(self.client.0.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.expect("a deletion");
        self.ended = true;
        println!("{} took {:.0} s", self.namespace, self.begun.elapsed().as_secs_f64());
    }

    /// Waits until so many pods and claims are left of a KVCluster.
    pub async fn leaves(&self, cluster: &str, left: (usize, usize)) {
        let (pods, claims) = left;
        eventually_in(PATIENCE, &format!("{pods} pods and {claims} claims are left of {cluster}"), async || match self
            .leftovers(cluster)
            .await?
        {
            found if found == left => Ok(()),
            (pods, claims) => Err(format!("{pods} pods and {claims} claims")),
        })
        .await;
    }

    /// How many pods and claims there are of a KVCluster.
    pub async fn leftovers(&self, cluster: &str) -> Result<(usize, usize), String> {
        let of = ListParams::default().labels(&format!("quorate.dev/cluster={cluster}"));
        let pods = self.pods().list(&of).await.map_err(|e| e.to_string())?.items.len();
        let claims = self.claims().list(&of).await.map_err(|e| e.to_string())?.items.len();
        Ok((pods, claims))
    }
}

/// Whether a condition has this value.
#[must_use]
pub fn is(status: &KVClusterStatus, condition: &str, value: &str) -> bool {
    status.conditions.iter().any(|c| c.type_ == condition && c.status == value)
}

/// The reason that a condition gives.
#[must_use]
pub fn reason<'a>(status: &'a KVClusterStatus, condition: &str) -> &'a str {
    status.conditions.iter().find(|c| c.type_ == condition).map_or("", |c| &c.reason)
}

// Runs only where a test did not come to its end: then nobody can wait for a future any more.
impl Drop for Arena {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let say = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(["--namespace", &self.namespace]).args(arguments).output();
            let text = output.map_or_else(
                |e| e.to_string(),
                |o| String::from_utf8_lossy(&[o.stdout, o.stderr].concat()).into_owned(),
            );
            let lines: Vec<&str> = text.lines().collect();
            eprintln!(
                "$ {program} {}\n{}",
                arguments.join(" "),
                lines[lines.len().saturating_sub(TOLD_MAX)..].join("\n")
            );
        };
        eprintln!("what there is in {}:", self.namespace);
        say("kubectl", &["get", "nodes,kvc,sts,pods,pvc,endpointslices", "--output=wide", QUICKLY]);
        say("kubectl", &["get", "kvc", "--output=jsonpath={.items[*].status}", QUICKLY]);
        say("kubectl", &["get", "events", "--sort-by=.metadata.creationTimestamp", QUICKLY]);
        say(
            "kubectl",
            &["logs", "--selector=app.kubernetes.io/name=quorate-operator", "--prefix", "--tail=30", QUICKLY],
        );
        say("kubectl", &["logs", "--selector=quorate.dev/cluster", "--prefix", "--tail=20", QUICKLY]);
        // An operator that serves every namespace would serve those of the tests that follow, too.
        let alone = self.release == RELEASE;
        if alone && std::env::var("KEEP").is_ok_and(|keep| keep == "1") {
            eprintln!("the namespace {} stays, as KEEP=1 asks", self.namespace);
            return;
        }
        say("helm", &["uninstall", self.release, "--ignore-not-found"]);
        say("kubectl", &["delete", "namespace", &self.namespace, "--wait=false", QUICKLY]);
    }
}
