//! What the figures were measured on: the machine, its disk, the versions, the commit.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure, Outcome};
use crate::process::line_of;

/// Appends of the disk probe, and the size of each: a small group of writes as a log has them.
const PROBE_APPENDS: usize = 1_000;
const PROBE_BYTES: usize = 4 << 10;
/// Free space the comparison asks for: three copies of a minute of the fastest load, logs and stores, with room.
const FREE_BYTES_MIN: u64 = 16 << 30;

/// A machine, as far as it matters here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    pub(crate) filesystem: String,
    /// Median of an append and fdatasync to a preallocated file, µs.
    pub(crate) fdatasync_us_median: u64,
    /// The 99th percentile of the same.
    pub(crate) fdatasync_us_p99: u64,
    /// Name and what it says of its version.
    pub(crate) versions: Vec<(String, String)>,
    pub(crate) commit: String,
    /// UTC, `2026-01-31T12:00:00Z`.
    pub(crate) date: String,
}

/// Describes this machine; `dir` is where the data of the comparison goes.
pub(crate) fn describe(dir: &Path, versions: Vec<(String, String)>) -> Outcome<Machine> {
    let (fdatasync_us_median, fdatasync_us_p99) = fdatasync_probe(dir)?;
    let changed =
        line_of("git", &["-C", &crate::tools::bench_dir().to_string_lossy(), "status", "--porcelain", "-uno"]);
    let commit =
        line_of("git", &["-C", &crate::tools::bench_dir().to_string_lossy(), "rev-parse", "--short=12", "HEAD"]);
    Ok(Machine {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        processor: proc_field("/proc/cpuinfo", "model name"),
        memory_gib: proc_field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0)
            / f64::from(1 << 20),
        kernel: line_of("uname", &["-sr"]),
        filesystem: disk(dir)?.0,
        fdatasync_us_median,
        fdatasync_us_p99,
        versions,
        commit: if changed == "-" { commit } else { format!("{commit}, with changes") },
        date: line_of("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
    })
}

/// An error where a comparison of durable writes would mean nothing, or would fill the disk.
pub(crate) fn check_disk(dir: &Path) -> Outcome<()> {
    let (filesystem, free) = disk(dir)?;
    if matches!(filesystem.as_str(), "tmpfs" | "ramfs") {
        return Err(Failure::new(format!("{} is in memory: choose a folder on a disk (--data-dir)", dir.display())));
    }
    if free < FREE_BYTES_MIN {
        let gib = free >> 30;
        return Err(Failure::new(format!("{gib} GiB free in {}, 16 are needed (--data-dir)", dir.display())));
    }
    Ok(())
}

/// Type of the filesystem below a folder, and its free bytes.
fn disk(dir: &Path) -> Outcome<(String, u64)> {
    let output = std::process::Command::new("df").args(["-PTk", "--"]).arg(dir).output();
    let output = output.context(|| "cannot run df".to_owned())?;
    parse_df(&String::from_utf8_lossy(&output.stdout)).context(|| format!("df says nothing of {}", dir.display()))
}

fn parse_df(text: &str) -> Option<(String, u64)> {
    let fields: Vec<&str> = text.lines().nth(1)?.split_whitespace().collect();
    Some(((*fields.get(1)?).to_owned(), fields.get(4)?.parse::<u64>().ok()? << 10))
}

/// The value of the first line `name : value` of a file in /proc.
fn proc_field(file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let found = text.lines().find_map(|l| l.split_once(':').filter(|(n, _)| n.trim() == name));
    found.map_or_else(|| "-".to_owned(), |(_, value)| value.trim().to_owned())
}

/// Median and 99th percentile of appending 4 KiB to a preallocated file and making it durable, µs.
fn fdatasync_probe(dir: &Path) -> Outcome<(u64, u64)> {
    let what = || format!("cannot measure fdatasync in {}", dir.display());
    let file = tempfile::tempfile_in(dir).context(what)?;
    // Written once, so that the timed writes change no size and no extent: fdatasync then has only data to write.
    file.write_all_at(&vec![0; PROBE_APPENDS * PROBE_BYTES], 0).context(what)?;
    file.sync_all().context(what)?;
    let block = vec![b'x'; PROBE_BYTES];
    let mut took = Vec::with_capacity(PROBE_APPENDS);
    for i in 0..PROBE_APPENDS {
        let start = Instant::now();
        file.write_all_at(&block, (i * PROBE_BYTES) as u64).context(what)?;
        file.sync_data().context(what)?;
        took.push(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    took.sort_unstable();
    Ok((took[PROBE_APPENDS / 2], took[PROBE_APPENDS * 99 / 100]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_and_free_space_come_from_the_second_line_of_df() {
        let text = "Filesystem Type 1024-blocks Used Available Capacity Mounted on\n/dev/vda ext4 1000 10 990 1% /\n";
        assert_eq!(parse_df(text), Some(("ext4".to_owned(), 990 << 10)));
        assert_eq!(parse_df(""), None);
    }

    #[test]
    fn a_probe_of_the_disk_takes_some_time() {
        let dir = tempfile::tempdir().unwrap();
        let (median, p99) = fdatasync_probe(dir.path()).unwrap();
        assert!(median <= p99);
    }
}
