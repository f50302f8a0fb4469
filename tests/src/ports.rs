//! Ports nobody uses.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range that Linux takes the near ends of outgoing connections from (32768 up): a port found by binding to 0
/// lies in it, and may be taken by somebody's connection just while its node is down between a kill and a restart.
const FIRST: u16 = 10_240;
const COUNT: u16 = 22_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// So many ports in a row that could be bound a moment ago and that this process has not handed out before.
///
/// # Panics
/// If there are none.
#[must_use]
pub fn free(count: usize) -> Vec<u16> {
    // Where a process begins depends on its number, so that two test runs at once seldom meet.
    let start = (std::process::id() % 200) as u16 * 110;
    let mut found = Vec::new();
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        if found.last().is_some_and(|last| last + 1 != port) {
            found.clear();
        }
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => found.push(port),
            Err(_) => found.clear(),
        }
        if found.len() == count {
            return found;
        }
    }
    panic!("there are not {count} free ports in a row from {FIRST} up");
}

/// The address of a port as [`free`] finds it: where nobody listens, and nobody else of this process ever will.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn nobody() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free(1)[0]).into()
}
