//! `quorate local`: a whole cluster in one process, the embedded default.
//!
//! Owns the plan (which folders, which ports, who forms) and what is said to the person at the terminal; the nodes,
//! which [`fleet`] keeps, are ordinary nodes that talk to each other over loopback. Beside them runs the page of the
//! whole cluster, on a port of its own: it survives any node. The first start forms the cluster; every later one takes
//! up what the folders hold, and the settings of the formation stay in force.

mod fleet;

use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use quorum::{Quorum, Role, SharedConfig};
use tokio::sync::mpsc;

use fleet::Fleet;

use super::output::{Failure, print, table};
use super::settings::{Common, LimitArgs, SettingsError, Timing, is_blank, port_ranges};
use super::{Stop, files, runtime, serve, start_logging};
use crate::handle::Handle;
use crate::http::console;
use crate::options::{Formation, Limits, NodeOptions};

/// How long the start waits for a leader before it says what is missing (and goes on waiting in the background):
/// several election timeouts and the replay of a large log.
const READY_WAIT: Duration = Duration::from_secs(30);
/// How often it looks.
const READY_POLL: Duration = Duration::from_millis(20);
/// How long an orderly stop may take before the process ends anyway. The nodes' own stop is bounded by less.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Where the page is looked for first, and how far on if others are there already.
const PAGE_PORTS: std::ops::Range<u16> = 8080..8100;
/// Orders from the page that wait while one is carried out: a person's clicks.
const ORDERS_WAITING: usize = 16;

/// The nodes share one process: a quarter of the memory that a node of its own takes.
pub(super) fn limits_of_one_among_many() -> Limits {
    Limits { overlay_bytes: 16 << 20, cache_bytes: 16 << 20, segment_bytes: 16 << 20, ..Limits::default() }
}

/// `local`
#[derive(Args, Clone, Debug)]
pub(crate) struct LocalArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// N, the nodes of the cluster (1 to 9) [default: 6, or as many as the data has].
    #[arg(long, value_name = "N", env = "REPLICAS", hide_env_values = true, help_heading = "Cluster")]
    pub(crate) nodes: Option<usize>,
    /// W, durable copies that acknowledge a write, the leader's included [default: more than half: 4 of 6].
    #[arg(long, value_name = "W", env = "WRITE_QUORUM", hide_env_values = true, help_heading = "Cluster")]
    pub(crate) write_quorum: Option<usize>,
    /// The folder with one folder a node below it.
    #[arg(
        long,
        value_name = "DIR",
        env = "DATA_DIR",
        hide_env_values = true,
        default_value = "quorate-data",
        help_heading = "Cluster"
    )]
    pub(crate) data_dir: PathBuf,
    /// HTTP port of the first node; the others follow.
    #[arg(
        long,
        value_name = "PORT",
        env = "HTTP_PORT",
        hide_env_values = true,
        default_value_t = 8000,
        help_heading = "Ports"
    )]
    pub(crate) http_port: u16,
    /// TCP port (Redis and lines) of the first node; the others follow.
    #[arg(
        long,
        visible_alias = "port",
        value_name = "PORT",
        env = "TCP_PORT",
        hide_env_values = true,
        default_value_t = 6379,
        help_heading = "Ports"
    )]
    pub(crate) tcp_port: u16,
    /// Port for other nodes of the first node; the others follow.
    #[arg(
        long,
        value_name = "PORT",
        env = "PEER_PORT",
        hide_env_values = true,
        default_value_t = 7400,
        help_heading = "Ports"
    )]
    pub(crate) peer_port: u16,
    /// Port of the page that shows the whole cluster [default: 8080, or the first free one after it].
    #[arg(long, value_name = "PORT", env = "PAGE_PORT", hide_env_values = true, help_heading = "Ports")]
    pub(crate) page_port: Option<u16>,
    #[command(flatten)]
    pub(crate) timing: Timing,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

/// What is going to be started, before anything is.
#[derive(Debug)]
pub(crate) struct Plan {
    /// One per node, `node1` first.
    pub(crate) nodes: Vec<NodeOptions>,
    /// Whether the folders hold a cluster already.
    pub(crate) existing: bool,
}

impl LocalArgs {
    /// Ports, folders and roles of every node.
    pub(crate) fn plan(&self) -> Result<Plan, SettingsError> {
        let found = existing_nodes(&self.data_dir);
        let wanted = self.nodes.unwrap_or(if found > 0 { found } else { 6 });
        let write_quorum = self.write_quorum.unwrap_or(wanted / 2 + 1);
        Quorum::new(wanted, write_quorum)?;
        // Fewer nodes than the data has would be a cluster with nodes down: all of them are started,
        // and the difference is said.
        let count = wanted.max(found);
        port_ranges(
            &[("--http-port", self.http_port), ("--tcp-port", self.tcp_port), ("--peer-port", self.peer_port)],
            count,
        )?;
        let at = |first: u16, i: usize| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), first + i as u16);
        let nodes = (0..count).map(|i| {
            let name = format!("node{}", i + 1);
            let folder = self.data_dir.join(&name);
            let others = (0..count).filter(|o| *o != i).map(|o| at(self.peer_port, o).to_string()).collect();
            // A first node that lost its folder must not form a second cluster beside the one that the others remember.
            let forms = i == 0 && (found == 0 || !is_blank(&folder));
            let mut options =
                NodeOptions::new(&name, folder, at(self.http_port, i), at(self.tcp_port, i), at(self.peer_port, i));
            options.form = forms.then_some(Formation { replicas: wanted, write_quorum });
            options.join = others;
            self.timing.put_into(&mut options)?;
            options.limits = self.limits.over(limits_of_one_among_many())?;
            Ok(options)
        });
        Ok(Plan { nodes: nodes.collect::<Result<_, SettingsError>>()?, existing: found > 0 })
    }

    /// In one line, where the numbers given differ from those of the data, and how to change them.
    pub(crate) fn difference(&self, voters: usize, write_quorum: usize) -> Option<String> {
        let nodes = self.nodes.filter(|n| *n != voters);
        let write = self.write_quorum.filter(|w| *w != write_quorum);
        let given = match (nodes, write) {
            (None, None) => return None,
            (Some(n), None) => format!("--nodes {n} is"),
            (None, Some(w)) => format!("--write-quorum {w} is"),
            (Some(n), Some(w)) => format!("--nodes {n} and --write-quorum {w} are"),
        };
        let mut how = Vec::new();
        if let Some(n) = nodes {
            how.push(
                if n < voters { "`quorate members remove NAME`" } else { "`quorate members promote NAME`" }.to_owned(),
            );
        }
        if let Some(w) = write {
            how.push(format!("`quorate config set --write-quorum {w}`"));
        }
        Some(format!(
            "{given} not in force: the data in {} is a cluster of {voters} with write quorum {write_quorum}; change it with {}, or start afresh with another --data-dir",
            self.data_dir.display(),
            how.join(" and "),
        ))
    }
}

/// How many node folders, counted up to the last that holds something, there are.
fn existing_nodes(data_dir: &Path) -> usize {
    (1..=quorum::quorum::VOTERS_MAX).rev().find(|n| !is_blank(&data_dir.join(format!("node{n}")))).unwrap_or(0)
}

/// Says which port is taken before anything is started.
pub(crate) fn check_ports(nodes: &[NodeOptions]) -> Result<(), Failure> {
    for node in nodes {
        for (address, flag) in [(node.http, "--http-port"), (node.tcp, "--tcp-port"), (node.peer, "--peer-port")] {
            if let Err(error) = TcpListener::bind(address) {
                let port = address.port();
                return Err(Failure::Usage(if error.kind() == std::io::ErrorKind::AddrInUse {
                    format!(
                        "port {port}, meant for {}, is taken: stop what listens there, or move the ports with {flag}",
                        node.name
                    )
                } else {
                    format!(
                        "cannot listen on port {port}, meant for {}: {error}; move the ports with {flag}",
                        node.name
                    )
                }));
            }
        }
    }
    Ok(())
}

/// Runs the cluster until a signal ends it, or every node has ended.
pub(crate) fn run(args: &LocalArgs) -> Result<(), Failure> {
    let mut plan = args.plan().map_err(|e| Failure::Usage(e.to_string()))?;
    // Nobody has that many clients on a laptop: nothing to warn of.
    files::fit_connections(&mut plan.nodes);
    // Nodes that start and stop together find each other's ports closed, which needs nobody's attention here.
    start_logging(&args.common, "warn,quorate::peer=error")?;
    check_ports(&plan.nodes)?;
    runtime()?.block_on(cluster(args, plan))
}

async fn cluster(args: &LocalArgs, plan: Plan) -> Result<(), Failure> {
    let mut stop = Stop::listen()?;
    let page = listen_for_page(args.page_port, &plan.nodes).await?;
    let page_address = page.local_addr().map_err(|e| Failure::Error(format!("the page has no address: {e}")))?;
    print(format!("Open http://{page_address}/ to watch the cluster.\n\n"))?;
    let (mut fleet, situation) = Fleet::new(&plan.nodes);
    let (orders, mut ordered) = mpsc::channel(ORDERS_WAITING);
    let page = tokio::spawn(console::serve(page, situation, orders, &plan.nodes, fleet.stopping()));
    let start = async |fleet: &mut Fleet| {
        fleet.start_all().await.map_err(serve::start_failure)?;
        wait_until_open(&fleet.handles(), plan.existing).await
    };
    let open = tokio::select! {
        open = start(&mut fleet) => Some(open),
        () = stop.asked() => None,
    };
    let failure = match open {
        Some(Ok(open)) => {
            greet(args, &plan, &fleet.handles(), open, page_address)?;
            fleet.attend(&mut ordered, &mut stop).await
        }
        Some(Err(failure)) => Some(failure),
        None => None,
    };
    if fleet.runs() {
        eprintln!("\nstopping; the data stays in {} (once more ends it at once)", args.data_dir.display());
    }
    let late = tokio::time::timeout(STOP_WAIT, async {
        let failure = fleet.stop_all().await;
        // It ends by itself, as the nodes do; a defect of the page is no failure of the cluster.
        drop(page.await);
        failure
    });
    match (failure, late.await) {
        (Some(failure), _) | (None, Ok(Some(failure))) => Err(failure),
        (None, Ok(None)) => Ok(()),
        (None, Err(_)) => {
            Err(Failure::Error("the nodes did not stop in time and were ended; the data stays".to_owned()))
        }
    }
}

/// The port of the page: the one that was asked for, or the first that is free and no node's.
async fn listen_for_page(wanted: Option<u16>, nodes: &[NodeOptions]) -> Result<tokio::net::TcpListener, Failure> {
    let bind = async |port| tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    if let Some(port) = wanted {
        return bind(port).await.map_err(|error| {
            Failure::Usage(format!(
                "cannot listen on port {port} for the page: {error}; choose another with --page-port"
            ))
        });
    }
    let taken = |port: &u16| nodes.iter().any(|n| [n.http.port(), n.tcp.port(), n.peer.port()].contains(port));
    // 0 is any that the system has left.
    for port in PAGE_PORTS.filter(|p| !taken(p)).chain([0]) {
        if let Ok(listener) = bind(port).await {
            return Ok(listener);
        }
    }
    Err(Failure::Error("there is no free port for the page: name one with --page-port".to_owned()))
}

/// Waits, at most [`READY_WAIT`], until a leader is there and writes are open. Whether they are.
async fn wait_until_open(handles: &[Handle], existing: bool) -> Result<bool, Failure> {
    let doing = if existing { "taking the cluster up again" } else { "forming the cluster" };
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(doing);
    let deadline = tokio::time::Instant::now() + READY_WAIT;
    let mut open = false;
    while !open && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(READY_POLL).await;
        bar.tick();
        let formed = |c: &Option<SharedConfig>| c.as_ref().is_some_and(|c| c.formed);
        open = handles.iter().any(|h| h.leads() && h.state().ready && formed(&h.state().config));
    }
    bar.finish_and_clear();
    Ok(open)
}

/// One node's line in the greeting.
pub(crate) struct Shown {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) http: SocketAddr,
    pub(crate) tcp: SocketAddr,
    pub(crate) data: PathBuf,
}

fn greet(args: &LocalArgs, plan: &Plan, handles: &[Handle], open: bool, page: SocketAddr) -> Result<(), Failure> {
    let shown: Vec<Shown> = handles
        .iter()
        .zip(&plan.nodes)
        .map(|(handle, o)| Shown {
            name: o.name.clone(),
            role: handle.state().role,
            http: o.http,
            tcp: o.tcp,
            data: o.data_dir.clone(),
        })
        .collect();
    let config = handles.iter().filter_map(|h| h.state().config.clone()).max_by_key(|c| c.version);
    let given = plan.nodes.first().and_then(|n| n.form.as_ref());
    let quorum = config.as_ref().map(|c| c.quorum());
    let quorum = quorum.or_else(|| given.and_then(|f| Quorum::new(f.replicas, f.write_quorum).ok()));
    if let Some(line) = quorum.and_then(|q| args.difference(q.voters(), q.write())) {
        eprintln!("note: {line}\n");
    }
    if !open {
        eprintln!(
            "no leader, or writes not open, after {} s: the nodes go on trying; `quorate status` shows how they are, --log-level info why\n",
            READY_WAIT.as_secs()
        );
    }
    // As it was called, so that the lines work when copied even if it is not on the PATH.
    let program = std::env::args().next().unwrap_or_else(|| "quorate".to_owned());
    print(greeting(&program, &shown, quorum, plan.existing, &args.data_dir, page))
}

/// The table of the nodes and what to try next, every line of it ready to be copied.
pub(crate) fn greeting(
    program: &str,
    nodes: &[Shown],
    quorum: Option<Quorum>,
    existing: bool,
    data_dir: &Path,
    page: SocketAddr,
) -> String {
    let rows = nodes.iter().map(|n| {
        let http = format!("http://{}", n.http);
        vec![n.name.clone(), n.role.to_string(), http, n.tcp.to_string(), n.data.display().to_string()]
    });
    let rows = table(&["NODE", "ROLE", "HTTP (API, page, metrics)", "TCP (Redis, lines)", "DATA"], rows, &[]);
    let Some(first) = nodes.first() else { return String::new() };
    let leader = nodes.iter().find(|n| n.role == Role::Leader).unwrap_or(first);
    let other = nodes.iter().rev().find(|n| n.role != Role::Leader).unwrap_or(first);
    let survives = quorum.map_or(String::new(), |q| format!("{}.\n\n", q.explain()));
    let again = if existing { "is up again" } else { "is up" };
    let (any, to, tcp) = (other.http, leader.http, leader.tcp.port());
    let url = if first.http.port() == 8000 { String::new() } else { format!(" --url http://{}", first.http) };
    format!(
        "A cluster of {} nodes {again}.\n{survives}{rows}
Write and read, on any node
  curl -X PUT http://{any}/v1/kv/hello -d world
  curl http://{to}/v1/kv/hello
As the simple systems did: write on the leader, read anywhere
  curl -X POST http://{to}/write -H 'Content-Type: application/json' -d '{{\"key\":\"test\",\"value\":\"hello\"}}'
  curl http://{any}/read/test
With Redis clients, and by hand
  redis-cli -p {tcp} set user:1 Alice
  printf 'GET user:1\\nQUIT\\n' | nc 127.0.0.1 {tcp}
Look around
  {program} status{url}
  {program} bench{url} --duration 5s
The page, to watch it and to break it: http://{page}/

Ctrl-C stops it. The data stays in {}, and the same command takes it up again.
",
        nodes.len(),
        data_dir.display(),
    )
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
