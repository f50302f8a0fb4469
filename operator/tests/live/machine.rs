//! A kubelet and scheduler in small: gives every pod of a namespace an address, runs its container as a process, probes it, and tells the API server.
//!
//! Volumes are folders named like their claims. Names of pods are addresses here: whatever `POD.SERVICE…` stands in the environment is replaced by the pod's own
//! address of 127.0.0.0/8, which depends on its name alone.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    Binding, ConfigMap, Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, Secret,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::support::{Process, program};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(200);
/// The name of the one machine.
const NAME: &str = "machine";
/// An image that cannot be pulled.
pub(crate) const MISSING_IMAGE: &str = "missing:1";

/// A storage class whose volumes can grow, so far as the API server is concerned.
pub(crate) const STORAGE_CLASS: &str = "growing";

/// The machine. Its processes end with it.
pub(crate) struct Machine {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
    network: u32,
    // Dropped last.
    _folder: tempfile::TempDir,
}

struct Shared {
    client: Client,
    namespace: String,
    folder: PathBuf,
    network: u32,
    running: Mutex<HashMap<String, Running>>,
    /// Pods that are not started, as if their machine were gone.
    held: Mutex<HashSet<String>>,
    /// Volumes stay as they are, whatever is asked of them.
    rigid: AtomicBool,
    starts: AtomicU32,
}

struct Running {
    uid: String,
    process: Process,
}

/// Where a pod's node listens: the network is the test's, the rest the pod's.
fn address(network: u32, pod: &str) -> String {
    let (set, ordinal) = pod.rsplit_once('-').expect("a pod of a StatefulSet");
    let ordinal: u32 = ordinal.parse().expect("an ordinal");
    let cluster = set.rsplit_once('-').map_or(set, |(cluster, _)| cluster);
    let number = cluster.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte))) % 12;
    let host = number * 20 + if set.ends_with("-leader") { 1 } else { 2 + ordinal };
    format!("127.{}.{}.{host}", 50 + network / 250, network % 250)
}

impl Machine {
    pub(crate) async fn start(client: Client, namespace: &str) -> Machine {
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        // Several test programs may run at once.
        let network = (std::process::id() * 31 + NETWORKS.fetch_add(1, Ordering::Relaxed)) % 40_000;
        let folder = tempfile::tempdir().expect("a folder");
        let nodes: Api<Node> = Api::all(client.clone());
        let node =
            Node { metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() }, ..Node::default() };
        let _ = nodes.create(&PostParams::default(), &node).await;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Test"}]}});
        nodes
            .patch_status(NAME, &PatchParams::default(), &Patch::Strategic(&ready))
            .await
            .expect("the machine is ready");
        let classes: Api<StorageClass> = Api::all(client.clone());
        let class =
            json!({"metadata": {"name": STORAGE_CLASS}, "provisioner": "tests/none", "allowVolumeExpansion": true});
        let _ = classes.create(&PostParams::default(), &serde_json::from_value(class).expect("a class")).await;
        let shared = Arc::new(Shared {
            client,
            namespace: namespace.to_owned(),
            folder: folder.path().to_owned(),
            network,
            running: Mutex::default(),
            held: Mutex::default(),
            rigid: AtomicBool::new(false),
            starts: AtomicU32::new(0),
        });
        let task = tokio::spawn(Arc::clone(&shared).run());
        Machine { shared, task, network, _folder: folder }
    }

    pub(crate) fn url(&self, pod: &str) -> String {
        format!("http://{}:8000", address(self.network, pod))
    }

    /// How many containers were started so far.
    pub(crate) fn starts(&self) -> u32 {
        self.shared.starts.load(Ordering::Relaxed)
    }

    /// Kills a pod's process, and does not start it until [`Machine::release`].
    pub(crate) fn hold(&self, pod: &str) {
        self.shared.held.lock().unwrap().insert(pod.to_owned());
        self.shared.running.lock().unwrap().remove(pod);
    }

    pub(crate) fn release(&self, pod: &str) {
        self.shared.held.lock().unwrap().remove(pod);
    }

    /// Whether volumes that are asked to grow do so, as they do from the start.
    pub(crate) fn volumes_grow(&self, grow: bool) {
        self.shared.rigid.store(!grow, Ordering::Relaxed);
    }

    /// Empties a pod's volume, the process being killed first.
    pub(crate) fn wipe(&self, pod: &str) {
        self.shared.running.lock().unwrap().remove(pod);
        let _ = std::fs::remove_dir_all(self.shared.folder.join(format!("data-{pod}")));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.running.lock().unwrap().clear();
    }
}

impl Shared {
    async fn run(self: Arc<Shared>) {
        loop {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
            if let Ok(list) = pods.list(&Default::default()).await {
                for pod in &list.items {
                    self.look_after(&pods, pod).await;
                }
                let there: HashSet<String> = list.items.iter().map(|p| p.name_any()).collect();
                self.running.lock().unwrap().retain(|name, _| there.contains(name));
            }
            self.provide_volumes().await;
            self.show_life().await;
            tokio::time::sleep(EVERY).await;
        }
    }

    /// A machine whose lease runs out is taken for dead, and its pods for not ready.
    async fn show_life(&self) {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME},
            "spec": {"holderIdentity": NAME, "leaseDurationSeconds": 40, "renewTime": MicroTime(Timestamp::now())},
        });
        let _ = leases.patch(NAME, &PatchParams::apply("machine").force(), &Patch::Apply(lease)).await;
    }

    /// A volume for every claim that waits for one, of the size asked for then and later. The folders are [`Shared::keep_running`]'s; this is for the API server, which
    /// lets only bound claims grow.
    async fn provide_volumes(&self) {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &self.namespace);
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let Ok(list) = claims.list(&Default::default()).await else { return };
        let pending =
            |c: &&PersistentVolumeClaim| c.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Pending"));
        for claim in list.items.iter().filter(pending) {
            let spec = claim.spec.clone().unwrap_or_default();
            let asked = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
            let volume = json!({
                "metadata": {"name": format!("pv-{}", claim.uid().unwrap_or_default())},
                "spec": {
                    "capacity": asked, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/nowhere"},
                    "storageClassName": spec.storage_class_name.unwrap_or_default(),
                    "claimRef": {"namespace": self.namespace, "name": claim.name_any(), "uid": claim.uid()},
                },
            });
            let _ = volumes.create(&PostParams::default(), &serde_json::from_value(volume).expect("a volume")).await;
        }
        if self.rigid.load(Ordering::Relaxed) {
            return;
        }
        for claim in &list.items {
            let asked = claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref()?.get("storage"));
            let has = claim.status.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage"));
            if has.is_some() && asked != has {
                let status = json!({"status": {"capacity": {"storage": asked}}});
                let _ = claims.patch_status(&claim.name_any(), &PatchParams::default(), &Patch::Merge(&status)).await;
            }
        }
    }

    async fn look_after(&self, pods: &Api<Pod>, pod: &Pod) {
        let name = pod.name_any();
        if pod.metadata.deletion_timestamp.is_some() {
            let stopped = self.running.lock().unwrap().remove(&name);
            if let Some(mut stopped) = stopped {
                // In a thread that may wait: a node hands leadership over before it ends.
                let _ = tokio::task::spawn_blocking(move || stopped.process.stop()).await;
            }
            let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            let _ = pods.delete(&name, &now).await;
            return;
        }
        if pod.spec.as_ref().is_some_and(|s| s.node_name.is_none()) {
            self.bind(pods, &name).await;
            return;
        }
        let image = pod.spec.as_ref().and_then(|s| s.containers[0].image.clone()).unwrap_or_default();
        if image == MISSING_IMAGE {
            let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": format!("Back-off pulling image \"{image}\"")}});
            self.tell(pods, pod, false, &waiting).await;
            return;
        }
        let held = self.held.lock().unwrap().contains(&name);
        if !held {
            self.keep_running(pod).await;
        }
        let ready = !held && self.is_ready(&name).await;
        let started = pod.metadata.creation_timestamp.as_ref().map(|t| json!(t));
        self.tell(pods, pod, ready, &json!({"running": {"startedAt": started}})).await;
    }

    async fn bind(&self, pods: &Api<Pod>, name: &str) {
        let target =
            ObjectReference { kind: Some("Node".into()), name: Some(NAME.into()), ..ObjectReference::default() };
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let binding = Binding { metadata, target };
        let _: Result<serde_json::Value, _> =
            pods.create_subresource("binding", name, &PostParams::default(), &binding).await;
    }

    async fn is_ready(&self, name: &str) -> bool {
        let url = format!("http://{}:8000/readyz", address(self.network, name));
        let asked = reqwest::Client::new().get(url).timeout(Duration::from_secs(1)).send().await;
        asked.is_ok_and(|answer| answer.status().is_success())
    }

    /// Starts the container if it does not run, whether it is new or has ended.
    async fn keep_running(&self, pod: &Pod) {
        let name = pod.name_any();
        let uid = pod.uid().unwrap_or_default();
        let runs = {
            let mut running = self.running.lock().unwrap();
            running
                .get_mut(&name)
                .is_some_and(|r| r.uid == uid && r.process.0.try_wait().is_ok_and(|ended| ended.is_none()))
        };
        if runs {
            return;
        }
        let Some(environment) = self.environment(pod).await else { return };
        let old = self.running.lock().unwrap().remove(&name);
        drop(old);
        let folder = self.folder.join(format!("data-{name}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("{name}.log")))
            .expect("a log");
        let child = Command::new(program("quorate"))
            .arg("serve")
            .env_clear()
            .envs(environment)
            .env("BIND", address(self.network, &name))
            .env("DATA_DIR", folder.join("node"))
            .stderr(Stdio::from(log))
            .stdout(Stdio::null())
            .spawn()
            .expect("a node starts");
        self.starts.fetch_add(1, Ordering::Relaxed);
        self.running.lock().unwrap().insert(name, Running { uid, process: Process(child) });
    }

    /// The container's environment as a kubelet makes it, with addresses for names; nothing while something it names is missing.
    async fn environment(&self, pod: &Pod) -> Option<HashMap<String, String>> {
        let container = &pod.spec.as_ref()?.containers[0];
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut values: HashMap<String, String> = HashMap::new();
        for from in container.env_from.iter().flatten() {
            let map = maps.get(&from.config_map_ref.as_ref()?.name).await.ok()?;
            values.extend(map.data.unwrap_or_default());
        }
        for env in container.env.iter().flatten() {
            let value = match (&env.value, env.value_from.as_ref()) {
                (Some(value), _) => {
                    values.iter().fold(value.clone(), |v, (name, value)| v.replace(&format!("$({name})"), value))
                }
                (None, Some(source)) if source.field_ref.is_some() => pod.name_any(),
                (None, Some(source)) => {
                    let key = source.secret_key_ref.as_ref()?;
                    let secret = secrets.get(&key.name).await.ok()?;
                    String::from_utf8(secret.data?.get(&key.key)?.0.clone()).ok()?
                }
                (None, None) => String::new(),
            };
            values.insert(env.name.clone(), value);
        }
        for name in ["ADDRESS", "PEERS"] {
            let named = values.remove(name)?;
            let addressed: Vec<String> = named.split(',').map(|part| self.with_address(part)).collect();
            values.insert(name.to_owned(), addressed.join(","));
        }
        Some(values)
    }

    /// `http://demo-leader-0.demo-peers.ns.svc:8000` becomes `http://127.50.0.1:8000`.
    fn with_address(&self, text: &str) -> String {
        let begin = text.find("://").map_or(0, |at| at + 3);
        let end = text[begin..].find(':').map_or(text.len(), |at| begin + at);
        let pod = text[begin..end].split('.').next().expect("a name");
        format!("{}{}{}", &text[..begin], address(self.network, pod), &text[end..])
    }

    async fn tell(&self, pods: &Api<Pod>, pod: &Pod, ready: bool, state: &serde_json::Value) {
        let name = pod.name_any();
        let value = if ready { "True" } else { "False" };
        let told = pod
            .status
            .as_ref()
            .and_then(|s| s.conditions.as_ref())
            .and_then(|c| c.iter().find(|c| c.type_ == "Ready"))
            .map(|c| c.status.clone());
        let has_state = pod.status.as_ref().is_some_and(|s| s.container_statuses.is_some());
        if told.as_deref() == Some(value) && has_state {
            return;
        }
        let image = pod.spec.as_ref().and_then(|s| s.containers[0].image.clone()).unwrap_or_default();
        let ip = address(self.network, &name);
        let status = json!({"status": {
            "phase": "Running",
            "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": value}, {"type": "ContainersReady", "status": value}, {"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [{"name": "quorate", "image": image, "imageID": "", "ready": ready, "restartCount": 0, "started": ready, "state": state}],
        }});
        let _ = pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&status)).await;
    }
}
