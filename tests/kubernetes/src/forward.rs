//! Ways to the ports of pods from outside the cluster, through the API server, so that any kubeconfig will do.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use quorate_tests::Target;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Ports of this machine that lead to those of one pod, by its name: also to the next pod of that name. Ends with this value.
#[derive(Debug)]
pub struct Forward {
    target: Target,
    tasks: Vec<JoinHandle<()>>,
}

impl Forward {
    /// To the ports for clients of a pod of the store.
    pub async fn new(pods: &Api<Pod>, pod: &str) -> Forward {
        let (http, http_task) = listen(pods.clone(), pod.to_owned(), 8000).await;
        let (tcp, tcp_task) = listen(pods.clone(), pod.to_owned(), 6379).await;
        Forward { target: Target { http: format!("http://{http}"), tcp }, tasks: vec![http_task, tcp_task] }
    }

    /// Where clients find it.
    #[must_use]
    pub fn target(&self) -> Target {
        self.target.clone()
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
