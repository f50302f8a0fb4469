//! Ways to the ports of pods from outside the cluster, through the API server, so that any kubeconfig will do.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use quorate_operator::names;
use quorate_tests::Target;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Ports of this machine that lead to those of one pod, by its name: also to the next pod of that name. Ends with this
/// value.
#[derive(Debug)]
pub struct Forward {
    /// `host:port` here, for each of the ports there.
    pub addresses: Vec<String>,
    tasks: Vec<JoinHandle<()>>,
}

impl Forward {
    /// To ports of a pod.
    pub async fn new(pods: &Api<Pod>, pod: &str, ports: &[u16]) -> Forward {
        let (mut addresses, mut tasks) = (Vec::new(), Vec::new());
        for port in ports {
            let (address, task) = listen(pods.clone(), pod.to_owned(), *port).await;
            addresses.push(address);
            tasks.push(task);
        }
        Forward { addresses, tasks }
    }

    /// To the ports for clients of a pod of the store.
    pub async fn to_node(pods: &Api<Pod>, pod: &str) -> Forward {
        let ports = [names::HTTP_PORT, names::TCP_PORT].map(|port| u16::try_from(port).expect("a port"));
        Forward::new(pods, pod, &ports).await
    }

    /// Where clients find a pod of the store.
    #[must_use]
    pub fn target(&self) -> Target {
        Target { http: format!("http://{}", self.addresses[0]), tcp: self.addresses[1].clone() }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn listen(pods: Api<Pod>, pod: String, port: u16) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let task = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (pods, pod) = (pods.clone(), pod.clone());
            tokio::spawn(async move {
                // A pod that is not there: the client sees its connection closed.
                let Ok(mut forwarder) = pods.portforward(&pod, &[port]).await else { return };
                let Some(mut far) = forwarder.take_stream(port) else { return };
                // How it ended, the client sees.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, task)
}
