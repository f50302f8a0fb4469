//! What every test needs: a namespace of its own, an operator for it, its machine, and waiting for conditions.

use std::fmt::Debug;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, CustomResourceExt};
use quorate_operator::crd::{KVCluster, KVClusterStatus};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::machine::Machine;
use crate::rights;

/// Longest wait for anything. A busy machine of two cores forms a cluster in a few seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A client of the API server that `KUBECONFIG` names, with the definition installed.
pub(crate) async fn client() -> Client {
    static DEFINED: OnceCell<()> = OnceCell::const_new();
    assert!(
        std::env::var_os("KUBECONFIG").is_some(),
        "KUBECONFIG is to name an API server without kubelets: run `make operator`, or KUBECONFIG=$(scripts/kubernetes/apiserver-up --controllers)"
    );
    let client = Client::try_default().await.expect("KUBECONFIG can be used");
    DEFINED.get_or_init(|| define(client.clone())).await;
    client
}

async fn define(client: Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client);
    let name = KVCluster::crd_name();
    api.patch(name, &PatchParams::apply("tests").force(), &Patch::Apply(KVCluster::crd()))
        .await
        .expect("the definition is accepted");
    until("the definition is established", || async {
        let conditions = api.get(name).await.ok()?.status?.conditions?;
        conditions.iter().any(|c| c.type_ == "Established" && c.status == "True").then_some(())
    })
    .await;
}

/// Waits for a condition, and for what it yields.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "in {} s it did not come about that {what}", PATIENCE.as_secs());
        tokio::time::sleep(LOOK).await;
    }
}

/// A program of this workspace beside the tests.
pub(crate) fn program(name: &str) -> PathBuf {
    let operator = PathBuf::from(env!("CARGO_BIN_EXE_quorate-operator"));
    let program = operator.with_file_name(name);
    assert!(program.exists(), "{} is not built: cargo build --bin {name}", program.display());
    program
}

/// A process that ends with its owner.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(&mut self) -> std::process::ExitStatus {
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        self.0.wait().expect("the process can be waited for")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A namespace with an operator that serves it and a machine that runs its pods.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) machine: Machine,
    pub(crate) rights: Rights,
    pub(crate) operator: Option<Process>,
}

impl World {
    pub(crate) async fn new(test: &str) -> World {
        let client = client().await;
        let namespace = namespace(&client, test).await;
        let machine = Machine::start(client.clone(), &namespace).await;
        let rights = Rights::new(&client, &namespace).await;
        let operator = Some(rights.operator(&[]));
        World { client, namespace, machine, rights, operator }
    }

    /// Starts the operator for this namespace, with a lease of its own in it.
    pub(crate) fn start_operator(&mut self) {
        self.operator = Some(self.rights.operator(&[]));
    }

    /// The KVCluster of this name, made from a spec.
    pub(crate) async fn create(&self, name: &str, spec: Value) {
        let api = self.clusters();
        let cluster = json!({"apiVersion": "quorate.dev/v1alpha1", "kind": "KVCluster", "metadata": {"name": name}, "spec": spec});
        api.create(&PostParams::default(), &serde_json::from_value(cluster).expect("a KVCluster"))
            .await
            .expect("it is accepted");
    }

    pub(crate) async fn patch(&self, name: &str, patch: Value) {
        self.clusters().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("it is accepted");
    }

    pub(crate) fn clusters(&self) -> Api<KVCluster> {
        self.api()
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) async fn status(&self, name: &str) -> KVClusterStatus {
        self.clusters().get(name).await.expect("it is there").status.unwrap_or_default()
    }

    /// Waits until the status of the present generation is as wanted, and says what it was if it never is.
    pub(crate) async fn until(&self, name: &str, what: &str, is: impl Fn(&KVClusterStatus) -> bool) -> KVClusterStatus {
        let begun = Instant::now();
        loop {
            let cluster = self.clusters().get(name).await.expect("it is there");
            let status = cluster.status.clone().unwrap_or_default();
            if status.observed_generation == cluster.metadata.generation && is(&status) {
                return status;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "in {} s it did not come about that {what}; the status is {status:#?}",
                PATIENCE.as_secs()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until all is as wanted and nothing is degraded.
    pub(crate) async fn settled(&self, name: &str) -> KVClusterStatus {
        self.until(name, "all is as wanted", |s| {
            is(s, "Available", "True") && is(s, "Degraded", "False") && reason(s, "Progressing") == "Settled"
        })
        .await
    }

    /// The reasons of the Events about a KVCluster.
    pub(crate) async fn events(&self, name: &str) -> Vec<String> {
        let api: Api<k8s_openapi::api::events::v1::Event> = self.api();
        let events = api.list(&Default::default()).await.expect("events can be listed");
        let about = |e: &k8s_openapi::api::events::v1::Event| {
            e.regarding
                .as_ref()
                .is_some_and(|r| r.kind.as_deref() == Some("KVCluster") && r.name.as_deref() == Some(name))
        };
        events.items.iter().filter(|e| about(e)).filter_map(|e| e.reason.clone()).collect()
    }

    /// Writes through a pod's node, and asserts that it was acknowledged.
    pub(crate) async fn write(&self, pod: &str, key: &str, value: &str) {
        let url = format!("{}/v1/kv/{key}", self.machine.url(pod));
        until("a write is acknowledged", || async {
            let answer = reqwest::Client::new().put(&url).body(value.to_owned()).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// What a linearizable read through a pod's node yields.
    pub(crate) async fn read(&self, pod: &str, key: &str) -> String {
        let url = format!("{}/v1/kv/{key}", self.machine.url(pod));
        until("a read is answered", || async {
            let answer = reqwest::get(&url).await.ok()?;
            if answer.status().is_success() { answer.text().await.ok() } else { None }
        })
        .await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The namespace goes with the API server; its pods go with the machine.
        if let Some(mut operator) = self.operator.take() {
            operator.stop();
        }
        if !std::thread::panicking() {
            assert_eq!(self.rights.forbidden(), Vec::<String>::new(), "the page lists too few rights");
        }
    }
}

/// A new namespace that enforces the strictest level of pod security.
pub(crate) async fn namespace(client: &Client, test: &str) -> String {
    let api: Api<Namespace> = Api::all(client.clone());
    let name = format!("{test}-{}", &uuid::Uuid::new_v4().simple().to_string()[..6]);
    let labels = [("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned())].into();
    let metadata = ObjectMeta { name: Some(name.clone()), labels: Some(labels), ..ObjectMeta::default() };
    api.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() })
        .await
        .expect("a namespace can be made");
    name
}

/// Deletes a namespace, without waiting for it.
pub(crate) async fn drop_namespace(client: &Client, name: &str) {
    let api: Api<Namespace> = Api::all(client.clone());
    let _ = api.delete(name, &DeleteParams::default()).await;
}

/// The operator's identity in a namespace.
pub(crate) struct Rights {
    namespace: String,
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
}

impl Rights {
    pub(crate) async fn new(client: &Client, namespace: &str) -> Rights {
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = rights::kubeconfig(client, namespace, folder.path()).await;
        Rights { namespace: namespace.to_owned(), folder, kubeconfig }
    }

    /// An operator for the namespace.
    pub(crate) fn operator(&self, more: &[&str]) -> Process {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("operator.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_quorate-operator"))
            .args(["--namespace", &self.namespace, "--lease-namespace", &self.namespace, "--listen", "127.0.0.1:0"])
            .args(more)
            .env("KUBECONFIG", &self.kubeconfig)
            .stderr(log.map_or_else(|_| Stdio::inherit(), Stdio::from))
            .spawn()
            .expect("the operator starts");
        Process(child)
    }

    /// Where the operator that was started last listens.
    pub(crate) async fn address(&self) -> String {
        until("the operator says where it listens", || async {
            let log = std::fs::read_to_string(self.folder.path().join("operator.log")).ok()?;
            let mut lines = log.lines().rev().filter_map(|l| serde_json::from_str::<Value>(l).ok());
            lines.find_map(|l| l["fields"]["listen"].as_str().map(str::to_owned))
        })
        .await
    }

    /// What was refused so far was meant to be.
    pub(crate) fn forgive(&self) {
        std::fs::write(self.folder.path().join("operator.log"), "").expect("the log can be emptied");
    }

    /// What the operators logged of refusals for lack of a right; what nobody may do is forbidden in other words.
    pub(crate) fn forbidden(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.folder.path().join("operator.log")).unwrap_or_default();
        log.lines().filter(|l| l.contains("forbidden: User")).map(str::to_owned).collect()
    }
}

/// Whether a condition has a value.
pub(crate) fn is(status: &KVClusterStatus, kind: &str, value: &str) -> bool {
    status.conditions.iter().any(|c| c.type_ == kind && c.status == value)
}

/// The reason of a condition.
pub(crate) fn reason<'a>(status: &'a KVClusterStatus, kind: &str) -> &'a str {
    status.conditions.iter().find(|c| c.type_ == kind).map_or("", |c| &c.reason)
}

/// Sorted, for comparison.
pub(crate) fn sorted<T: Ord + Debug>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort();
    items
}
