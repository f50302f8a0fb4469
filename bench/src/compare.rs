//! The comparison: in every round each system in turn, alone on the machine, from an empty disk, under the same loads.
//!
//! The order changes from round to round, so that no system always meets the warmer machine. A system that fails is
//! reported as such and the others go on; one that cannot be had, or fails again and again, is left out. The whole has
//! an end: what does not fit into its time is left out, too, and said to be. What is measured here is judged in
//! `results` and drawn in `report`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::etcd::Etcd;
use crate::failure::{Context, Failure, Outcome};
use crate::load::{self, Method, Order, Spec};
use crate::process::{self, Member, Members};
use crate::quorate::Quorate;
use crate::redis::{self, Redis};
use crate::results::{Cell, Figures, HALF_LOAD_SECONDS, PIPELINED_SECONDS, Results, System, Workload};
use crate::tools::{self, EtcdTools};
use crate::{machine, report};

/// Size of a value: a small record.
const VALUE_BYTES: usize = 256;
/// Keys that are written.
const KEYS: u64 = 100_000;
/// Keys that are read: written once beforehand.
const READ_KEYS: u64 = 10_000;
/// Clients of the writes: one alone, a busy service, many.
const PUT_CLIENTS: [usize; 3] = [1, 64, 256];
/// Clients of the reads and of redis-benchmark.
const CLIENTS: usize = 64;
/// Connections of the run at half load.
const HALF_LOAD_CLIENTS: usize = 256;
/// Uncounted start of every load of our own; the peers' tools run a short load first.
const WARM_UP: Duration = Duration::from_secs(1);
/// Longest that writing the keys to be read may take.
const FILL_LIMIT: Duration = Duration::from_secs(60);
/// What starting three empty servers takes, ending them, and what is not counted before a load:
/// on two cores, generously.
const START_SECONDS: f64 = 4.0;
const BEFORE_LOAD_SECONDS: f64 = 2.0;
/// What catching up after a pipelined load takes, likewise.
const DRAIN_SECONDS: f64 = 10.0;
/// So many times its planned length a comparison may take, on a machine that is slower than it should be.
const OVERRUN: f64 = 1.5;
/// A system that has failed so often is not started again: it may take a minute to fail, in every round.
const FAILURES_MAX: usize = 2;

/// Who is measured by HTTP, or by its own counterpart of it.
const HTTP_SYSTEMS: [System; 4] = [System::Quorate, System::Etcd, System::Echo, System::Chain];
/// Who is measured by redis-benchmark.
const REDIS_SYSTEMS: [System; 2] = [System::Quorate, System::Redis];
/// How long the greatest load is looked for, of which half is then asked.
const GREATEST_SECONDS: f64 = 5.0;

/// What to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Only {
    /// Writes and reads, against etcd and the echo.
    Http,
    /// redis-benchmark, against Redis.
    Redis,
    /// The tail of the latency at half load.
    Latency,
}

/// What was asked for.
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) rounds: Option<usize>,
    pub(crate) only: Option<Only>,
    pub(crate) systems: Vec<System>,
    pub(crate) half_load_seconds: Option<u64>,
    pub(crate) quorate: Option<PathBuf>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) out: Option<PathBuf>,
}

/// How much time goes where. The default adds up to a quarter of an hour, `quick` to four minutes.
struct Budget {
    rounds: usize,
    cell_seconds: f64,
    pipelined_rounds: usize,
    pipelined_seconds: f64,
    half_load_seconds: f64,
}

impl Budget {
    fn of(options: &Options) -> Budget {
        let alone = options.only.is_some();
        let mut budget = if options.quick {
            Budget {
                rounds: 2,
                cell_seconds: 2.0,
                pipelined_rounds: 1,
                pipelined_seconds: 10.0,
                half_load_seconds: 20.0,
            }
        } else {
            Budget {
                rounds: 5,
                cell_seconds: 4.0,
                // Two, so that each of the two systems goes first once; alone there is time for all.
                pipelined_rounds: if alone { usize::MAX } else { 2 },
                pipelined_seconds: PIPELINED_SECONDS,
                half_load_seconds: if alone { HALF_LOAD_SECONDS } else { 120.0 },
            }
        };
        if let Some(rounds) = options.rounds {
            budget.rounds = rounds.max(1);
        }
        if let Some(seconds) = options.half_load_seconds {
            budget.half_load_seconds = seconds.max(1) as f64;
        }
        budget
    }

    /// How long that takes in all, about, when nothing fails.
    fn planned(&self, only: Option<Only>) -> Duration {
        let wanted = |part| f64::from(u8::from(only.is_none_or(|only| only == part)));
        let load = |seconds: f64| BEFORE_LOAD_SECONDS + seconds;
        let whole = START_SECONDS + (PUT_CLIENTS.len() + 1) as f64 * load(self.cell_seconds) + BEFORE_LOAD_SECONDS;
        // All but the chain, which takes one write at a time.
        let http = (HTTP_SYSTEMS.len() - 1) as f64 * whole + START_SECONDS + load(self.cell_seconds);
        let redis = START_SECONDS + load(self.cell_seconds);
        let pipelined = self.pipelined_rounds.min(self.rounds) as f64 * (load(self.pipelined_seconds) + DRAIN_SECONDS);
        let half_load = START_SECONDS + load(GREATEST_SECONDS) + self.half_load_seconds;
        Duration::from_secs_f64(
            wanted(Only::Http) * self.rounds as f64 * http
                + wanted(Only::Redis) * REDIS_SYSTEMS.len() as f64 * (self.rounds as f64 * redis + pipelined)
                + wanted(Only::Latency) * half_load,
        )
    }
}

/// Everything that a comparison needs, and what it has found.
struct Comparison {
    budget: Budget,
    systems: Vec<System>,
    data: PathBuf,
    quorate: Option<PathBuf>,
    etcd: Option<EtcdTools>,
    /// Whether redis-benchmark is there, for Redis and for us.
    redis_tools: bool,
    /// When it ends, whatever is left to be measured then.
    deadline: Instant,
    cells: Vec<Cell>,
    failures: Vec<String>,
    /// Whose they are, one each.
    failed: Vec<System>,
}

/// Runs the comparison and writes its results; returns the folder they are in.
pub(crate) async fn run(options: Options) -> Outcome<PathBuf> {
    let (mut comparison, versions) = prepare(&options).await?;
    for (name, version) in &versions {
        eprintln!("{name}: {version}");
    }
    let machine = machine::describe(&comparison.data, versions)?;
    let wanted = |only| options.only.is_none_or(|o| o == only);
    let planned = comparison.budget.planned(options.only);
    let limit = planned.mul_f64(OVERRUN);
    comparison.deadline = Instant::now() + limit;
    let minutes = |time: Duration| (time.as_secs_f64() / 60.0).ceil();
    eprintln!("about {} minutes, {} at most; data in {}", minutes(planned), minutes(limit), comparison.data.display());
    for round in 1..=comparison.budget.rounds {
        if wanted(Only::Http) {
            comparison.in_turn(round, &HTTP_SYSTEMS, async |c, round, system| c.http(round, system).await).await;
        }
        if wanted(Only::Redis) && comparison.redis_tools {
            comparison.in_turn(round, &REDIS_SYSTEMS, async |c, round, system| c.redis(round, system).await).await;
        }
    }
    if wanted(Only::Latency) {
        comparison.in_turn(1, &[System::Quorate], async |c, _, _| c.half_load().await).await;
    }
    let results = Results {
        machine,
        rounds: comparison.budget.rounds,
        quick: options.quick,
        value_bytes: VALUE_BYTES,
        cells: comparison.cells,
        failures: comparison.failures,
    };
    if results.cells.is_empty() {
        return Err(Failure::new(format!("nothing was measured: {}", results.failures.join("; "))));
    }
    report::write(&results, options.out)
}

/// Finds, installs or builds what is compared; also says which versions those are.
async fn prepare(options: &Options) -> Outcome<(Comparison, Vec<(String, String)>)> {
    let data = options.data_dir.clone().unwrap_or_else(|| tools::target_dir().join("bench-data"));
    std::fs::create_dir_all(&data).context(|| format!("cannot create {}", data.display()))?;
    machine::check_disk(&data)?;
    let mut versions = Vec::new();
    let version = |program: &Path| process::line_of(&program.to_string_lossy(), &["--version"]);
    let mut comparison = Comparison {
        budget: Budget::of(options),
        systems: options.systems.clone(),
        data,
        quorate: None,
        etcd: None,
        redis_tools: false,
        deadline: Instant::now(),
        cells: Vec::new(),
        failures: Vec::new(),
        failed: Vec::new(),
    };
    if options.systems.contains(&System::Quorate) {
        let program = tools::quorate(options.quorate.clone()).await?;
        versions.push(("Quorate".to_owned(), version(&program)));
        comparison.quorate = Some(program);
    }
    let needs = |system, only| options.systems.contains(&system) && options.only.is_none_or(|o| o == only);
    if needs(System::Etcd, Only::Http) {
        match tools::etcd().await {
            Ok(etcd) => {
                versions.push(("etcd".to_owned(), version(&etcd.server)));
                versions.push(("Go".to_owned(), process::line_of("go", &["version"])));
                comparison.etcd = Some(etcd);
            }
            Err(why) => comparison.leave_out(System::Etcd, &why.to_string()),
        }
    }
    if options.only.is_none_or(|o| o == Only::Redis) {
        match tools::redis().await {
            Ok(()) => {
                versions.push(("Redis".to_owned(), version(Path::new("redis-server"))));
                comparison.redis_tools = true;
            }
            Err(why) => comparison.leave_out(System::Redis, &why.to_string()),
        }
    }
    versions.push(("Rust".to_owned(), process::line_of("rustc", &["--version"])));
    Ok((comparison, versions))
}

impl Comparison {
    /// Measures the systems one after the other; another one is first in every round.
    async fn in_turn<F>(&mut self, round: usize, systems: &[System], mut measure: F)
    where
        F: AsyncFnMut(&mut Comparison, usize, System) -> Outcome<()>,
    {
        for place in 0..systems.len() {
            let system = systems[(place + round - 1) % systems.len()];
            if !self.systems.contains(&system) {
                continue;
            }
            if Instant::now() >= self.deadline {
                self.note_failure(round, system, "left out, for the comparison has used up its time");
                continue;
            }
            let deadline = self.deadline;
            // What is dropped ends its servers and removes their data.
            let measured = tokio::time::timeout_at(deadline, measure(self, round, system)).await;
            if let Err(why) = measured.unwrap_or_else(|_| Err(Failure::new("the comparison has used up its time"))) {
                self.note_failure(round, system, &why.to_string());
                self.failed.push(system);
                if self.failed.iter().filter(|failed| **failed == system).count() >= FAILURES_MAX {
                    self.leave_out(system, &format!("it failed {FAILURES_MAX} times"));
                }
            }
        }
    }

    fn note_failure(&mut self, round: usize, system: System, why: &str) {
        eprintln!("round {round}: {} failed: {why}", system.name());
        self.failures.push(format!("round {round}, {}: {why}", system.name()));
    }

    /// From here on; the others go on.
    fn leave_out(&mut self, system: System, why: &str) {
        eprintln!("{} is left out: {why}", system.name());
        self.failures.push(format!("{} was left out: {why}", system.name()));
        self.systems.retain(|other| *other != system);
    }

    /// A folder for one system's data, gone with it.
    fn fresh_dir(&self) -> Outcome<TempDir> {
        tempfile::tempdir_in(&self.data).context(|| format!("cannot create a folder in {}", self.data.display()))
    }

    async fn start_quorate(&self, dir: &Path) -> Outcome<Quorate> {
        let program = self.quorate.as_deref().context(|| "quorate is not there".to_owned())?;
        Quorate::start(program, dir).await
    }

    /// Writes and reads, each system by its own protocol.
    async fn http(&mut self, round: usize, system: System) -> Outcome<()> {
        let dir = self.fresh_dir()?;
        let seconds = self.budget.cell_seconds;
        match system {
            System::Etcd => {
                let tools = self.etcd.clone().context(|| "etcd is not there".to_owned())?;
                let mut etcd = Etcd::start(&tools, dir.path()).await?;
                for clients in PUT_CLIENTS {
                    let before = etcd.members.cpu_seconds();
                    let figures = etcd.put(clients, VALUE_BYTES, seconds).await?;
                    self.add((round, system, Workload::Put, clients), figures, &etcd.members, before);
                }
                let before = etcd.members.cpu_seconds();
                let figures = etcd.range(CLIENTS, VALUE_BYTES, seconds).await?;
                self.add((round, system, Workload::Get, CLIENTS), figures, &etcd.members, before);
                etcd.members.stop().await;
            }
            System::Quorate => {
                let quorate = self.start_quorate(dir.path()).await?;
                self.http_load(round, system, quorate.leader_http, quorate.members).await?;
            }
            System::Chain => {
                let (port, mut members) = start_chain(dir.path()).await?;
                let spec = Spec { clients: 1, ..self.put(port) };
                self.loaded((round, system, Workload::Put), spec, &mut members).await?;
                members.stop().await;
            }
            System::Echo | System::Redis => {
                let (port, members) = start_echo(dir.path()).await?;
                self.http_load(round, System::Echo, port, members).await?;
            }
        }
        Ok(())
    }

    /// Our own writes, as fast as answers come.
    fn put(&self, port: u16) -> Spec {
        Spec {
            port,
            method: Method::Put,
            clients: CLIENTS,
            value_bytes: VALUE_BYTES,
            keys: KEYS,
            order: Order::Random,
            rate: None,
            warm_up: WARM_UP,
            duration: Duration::from_secs_f64(self.budget.cell_seconds),
        }
    }

    /// Our own load on an HTTP server: the writes, the keys to be read, the reads.
    async fn http_load(&mut self, round: usize, system: System, port: u16, mut members: Members) -> Outcome<()> {
        let put = self.put(port);
        for clients in PUT_CLIENTS {
            self.loaded((round, system, Workload::Put), Spec { clients, ..put.clone() }, &mut members).await?;
        }
        let fill = Spec { keys: READ_KEYS, order: Order::EachOnce, warm_up: Duration::ZERO, ..put.clone() };
        let filled = load::run(&Spec { duration: FILL_LIMIT, ..fill }).await?;
        if filled.answered != READ_KEYS {
            let why = filled.first_error.unwrap_or_default();
            return Err(Failure::new(format!("only {} of {READ_KEYS} keys written: {why}", filled.answered)));
        }
        let get = Spec { method: Method::Get, keys: READ_KEYS, ..put };
        self.loaded((round, system, Workload::Get), get, &mut members).await?;
        members.stop().await;
        Ok(())
    }

    async fn loaded(&mut self, of: (usize, System, Workload), spec: Spec, members: &mut Members) -> Outcome<Figures> {
        let before = members.cpu_seconds();
        let report = load::run(&spec).await?;
        members.check()?;
        let figures = figures(&report)?;
        self.add((of.0, of.1, of.2, spec.clients), figures.clone(), members, before);
        Ok(figures)
    }

    /// redis-benchmark, plain and pipelined.
    async fn redis(&mut self, round: usize, system: System) -> Outcome<()> {
        let dir = self.fresh_dir()?;
        if system == System::Quorate {
            let mut quorate = self.start_quorate(dir.path()).await?;
            let port = quorate.leader_tcp;
            self.set(round, system, port, &quorate.members).await?;
            if round <= self.budget.pipelined_rounds {
                let before = quorate.members.cpu_seconds();
                let figures = redis::set(port, CLIENTS, 16, VALUE_BYTES, self.budget.pipelined_seconds).await?;
                let figures = with_drain(figures, quorate.drained().await?);
                self.add((round, system, Workload::SetPipelined, CLIENTS), figures, &quorate.members, before);
            }
            quorate.members.stop().await;
        } else {
            let redis = Redis::start(dir.path()).await?;
            let port = redis.master;
            self.set(round, system, port, &redis.members).await?;
            if round <= self.budget.pipelined_rounds {
                let before = redis.members.cpu_seconds();
                let figures = redis::set(port, CLIENTS, 16, VALUE_BYTES, self.budget.pipelined_seconds).await?;
                // Not charged for its replicas: it promises nothing about them, and a figure of one
                // copy is the harder peer.
                let figures = Figures { behind_mib: Some(redis.behind_mib().await?), ..figures };
                self.add((round, system, Workload::SetPipelined, CLIENTS), figures, &redis.members, before);
            }
            redis.members.stop().await;
        }
        Ok(())
    }

    async fn set(&mut self, round: usize, system: System, port: u16, members: &Members) -> Outcome<()> {
        let before = members.cpu_seconds();
        let figures = redis::set(port, CLIENTS, 1, VALUE_BYTES, self.budget.cell_seconds).await?;
        self.add((round, system, Workload::Set, CLIENTS), figures, members, before);
        Ok(())
    }

    /// The greatest load first, then half of it for long.
    async fn half_load(&mut self) -> Outcome<()> {
        let dir = self.fresh_dir()?;
        let mut quorate = self.start_quorate(dir.path()).await?;
        let full = Spec {
            port: quorate.leader_http,
            method: Method::Put,
            clients: HALF_LOAD_CLIENTS,
            value_bytes: VALUE_BYTES,
            keys: KEYS,
            order: Order::Random,
            rate: None,
            warm_up: WARM_UP,
            duration: Duration::from_secs_f64(GREATEST_SECONDS),
        };
        let greatest = figures(&load::run(&full).await?)?.per_second;
        eprintln!("half load: half of {greatest:.0}/s for {:.0} s", self.budget.half_load_seconds);
        let half = Spec {
            rate: Some(greatest / 2.0),
            duration: Duration::from_secs_f64(self.budget.half_load_seconds),
            ..full
        };
        self.loaded((1, System::Quorate, Workload::HalfLoad), half, &mut quorate.members).await?;
        quorate.members.stop().await;
        Ok(())
    }

    /// Takes down a cell and shows it.
    fn add(&mut self, of: (usize, System, Workload, usize), figures: Figures, members: &Members, cpu_before: f64) {
        let (round, system, workload, clients) = of;
        let cpu_seconds = members.cpu_seconds() - cpu_before;
        let cpu_us_per_request = (figures.served > 0).then(|| cpu_seconds * 1e6 / figures.served as f64);
        let resident_mib = Some(members.resident_mib_max());
        eprintln!(
            "round {round}/{}  {:9}  {:13} {clients:3} clients  {:>9}/s  p50 {:.3} ms  p99 {:.3} ms{}",
            self.budget.rounds,
            system.name(),
            workload.name(),
            report::thousands(figures.per_second),
            figures.p50_ms,
            figures.p99_ms,
            report::aftermath(&figures),
        );
        self.cells.push(Cell { round, system, workload, clients, figures, cpu_us_per_request, resident_mib });
    }
}

/// This program, to serve something.
fn itself() -> Outcome<tokio::process::Command> {
    std::env::current_exe().map(process::server).context(|| "where is this program?".to_owned())
}

/// The bare echo, in a process of its own like the others.
async fn start_echo(dir: &Path) -> Outcome<(u16, Members)> {
    let [port] = process::free_ports()?;
    let mut server = itself()?;
    server.args(["echo", "--port", &port.to_string(), "--value-bytes", &VALUE_BYTES.to_string()]);
    let mut members = Members(vec![Member::start("echo", server, dir)?]);
    listens("the echo", port, &mut members).await?;
    Ok((port, members))
}

/// The bare chain, three processes.
async fn start_chain(dir: &Path) -> Outcome<(u16, Members)> {
    let [port, followers @ ..]: [u16; 3] = process::free_ports()?;
    let mut members = Members(Vec::new());
    let member = |name: &str, port: u16| {
        let mut server = itself()?;
        server.args(["chain", "--port", &port.to_string(), "--data"]).arg(dir.join(format!("{name}.blocks")));
        Outcome::Ok(server)
    };
    for (name, port) in ["c1", "c2"].into_iter().zip(followers) {
        members.0.push(Member::start(name, member(name, port)?, dir)?);
    }
    let mut leader = member("c0", port)?;
    leader.args(["--followers", &followers.map(|port| port.to_string()).join(",")]);
    members.0.push(Member::start("c0", leader, dir)?);
    listens("the chain", port, &mut members).await?;
    Ok((port, members))
}

async fn listens(what: &str, port: u16, members: &mut Members) -> Outcome<()> {
    let what = format!("{what} listens");
    process::wait_until(&what, Duration::from_secs(10), members, async || {
        TcpStream::connect(("127.0.0.1", port)).await.is_ok()
    })
    .await
}

/// The figures of our own load; an error in it makes them void.
fn figures(report: &load::Report) -> Outcome<Figures> {
    if let Some(first) = &report.first_error {
        return Err(Failure::new(format!("{} requests failed, the first with: {first}", report.errors)));
    }
    Ok(Figures {
        seconds: report.seconds,
        requests: report.answered,
        served: report.answered_in_all,
        per_second: report.per_second(),
        p50_ms: report.quantile_ms(0.5),
        p99_ms: report.quantile_ms(0.99),
        p999_ms: Some(report.quantile_ms(0.999)),
        max_ms: Some(report.quantile_ms(1.0)),
        drain_seconds: None,
        behind_mib: None,
        slowest_ms: report.slowest_ms.clone(),
    })
}

/// The time until everything was drained counts as time of the load.
fn with_drain(figures: Figures, drain_seconds: f64) -> Figures {
    let seconds = figures.seconds + drain_seconds;
    let per_second = figures.requests as f64 / seconds;
    Figures { seconds, per_second, drain_seconds: Some(drain_seconds), ..figures }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(quick: bool, only: Option<Only>) -> Options {
        let systems = vec![System::Quorate, System::Etcd, System::Redis, System::Echo];
        Options {
            quick,
            rounds: None,
            only,
            systems,
            half_load_seconds: None,
            quorate: None,
            data_dir: None,
            out: None,
        }
    }

    fn comparison(lasts: Duration) -> Comparison {
        let options = options(true, None);
        Comparison {
            budget: Budget::of(&options),
            systems: options.systems,
            data: PathBuf::new(),
            quorate: None,
            etcd: None,
            redis_tools: true,
            deadline: Instant::now() + lasts,
            cells: Vec::new(),
            failures: Vec::new(),
            failed: Vec::new(),
        }
    }

    #[test]
    fn a_comparison_takes_the_time_that_is_said_of_it() {
        let minutes = |quick, only| {
            let options = options(quick, only);
            (Budget::of(&options).planned(options.only).as_secs_f64() / 60.0).round()
        };
        assert_eq!((minutes(false, None), minutes(true, None)), (17.0, 4.0));
        assert_eq!((minutes(false, Some(Only::Latency)), minutes(false, Some(Only::Redis))), (10.0, 14.0));
    }

    #[tokio::test]
    async fn a_system_that_fails_again_is_left_out_and_the_others_go_on() {
        let (mut comparison, mut measured) = (comparison(Duration::from_secs(60)), Vec::new());
        for round in 1..=4 {
            let measure = async |_: &mut Comparison, _: usize, system: System| {
                measured.push(system);
                if system == System::Etcd { Err(Failure::new("no such port")) } else { Ok(()) }
            };
            comparison.in_turn(round, &[System::Quorate, System::Etcd], measure).await;
        }
        let of = |system| measured.iter().filter(|measured| **measured == system).count();
        assert_eq!((of(System::Quorate), of(System::Etcd)), (4, FAILURES_MAX));
        let said = comparison.failures.join("; ");
        assert_eq!(
            said,
            "round 1, etcd: no such port; round 2, etcd: no such port; etcd was left out: it failed 2 times"
        );
    }

    #[tokio::test]
    async fn a_comparison_that_stands_still_ends_at_its_limit() {
        let (mut comparison, mut begun) = (comparison(Duration::from_millis(50)), 0);
        let measure = async |_: &mut Comparison, _: usize, _: System| {
            begun += 1;
            std::future::pending().await
        };
        comparison.in_turn(1, &[System::Quorate, System::Etcd], measure).await;
        let said = comparison.failures.join("; ");
        assert!(begun == 1 && said.contains("Quorate: the comparison has used up its time"), "{said}");
        assert!(said.contains("etcd: left out"), "{said}");
    }

    #[test]
    fn what_is_drained_later_lowers_the_rate() {
        let figures = Figures { seconds: 4.0, requests: 400, per_second: 100.0, ..Figures::default() };
        let drained = with_drain(figures, 1.0);
        assert_eq!((drained.per_second, drained.drain_seconds), (80.0, Some(1.0)));
    }
}
