//! A cluster of processes, and what all its nodes together must agree on.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use reqwest::Method;
use tempfile::TempDir;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::client::Answer;
use crate::ports;
use crate::process::Node;
use crate::wait::{PATIENCE, POLL, eventually};

/// Processes of all tests together: more of them on two cores, each with its elections, would measure the machine.
const PROCESSES_MAX: usize = 12;

/// How often a cluster is started anew because somebody took one of its ports in between.
const STARTS_MAX: usize = 3;

const ELECTION: &str = "--election-timeout";

/// Three times the product's own: a busy machine may keep a process from its processor, or a disk from its sync, for
/// half a second, and a test that is not about elections counts on the leader it found. Those in `faults` have the
/// product's own ([`Setup::own_elections`]).
const ELECTION_TIMEOUT: &str = "1500ms-3s";

/// What a cluster is to be like.
#[derive(Clone, Debug)]
pub struct Setup {
    nodes: usize,
    write_quorum: usize,
    flags: Vec<String>,
    peers: bool,
    errors: Vec<&'static str>,
}

impl Setup {
    /// N nodes with write quorum W.
    #[must_use]
    pub fn new(nodes: usize, write_quorum: usize) -> Setup {
        let flags = ["--segment-size", "4MiB", "--cache-size", "8MiB", "--disk-reserve", "1MiB"];
        let flags = flags.iter().map(ToString::to_string).collect();
        let setup = Setup { nodes, write_quorum, flags, peers: false, errors: Vec::new() };
        setup.flag(ELECTION, ELECTION_TIMEOUT)
    }

    /// With the election timeout that a node has if it is told none, unless the test has named one.
    #[must_use]
    pub fn own_elections(mut self) -> Setup {
        if self.flags.iter().any(|flag| flag == ELECTION_TIMEOUT) {
            self.drop_flag(ELECTION);
        }
        self
    }

    /// With an election timeout of so many seconds at least, twice as many at most: for tests in which nobody
    /// is to stand for election.
    #[must_use]
    pub fn elections_after(self, seconds: u64) -> Setup {
        self.flag(ELECTION, &format!("{seconds}s-{}s", 2 * seconds))
    }

    fn drop_flag(&mut self, name: &str) {
        if let Some(at) = self.flags.iter().position(|f| f == name) {
            self.flags.drain(at..at + 2);
        }
    }

    /// A flag of every node; a later one wins over an earlier one.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Setup {
        self.drop_flag(name);
        self.flags.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// Every node is told all others, not only the leader.
    #[must_use]
    pub fn peers(mut self) -> Setup {
        self.peers = true;
        self
    }

    /// A line of this level and content in a log is part of the test. Any other ERROR fails it.
    #[must_use]
    pub fn expect_error(mut self, text: &'static str) -> Setup {
        self.errors.push(text);
        self
    }

    /// The nodes, none started yet.
    pub async fn prepare(self) -> Cluster {
        static PROCESSES: OnceLock<Arc<Semaphore>> = OnceLock::new();
        let all = PROCESSES.get_or_init(|| Arc::new(Semaphore::new(PROCESSES_MAX))).clone();
        let permits = all.acquire_many_owned(self.nodes.min(PROCESSES_MAX) as u32).await.expect("never closed");
        let home = tempfile::Builder::new().prefix("quorate-test-").tempdir().expect("a folder");
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_secs(2))
            .timeout(Duration::from_secs(20))
            .build()
            .expect("an HTTP client");
        let nodes = self.nodes(home.path(), &http);
        Cluster { nodes, http, home, setup: self, _permits: permits }
    }

    /// The nodes, all started; returns when writes are open.
    pub async fn start(self) -> Cluster {
        let mut cluster = self.prepare().await;
        for attempt in 1.. {
            cluster.start_all();
            match cluster.opened().await {
                Ok(()) => break,
                Err(node) if attempt < STARTS_MAX && cluster.nodes[node].log().contains("cannot listen") => {
                    cluster.nodes.iter_mut().for_each(Node::kill);
                    cluster.nodes = cluster.setup.nodes(cluster.home.path(), &cluster.http);
                    cluster.nodes.iter().filter(|n| n.dir.exists()).for_each(|n| {
                        std::fs::remove_dir_all(&n.dir).expect("an empty folder");
                    });
                }
                Err(node) => panic!("{} ended:\n{}", cluster.nodes[node].name, cluster.nodes[node].log_tail()),
            }
        }
        cluster
    }

    fn nodes(&self, home: &Path, http: &reqwest::Client) -> Vec<Node> {
        let ports = ports::free(3 * self.nodes);
        let ports: Vec<[u16; 3]> = ports.chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect();
        let one = |n: usize| {
            let [http_port, tcp, peer] = ports[n].map(|p| p.to_string());
            let mut args =
                vec!["--http-port".to_owned(), http_port, "--tcp-port".into(), tcp, "--peer-port".into(), peer];
            if n == 0 {
                let (replicas, write) = (self.nodes.to_string(), self.write_quorum.to_string());
                args.extend(
                    ["--node-type", "leader", "--replicas", &replicas, "--write-quorum", &write].map(Into::into),
                );
            } else {
                args.extend(["--leader-url".to_owned(), format!("http://127.0.0.1:{}", ports[0][0])]);
            }
            if self.peers {
                let address = self.flags.iter().position(|f| f == "--address").map(|at| self.flags[at + 1].as_str());
                let address = address.unwrap_or("127.0.0.1");
                let others = (0..self.nodes).filter(|o| *o != n).map(|o| format!("{address}:{}", ports[o][2]));
                args.extend(["--peers".to_owned(), others.collect::<Vec<_>>().join(",")]);
            }
            args.extend(self.flags.iter().cloned());
            Node::new(format!("node{}", n + 1), ports[n], home, args, http.clone())
        };
        (0..self.nodes).map(one).collect()
    }
}

/// Nodes that belong together. Ends them when dropped; shows their logs if the test failed.
#[derive(Debug)]
pub struct Cluster {
    /// `node1` first: it forms the cluster and is preferred as leader.
    pub nodes: Vec<Node>,
    /// The HTTP client of all of them.
    pub http: reqwest::Client,
    home: TempDir,
    setup: Setup,
    _permits: OwnedSemaphorePermit,
}

impl Cluster {
    /// N nodes with write quorum W, ready for writes.
    pub async fn start(nodes: usize, write_quorum: usize) -> Cluster {
        Setup::new(nodes, write_quorum).start().await
    }

    /// Starts every node that does not run.
    pub fn start_all(&mut self) {
        for node in &mut self.nodes {
            if !node.runs() {
                node.start();
            }
        }
    }

    /// A folder for whatever a test needs besides.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Waits until writes are open; the number of a node that ended instead.
    pub(crate) async fn opened(&mut self) -> Result<(), usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(ended) = self.nodes.iter_mut().position(|n| !n.runs()) {
                return Err(ended);
            }
            match self.look_for_leader().await {
                Ok(_) => return Ok(()),
                Err(reason) => assert!(Instant::now() < deadline, "writes are not open after {PATIENCE:?}: {reason}"),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn look_for_leader(&self) -> Result<usize, String> {
        let mut seen = Vec::new();
        for (n, node) in self.nodes.iter().enumerate() {
            match node.try_status().await {
                Ok(s) if s.node.role == "leader" && s.formed && s.node.ready => return Ok(n),
                Ok(s) => seen.push(format!("{} {} formed={} term={}", s.node.name, s.node.role, s.formed, s.term)),
                Err(e) => seen.push(e),
            }
        }
        Err(format!("no leader with writes open: {}", seen.join("; ")))
    }

    /// The number of the node that leads, once one does with writes open.
    pub async fn leader_number(&self) -> usize {
        eventually("there is a leader", || self.look_for_leader()).await
    }

    /// The node that leads.
    pub async fn leader(&self) -> &Node {
        &self.nodes[self.leader_number().await]
    }

    /// Some node that follows.
    pub async fn follower(&self) -> &Node {
        let leader = self.leader_number().await;
        &self.nodes[(leader + 1) % self.nodes.len()]
    }

    /// Waits until this node leads.
    pub async fn led_by(&self, n: usize) {
        eventually(&format!("{} leads", self.nodes[n].name), || async {
            match self.look_for_leader().await? {
                leader if leader == n => Ok(()),
                other => Err(format!("{} leads", self.nodes[other].name)),
            }
        })
        .await;
    }

    /// Writes through the leader, whoever that is: while the preferred node takes leadership back, writes
    /// are refused for a moment.
    pub async fn write(&self, key: &str, value: &str) {
        eventually(&format!("{key} is written"), || async {
            let leader = self.look_for_leader().await?;
            let request = self.nodes[leader].request(Method::PUT, &format!("/v1/kv/{key}")).body(value.to_owned());
            match Answer::try_of(request).await {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(answer.text()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Waits until every node belongs, as a voter, and has caught up.
    pub async fn all_ready(&self) {
        eventually("all nodes are ready voters of a formed cluster that is not changing", || async {
            for node in &self.nodes {
                let s = node.try_status().await?;
                let voter = s.node.membership == quorate_api::Membership::Voter;
                // While one change of the configuration is under way another is refused.
                if !(s.node.ready && s.formed && voter && s.leader.is_some()) || s.config.changing {
                    return Err(format!(
                        "{}: ready={} {:?} {} changing={}",
                        s.node.name, s.node.ready, s.node.membership, s.node.role, s.config.changing
                    ));
                }
            }
            Ok(())
        })
        .await;
    }

    /// Everything one node holds, with revisions and versions.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn contents(&self, n: usize) -> Result<String, String> {
        let request = self.nodes[n].request(Method::GET, "/v1/kv?consistency=local");
        let answer =
            Answer::try_of(request.header("accept", "application/x-ndjson")).await.map_err(|e| e.to_string())?;
        if answer.status == 200 { Ok(answer.text()) } else { Err(answer.text()) }
    }

    /// Waits until all nodes hold the same values, revisions and versions, and returns them, a JSON object a line.
    pub async fn converged(&self) -> String {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.converged_among(&all).await
    }

    /// As [`Cluster::converged`], for some of the nodes.
    pub async fn converged_among(&self, nodes: &[usize]) -> String {
        let agreed = eventually("the nodes hold the same", || async {
            let first = self.contents(nodes[0]).await?;
            for other in &nodes[1..] {
                let theirs = self.contents(*other).await?;
                if theirs != first {
                    return Err(difference(&self.nodes[nodes[0]].name, &first, &self.nodes[*other].name, &theirs));
                }
            }
            Ok(first)
        })
        .await;
        let data = self.nodes[nodes[0]].get("/data").await.expect(200).text();
        for other in &nodes[1..] {
            assert_eq!(
                self.nodes[*other].get("/data").await.expect(200).text(),
                data,
                "/data of {}",
                self.nodes[*other].name
            );
        }
        agreed
    }

    /// What a node holds for a key of its own copy, as text.
    pub async fn local(&self, n: usize, key: &str) -> Option<String> {
        let answer = self.nodes[n].get(&format!("/v1/kv/{key}?consistency=local")).await;
        (answer.status == 200).then(|| answer.text())
    }

    /// Changes W while everything runs; returns the new version.
    pub async fn set_write_quorum(&self, w: usize) -> u64 {
        eventually(&format!("W becomes {w}"), || async {
            let leader = self.look_for_leader().await?;
            let version = self.nodes[leader].try_status().await?.config.version;
            let request = self.nodes[leader].request(Method::PUT, "/v1/cluster/config");
            let request = request.header("if-match", format!("\"{version}\""));
            let answer = Answer::try_of(request.json(&serde_json::json!({ "write_quorum": w }))).await;
            match answer {
                Ok(a) if a.status == 200 => Ok(a.json()["version"].as_u64().expect("a version")),
                Ok(a) => Err(format!("{} {}", a.status, a.text())),
                Err(e) => Err(e.to_string()),
            }
        })
        .await
    }

    fn unexpected_error(&self) -> Option<String> {
        self.nodes.iter().find_map(|node| {
            let log = node.log();
            let bad = |line: &&str| line.contains(" ERROR ") || line.contains("panicked at");
            let known = |line: &&str| self.setup.errors.iter().any(|text| line.contains(text));
            log.lines().find(|line| bad(line) && !known(line)).map(|line| format!("{}: {line}", node.name))
        })
    }
}

/// The first lines in which two nodes differ.
fn difference(a: &str, in_a: &str, b: &str, in_b: &str) -> String {
    let pair = in_a
        .lines()
        .map(Some)
        .chain(std::iter::repeat(None))
        .zip(in_b.lines().map(Some).chain(std::iter::repeat(None)));
    let most = in_a.lines().count().max(in_b.lines().count());
    let found = pair.take(most).find(|(x, y)| x != y);
    format!("{a} has {} keys, {b} {}; first difference: {found:?}", in_a.lines().count(), in_b.lines().count())
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(Node::kill);
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("==== the end of the log of {} ====\n{}", node.name, node.log_tail());
            }
        } else if let Some(error) = self.unexpected_error() {
            panic!("a node logged an error that this test does not expect: {error}");
        }
    }
}
