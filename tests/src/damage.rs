//! Damage to the log or the engine of a node that is down. Knows of the log's format only what a person with a hex
//! editor sees: files named `wal-….log`, whose batches begin with a magic word.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What batches begin with.
const MAGIC: &[u8] = b"qrtBatch";
/// Bytes of a batch before its first record.
const BATCH_HEADER: u64 = 64;

/// The files of the log, oldest first.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a data directory").filter_map(Result::ok).map(|e| e.path());
    let is_log = |p: &PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("wal-") && name.ends_with(".log")
    };
    let mut found: Vec<PathBuf> = entries.filter(is_log).collect();
    found.sort();
    assert!(!found.is_empty(), "no log in {}", dir.display());
    found
}

/// Where the batches of a file begin.
fn batches(file: &Path) -> Vec<u64> {
    let mut bytes = Vec::new();
    OpenOptions::new().read(true).open(file).expect("a segment").read_to_end(&mut bytes).expect("its bytes");
    bytes.windows(MAGIC.len()).enumerate().filter(|(_, w)| *w == MAGIC).map(|(at, _)| at as u64).collect()
}

/// The last file that holds a batch, and where its batches begin.
fn last_with_batches(dir: &Path) -> (PathBuf, Vec<u64>) {
    let found = segments(dir).into_iter().rev().map(|file| (batches(&file), file)).find(|(b, _)| !b.is_empty());
    let (starts, file) = found.expect("a batch in the log");
    (file, starts)
}

/// Begins one more batch behind the last and leaves it unfinished, as a crash in the middle of a write does.
pub fn tear_tail(dir: &Path) {
    let (file, starts) = last_with_batches(dir);
    let last = *starts.last().expect("a batch");
    let mut bytes = std::fs::read(&file).expect("a segment");
    bytes.truncate(bytes.iter().rposition(|b| *b != 0).expect("not all zeros") + 1);
    let batch = bytes[last as usize..].to_vec();
    let torn = &batch[..batch.len().min(BATCH_HEADER as usize + 5)];
    let mut file = OpenOptions::new().write(true).open(file).expect("a segment");
    file.seek(SeekFrom::Start(bytes.len() as u64)).and_then(|_| file.write_all(torn)).expect("half a batch");
}

/// Cuts the file in the middle of its last batch, which was acknowledged: a disk that lied about its sync.
pub fn lose_tail(dir: &Path) {
    let (file, starts) = last_with_batches(dir);
    let at = starts.last().expect("a batch") + BATCH_HEADER + 3;
    OpenOptions::new().write(true).open(file).expect("a segment").set_len(at).expect("a shorter segment");
}

/// Puts bytes that are no batch at the end of the last file.
pub fn garbage_at_end(dir: &Path) {
    let (file, _) = last_with_batches(dir);
    let garbage: Vec<u8> = (0..5000_u32).map(|n| (n * 31 % 251) as u8).collect();
    let mut file = OpenOptions::new().append(true).open(file).expect("a segment");
    file.write_all(&garbage).expect("garbage");
}

/// Flips bytes in a record of the first batch of the oldest file: rot of what was acknowledged long ago.
pub fn corrupt_middle(dir: &Path) {
    let file = segments(dir).remove(0);
    let starts = batches(&file);
    assert!(starts.len() > 2, "the log is long enough to have a middle");
    let at = starts[starts.len() / 2] + BATCH_HEADER + 20;
    let mut file = OpenOptions::new().read(true).write(true).open(file).expect("a segment");
    let mut bytes = [0; 8];
    file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut bytes)).expect("bytes to flip");
    bytes.iter_mut().for_each(|b| *b ^= 0x5a);
    file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&bytes)).expect("flipped bytes");
}

/// Flips a bit in the middle of every file that the node's engine keeps.
///
/// # Panics
/// If there is none, or one cannot be changed.
pub fn rot_engine(dir: &Path) {
    crate::rot::rot_files(&dir.join("store"));
}
