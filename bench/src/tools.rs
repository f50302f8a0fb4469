//! The programs that are compared: where they are, and making those that are not there yet.
//!
//! etcd and its load tool are built from the Go module in `bench/etcd` (their versions are pinned there) into
//! `target/bench-tools`, once. Redis is the distribution's. The store is built from this tree.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use crate::failure::{Context, Failure, Outcome};
use crate::process;

/// Longest a build from cold may take on a small machine.
const BUILD_LIMIT: Duration = Duration::from_secs(1_800);
/// What is built from the Go module: the file's name and the package.
const GO_TOOLS: [(&str, &str); 2] =
    [("etcd", "go.etcd.io/etcd/server/v3"), ("benchmark", "go.etcd.io/etcd/v3/tools/benchmark")];

/// This crate's folder.
pub(crate) fn bench_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The build's folder that this program lies in: tools and data go there, on the disk that the sources are on.
pub(crate) fn target_dir() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().find(|a| a.file_name().is_some_and(|n| n == "target"));
    target.map_or_else(|| bench_dir().join("../target"), Path::to_path_buf)
}

/// etcd's two programs.
#[derive(Clone)]
pub(crate) struct EtcdTools {
    pub(crate) server: PathBuf,
    pub(crate) benchmark: PathBuf,
}

/// Finds or builds etcd and its load tool.
pub(crate) async fn etcd() -> Outcome<EtcdTools> {
    let tools = target_dir().join("bench-tools");
    std::fs::create_dir_all(&tools).context(|| format!("cannot create {}", tools.display()))?;
    let module = bench_dir().join("etcd");
    let pinned = std::fs::read_to_string(module.join("go.sum")).context(|| "bench/etcd/go.sum".to_owned())?;
    for (name, package) in GO_TOOLS {
        let built = tools.join(name);
        // The stamp is the module's checksums: another version pinned there is another program.
        let stamp = tools.join(format!("{name}.sum"));
        if built.exists() && std::fs::read_to_string(&stamp).is_ok_and(|s| s == pinned) {
            continue;
        }
        eprintln!("building {package} (once, half a minute or more)");
        let mut go = Command::new("go");
        go.current_dir(&module).args(["build", "-trimpath", "-o"]).arg(&built).arg(package);
        process::run(go, BUILD_LIMIT).await.context(|| "etcd needs Go 1.24 or newer".to_owned())?;
        std::fs::write(&stamp, &pinned).context(|| format!("cannot write {}", stamp.display()))?;
    }
    Ok(EtcdTools { server: tools.join("etcd"), benchmark: tools.join("benchmark") })
}

/// Makes sure that Redis is there: installs the distribution's packages where that is possible.
pub(crate) async fn redis() -> Outcome<()> {
    let there =
        ["redis-server", "redis-cli", "redis-benchmark"].iter().all(|p| process::line_of(p, &["--version"]) != "-");
    if there {
        return Ok(());
    }
    eprintln!("installing redis-server and redis-tools");
    let mut apt = Command::new("apt-get");
    // Without starting the service that the package brings: the comparison runs servers of its own.
    apt.args(["install", "-y", "--no-install-recommends", "redis-server", "redis-tools"]);
    apt.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    let installed = process::run(apt, BUILD_LIMIT).await;
    installed.map(drop).context(|| "Redis is not installed and could not be (redis-server, redis-tools)".to_owned())
}

/// The store's own program: the one given, or built from this tree.
pub(crate) async fn quorate(given: Option<PathBuf>) -> Outcome<PathBuf> {
    if let Some(path) = given {
        return if path.exists() { Ok(path) } else { Err(Failure::new(format!("there is no {}", path.display()))) };
    }
    eprintln!("building quorate (release)");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut build = Command::new(cargo);
    build.current_dir(bench_dir()).args(["build", "--release", "-p", "quorate", "--bin", "quorate"]);
    build.args(["--message-format", "json-render-diagnostics"]);
    let messages = process::run(build, BUILD_LIMIT).await?;
    // Cargo says where it put the program: the target folder may be anywhere.
    let executable = messages.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok()).find_map(|m| {
        (m["target"]["name"] == "quorate").then(|| m["executable"].as_str().map(PathBuf::from)).flatten()
    });
    executable.context(|| "cargo did not say where quorate is".to_owned())
}
