//! What every parser of foreign bytes promises, as one function for each: any bytes go in, and a
//! broken promise is a panic.
//!
//! The property tests beside this file and the fuzz targets in `fuzz/` call the very same functions, so that an
//! input which a fuzzer found can be run as a test. A check stands next to the parser it is about, whose
//! private parts it needs; this table names them all. None of it is in the program: the module exists for tests
//! and with the feature `fuzzing`.
//!
//! Promises common to all: no panic, whatever the bytes; an error, or a value that survives being written and read
//! again; the same result in whatever pieces a stream arrives; no memory taken for bytes that were only announced.
//!
//! Where pieces or modes matter, the first byte of an input chooses them: see each check. Where a checksum guards a
//! parser, its highest bit says whether the checksums of the input are made right first ([`forged`]).

#![allow(clippy::expect_used, clippy::panic, clippy::missing_panics_doc, reason = "a check reports by panicking")]

#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::{cli, http, kv, peer, storage, tcp};

/// One parser's check.
pub struct Target {
    /// The name of the fuzz target, and of its folder of inputs.
    pub name: &'static str,
    /// The check. Panics if the parser breaks a promise.
    pub check: fn(&[u8]),
    /// Valid inputs to begin from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

const fn target(name: &'static str, check: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target { name, check, seeds }
}

/// Every parser of bytes that come from a client, another node, a disk or a command line.
pub const TARGETS: &[Target] = &[
    target("http_requests", http::fuzzing::requests, http::fuzzing::request_seeds),
    target("tcp_sessions", tcp::fuzzing::sessions, tcp::fuzzing::session_seeds),
    target("resp_requests", tcp::fuzzing::requests, tcp::fuzzing::request_seeds),
    target("resp_replies", tcp::fuzzing::replies, tcp::fuzzing::reply_seeds),
    target("lines", tcp::fuzzing::lines, tcp::fuzzing::line_seeds),
    target("peer_openings", peer::fuzzing::openings, peer::fuzzing::opening_seeds),
    target("peer_frames", peer::fuzzing::frames, peer::fuzzing::frame_seeds),
    target("peer_messages", peer::fuzzing::messages, peer::fuzzing::message_seeds),
    target("peer_values", peer::fuzzing::values, peer::fuzzing::value_seeds),
    target("records", storage::fuzzing::records, storage::fuzzing::record_seeds),
    target("configurations", storage::fuzzing::configurations, storage::fuzzing::configuration_seeds),
    target("node_folder", storage::fuzzing::folder, storage::fuzzing::folder_seeds),
    target("commands", kv::fuzzing::commands, kv::fuzzing::command_seeds),
    target("engine_values", kv::fuzzing::engine_values, kv::fuzzing::engine_seeds),
    target("engine_journals", kv::fuzzing::journals, kv::fuzzing::journal_seeds),
    target("snapshots", kv::fuzzing::snapshots, kv::fuzzing::snapshot_seeds),
    target("settings", cli::fuzzing::settings, cli::fuzzing::setting_seeds),
];

/// Runs the check of this name.
///
/// # Panics
/// When the parser breaks a promise, or when there is no such check.
pub fn check(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    (target.check)(data);
}

/// Cuts a stream into pieces of `step` bytes (at least one).
pub(crate) fn pieces(stream: &[u8], step: u8) -> impl Iterator<Item = &[u8]> {
    stream.chunks(usize::from(step).max(1))
}

/// A length that is not beyond what there is: itself, or one made of it.
pub(crate) fn fitted(length: u32, there_is: usize) -> u32 {
    let there_is = u32::try_from(there_is).unwrap_or(u32::MAX);
    if length <= there_is { length } else { length % (there_is + 1) }
}

/// The lowest seven bits of a byte, and whether the highest is set: by it an input asks that its checksums be
/// made right. What no accident does, and a fuzzer hardly, is to get past a checksum; behind it parsers must
/// keep their promises as well.
pub(crate) fn forged(byte: u8) -> (u8, bool) {
    (byte & 0x7f, byte & 0x80 != 0)
}

/// So many seconds, far beyond what any answer takes: a connection that hangs fails with its input.
const PATIENCE_SECONDS: usize = 20;

thread_local! {
    static RUNTIME: Runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
}

/// Runs this to its end, on a runtime that every check of a thread shares.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let mut work = std::pin::pin!(work);
            for _ in 0..PATIENCE_SECONDS {
                // Second by second: a process that was stopped for minutes has waited for one of them, and not hung.
                if let Ok(done) = tokio::time::timeout(Duration::from_secs(1), &mut work).await {
                    return done;
                }
            }
            panic!("it hangs");
        })
    })
}

/// What is said on a connection to whoever serves it, when this much is sent in pieces of
/// `step` bytes and then no more.
pub(crate) fn through_a_socket(input: &[u8], step: usize, serve: impl AsyncFnOnce(TcpStream)) -> Vec<u8> {
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let (served, _) = listener.accept().await.expect("accepted");
        client.set_nodelay(true).expect("a socket option");
        let (mut read, mut write) = client.into_split();
        let sending = async {
            for piece in input.chunks(step.min(input.len()).max(1)) {
                // The other side may have said its last word already.
                if write.write_all(piece).await.is_err() {
                    break;
                }
                // It reads what is there before the next piece comes.
                tokio::task::yield_now().await;
            }
            let _ = write.shutdown().await;
        };
        let mut said = Vec::new();
        let reading = async { read.read_to_end(&mut said).await };
        // A reset is an end, too.
        let _ = tokio::join!(serve(served), sending, reading);
        said
    })
}

/// A member with made-up names, for the values that carry one.
pub(crate) fn config() -> quorum::Config {
    let member = crate::testing::member;
    let config = quorum::Config::first(vec![member(1), member(2), member(3)], 2, Some(quorum::NodeId(1)));
    config.expect("numbers that are possible")
}
