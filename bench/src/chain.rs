//! The other limit: what a durable write on two of three disks costs a program that does nothing else.
//!
//! The same HTTP stack as the store's in front; behind it, for one write at a time, a block sent to two followers and
//! written to an own file, and the answer as soon as two of the three disks hold it. No log that could be read again,
//! no protocol, nobody who could fail over. So the difference to the [echo](crate::echo) is what this machine takes for
//! wake-ups, loopback and disks, whoever asks; and no store on this stack answers a lone client sooner.
//!
//! A follower is a blocking thread that reads, writes durably and answers: the shortest way there is, with
//! nobody to be woken in between.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::put;
use axum::serve::ListenerExt;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, mpsc};

use crate::failure::{Context, Outcome};

/// What one write puts on a disk: the least that can be written past the system's cache.
const BLOCK_BYTES: usize = 4096;
/// Blocks of the file, written over again and again: all written once before anything counts, as the store's log is.
const BLOCKS: u64 = 1024;
/// How long followers may take to write them, and the pause between two attempts to connect.
const FOLLOWERS_LIMIT: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(10);
/// Disks that must hold a write before it is answered, its own among them.
const WRITE_QUORUM: usize = 2;

/// A file of blocks, each written durably at once.
struct Disk {
    file: File,
    next: u64,
    /// Two blocks long, so that one within lies where the system asks for it.
    memory: Vec<u8>,
}

impl Disk {
    fn create(path: &Path) -> io::Result<Disk> {
        let flags = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::DSYNC;
        let mut options = OpenOptions::new();
        let file =
            options.write(true).create(true).truncate(true).custom_flags(flags.bits().cast_signed()).open(path)?;
        let mut disk = Disk { file, next: 0, memory: vec![0; 2 * BLOCK_BYTES] };
        (0..BLOCKS).try_for_each(|_| disk.write(&[]))?;
        Ok(disk)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let start = self.memory.as_ptr().align_offset(BLOCK_BYTES);
        let block = &mut self.memory[start..start + BLOCK_BYTES];
        let bytes = &bytes[..bytes.len().min(BLOCK_BYTES)];
        block[..bytes.len()].copy_from_slice(bytes);
        self.file.write_all_at(block, self.next * BLOCK_BYTES as u64)?;
        self.next = (self.next + 1) % BLOCKS;
        Ok(())
    }
}

/// Serves one leader until it goes: a length and so many bytes, answered by one byte when they are durable.
pub(crate) fn follow(port: u16, data: &Path) -> Outcome<()> {
    let mut disk = Disk::create(data).context(|| format!("cannot write {} past the cache", data.display()))?;
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context(|| format!("cannot listen on port {port}"))?;
    let (leader, _) = listener.accept().context(|| "no leader came".to_owned())?;
    serve_leader(leader, &mut disk).context(|| "the chain broke".to_owned())
}

fn serve_leader(mut leader: TcpStream, disk: &mut Disk) -> io::Result<()> {
    leader.set_nodelay(true)?;
    let mut buffer = vec![0; 2 * FRAME_BYTES_MAX];
    let mut filled = 0;
    loop {
        // As a rule a write comes in one piece; the slower of two followers may find the next one behind it.
        while let Some(frame) = frame_bytes(&buffer[..filled]).filter(|frame| *frame <= filled) {
            disk.write(&buffer[LENGTH_BYTES..frame])?;
            leader.write_all(&[1])?;
            buffer.copy_within(frame..filled, 0);
            filled -= frame;
        }
        match leader.read(&mut buffer[filled..])? {
            0 => return Ok(()),
            read => filled += read,
        }
    }
}

/// Before the bytes of a write.
const LENGTH_BYTES: usize = 4;
const FRAME_BYTES_MAX: usize = LENGTH_BYTES + BLOCK_BYTES;

/// The length of the first frame, once its start is there.
fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    Some(LENGTH_BYTES + length.min(BLOCK_BYTES))
}

/// What the leader's handlers share: one write at a time.
struct Chain {
    followers: Vec<tokio::net::tcp::OwnedWriteHalf>,
    disk: std::sync::mpsc::Sender<Bytes>,
    /// A word for every disk that holds the write, and the number of the write: those of an earlier one may come late.
    durable: mpsc::UnboundedReceiver<u64>,
    write: u64,
}

impl Chain {
    async fn write(&mut self, body: Bytes) -> io::Result<()> {
        self.write += 1;
        if self.disk.send(body.clone()).is_err() {
            return Err(io::Error::other("the disk failed"));
        }
        let mut frame = Vec::with_capacity(LENGTH_BYTES + body.len());
        frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
        frame.extend_from_slice(&body);
        for follower in &mut self.followers {
            follower.write_all(&frame).await?;
        }
        let mut copies = 0;
        while copies < WRITE_QUORUM {
            let write = self.durable.recv().await.ok_or_else(|| io::Error::other("all disks are gone"))?;
            copies += usize::from(write == self.write);
        }
        Ok(())
    }
}

/// Serves PUTs, until the process is ended.
pub(crate) async fn lead(port: u16, followers: &[u16], data: &Path) -> Outcome<()> {
    let mut disk = Disk::create(data).context(|| format!("cannot write {} past the cache", data.display()))?;
    let (words, durable) = mpsc::unbounded_channel();
    let mut halves = Vec::new();
    for follower in followers {
        let stream = connect(*follower).await?;
        stream.set_nodelay(true).context(|| "a follower's connection".to_owned())?;
        let (mut answers, half) = stream.into_split();
        halves.push(half);
        let words = words.clone();
        tokio::spawn(async move {
            let mut write = 0;
            while answers.read_u8().await.is_ok() {
                write += 1;
                let _ = words.send(write);
            }
        });
    }
    let (own, jobs) = std::sync::mpsc::channel::<Bytes>();
    std::thread::spawn(move || {
        let mut write = 0;
        while let Ok(bytes) = jobs.recv() {
            if disk.write(&bytes).is_err() {
                return;
            }
            write += 1;
            let _ = words.send(write);
        }
    });
    let chain = Arc::new(Mutex::new(Chain { followers: halves, disk: own, durable, write: 0 }));
    let app = Router::new().route("/v1/kv/{key}", put(write)).with_state(chain);
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let listener = listener.context(|| format!("cannot listen on port {port}"))?;
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, app).await.context(|| "the chain's server failed".to_owned())
}

/// A follower listens once its blocks are written.
async fn connect(follower: u16) -> Outcome<tokio::net::TcpStream> {
    let deadline = tokio::time::Instant::now() + FOLLOWERS_LIMIT;
    loop {
        match tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, follower)).await {
            Err(_) if tokio::time::Instant::now() < deadline => tokio::time::sleep(RETRY).await,
            connected => return connected.context(|| format!("no follower on port {follower}")),
        }
    }
}

async fn write(State(chain): State<Arc<Mutex<Chain>>>, body: Bytes) -> Result<Bytes, StatusCode> {
    if body.len() > BLOCK_BYTES {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    match chain.lock().await.write(body.clone()).await {
        Ok(()) => Ok(body),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_that_come_together_are_written_one_by_one_and_each_is_answered() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("blocks");
        let mut disk = Disk::create(&path).expect("a disk that takes whole blocks");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let mut leader = TcpStream::connect(listener.local_addr().expect("its address")).expect("connected");
        let follower = std::thread::spawn(move || serve_leader(listener.accept()?.0, &mut disk));
        leader.write_all(b"\0\0\0\x03one\0\0\0\x03two\0\0").expect("sent");
        let mut answers = [0; 2];
        leader.read_exact(&mut answers).expect("two answers");
        leader.write_all(b"\0\x05three").expect("sent");
        leader.read_exact(&mut answers[..1]).expect("a third");
        drop(leader);
        follower.join().expect("no panic").expect("ended with its leader");
        let blocks = std::fs::read(&path).expect("the file");
        for (block, written) in blocks.chunks(BLOCK_BYTES).zip(["one", "two", "three"]) {
            assert_eq!(&block[..written.len()], written.as_bytes());
        }
        assert_eq!(blocks.len() as u64, BLOCKS * BLOCK_BYTES as u64);
    }
}
