//! What records, configurations and a node's whole folder promise of any bytes: see [`crate::fuzzing`].
//!
//! A folder is damaged as the input says and opened. Whatever was done to it, opening ends in an error, a new
//! node, or a log that is one of the states this log has been in; it goes on from there, and opening again finds
//! what was left. With checksums made right again, as no accident does it, the states may be others: then it must
//! still be whole in itself.

#![allow(clippy::expect_used, reason = "a check reports by panicking")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use quorum::{ClusterId, Index, NodeId, Term};

use super::memory::MemoryDisk;
use super::segment::{BATCH_HEADER_BYTES, BATCH_MAGIC, FIRST_BATCH, SEGMENT_HEADER_BYTES};
use super::{Batch, Log, Opened, RecordKind, open, record};
use crate::fuzzing::forged;
use crate::options::Limits;

const DIR: &str = "/node";
const RECORD_MAX: usize = 1 << 20;

/// The first byte: whether checksums are made right ([`forged`]). Then a stream of records.
pub(crate) fn records(data: &[u8]) {
    let Some((&mode, stream)) = data.split_first() else { return };
    let mut stream = stream.to_vec();
    if forged(mode).1 {
        record::forge(&mut stream);
    }
    let data = &stream[..];
    let mut rest = Bytes::copy_from_slice(data);
    let mut read = 0;
    while let Ok(Some(record)) = record::decode(&mut rest, RECORD_MAX) {
        let mut again = BytesMut::new();
        record::encode(&mut again, record.term, record.index, record.kind, &record.payload());
        assert_eq!(again, record.frame());
        assert_eq!(record.frame(), &data[read..read + again.len()]);
        read += again.len();
        let _ = record.head();
    }
    assert_eq!(rest, &data[read..], "what is no record stays");
}

pub(crate) fn record_seeds() -> Vec<Vec<u8>> {
    let mut out = BytesMut::new();
    record::encode(&mut out, Term(1), Index(1), RecordKind::Empty, b"");
    let one = [&[0][..], &out].concat();
    record::encode(&mut out, Term(1), Index(2), RecordKind::Command, b"\x01\x01\x01\x00\x01\x00kvalue");
    record::encode(&mut out, Term(2), Index(3), RecordKind::Config, &record::encode_config(&crate::fuzzing::config()));
    let all = |mode: u8| [&[mode], &out[..]].concat();
    vec![one, all(0), all(0x80)]
}

/// A configuration.
pub(crate) fn configurations(data: &[u8]) {
    if let Ok(config) = record::decode_config(data) {
        assert_eq!(record::decode_config(&record::encode_config(&config)), Ok(config));
    }
}

pub(crate) fn configuration_seeds() -> Vec<Vec<u8>> {
    let config = crate::fuzzing::config();
    let outgoing = quorum::Outgoing { voters: config.voters.clone(), write_quorum: 3 };
    let joint = quorum::Config { version: 9, formed: true, outgoing: Some(outgoing), ..config.clone() };
    [config, joint].iter().map(record::encode_config).collect()
}

type Entries = Vec<(u64, u64, Vec<u8>)>;

/// A folder with several segments, entries that were overwritten, and a beginning that was cut; and every
/// state its log has been in.
struct Original {
    disk: MemoryDisk,
    states: Vec<Entries>,
    files: Vec<PathBuf>,
}

fn opened(disk: &MemoryDisk) -> Result<Opened, super::OpenError> {
    open(Path::new(DIR), Arc::new(disk.clone()), &Limits { segment_bytes: 2 * FIRST_BATCH, ..Limits::default() })
}

fn entries(log: &Log) -> Entries {
    readable(log).expect("what recovery accepted can be read")
}

/// `None` where the log's reader finds damage.
fn readable(log: &Log) -> Option<Entries> {
    let (start, last) = (log.start().index, log.last().index);
    if start == last {
        return Some(Vec::new());
    }
    let records = log.reader().read(start.next(), last, usize::MAX).ok()?;
    assert_eq!(records.len() as u64, last.0 - start.0, "every entry can be read");
    Some(records.iter().map(|r| (r.index.0, r.term.0, r.payload().to_vec())).collect())
}

fn append(log: &mut Log, first: u64, term: u64, payloads: &[Vec<u8>]) {
    let frames: Vec<Bytes> = payloads
        .iter()
        .zip(first..)
        .map(|(payload, index)| {
            let mut out = BytesMut::new();
            record::encode(&mut out, Term(term), Index(index), RecordKind::Command, payload);
            out.freeze()
        })
        .collect();
    let last = Index(first + payloads.len() as u64 - 1);
    log.append(&Batch { first: Index(first), last, commit: Index(first.saturating_sub(2)), frames: &frames })
        .and_then(|()| log.sync())
        .expect("nothing fails here");
}

fn original() -> &'static Original {
    static ORIGINAL: OnceLock<Original> = OnceLock::new();
    ORIGINAL.get_or_init(|| {
        let disk = MemoryDisk::default();
        let mut node = opened(&disk).expect("a new folder");
        node.meta.bind(ClusterId(77)).expect("bound");
        node.meta.set_known_peers(vec!["b:7400".to_owned()]).expect("kept");
        node.vote.save(Term(9), Some(NodeId(3))).expect("saved");
        let mut states = vec![Vec::new()];
        let mut index = 1;
        for batch in 0..12_u64 {
            // Every fifth batch takes back an entry of the one before.
            index -= u64::from(batch % 5 == 4);
            let payloads: Vec<Vec<u8>> = (0..2 + batch % 2).map(|n| vec![(batch * 16 + n) as u8; 700]).collect();
            append(&mut node.log, index, 1 + batch / 4, &payloads);
            index += payloads.len() as u64;
            states.push(entries(&node.log));
            if batch == 8 {
                node.log.cut(Index(5)).expect("cut");
                states.push(entries(&node.log));
            }
            if batch % 3 == 0
                && let Some(mut preparation) = node.log.preparation()
            {
                while !preparation.step().expect("a step") {}
                node.log.prepared(preparation, Ok(())).expect("taken back");
            }
        }
        drop(node);
        let mut files = disk.paths();
        files.retain(|path| path.file_name().is_none_or(|name| name != "lock"));
        files.sort();
        assert!(files.len() >= 5, "several segments, vote and identity: {files:?}");
        Original { disk, states, files }
    })
}

/// Bytes of one change: a file, what is done, where, and how much or with what.
const CHANGE_BYTES: usize = 7;

/// The first byte: whether checksums are made right afterwards. Then changes.
pub(crate) fn folder(data: &[u8]) {
    let Some((&mode, changes)) = data.split_first() else { return };
    let original = original();
    let disk = original.disk.copy();
    let forged = mode % 2 == 1;
    for change in changes.chunks_exact(CHANGE_BYTES).take(32) {
        damage(original, &disk, change);
    }
    if forged {
        original
            .files
            .iter()
            .filter(|path| disk.is_file(path))
            .for_each(|path| disk.tamper(path, |bytes| make_right(bytes)));
    }
    // Another version's files are an error; everything else is dealt with.
    let Ok(mut node) = opened(&disk) else { return };
    let Some(found) = readable(&node.log) else {
        // A batch vouches for its records. One that was forged may hold a record whose own
        // checksum the reader finds wrong.
        assert!(forged, "what recovery accepted can be read");
        return;
    };
    assert_eq!(node.heads.len(), found.len());
    assert!(node.commit <= node.log.last().index && node.commit >= node.start.index);
    assert!(node.term >= node.log.last().term, "the term that the log was written in is known");
    if node.renewed.is_some() {
        assert_eq!((found.len(), node.term, node.voted_for), (0, Term(0), None), "a new node knows nothing");
    } else if !forged {
        let is_state = |state: &Entries| state.ends_with(&found) || found.ends_with(state) && !state.is_empty();
        assert!(original.states.iter().any(is_state), "a log that never was: {found:?}");
        // Only a file from before it was saved can say otherwise, and there is none.
        assert_eq!((node.term, node.voted_for), (Term(9), Some(NodeId(3))));
    }
    let Some(next) = node.log.last().index.0.checked_add(1).filter(|next| *next < u64::MAX) else { return };
    let term = node.log.last().term.0;
    append(&mut node.log, next, term, &[vec![1; 10], vec![2; 3000]]);
    let left = entries(&node.log);
    let id = node.meta.id();
    drop(node);
    let again = opened(&disk).expect("what was recovered can be opened");
    assert_eq!((again.renewed, again.meta.id(), entries(&again.log)), (None, id, left));
}

fn damage(original: &Original, disk: &MemoryDisk, change: &[u8]) {
    let [file, how, place @ ..] = change else { return };
    let path = &original.files[usize::from(*file) % original.files.len()];
    let other = &original.files[usize::from(place[4]) % original.files.len()];
    if !disk.is_file(path) {
        return;
    }
    let taken = original.disk.bytes(other);
    disk.tamper(path, |bytes| {
        let at = (usize::from(place[0]) << 8 | usize::from(place[1])) % bytes.len().max(1);
        let many = usize::from(place[2]) << 4 | usize::from(place[3]) & 15;
        let end = (at + many).min(bytes.len());
        match how % 8 {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << (place[2] % 8),
            1 => bytes.truncate(at),
            2 => bytes[at..end].fill(0),
            3 => bytes.extend_from_within(at..end),
            // Blocks of another file, or of this one from another place, where they do not belong.
            4 => {
                let from = (at * 3) % taken.len().max(1);
                let block = &taken[from..(from + many).min(taken.len())];
                let block = &block[..block.len().min(bytes.len() - at.min(bytes.len()))];
                bytes[at..at + block.len()].copy_from_slice(block);
            }
            5 if end - at >= 8 => bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes()),
            6 if end - at >= 4 => bytes[at..at + 4].copy_from_slice(&u32::from(place[4]).to_le_bytes()),
            7 => bytes.splice(at..at, [place[4]]).for_each(drop),
            _ => {}
        }
    });
}

/// Makes the checksums of a file of ours right, whatever it holds.
fn make_right(bytes: &mut [u8]) {
    let put = |bytes: &mut [u8], at: usize, crc: u32| bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    if bytes.starts_with(b"qrtVote1") {
        for copy in [0, 4096] {
            if let Some(body) = bytes.get(copy..copy + 48) {
                let crc = crc32fast::hash(body);
                if bytes.len() >= copy + 52 {
                    put(bytes, copy + 48, crc);
                }
            }
        }
    } else if bytes.starts_with(b"qrtMeta1") && bytes.len() >= 16 {
        let crc = crc32fast::hash(&[&bytes[..12], &bytes[16..]].concat());
        put(bytes, 12, crc);
    } else if bytes.len() >= SEGMENT_HEADER_BYTES {
        let crc = crc32fast::hash(&bytes[..60]);
        put(bytes, 60, crc);
        let salt: [u8; 8] = bytes[24..32].try_into().expect("eight bytes");
        let places: Vec<usize> = memchr::memmem::find_iter(bytes, BATCH_MAGIC).collect();
        for at in places {
            let Some(header) = bytes.get(at..at + BATCH_HEADER_BYTES) else { continue };
            let length = u32::from_le_bytes(header[48..52].try_into().expect("four bytes")) as usize;
            let body = at + BATCH_HEADER_BYTES;
            if let Some(body) = bytes.get(body..body.saturating_add(length)) {
                let crc = crc32fast::hash(body);
                put(bytes, at + 56, crc);
            }
            let crc = crc32fast::hash(&[&salt[..], &bytes[at..at + 60]].concat());
            put(bytes, at + 60, crc);
        }
    }
}

pub(crate) fn folder_seeds() -> Vec<Vec<u8>> {
    let change = |file: u8, how: u8, at: u16, many: u8, with: u8| {
        let [high, low] = at.to_be_bytes();
        [file, how, high, low, many, 0, with]
    };
    let of = |mode: u8, changes: &[[u8; CHANGE_BYTES]]| [&[mode], changes.concat().as_slice()].concat();
    let mut seeds = vec![of(0, &[]), of(1, &[])];
    for file in 0..6 {
        for mode in 0..2 {
            seeds.push(of(mode, &[change(file, 0, 4096 + 33, 3, 0)]));
            seeds.push(of(mode, &[change(file, 1, 5000, 0, 0)]));
            seeds.push(of(mode, &[change(file, 5, 4096 + 32, 255, 0), change(file, 4, 4096, 80, file + 1)]));
            seeds.push(of(mode, &[change(file, 5, 40, 255, 0)]));
        }
    }
    seeds
}
