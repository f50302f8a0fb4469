//! The Redis protocol on the wire: an incremental parser of requests and the writers of replies.
//!
//! Owns the framing alone: it knows no command. It never allocates by a length that a peer announced (only by bytes that arrived), never
//! recurses (requests are flat arrays of bulk strings) and never panics on any bytes. Before it: the read buffer of [`super::session`].
//! After it: [`super::commands`].

use bytes::Bytes;

/// Longest header line (`*<count>` or `$<length>`): a sign and the digits of a 64-bit number take 20 bytes.
const HEADER_BYTES_MAX: usize = 24;

/// What a request may not exceed. Checked on the announced numbers, before anything is kept for them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caps {
    /// Arguments of one command, its name included.
    pub arguments: usize,
    /// Bytes of one argument.
    pub argument_bytes: usize,
    /// Bytes of one command, framing included.
    pub command_bytes: usize,
}

/// Bytes that are no request. The connection cannot go on: where the next command starts is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProtocolError {
    /// A command that does not start with `*`.
    #[error("Protocol error: expected '*', got '{}'", .0.escape_ascii())]
    ExpectedArray(u8),
    /// An argument that does not start with `$`.
    #[error("Protocol error: expected '$', got '{}'", .0.escape_ascii())]
    ExpectedBulk(u8),
    /// The count of arguments is no number or beyond the cap.
    #[error("Protocol error: invalid multibulk length")]
    Count,
    /// The length of an argument is no number or beyond the cap.
    #[error("Protocol error: invalid bulk length")]
    Length,
    /// An argument is not followed by CR LF.
    #[error("Protocol error: expected CRLF after bulk")]
    Terminator,
}

/// Where one argument lies in its command's bytes. Fits, as [`Caps::command_bytes`] is far below 4 GiB.
type Spot = (u32, u32);

/// A complete request: its bytes and where the arguments lie in them. Arguments are slices of what was read, never copies.
#[derive(Debug, Default)]
pub(super) struct Request {
    frame: Bytes,
    spots: Vec<Spot>,
}

impl Request {
    /// How many arguments, the command's name included.
    pub(super) fn len(&self) -> usize {
        self.spots.len()
    }

    /// An argument's bytes; empty beyond the last.
    pub(super) fn get(&self, n: usize) -> &[u8] {
        self.spots.get(n).and_then(|&(from, to)| self.frame.get(from as usize..to as usize)).unwrap_or_default()
    }

    /// An argument, sharing the memory it was read into.
    pub(super) fn share(&self, n: usize) -> Bytes {
        self.spots.get(n).map_or_else(Bytes::new, |&(from, to)| self.frame.slice(from as usize..to as usize))
    }

    /// The arguments from the `n`th.
    pub(super) fn from(&self, n: usize) -> impl Iterator<Item = &[u8]> {
        (n..self.len()).map(|i| self.get(i))
    }
}

/// The parser: fed the same growing buffer until a command is complete, it goes on where it stopped, so that a large command in many
/// small reads costs each byte once.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// Bytes of the buffer that are understood.
    at: usize,
    /// Arguments still to come; `None` before the array's header.
    left: Option<usize>,
    /// Length of the argument whose bytes come next.
    bulk: Option<usize>,
    spots: Vec<Spot>,
}

impl Parser {
    /// Looks for a complete command at the start of `buffer`; returns its length in bytes, or `None` if more must be read first.
    pub(super) fn parse(&mut self, buffer: &[u8], caps: &Caps) -> Result<Option<usize>, ProtocolError> {
        loop {
            let left = match (self.left, self.bulk) {
                (None, _) => {
                    let Some(&first) = buffer.get(self.at) else { return Ok(None) };
                    if first != b'*' {
                        return Err(ProtocolError::ExpectedArray(first));
                    }
                    let Some((count, next)) = number(buffer, self.at + 1, ProtocolError::Count)? else {
                        return Ok(None);
                    };
                    // Zero and the null array are no command; Redis passes over them in silence.
                    let count = usize::try_from(count).unwrap_or(0);
                    if count > caps.arguments {
                        return Err(ProtocolError::Count);
                    }
                    self.at = next;
                    count
                }
                (Some(left), None) => {
                    let Some(&first) = buffer.get(self.at) else { return Ok(None) };
                    if first != b'$' {
                        return Err(ProtocolError::ExpectedBulk(first));
                    }
                    let Some((length, next)) = number(buffer, self.at + 1, ProtocolError::Length)? else {
                        return Ok(None);
                    };
                    let length = usize::try_from(length).map_err(|_| ProtocolError::Length)?;
                    if length > caps.argument_bytes || next + length + 2 > caps.command_bytes {
                        return Err(ProtocolError::Length);
                    }
                    self.at = next;
                    self.bulk = Some(length);
                    left
                }
                (Some(left), Some(length)) => {
                    let end = self.at + length;
                    let Some(terminator) = buffer.get(end..end + 2) else { return Ok(None) };
                    if terminator != b"\r\n" {
                        return Err(ProtocolError::Terminator);
                    }
                    let spot = u32::try_from(self.at).ok().zip(u32::try_from(end).ok()).ok_or(ProtocolError::Length)?;
                    self.spots.push(spot);
                    self.at = end + 2;
                    self.bulk = None;
                    left - 1
                }
            };
            if left == 0 {
                return Ok(Some(self.at));
            }
            self.left = Some(left);
        }
    }

    /// Ends the command that [`Parser::parse`] found: `frame` is its bytes, cut from the buffer.
    pub(super) fn finish(&mut self, frame: Bytes) -> Request {
        let spots = std::mem::take(&mut self.spots);
        *self = Parser::default();
        Request { frame, spots }
    }

    /// Takes a finished request's list back, so that the next one needs no allocation.
    pub(super) fn recycle(&mut self, request: Request) {
        let mut spots = request.spots;
        spots.clear();
        // A rare huge command must not pin its list for the life of the connection.
        if spots.capacity() <= 64 {
            self.spots = spots;
        }
    }
}

/// The number in `buffer` from `at` up to CR LF, and what comes after; `None` if the line is not complete. Only the form Redis writes
/// counts: no plus, no leading zeros, no blanks.
fn number(buffer: &[u8], at: usize, invalid: ProtocolError) -> Result<Option<(i64, usize)>, ProtocolError> {
    let line = buffer.get(at..).unwrap_or_default();
    let negative = line.first() == Some(&b'-');
    let mut value: i64 = 0;
    let start = usize::from(negative);
    for (n, &byte) in line.iter().enumerate().skip(start) {
        match byte {
            b'0'..=b'9' if n == start || value != 0 => {
                let digit = i64::from(byte - b'0');
                value = value.checked_mul(10).and_then(|v| v.checked_add(digit)).ok_or(invalid)?;
            }
            b'\r' if n > start && !(negative && value == 0) => {
                return match line.get(n + 1) {
                    Some(b'\n') => Ok(Some((if negative { -value } else { value }, at + n + 2))),
                    Some(_) => Err(invalid),
                    None => Ok(None),
                };
            }
            _ => return Err(invalid),
        }
        if n > HEADER_BYTES_MAX {
            return Err(invalid);
        }
    }
    Ok(None)
}

/// Which of the two versions of the protocol replies are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Version {
    /// The one every connection starts with.
    #[default]
    Two,
    /// After `HELLO 3`: maps and a null of their own.
    Three,
}

/// `+text`.
pub(super) fn simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// `-text`. Line breaks, which may come from a client's own bytes, would end the reply early: they become blanks.
pub(super) fn error(out: &mut Vec<u8>, text: &str) {
    out.push(b'-');
    out.extend(text.bytes().map(|b| if b == b'\r' || b == b'\n' { b' ' } else { b }));
    out.extend_from_slice(b"\r\n");
}

/// `:number`.
pub(super) fn integer(out: &mut Vec<u8>, number: i64) {
    header(out, b':', number);
}

/// `$length`, then the bytes.
pub(super) fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    length(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Text that is meant for people to read.
pub(super) fn verbatim(out: &mut Vec<u8>, version: Version, text: &str) {
    if version == Version::Two {
        return bulk(out, text.as_bytes());
    }
    length(out, b'=', text.len() + 4);
    out.extend_from_slice(b"txt:");
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The absence of a value.
pub(super) fn null(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(match version {
        Version::Two => b"$-1\r\n",
        Version::Three => b"_\r\n",
    });
}

/// The header of an array of `count` replies.
pub(super) fn array(out: &mut Vec<u8>, count: usize) {
    length(out, b'*', count);
}

/// The header of a map of `pairs` pairs; a flat array in version 2.
pub(super) fn map(out: &mut Vec<u8>, version: Version, pairs: usize) {
    match version {
        Version::Two => length(out, b'*', pairs * 2),
        Version::Three => length(out, b'%', pairs),
    }
}

fn length(out: &mut Vec<u8>, sigil: u8, length: usize) {
    header(out, sigil, i64::try_from(length).unwrap_or(i64::MAX));
}

fn header(out: &mut Vec<u8>, sigil: u8, number: i64) {
    out.push(sigil);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;
    use redis_protocol::resp2::decode::decode;
    use redis_protocol::resp2::types::OwnedFrame;

    use super::*;

    const CAPS: Caps = Caps { arguments: 20, argument_bytes: 200, command_bytes: 4096 };

    /// Everything the parser makes of `input` when it arrives in pieces of the given lengths.
    fn parse_in_pieces(input: &[u8], pieces: &[usize]) -> (Vec<Vec<Vec<u8>>>, usize, Option<ProtocolError>) {
        let (mut parser, mut buffer, mut commands, mut consumed) = (Parser::default(), BytesMut::new(), vec![], 0);
        let mut rest = input;
        let mut pieces = pieces.iter().cycle();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*pieces.next().expect("pieces")).clamp(1, rest.len()));
            buffer.extend_from_slice(piece);
            rest = after;
            loop {
                match parser.parse(&buffer, &CAPS) {
                    Ok(Some(length)) => {
                        consumed += length;
                        let request = parser.finish(buffer.split_to(length).freeze());
                        commands.push((0..request.len()).map(|n| request.share(n).to_vec()).collect());
                        parser.recycle(request);
                    }
                    Ok(None) => break,
                    Err(error) => return (commands, consumed, Some(error)),
                }
            }
        }
        (commands, consumed, None)
    }

    fn encode(command: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        array(&mut out, command.len());
        command.iter().for_each(|argument| bulk(&mut out, argument));
        out
    }

    /// The arguments, if a frame of the other implementation is a request in our sense.
    fn as_command(frame: &OwnedFrame) -> Option<Vec<Vec<u8>>> {
        let OwnedFrame::Array(items) = frame else { return None };
        items.iter().map(|i| if let OwnedFrame::BulkString(b) = i { Some(b.clone()) } else { None }).collect()
    }

    /// What the other implementation makes of `input`, as long as it sees requests in the exact form we write.
    fn reference(mut input: &[u8]) -> (Vec<Vec<Vec<u8>>>, usize) {
        let (mut commands, mut consumed) = (vec![], 0);
        while let Ok(Some((frame, length))) = decode(&bytes::Bytes::copy_from_slice(input)) {
            let Some(command) = as_command(&frame) else { break };
            if encode(&command) != input[..length] {
                break;
            }
            commands.push(command);
            consumed += length;
            input = &input[length..];
        }
        (commands, consumed)
    }

    fn commands() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
        let argument = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            proptest::collection::vec(prop::sample::select(b"*$\r\n-0123".to_vec()), 0..12)
        ];
        proptest::collection::vec(proptest::collection::vec(argument, 1..6), 0..8)
    }

    proptest! {
        #[test]
        fn any_split_of_the_input_gives_the_same_commands(
            commands in commands(),
            pieces in proptest::collection::vec(1usize..30, 1..20),
        ) {
            let input: Vec<u8> = commands.iter().flat_map(|c| encode(c)).collect();
            let (parsed, consumed, error) = parse_in_pieces(&input, &pieces);
            prop_assert_eq!(parsed, commands);
            prop_assert_eq!((consumed, error), (input.len(), None));
        }

        #[test]
        fn mutated_input_is_understood_as_another_implementation_understands_it(
            commands in commands(),
            mutations in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 0..4),
            pieces in proptest::collection::vec(1usize..30, 1..20),
        ) {
            let mut input: Vec<u8> = commands.iter().flat_map(|c| encode(c)).collect();
            for (place, byte, how) in mutations {
                if input.is_empty() { break; }
                let at = place.index(input.len());
                match how {
                    0 => input[at] = byte,
                    1 => input.insert(at, b"*$\r\n0123456789-"[usize::from(byte) % 15]),
                    _ => { input.remove(at); }
                }
            }
            let (parsed, consumed, _) = parse_in_pieces(&input, &pieces);
            prop_assert_eq!(&parse_in_pieces(&input, &[input.len().max(1)]).0, &parsed);
            let (expected, expected_consumed) = reference(&input);
            // Null arrays are passed over by us and are no request to the other; compare up to where it stopped.
            prop_assert_eq!(&parsed[..expected.len().min(parsed.len())], &expected[..expected.len().min(parsed.len())]);
            let beyond_our_caps = expected.iter().any(|c| c.len() > CAPS.arguments || encode(c).len() > CAPS.argument_bytes);
            prop_assert!(beyond_our_caps || consumed >= expected_consumed);
            for (n, command) in parsed.iter().enumerate().skip(expected.len()) {
                prop_assert!(command.is_empty() || n > expected.len(), "only we understand {:?}", command);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(input in proptest::collection::vec(any::<u8>(), 0..200), piece in 1usize..20) {
            parse_in_pieces(&input, &[piece]);
        }

        #[test]
        fn no_bytes_of_its_own_alphabet_make_it_panic(
            input in proptest::collection::vec(prop::sample::select(b"*$\r\n-0123456789a".to_vec()), 0..200),
            piece in 1usize..20,
        ) {
            parse_in_pieces(&input, &[piece]);
        }
    }

    #[test]
    fn broken_framing_is_named_in_the_words_of_redis() {
        for (input, message) in [
            (&b"PING\r\n"[..], "Protocol error: expected '*', got 'P'"),
            (b"*x\r\n", "Protocol error: invalid multibulk length"),
            (b"*21\r\n", "Protocol error: invalid multibulk length"),
            (b"*99999999999999999999999\r\n", "Protocol error: invalid multibulk length"),
            (b"*01\r\n", "Protocol error: invalid multibulk length"),
            (b"*1\r\n+OK\r\n", "Protocol error: expected '$', got '+'"),
            (b"*1\r\n*1\r\n", "Protocol error: expected '$', got '*'"),
            (b"*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
            (b"*1\r\n$201\r\n", "Protocol error: invalid bulk length"),
            (b"*1\r\n$9223372036854775807\r\n", "Protocol error: invalid bulk length"),
            (b"*1\r\n$1\r\nabc", "Protocol error: expected CRLF after bulk"),
        ] {
            let error = parse_in_pieces(input, &[3]).2.expect("an error");
            assert_eq!(error.to_string(), message, "{}", input.escape_ascii());
        }
    }

    #[test]
    fn empty_and_null_arrays_are_passed_over() {
        let (commands, consumed, error) = parse_in_pieces(b"*0\r\n*-1\r\n*1\r\n$4\r\nPING\r\n", &[2]);
        assert_eq!(commands, [vec![], vec![], vec![b"PING".to_vec()]]);
        assert_eq!((consumed, error), (23, None));
    }

    #[test]
    fn line_breaks_from_a_client_cannot_end_an_error_early() {
        let mut out = Vec::new();
        error(&mut out, "ERR a\r\n+OK");
        assert_eq!(out, b"-ERR a  +OK\r\n");
    }
}
