//! `make check`: is everything here that is needed, and are the ports of `quorate local` free?

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, ExitCode, Stdio};

/// What the tests call, and why.
const PROGRAMS: [(&str, &str, &str); 6] = [
    ("cargo", "--version", "builds everything"),
    ("curl", "--version", "make quick, and the lines that `quorate local` prints"),
    ("redis-cli", "--version", "the tests of the Redis protocol"),
    ("redis-benchmark", "--version", "the tests of the Redis protocol"),
    ("redis-server", "--version", "the comparison with Redis (make bench)"),
    ("nc", "-h", "the tests of the line protocol"),
];

/// First port, and what `quorate local` serves from there on.
const PORTS: [(u16, &str, &str); 3] =
    [(8000, "HTTP", "--http-port"), (6379, "lines and Redis", "--tcp-port"), (7400, "other nodes", "--peer-port")];

/// Nodes of `quorate local`.
const NODES: u16 = 6;

/// The slow test opens 2,000 connections, and the nodes their files.
const FILES_MIN: u64 = 4_096;

fn main() -> ExitCode {
    let mut missing = 0;
    let mut say = |good: bool, what: String| {
        println!("{} {what}", if good { "ok     " } else { "MISSING" });
        missing += u32::from(!good);
    };
    for (program, flag, why) in PROGRAMS {
        let run =
            Command::new(program).arg(flag).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        say(run.is_ok(), format!("{program}: {why}"));
    }
    for (first, what, flag) in PORTS {
        let taken: Vec<String> = (first..first + NODES)
            .filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_err())
            .map(|port| port.to_string())
            .collect();
        let last = first + NODES - 1;
        if taken.is_empty() {
            say(true, format!("ports {first}-{last} are free ({what})"));
        } else {
            let taken = taken.join(", ");
            say(
                false,
                format!(
                    "ports {first}-{last}: taken: {taken}; stop what listens there, or use `quorate local {flag} …`"
                ),
            );
        }
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    say(limit >= FILES_MIN, format!("open files: {limit}, the tests want {FILES_MIN} (`ulimit -n`)"));
    let folder = tempfile::tempdir().and_then(|dir| std::fs::write(dir.path().join("x"), [0; 4096]));
    say(folder.is_ok(), format!("a folder to write to: {}", std::env::temp_dir().display()));
    if missing == 0 {
        println!("everything is here: `make local` starts a cluster, `make test` tests it");
        ExitCode::SUCCESS
    } else {
        println!("{missing} of these are missing");
        ExitCode::FAILURE
    }
}
