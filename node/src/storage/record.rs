//! One entry as bytes: the same frame in the log, on the wire and at the follower.
//!
//! Encoded once, by the leader; everyone else checks and passes on the very bytes. Little endian:
//!
//! | offset | field | |
//! |---|---|---|
//! | 0 | length u32 | bytes of the payload |
//! | 4 | crc u32 | CRC-32 of the length and of everything behind this field |
//! | 8 | version u8 | [`VERSION`] |
//! | 9 | kind u8 | [`RecordKind`] |
//! | 10 | flags u16 | 0 |
//! | 12 | group u32 | [`GROUP`]: the replication group, today the only one |
//! | 16 | term u64 | |
//! | 24 | index u64 | |
//! | 32 | payload | |
//!
//! Nothing here panics on foreign bytes, and no length is believed before it is compared with a bound.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use quorum::{Config, Head, Index, Kind, Position, Quorum, Term};

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 32;
/// The replication group of every record so far.
pub const GROUP: u32 = 0;
/// The format of this file.
pub const VERSION: u8 = 1;

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// Nothing.
    Empty = 0,
    /// A command.
    Command = 1,
    /// A configuration.
    Config = 2,
}

/// Why bytes are no record (or a configuration no configuration).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than allowed.
    #[error("a record of {bytes} bytes is longer than the {bytes_max} allowed")]
    TooLong {
        /// The payload's length as the header says.
        bytes: usize,
        /// What is allowed.
        bytes_max: usize,
    },
    /// The checksum does not match.
    #[error("a record's checksum does not match its bytes")]
    Checksum,
    /// Of another format version.
    #[error("a record has format version {0}, this program knows {VERSION}")]
    Version(u8),
    /// Flags this version does not know.
    #[error("a record has unknown flags {0:#06x}")]
    Flags(u16),
    /// Of another replication group.
    #[error("a record belongs to replication group {0}, this node has group {GROUP} only")]
    Group(u32),
    /// Of an unknown kind.
    #[error("a record is of unknown kind {0}")]
    Kind(u8),
    /// A payload where none belongs.
    #[error("an empty record carries {0} bytes")]
    NotEmpty(usize),
    /// Bytes that are no configuration.
    #[error("a configuration cannot be read: {0}")]
    Config(String),
}

/// One record, checked. Cloning is cheap: the bytes are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The entry's term.
    pub term: Term,
    /// The entry's index.
    pub index: Index,
    /// What it carries.
    pub kind: RecordKind,
    frame: Bytes,
}

impl Record {
    /// The whole record, header included.
    #[must_use]
    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// What it carries, without copying.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.frame.slice(HEADER_BYTES..)
    }

    /// The entry's index and term.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { term: self.term, index: self.index }
    }

    /// What the core needs to know of it.
    ///
    /// # Errors
    /// When it carries a configuration that cannot be read.
    pub fn head(&self) -> Result<Head, RecordError> {
        head_of(self.term, self.kind, &self.frame)
    }
}

fn head_of(term: Term, kind: RecordKind, frame: &[u8]) -> Result<Head, RecordError> {
    let kind = match kind {
        RecordKind::Empty => Kind::Empty,
        RecordKind::Command => Kind::Command,
        RecordKind::Config => Kind::Config(Arc::new(decode_config(&frame[HEADER_BYTES..])?)),
    };
    Ok(Head { term, kind, bytes: framed_bytes(frame.len() - HEADER_BYTES) })
}

/// The bytes that a payload's record takes.
#[must_use]
pub fn framed_bytes(payload_len: usize) -> u32 {
    u32::try_from(payload_len + HEADER_BYTES).unwrap_or(u32::MAX)
}

/// Appends a record to `out`.
///
/// # Panics
/// When the payload is longer than 4 GiB less the header: the limits of a request are far below.
pub fn encode(out: &mut BytesMut, term: Term, index: Index, kind: RecordKind, payload: &[u8]) {
    assert!(payload.len() < u32::MAX as usize - HEADER_BYTES, "a payload of {} bytes", payload.len());
    assert!(kind != RecordKind::Empty || payload.is_empty(), "an empty record carries nothing");
    out.reserve(HEADER_BYTES + payload.len());
    let start = out.len();
    out.put_u32_le(payload.len() as u32);
    out.put_u32_le(0);
    out.put_u8(VERSION);
    out.put_u8(kind as u8);
    out.put_u16_le(0);
    out.put_u32_le(GROUP);
    out.put_u64_le(term.0);
    out.put_u64_le(index.0);
    out.put_slice(payload);
    let crc = checksum(&out[start..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Splits the first record off `buf` without copying it. `None` if `buf` does not hold all of it yet; `buf` is
/// untouched then, and on an error.
///
/// # Errors
/// When the bytes are no record of this version and group, or its payload is longer than `max_payload`.
pub fn decode(buf: &mut Bytes, max_payload: usize) -> Result<Option<Record>, RecordError> {
    let Some(header) = Header::peek(buf) else { return Ok(None) };
    let bytes = header.frame_bytes - HEADER_BYTES;
    if bytes > max_payload {
        return Err(RecordError::TooLong { bytes, bytes_max: max_payload });
    }
    if buf.len() < header.frame_bytes {
        return Ok(None);
    }
    if checksum(&buf[..header.frame_bytes]) != header.crc {
        return Err(RecordError::Checksum);
    }
    let kind = header.kind()?;
    let frame = buf.split_to(header.frame_bytes);
    Ok(Some(Record { term: header.term, index: header.index, kind, frame }))
}

/// A configuration as the payload of a record.
#[must_use]
pub fn encode_config(config: &Config) -> Vec<u8> {
    // Serializing these plain types into memory cannot fail; if it ever did, an empty payload is one
    // that every reader refuses.
    postcard::to_stdvec(config).unwrap_or_default()
}

/// Reads a configuration and checks that its numbers are possible.
///
/// # Errors
/// When the bytes are no configuration, or one with impossible numbers.
pub fn decode_config(bytes: &[u8]) -> Result<Config, RecordError> {
    let unreadable = |error: String| RecordError::Config(error);
    let (config, rest): (Config, &[u8]) = postcard::take_from_bytes(bytes).map_err(|e| unreadable(e.to_string()))?;
    if !rest.is_empty() {
        return Err(unreadable(format!("{} bytes too many", rest.len())));
    }
    // The core takes these for granted and panics otherwise.
    Quorum::new(config.voters.len(), config.write_quorum).map_err(|e| unreadable(e.to_string()))?;
    if let Some(outgoing) = &config.outgoing {
        Quorum::new(outgoing.voters.len(), outgoing.write_quorum).map_err(|e| unreadable(e.to_string()))?;
    }
    Ok(config)
}

/// Term and kind of a record that is known to be whole: one that this process framed or has decoded before.
///
/// # Errors
/// When the header is none of this version.
pub fn peek(frame: &[u8]) -> Result<(Term, RecordKind), RecordError> {
    let header = Header::peek(frame).ok_or(RecordError::Checksum)?;
    Ok((header.term, header.kind()?))
}

/// The fields of a header that are needed to walk over records, unchecked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub frame_bytes: usize,
    pub term: Term,
    pub index: Index,
    crc: u32,
    version: u8,
    kind: u8,
    flags: u16,
    group: u32,
}

impl Header {
    /// `None` if there are not even the bytes of a header.
    pub(super) fn peek(bytes: &[u8]) -> Option<Header> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Some(Header {
            frame_bytes: u32_at(0) as usize + HEADER_BYTES,
            crc: u32_at(4),
            version: header[8],
            kind: header[9],
            flags: u16::from_le_bytes([header[10], header[11]]),
            group: u32_at(12),
            term: Term(u64_at(16)),
            index: Index(u64_at(24)),
        })
    }

    fn kind(&self) -> Result<RecordKind, RecordError> {
        if self.version != VERSION {
            return Err(RecordError::Version(self.version));
        }
        if self.flags != 0 {
            return Err(RecordError::Flags(self.flags));
        }
        if self.group != GROUP {
            return Err(RecordError::Group(self.group));
        }
        match self.kind {
            0 if self.frame_bytes > HEADER_BYTES => Err(RecordError::NotEmpty(self.frame_bytes - HEADER_BYTES)),
            0 => Ok(RecordKind::Empty),
            1 => Ok(RecordKind::Command),
            2 => Ok(RecordKind::Config),
            other => Err(RecordError::Kind(other)),
        }
    }

    /// The head of a record whose bytes another checksum vouches for.
    pub(super) fn head(&self, frame: &[u8]) -> Result<Head, RecordError> {
        head_of(self.term, self.kind()?, frame)
    }
}

/// The CRC of a whole frame: of the length and of what follows the CRC's own field.
fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

/// Makes these bytes a stream of whole records of this version, for [`crate::fuzzing`]: as frames between nodes are.
/// Kinds, terms and indexes stay.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn forge(mut stream: &mut [u8]) {
    while let Some(header) = Header::peek(stream) {
        let length = crate::fuzzing::fitted((header.frame_bytes - HEADER_BYTES) as u32, stream.len() - HEADER_BYTES);
        let (frame, rest) = stream.split_at_mut(HEADER_BYTES + length as usize);
        frame[..4].copy_from_slice(&length.to_le_bytes());
        frame[8] = VERSION;
        frame[10..12].fill(0);
        frame[12..16].copy_from_slice(&GROUP.to_le_bytes());
        let crc = checksum(frame);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        stream = rest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quorum::{Member, NodeId};

    use super::*;

    const MAX: usize = 1 << 16;

    fn framed(kind: RecordKind, payload: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        encode(&mut out, Term(3), Index(9), kind, payload);
        out.freeze()
    }

    fn config(voters: u128, write_quorum: usize) -> Config {
        let member = |n| Member {
            id: NodeId(n),
            name: format!("node{n}"),
            peer: String::new(),
            http: String::new(),
            tcp: String::new(),
        };
        let mut config = Config::first(vec![member(1)], 1, None).expect("possible");
        config.voters = (1..=voters).map(member).collect();
        config.write_quorum = write_quorum;
        config
    }

    #[test]
    fn a_record_takes_the_bytes_it_was_said_to_take() {
        assert_eq!(framed(RecordKind::Command, b"abc").len(), framed_bytes(3) as usize);
    }

    #[test]
    fn an_incomplete_record_is_waited_for_and_a_complete_one_split_off() {
        let whole = framed(RecordKind::Command, b"payload");
        for cut in 0..whole.len() {
            let mut part = whole.slice(..cut);
            assert_eq!(decode(&mut part, MAX), Ok(None));
            assert_eq!(part.len(), cut);
        }
        let mut two = BytesMut::from(&whole[..]);
        two.extend_from_slice(&whole);
        let mut two = two.freeze();
        let first = decode(&mut two, MAX).expect("valid").expect("complete");
        assert_eq!((first.term, first.index, first.kind), (Term(3), Index(9), RecordKind::Command));
        assert_eq!(&first.payload()[..], b"payload");
        assert_eq!(two, whole);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let whole = framed(RecordKind::Command, b"payload");
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // A longer length makes it incomplete or too long; it never passes as a record.
            assert!(!matches!(decode(&mut Bytes::from(bytes), MAX), Ok(Some(_))), "bit {bit}");
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_the_payload_is_there() {
        let mut head = framed(RecordKind::Command, &[0; 100]).slice(..HEADER_BYTES);
        assert_eq!(decode(&mut head, 99), Err(RecordError::TooLong { bytes: 100, bytes_max: 99 }));
    }

    #[test]
    fn another_version_group_flag_or_kind_is_refused_by_name() {
        let forged = |at: usize, value: u8| {
            let mut bytes = framed(RecordKind::Command, b"x").to_vec();
            bytes[at] = value;
            let crc = checksum(&bytes);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
            decode(&mut Bytes::from(bytes), MAX).expect_err("refused")
        };
        assert_eq!(forged(8, 2), RecordError::Version(2));
        assert_eq!(forged(9, 7), RecordError::Kind(7));
        assert_eq!(forged(9, 0), RecordError::NotEmpty(1));
        assert_eq!(forged(10, 1), RecordError::Flags(1));
        assert_eq!(forged(12, 5), RecordError::Group(5));
    }

    #[test]
    fn a_configuration_comes_back_as_it_was_and_gets_into_the_head() {
        let config = config(3, 2);
        assert_eq!(decode_config(&encode_config(&config)), Ok(config.clone()));
        let mut frame = framed(RecordKind::Config, &encode_config(&config));
        let bytes = frame.len() as u32;
        let head = decode(&mut frame, MAX).expect("valid").expect("complete").head().expect("readable");
        assert_eq!(head, Head { term: Term(3), kind: Kind::Config(Arc::new(config)), bytes });
    }

    #[test]
    fn a_configuration_with_impossible_numbers_is_refused_in_either_half() {
        assert!(decode_config(&encode_config(&config(3, 4))).is_err());
        assert!(decode_config(&encode_config(&config(0, 1))).is_err());
        let mut joint = config(3, 2);
        joint.outgoing = Some(quorum::Outgoing { voters: Vec::new(), write_quorum: 1 });
        assert!(decode_config(&encode_config(&joint)).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&mut Bytes::from(bytes.clone()), 64);
            let _ = decode_config(&bytes);
        }

        #[test]
        fn every_record_round_trips(term: u64, index: u64, payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut out = BytesMut::new();
            encode(&mut out, Term(term), Index(index), RecordKind::Command, &payload);
            let mut bytes = out.freeze();
            let whole = bytes.clone();
            let record = decode(&mut bytes, 300).expect("valid").expect("complete");
            prop_assert_eq!((record.term, record.index), (Term(term), Index(index)));
            prop_assert_eq!(record.payload(), payload);
            prop_assert_eq!(record.frame(), &whole);
            prop_assert!(bytes.is_empty());
        }
    }
}
