//! Cutting a stream of bytes into frames, and nothing of what is in them.
//!
//! ```text
//! length u32 | checked u32 | group u32 | version u8 | kind u8 | 0 u16 | crc u32 | checked bytes | the rest
//! ```
//!
//! Little endian. `length` counts what follows the preface; the CRC covers the preface before it and the first
//! `checked` bytes. What comes after them (records) carries checksums of its own, so that the bulk of the traffic is
//! summed once and not twice.
//!
//! Before: [`super::connection`], which reads and writes. After: [`super::wire`], which knows the kinds. No length is
//! believed before it is compared with its bound, and nothing here panics on bytes from a network.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes before the body.
pub(super) const PREFACE: usize = 20;

/// The frame layout's version.
const VERSION: u8 = 1;

/// The only replication group so far; frames carry it so that there can be more.
const GROUP: u32 = 0;

/// What is read at once from a connection that carries little.
const READ_SMALL: usize = 8 << 10;

/// Room made at once for a frame that is announced but not there: whoever announces 32 MiB and sends nothing costs no
/// more than this. Beyond it room grows with what arrives.
pub(super) const ROOM_AHEAD: usize = 64 << 10;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// What it is: see [`super::wire`].
    pub kind: u8,
    /// The part that the frame's CRC covers.
    pub checked: Bytes,
    /// The part that looks after itself.
    pub rest: Bytes,
}

/// Why bytes are not a frame. The connection is of no use after any of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {length} bytes is beyond the bound of {max}")]
    TooLong { length: usize, max: usize },
    #[error("a frame's lengths contradict each other")]
    Lengths,
    #[error("a frame of layout version {0} cannot be read here")]
    Version(u8),
    #[error("a frame of group {0} was sent, only group {GROUP} exists")]
    Group(u32),
    #[error("a frame's checksum does not match")]
    Checksum,
}

/// Appends a frame's preface and checked part; the caller appends exactly `rest` bytes behind it.
pub(super) fn encode(out: &mut BytesMut, kind: u8, rest: usize, checked: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_bytes(0, PREFACE);
    checked(out);
    let checked = out.len() - start - PREFACE;
    // Callers bound what they send far below 4 GiB: see `NetworkOptions::max_frame_bytes`.
    let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut preface = &mut out[start..start + 16];
    preface.put_u32_le(narrow(checked + rest));
    preface.put_u32_le(narrow(checked));
    preface.put_u32_le(GROUP);
    preface.put_u8(VERSION);
    preface.put_u8(kind);
    preface.put_u16_le(0);
    let crc = checksum(&out[start..start + 16], &out[start + PREFACE..]);
    out[start + 16..start + PREFACE].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(preface: &[u8], checked: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(preface);
    hasher.update(checked);
    hasher.finalize()
}

/// Splits the first frame off `buf`; `None` if it is not complete yet, with room reserved for what comes next.
pub(super) fn parse(buf: &mut BytesMut, max: usize) -> Result<Option<Frame>, FrameError> {
    if buf.len() < PREFACE {
        return Ok(None);
    }
    let mut preface = &buf[..PREFACE];
    let (length, checked) = (preface.get_u32_le() as usize, preface.get_u32_le() as usize);
    let (group, version, kind) = (preface.get_u32_le(), preface.get_u8(), preface.get_u8());
    let _reserved = preface.get_u16_le();
    let crc = preface.get_u32_le();
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    if group != GROUP {
        return Err(FrameError::Group(group));
    }
    if length > max {
        return Err(FrameError::TooLong { length, max });
    }
    if checked > length {
        return Err(FrameError::Lengths);
    }
    if buf.len() < PREFACE + length {
        let missing = PREFACE + length - buf.len();
        buf.reserve(missing.min(ROOM_AHEAD.max(buf.len())));
        return Ok(None);
    }
    if checksum(&buf[..16], &buf[PREFACE..PREFACE + checked]) != crc {
        return Err(FrameError::Checksum);
    }
    let mut body = buf.split_to(PREFACE + length).freeze();
    body.advance(PREFACE);
    let checked = body.split_to(checked);
    Ok(Some(Frame { kind, checked, rest: body }))
}

/// Makes these bytes a stream of whole frames, as a sender with bad intentions might: for [`super::fuzzing`], which
/// would hardly guess a checksum. What was a frame before stays that.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn forge(mut stream: &mut [u8]) {
    while stream.len() >= PREFACE {
        let (preface, body) = stream.split_at_mut(PREFACE);
        let number = |at: usize| u32::from_le_bytes([preface[at], preface[at + 1], preface[at + 2], preface[at + 3]]);
        let (length, checked) = (number(0), number(4));
        let length = crate::fuzzing::fitted(length, body.len());
        let checked = crate::fuzzing::fitted(checked, length as usize);
        preface[..4].copy_from_slice(&length.to_le_bytes());
        preface[4..8].copy_from_slice(&checked.to_le_bytes());
        preface[8..12].copy_from_slice(&GROUP.to_le_bytes());
        preface[12] = VERSION;
        let crc = checksum(&preface[..16], &body[..checked as usize]);
        preface[16..].copy_from_slice(&crc.to_le_bytes());
        stream = &mut body[length as usize..];
    }
}

/// A socket with what was read ahead from it: for conversations of question and answer (handshake,
/// introduction, snapshot).
#[derive(Debug)]
pub(super) struct Framed {
    pub stream: TcpStream,
    pub buf: BytesMut,
}

impl Framed {
    pub(super) fn new(stream: TcpStream) -> Framed {
        Framed { stream, buf: BytesMut::new() }
    }

    /// Waits for bytes until `n` are buffered.
    pub(super) async fn fill(&mut self, n: usize) -> io::Result<()> {
        while self.buf.len() < n {
            self.buf.reserve(READ_SMALL);
            if self.stream.read_buf(&mut self.buf).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Waits for one frame.
    pub(super) async fn next(&mut self, max: usize) -> io::Result<Frame> {
        loop {
            match parse(&mut self.buf, max) {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => self.fill(self.buf.len() + 1).await?,
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }

    /// Sends bytes that were encoded before.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(kind: u8, checked: &[u8], rest: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        encode(&mut out, kind, rest.len(), |out| out.put_slice(checked));
        out.put_slice(rest);
        out
    }

    #[test]
    fn frames_come_out_as_they_went_in_whatever_the_pieces() {
        let mut all = framed(3, b"head", b"records");
        all.unsplit(framed(4, b"", b""));
        let mut buf = BytesMut::new();
        let mut got = Vec::new();
        for byte in all {
            buf.put_u8(byte);
            got.extend(parse(&mut buf, 1024).expect("frame"));
        }
        let frame = |kind, checked: &'static [u8], rest: &'static [u8]| Frame {
            kind,
            checked: Bytes::from_static(checked),
            rest: Bytes::from_static(rest),
        };
        assert_eq!(got, [frame(3, b"head", b"records"), frame(4, b"", b"")]);
    }

    #[test]
    fn an_oversized_frame_is_refused_before_any_room_is_made_for_it() {
        let mut buf = BytesMut::with_capacity(PREFACE);
        buf.put_u32_le(u32::MAX);
        buf.put_u32_le(0);
        buf.put_u32_le(GROUP);
        buf.put_u8(VERSION);
        buf.put_bytes(0, 7);
        let before = buf.capacity();
        assert_eq!(parse(&mut buf, 1024), Err(FrameError::TooLong { length: u32::MAX as usize, max: 1024 }));
        assert_eq!(buf.capacity(), before);
    }

    #[test]
    fn a_frame_that_is_only_announced_takes_little_room() {
        let frame = framed(5, b"head", &vec![7; 16 << 20]);
        let mut buf = BytesMut::from(&frame[..PREFACE + 100]);
        assert_eq!(parse(&mut buf, 32 << 20), Ok(None));
        assert!(buf.capacity() <= 2 * ROOM_AHEAD, "{} bytes for {} that arrived", buf.capacity(), PREFACE + 100);
        buf.extend_from_slice(&frame[PREFACE + 100..]);
        assert!(parse(&mut buf, 32 << 20).is_ok_and(|frame| frame.is_some()));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let mut buf = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = parse(&mut buf, 100) {}
        }

        #[test]
        fn one_flipped_bit_of_preface_or_head_is_noticed(at in 0usize..(PREFACE + 9) * 8) {
            let mut buf = framed(2, b"some head", b"rest");
            buf[at / 8] ^= 1 << (at % 8);
            let got = parse(&mut buf, 1024);
            proptest::prop_assert!(!matches!(got, Ok(Some(_))), "{got:?}");
        }
    }
}
