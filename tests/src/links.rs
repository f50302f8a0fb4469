//! The network between nodes as a thing that can be hurt: a relay in front of each node's peer port, with a
//! rule for each directed link.
//!
//! Owns the relays and what they do to bytes: hold them back, delay them, slow them down, lose them, reset the
//! connection. It knows nothing of what is said but who says it: the name of the dialing node, which stands in
//! the first frame. Clients' ports are not relayed; they are never part of a partition unless a test leaves a
//! node out of its clients' list.
//!
//! A node listens at 127.0.0.1 and names itself to others as 127.0.0.2, where its relay listens on the same port: no
//! setting of the product exists for this, and neither root nor a package is needed. That is why there are no network
//! namespaces here, although they would drop real packets: kernels without `netem` (the one that runs these tests in CI
//! is one) cannot delay there, laptops without root have none of it, and two ways to cut a cable are one too many. What
//! the relay imitates instead of exercising is the end of a connection over a dead network: bytes that were held back
//! for [`DEAD_AFTER`] are lost for good and their sender's connection is reset, while the other side hears nothing for
//! [`HALF_OPEN`]. The kernel's own timers behind the product's socket options are therefore not tested here.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quorate_history::generate::Dice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Where relays listen and nodes say they are.
pub const ADVERTISED: &str = "127.0.0.2";

/// Bytes that a link held back this long never arrive: what the product asks of the kernel for unacknowledged data,
/// twice the longest election timeout.
pub const DEAD_AFTER: Duration = Duration::from_secs(2);

/// How long the side that is not told keeps a connection whose other end is gone: a second of idleness and two probes.
pub const HALF_OPEN: Duration = Duration::from_secs(3);

/// What a lost packet costs those behind it: Linux's shortest time before it sends again.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// Bytes read at once: some packets' worth, so that loss and rates have a grain.
const CHUNK: usize = 16 << 10;

/// Chunks on their way in one direction: 1 MiB, as a socket's buffers would hold. Then the sender feels it.
const CHUNKS_UNDER_WAY: usize = 64;

/// Magic and version before the first frame, its preface, and the largest first frame.
const OPENING: usize = 8;
const PREFACE: usize = 20;
const HELLO_MAX: usize = 4 << 10;

/// How long a new connection may take to say who it is, or a node to accept it.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// What a directed link does to bytes. The default does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Nothing arrives, and nobody is told.
    pub silent: bool,
    /// Everything arrives so much later.
    pub delay: Duration,
    /// At most so many bytes a second; 0 is no bound.
    pub bytes_per_second: u64,
    /// Of a hundred chunks, so many wait (with all behind them) for a retransmission.
    pub loss_percent: u64,
}

impl Rule {
    /// Nothing arrives.
    pub const SILENT: Rule = Rule { silent: true, delay: Duration::ZERO, bytes_per_second: 0, loss_percent: 0 };
}

#[derive(Debug)]
struct Link {
    rule: watch::Sender<Rule>,
    resets: watch::Sender<u64>,
}

#[derive(Debug)]
struct Shared {
    names: Vec<String>,
    /// `links[from][to]`
    links: Vec<Vec<Link>>,
    seed: u64,
}

/// All links of a cluster.
#[derive(Debug)]
pub struct Links {
    shared: Arc<Shared>,
    relays: Vec<JoinHandle<()>>,
}

impl Links {
    /// Relays before nodes of these names and peer ports.
    ///
    /// # Errors
    /// If a port is taken.
    pub async fn open(nodes: &[(String, u16)], seed: u64) -> io::Result<Links> {
        let link = || Link { rule: watch::Sender::new(Rule::default()), resets: watch::Sender::new(0) };
        let links = nodes.iter().map(|_| nodes.iter().map(|_| link()).collect()).collect();
        let names = nodes.iter().map(|(name, _)| name.clone()).collect();
        let mut links = Links { shared: Arc::new(Shared { names, links, seed }), relays: Vec::new() };
        for (to, (_, port)) in nodes.iter().enumerate() {
            let listener = TcpListener::bind((ADVERTISED, *port)).await?;
            links.relays.push(tokio::spawn(relay(links.shared.clone(), to, *port, listener)));
        }
        Ok(links)
    }

    /// How many nodes there are.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.shared.names.len()
    }

    /// From now on bytes from one node to another fare like this, those of connections that exist too.
    pub fn set(&self, from: usize, to: usize, rule: Rule) {
        self.shared.links[from][to].rule.send_replace(rule);
    }

    /// The same for all links between two groups, in both directions.
    pub fn set_between(&self, some: &[usize], others: &[usize], rule: Rule) {
        for (a, b) in some.iter().flat_map(|a| others.iter().map(move |b| (*a, *b))) {
            self.set(a, b, rule);
            self.set(b, a, rule);
        }
    }

    /// The same for all links.
    pub fn set_all(&self, rule: Rule) {
        for link in self.shared.links.iter().flatten() {
            link.rule.send_replace(rule);
        }
    }

    /// No faults any more.
    pub fn heal(&self) {
        self.set_all(Rule::default());
    }

    /// A node and everybody else do not hear each other.
    pub fn isolate(&self, node: usize) {
        self.set_between(&[node], &self.others(node), Rule::SILENT);
    }

    /// Nobody hears this node; it hears everybody.
    pub fn mute(&self, node: usize) {
        self.others(node).into_iter().for_each(|other| self.set(node, other, Rule::SILENT));
    }

    /// This node hears nobody; everybody hears it.
    pub fn deafen(&self, node: usize) {
        self.others(node).into_iter().for_each(|other| self.set(other, node, Rule::SILENT));
    }

    /// Ends every connection of a node to and from others, as a middle box that was restarted does.
    pub fn reset(&self, node: usize) {
        for other in self.others(node) {
            self.shared.links[node][other].resets.send_modify(|n| *n += 1);
            self.shared.links[other][node].resets.send_modify(|n| *n += 1);
        }
    }

    fn others(&self, node: usize) -> Vec<usize> {
        (0..self.nodes()).filter(|n| *n != node).collect()
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.relays.iter().for_each(JoinHandle::abort);
    }
}

/// Takes connections for one node; they end with it.
async fn relay(shared: Arc<Shared>, to: usize, port: u16, listener: TcpListener) {
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((near, _)) = accepted else { continue };
                number += 1;
                let dice = Dice::new(shared.seed ^ u64::from(port) << 32 ^ number);
                connections.spawn(connection(shared.clone(), to, port, near, dice));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Relays one connection until either side ends it, a fault does, or nobody knows who dialed.
async fn connection(shared: Arc<Shared>, to: usize, port: u16, mut near: TcpStream, mut dice: Dice) {
    let Ok(Ok((hello, from))) = timeout(INTRODUCTION, introduction(&mut near, &shared.names)).await else { return };
    let node = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Ok(Ok(far)) = timeout(INTRODUCTION, TcpStream::connect(node)).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (there_link, back_link) = (&shared.links[from][to], &shared.links[to][from]);
    let mut resets = there_link.resets.subscribe();
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let there = pump(near_read, far_write, there_link.rule.subscribe(), hello, Dice::new(dice.below(u64::MAX)));
    let back = pump(far_read, near_write, back_link.rule.subscribe(), Vec::new(), Dice::new(dice.below(u64::MAX)));
    let (kept, rule) = tokio::select! {
        kept = there => (kept, &there_link.rule),
        kept = back => (kept, &back_link.rule),
        _ = resets.changed() => return,
    };
    // The sender's side is closed by now. The receiver of what was lost is not told before it would find out itself.
    if let Some(_half) = kept {
        let mut rule = rule.subscribe();
        let _ = timeout(HALF_OPEN, rule.wait_for(|rule| !rule.silent)).await;
    }
}

/// Reads the first frame, and finds who sent it by the name in it.
async fn introduction(stream: &mut TcpStream, names: &[String]) -> io::Result<(Vec<u8>, usize)> {
    let mut hello = vec![0; OPENING + PREFACE];
    stream.read_exact(&mut hello).await?;
    let length = u32::from_le_bytes([hello[OPENING], hello[OPENING + 1], hello[OPENING + 2], hello[OPENING + 3]]);
    let length = length as usize;
    if length > HELLO_MAX {
        return Err(io::Error::other("a first frame of another protocol"));
    }
    hello.resize(OPENING + PREFACE + length, 0);
    stream.read_exact(&mut hello[OPENING + PREFACE..]).await?;
    let says = |name: &String| hello.windows(name.len()).any(|window| window == name.as_bytes());
    let from = names.iter().position(says).ok_or_else(|| io::Error::other("a first frame without a known name"))?;
    Ok((hello, from))
}

/// Carries bytes one way. Returns when the stream has ended and the end was delivered (`None`), or when bytes were held
/// back too long: then with the half to the side that must not be told.
async fn pump(
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    rule: watch::Receiver<Rule>,
    first: Vec<u8>,
    mut dice: Dice,
) -> Option<OwnedWriteHalf> {
    let (send, receive) = mpsc::channel(CHUNKS_UNDER_WAY);
    if !first.is_empty() {
        let due = Instant::now() + rule.borrow().delay;
        let _ = send.try_send((due, first));
    }
    let times = rule.clone();
    let reading = async move {
        let mut read = read;
        let mut last = Instant::now();
        loop {
            let mut bytes = vec![0; CHUNK];
            let count = read.read(&mut bytes).await.unwrap_or(0);
            bytes.truncate(count);
            let rule = *times.borrow();
            let lost = dice.percent(rule.loss_percent);
            // In order, as TCP delivers.
            last = last.max(Instant::now() + rule.delay + if lost { RETRANSMISSION } else { Duration::ZERO });
            // An empty chunk stands for the end.
            if send.send((last, bytes)).await.is_err() || count == 0 {
                // The socket stays open on this side until the end was delivered.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        half = writing(write, receive, rule) => half,
        () = reading => None,
    }
}

async fn writing(
    mut write: OwnedWriteHalf,
    mut receive: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut rule: watch::Receiver<Rule>,
) -> Option<OwnedWriteHalf> {
    while let Some((due, bytes)) = receive.recv().await {
        sleep_until(due).await;
        if timeout(DEAD_AFTER, rule.wait_for(|rule| !rule.silent)).await.is_err() {
            return Some(write);
        }
        let rate = rule.borrow().bytes_per_second;
        if let Some(micros) = (bytes.len() as u64 * 1_000_000).checked_div(rate) {
            sleep(Duration::from_micros(micros)).await;
        }
        if bytes.is_empty() || write.write_all(&bytes).await.is_err() {
            return None;
        }
    }
    None
}
