//! Other programs: starting them in process groups of their own, bounding their time, ending them, and what they used.
//!
//! Everything started here dies with the value that stands for it, also when the comparison is interrupted:
//! no server outlives a run.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use crate::failure::{Context, Failure, Outcome};

/// Between two looks at a condition that no event tells of (another program's readiness).
const POLL: Duration = Duration::from_millis(20);
/// How much of a program's log is shown when it died.
const LOG_TAIL_BYTES: usize = 2_000;
/// Clock ticks a second in `/proc/<pid>/stat`: the same on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Longest run of a load tool: well beyond the longest load that is asked of one.
pub(crate) const TOOL_LIMIT: Duration = Duration::from_secs(300);

/// Requests of the short run before a counted one: some tenths of a second to two of every system here.
pub(crate) fn pilot_requests(clients: usize) -> u64 {
    if clients < 8 { 1_000 } else { 20_000 }
}

/// A server's command line, with nothing of this process's environment: a stray variable must not configure a system.
pub(crate) fn server(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// A server that runs until this is dropped.
pub(crate) struct Member {
    name: String,
    child: Child,
    pid: u32,
    log: PathBuf,
}

impl Member {
    /// Starts a server; what it prints goes to `<dir>/<name>.log`.
    pub(crate) fn start(name: &str, mut command: Command, dir: &Path) -> Outcome<Member> {
        let log = dir.join(format!("{name}.log"));
        let out = std::fs::File::create(&log).context(|| format!("cannot create the log of {name}"))?;
        let err = out.try_clone().context(|| format!("cannot share the log of {name}"))?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0).kill_on_drop(true);
        let child = command.spawn().context(|| format!("cannot start {name}"))?;
        let pid = child.id().context(|| format!("{name} ended at once"))?;
        Ok(Member { name: name.to_owned(), child, pid, log })
    }

    /// An error with the end of its log if it has ended.
    pub(crate) fn check(&mut self) -> Outcome<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let log = std::fs::read(&self.log).unwrap_or_default();
                let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned();
                Err(Failure::new(format!("{} ended by itself ({status}); the end of its log:\n{tail}", self.name)))
            }
            Err(e) => Err(Failure::new(format!("cannot look after {}: {e}", self.name))),
        }
    }

    /// Processor time used so far, all threads, user and system, seconds.
    fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        cpu_ticks(&stat).map_or(0.0, |ticks| ticks as f64 / TICKS_PER_SECOND)
    }

    /// Memory it holds, MiB.
    fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<f64>().ok()).map_or(0.0, |kib| kib / 1024.0)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // The whole group, because a server may have children (Redis rewriting its log). The pid is still
        // ours: nobody has reaped it.
        if self.child.id().is_some() {
            let group = format!("-{}", self.pid);
            let _ = std::process::Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        }
    }
}

/// The processes of one system.
pub(crate) struct Members(pub(crate) Vec<Member>);

impl Members {
    /// An error if any of them has ended.
    pub(crate) fn check(&mut self) -> Outcome<()> {
        self.0.iter_mut().try_for_each(Member::check)
    }

    /// Processor time of all of them, seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.0.iter().map(Member::cpu_seconds).sum()
    }

    /// Memory of the largest of them, MiB.
    pub(crate) fn resident_mib_max(&self) -> f64 {
        self.0.iter().map(Member::resident_mib).fold(0.0, f64::max)
    }

    /// Ends them and waits until they are gone, so that the next system has the machine to itself.
    pub(crate) async fn stop(mut self) {
        for member in &mut self.0 {
            let _ = member.child.start_kill();
        }
        for member in &mut self.0 {
            let _ = member.child.wait().await;
        }
    }
}

/// User and system ticks out of a line of `/proc/<pid>/stat`.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The program's name stands in parentheses and may hold anything: count from the last one. utime and
    // stime are fields 14 and 15.
    let after = &stat[stat.rfind(')')? + 1..];
    let mut fields = after.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Runs a tool to its end, at most for `limit`, and returns all that it printed.
pub(crate) async fn run(mut command: Command, limit: Duration) -> Outcome<String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let child = command.spawn().context(|| format!("cannot start {name}"))?;
    let ended = tokio::time::timeout(limit, child.wait_with_output()).await;
    let ended = ended.map_err(|_| Failure::new(format!("{name} did not end within {limit:?}")))?;
    let output = ended.context(|| format!("cannot run {name}"))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        return Ok(text);
    }
    let tail = &text.as_bytes()[text.len().saturating_sub(LOG_TAIL_BYTES)..];
    Err(Failure::new(format!("{name} failed ({}):\n{}", output.status, String::from_utf8_lossy(tail))))
}

/// The first line that a short command prints, or a dash: for descriptions, where a missing tool is no failure.
pub(crate) fn line_of(program: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().map_or_else(|| "-".to_owned(), |l| l.trim().to_owned())
}

/// Ports that were free a moment ago, all different.
pub(crate) fn free_ports<const N: usize>() -> Outcome<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0").context(|| "no free port".to_owned())?;
        *port = listener.local_addr().context(|| "a port without an address".to_owned())?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// Waits until the condition holds, at most for `limit`; fails at once if a member ends meanwhile.
pub(crate) async fn wait_until<F>(what: &str, limit: Duration, members: &mut Members, mut holds: F) -> Outcome<()>
where
    F: AsyncFnMut() -> bool,
{
    let deadline = Instant::now() + limit;
    while !holds().await {
        members.check()?;
        if Instant::now() >= deadline {
            return Err(Failure::new(format!("{what}: not within {limit:?}")));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_a_name_with_spaces_and_parentheses() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn free_ports_are_all_different() {
        let ports: [u16; 9] = free_ports().unwrap();
        let unique: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!(unique.len(), 9);
    }

    #[tokio::test]
    async fn a_tool_that_takes_too_long_is_an_error() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let error = run(command, Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_dies_is_noticed_with_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such disk; exit 3"]);
        let mut members = Members(vec![Member::start("server", command, dir.path()).unwrap()]);
        let error =
            wait_until("ready", Duration::from_secs(10), &mut members, async || false).await.unwrap_err().to_string();
        assert!(error.contains("no such disk"), "{error}");
    }
}
