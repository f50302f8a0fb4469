//! A namespace of a test's own, with an operator of its own in it.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Service};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use quorate_operator::crd::{KVCluster, KVClusterStatus};
use quorate_tests::eventually_in;

use crate::command::{self, Said};
use crate::forward::Forward;

/// Longest wait for pods to start, volumes to be made and statuses to be written: all of it on a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The release's name in every namespace.
pub const RELEASE: &str = "quorate";

/// A namespace, and a release of the chart in it that serves it alone.
#[derive(Debug)]
pub struct Arena {
    /// The namespace's name.
    pub namespace: String,
    /// The Kubernetes API.
    pub client: ClientBox,
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
    /// Makes the namespace, and installs the chart as README says.
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
        Arena { namespace, client: ClientBox(client) }
    }

    /// `helm install`, with more arguments.
    pub async fn install(&self, more: &[&str]) -> Said {
        let namespaces = format!("namespaces={{{}}}", self.namespace);
        let mut arguments =
            vec!["install", RELEASE, "charts/quorate", "--namespace", &self.namespace, "--wait", "--timeout", "2m"];
        arguments.extend(["--set", &namespaces, "--set", "replicas=1"]);
        arguments.extend(more);
        command::run("helm", &arguments, "").await
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

    /// Services of the namespace.
    #[must_use]
    pub fn services(&self) -> Api<Service> {
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

    /// Waits until a condition of a KVCluster has a value, and returns how long it took.
    pub async fn condition(&self, cluster: &str, condition: &str, value: &str) -> Duration {
        let started = Instant::now();
        eventually_in(PATIENCE, &format!("{cluster} is {condition}={value}"), async || {
            let status = self.status(cluster).await?;
            match status.conditions.iter().find(|c| c.type_ == condition) {
                Some(found) if found.status == value => Ok(()),
                _ => Err(format!("{:?}", status.conditions)),
            }
        })
        .await;
        started.elapsed()
    }

    /// Waits until a KVCluster is available and all its pods are ready; returns what it says then.
    pub async fn settled(&self, cluster: &str) -> KVClusterStatus {
        eventually_in(PATIENCE, &format!("{cluster} settles"), async || {
            let found = self.clusters().get(cluster).await.map_err(|e| e.to_string())?;
            let (spec, generation) = (found.spec, found.metadata.generation);
            let status = found.status.ok_or("no status yet")?;
            let is = |condition: &str, value: &str| {
                status.conditions.iter().any(|c| c.type_ == condition && c.status == value)
            };
            let current = status.observed_generation == generation;
            if current
                && is("Available", "True")
                && is("Progressing", "False")
                && status.ready_replicas == spec.replicas
            {
                Ok(status)
            } else {
                Err(format!("{status:?}"))
            }
        })
        .await
    }

    /// Ways to pods of the store.
    pub async fn forwards(&self, pods: &[&str]) -> Vec<Forward> {
        let api = self.pods();
        let mut forwards = Vec::with_capacity(pods.len());
        for pod in pods {
            forwards.push(Forward::new(&api, pod).await);
        }
        forwards
    }

    /// Sends a request to a Service through the API server. The body that came back, if the status was one of success.
    pub async fn through(&self, service: &str, method: &str, path: &str, body: &str) -> Result<String, String> {
        let uri = format!("/api/v1/namespaces/{}/services/{service}:http/proxy{path}", self.namespace);
        let request = http::Request::builder().method(method).uri(uri).header("content-type", "text/plain");
        let request = request.body(body.as_bytes().to_vec()).map_err(|e| e.to_string())?;
        self.client.0.request_text(request).await.map_err(|e| e.to_string())
    }

    /// Removes the release and the namespace, and waits until nothing is left.
    pub async fn end(self) {
        let _ = self.helm(&["uninstall", RELEASE, "--ignore-not-found"]).await;
        let namespaces: Api<Namespace> = Api::all(self.client.0.clone());
        let _ = namespaces.delete(&self.namespace, &DeleteParams::default()).await;
        eventually_in(PATIENCE, &format!("the namespace {} goes", self.namespace), async || {
            match namespaces.get_opt(&self.namespace).await {
                Ok(None) => Ok(()),
                Ok(Some(_)) => Err("it is still there".to_owned()),
                Err(error) => Err(error.to_string()),
            }
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
