//! One node as a process: started, signalled, ended, looked after.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::binary;
use crate::client::{Answer, Lines, RespClient};
use crate::wait::eventually;

/// How much of a node's log is shown when a test failed.
const LOG_TAIL_LINES: usize = 60;
/// How long a process may take to stand still: one that waits for its disk does so when it is answered.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);

/// A node: a name, ports and a folder that stay, and a process that comes and goes.
#[derive(Debug)]
pub struct Node {
    /// Its name in the cluster.
    pub name: String,
    /// `http://127.0.0.1:port`
    pub url: String,
    /// `127.0.0.1:port` of the line and Redis protocols.
    pub tcp: String,
    /// `127.0.0.1:port` for other nodes.
    pub peer: String,
    /// Its data directory.
    pub dir: PathBuf,
    /// What `serve` is given.
    pub args: Vec<String>,
    /// A program and its arguments that run the node in an environment of its own; usually none.
    pub wrapper: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
    http: reqwest::Client,
}

/// `quorate` with nothing of this process's environment: a stray variable must not configure a node.
#[must_use]
pub fn command() -> Command {
    command_in(&[])
}

fn command_in(wrapper: &[String]) -> Command {
    let mut command = match wrapper {
        [] => Command::new(binary::quorate()),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(binary::quorate());
            command
        }
    };
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
    command
}

impl Node {
    pub(crate) fn new(name: String, ports: [u16; 3], home: &Path, args: Vec<String>, http: reqwest::Client) -> Node {
        let [http_port, tcp, peer] = ports;
        Node {
            url: format!("http://127.0.0.1:{http_port}"),
            tcp: format!("127.0.0.1:{tcp}"),
            peer: format!("127.0.0.1:{peer}"),
            dir: home.join(&name),
            log: home.join(format!("{name}.log")),
            wrapper: Vec::new(),
            child: None,
            name,
            args,
            http,
        }
    }

    /// Starts the process (on whatever is in its folder).
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log file");
        let child = command_in(&self.wrapper)
            .arg("serve")
            .args(["--id", &self.name, "--data-dir"])
            .arg(&self.dir)
            .args(&self.args)
            .stdout(log.try_clone().expect("a second handle of the log file"))
            .stderr(log)
            .process_group(0)
            .spawn();
        self.child = Some(child.expect("the node's process"));
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)))
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a signal to a process of ours");
    }

    /// SIGKILL: what a power cut is to a process. Returns when it is gone.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        let _ = child.wait();
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP: the process stands still when this returns, its connections stay open.
    ///
    /// # Panics
    /// If it still runs after seconds.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        // The signal is on its way to each thread for a moment: one that is writing its log may still answer.
        let tasks = format!("/proc/{}/task", self.pid().as_raw_nonzero());
        let begun = Instant::now();
        while !std::fs::read_dir(&tasks)
            .expect("the threads of a process of ours")
            .flatten()
            .all(|task| is_stopped(&task.path()))
        {
            assert!(begun.elapsed() < PAUSE_LIMIT, "{} does not stand still", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGCONT
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let what = format!("{} ends", self.name);
        let status = eventually(&what, || {
            let status = self.child.as_mut().expect("a process").try_wait().expect("its state");
            async move { status.ok_or_else(|| "it still runs".to_owned()) }
        })
        .await;
        self.child = None;
        status
    }

    /// SIGTERM, and waits for the end, which must be in good order.
    pub async fn stop(&mut self) {
        self.terminate();
        let status = self.ended().await;
        assert!(status.success(), "{} was asked to stop and ended with {status}", self.name);
    }

    /// Whether a process is there.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// The id of its thread of this name.
    ///
    /// # Panics
    /// If it does not run or has none.
    #[must_use]
    pub fn thread(&self, name: &str) -> u32 {
        let tasks = format!("/proc/{}/task", self.pid().as_raw_nonzero());
        let tasks = std::fs::read_dir(tasks).expect("the threads of a process of ours").filter_map(Result::ok);
        let named = |path: &PathBuf| std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
        let found = tasks.map(|task| task.path()).find(named);
        let found = found.unwrap_or_else(|| panic!("{} has no thread {name:?}", self.name));
        found.file_name().and_then(|id| id.to_str()).and_then(|id| id.parse().ok()).expect("a thread's id")
    }

    /// The process's number.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.pid().as_raw_nonzero().get()
    }

    /// Bytes of memory it holds.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.system_says("VmRSS").trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
    }

    /// What the system says of the process under this name (`/proc/PID/status`); nothing if it has no such line.
    #[must_use]
    pub fn system_says(&self, name: &str) -> String {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid().as_raw_nonzero())).unwrap_or_default();
        let value = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().trim().to_owned()
    }

    /// Where it logs to.
    #[must_use]
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// All it logged since its cluster began.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// A request to this node.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// `GET`
    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    /// `PUT` of raw bytes.
    pub async fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        Answer::of(self.request(Method::PUT, path).body(body)).await
    }

    /// `POST` of JSON.
    pub async fn post(&self, path: &str, body: &serde_json::Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(body)).await
    }

    /// `DELETE`
    pub async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path)).await
    }

    /// `/v1/status`, if the node answers.
    pub async fn try_status(&self) -> Result<quorate_api::Status, String> {
        let reply = self.request(Method::GET, "/v1/status").send().await.map_err(|e| format!("{}: {e}", self.name))?;
        reply.json().await.map_err(|e| format!("{}: {e}", self.name))
    }

    /// `/v1/status`
    ///
    /// # Panics
    /// If the node does not answer.
    pub async fn status(&self) -> quorate_api::Status {
        self.try_status().await.expect("a status")
    }

    /// A Redis client of this node.
    pub async fn redis(&self) -> RespClient {
        RespClient::connect(&self.tcp).await
    }

    /// A line client of this node.
    pub async fn lines(&self) -> Lines {
        Lines::connect(&self.tcp).await
    }

    /// Throws its disk away. It must not run.
    pub fn wipe(&mut self) {
        assert!(self.child.is_none(), "{} still runs", self.name);
        std::fs::remove_dir_all(&self.dir).expect("an empty disk");
    }

    /// A marker in its log, for people.
    pub fn note(&self, text: &str) {
        use std::io::Write;
        if let Ok(mut log) = File::options().append(true).open(&self.log) {
            let _ = writeln!(log, "---- {text}");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a thread, by its folder under `/proc`, is held by SIGSTOP or has ended.
fn is_stopped(task: &Path) -> bool {
    // "12 (a name) T ...": the name may hold anything, a bracket, too.
    let stat = std::fs::read_to_string(task.join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't']))
}

/// Runs a program to its end, at most `limit` long: exit code, stdout, stderr.
///
/// # Panics
/// If it cannot be started, or does not end in time (it is ended then).
pub async fn run(mut command: Command, limit: Duration) -> (i32, String, String) {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let shown = format!("{command:?}");
    let child = tokio::process::Command::from(command).kill_on_drop(true).spawn();
    let child = child.unwrap_or_else(|e| panic!("cannot start {shown}: {e}"));
    let done = tokio::time::timeout(limit, child.wait_with_output()).await;
    let output = done.unwrap_or_else(|_| panic!("{shown} did not end within {limit:?}")).expect("its output");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}
