//! What the log carries: commands, and what they lead to.
//!
//! A command holds everything its effect depends on; applying it reads no clock and draws no random number. Encoded
//! once, on the node that took the request; the very bytes go to every disk.
//!
//! The format: a version byte, an operation byte, then the operation's fields, numbers little-endian, keys behind a
//! 16-bit length. The last field of a command on one key has no length: it is the rest. Whatever does not fit exactly
//! is no command, on every replica alike.
//!
//! A command with an idempotency key is a command around another: stamp, key, and as the rest the other's bytes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::value::{Value, ValueKind};
use super::wire::Reader;

/// The version byte of the format below.
const VERSION: u8 = 1;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const PUT_MANY: u8 = 3;
const DELETE_MANY: u8 = 4;
const INCREMENT: u8 = 5;
const ONCE: u8 = 6;

/// Where the stamp of a command with an idempotency key lies: behind version and operation.
const STAMP_AT: std::ops::Range<usize> = 2..10;

/// The longest key the format takes. Far above what faces accept (`limits.key_bytes`), and below the 64 KiB at which
/// the engine would panic: a constant, because every replica must judge a command alike.
pub const KEY_BYTES_MAX: usize = 32 << 10;

/// The longest idempotency key. A UUID has 36 bytes, and a digest in hexadecimal 64; every one that is
/// remembered is held in memory.
pub const REQUEST_KEY_BYTES_MAX: usize = 128;

/// The generation of commands that this version understands: 0 had none with idempotency keys, 1 has. A node announces
/// it to the others, so that none is written that some member could not apply.
pub const GENERATION: u16 = 1;

/// A change of the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Stores a value under a key.
    Put {
        /// UTF-8, 1 byte to 4 KiB.
        key: Bytes,
        /// What to store.
        value: Value,
        /// Under which condition.
        condition: Condition,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Bytes,
        /// Under which condition.
        condition: Condition,
    },
    /// Stores several values at one revision (MSET).
    PutMany {
        /// Keys and values; a key named twice keeps the last value, and counts as written once.
        pairs: Vec<(Bytes, Value)>,
    },
    /// Removes several keys at one revision (DEL).
    DeleteMany {
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// Adds to a decimal number (INCR, INCRBY, DECR); an absent key counts as 0. The result is stored as bytes.
    Increment {
        /// The key.
        key: Bytes,
        /// What to add.
        by: i64,
    },
    /// Another command, done once however often it is handed in under this key.
    Once {
        /// The client's name for the request: 1 to [`REQUEST_KEY_BYTES_MAX`] bytes.
        key: Bytes,
        /// The leader's clock when it took the command, in milliseconds since 1970; 0 before that.
        stamped: u64,
        /// What is to be done; none that is itself of this kind.
        command: Box<Command>,
    },
}

/// What must hold of a key for the command to take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// The key does not exist (`If-None-Match: *`, SET NX).
    Absent,
    /// The key exists (`If-Match: *`, SET XX).
    Present,
    /// The key's revision is this (`If-Match: "7"`).
    Revision(u64),
}

/// What a command led to. Part of the replicated state machine: every replica computes the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Stored, as the key's `version`-th write since it was created (of the last key of a [`Command::PutMany`]).
    Put {
        /// From 1; 0 only for a [`Command::PutMany`] without pairs.
        version: u64,
    },
    /// So many keys existed and are gone.
    Deleted {
        /// Keys removed.
        count: u64,
    },
    /// The number now.
    Incremented {
        /// After adding.
        value: i64,
        /// As in [`Outcome::Put`].
        version: u64,
    },
    /// The condition did not hold; nothing changed.
    ConditionFailed {
        /// The key's revision, if it exists.
        current: Option<u64>,
    },
    /// The value is no decimal number, or the sum would not fit; nothing changed.
    NotANumber,
    /// The bytes are no command this version knows; nothing changed.
    Unreadable,
    /// The idempotency key stands for another request; nothing changed.
    KeyReused,
}

/// A command as it lies in its bytes, nothing copied: what applying works on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    Put { key: &'a [u8], value: RawValue<'a>, condition: Condition },
    Delete { key: &'a [u8], condition: Condition },
    PutMany(Vec<(&'a [u8], RawValue<'a>)>),
    DeleteMany(Vec<&'a [u8]>),
    Increment { key: &'a [u8], by: i64 },
    Once(Once<'a>),
}

/// A command with an idempotency key, as it lies in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Once<'a> {
    pub(super) key: &'a [u8],
    pub(super) stamped: u64,
    /// The length of what is to be done and its CRC-32: tells two requests under one key apart but for
    /// one time in four billion.
    pub(super) request: u64,
    /// What is to be done.
    pub(super) command: &'a [u8],
}

/// A value as it lies in a command's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawValue<'a> {
    pub(super) kind: ValueKind,
    pub(super) data: &'a [u8],
}

impl<'a> Parsed<'a> {
    /// Reads a command out of any bytes; `None` if they are none.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Parsed<'a>> {
        let mut reader = Reader(bytes);
        if reader.u8()? != VERSION {
            return None;
        }
        let parsed = match reader.u8()? {
            PUT => {
                let kind = ValueKind::from_byte(reader.u8()?)?;
                let condition = read_condition(&mut reader)?;
                let key = read_key(&mut reader)?;
                Parsed::Put { key, value: RawValue { kind, data: reader.rest() }, condition }
            }
            DELETE => {
                let condition = read_condition(&mut reader)?;
                Parsed::Delete { condition, key: checked_key(reader.rest())? }
            }
            PUT_MANY => {
                let mut pairs = Vec::new();
                while !reader.is_empty() {
                    let kind = ValueKind::from_byte(reader.u8()?)?;
                    let key = read_key(&mut reader)?;
                    let length = reader.u32()? as usize;
                    pairs.push((key, RawValue { kind, data: reader.take(length)? }));
                }
                Parsed::PutMany(pairs)
            }
            DELETE_MANY => {
                let mut keys = Vec::new();
                while !reader.is_empty() {
                    keys.push(read_key(&mut reader)?);
                }
                Parsed::DeleteMany(keys)
            }
            INCREMENT => {
                let by = reader.u64()?.cast_signed();
                Parsed::Increment { by, key: checked_key(reader.rest())? }
            }
            ONCE => {
                let stamped = reader.u64()?;
                let length = usize::from(reader.u8()?);
                let key = reader.take(length).filter(|key| (1..=REQUEST_KEY_BYTES_MAX).contains(&key.len()))?;
                let command = reader.rest();
                // Looked at before what is inside is read: no depth.
                if is_once(command) || Parsed::read(command).is_none() {
                    return None;
                }
                let request = (command.len() as u64) << 32 | u64::from(crc32fast::hash(command));
                Parsed::Once(Once { key, stamped, request, command })
            }
            _ => return None,
        };
        Some(parsed)
    }
}

/// Whether these bytes are a command with an idempotency key, if they are a command.
#[must_use]
pub fn is_once(payload: &[u8]) -> bool {
    payload.starts_with(&[VERSION, ONCE])
}

/// The bytes of a command with an idempotency key, with the time at which the leader took it. Must be one.
pub(crate) fn stamped(payload: &[u8], millis: u64) -> Bytes {
    assert!(is_once(payload) && payload.len() >= STAMP_AT.end, "only a command with an idempotency key has a stamp");
    let mut bytes = payload.to_vec();
    bytes[STAMP_AT].copy_from_slice(&millis.to_le_bytes());
    Bytes::from(bytes)
}

fn read_key<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let length = usize::from(reader.u16()?);
    checked_key(reader.take(length)?)
}

fn checked_key(key: &[u8]) -> Option<&[u8]> {
    (!key.is_empty() && key.len() <= KEY_BYTES_MAX).then_some(key)
}

fn read_condition(reader: &mut Reader<'_>) -> Option<Condition> {
    match reader.u8()? {
        0 => Some(Condition::None),
        1 => Some(Condition::Absent),
        2 => Some(Condition::Present),
        3 => Some(Condition::Revision(reader.u64()?)),
        _ => None,
    }
}

fn write_condition(out: &mut Vec<u8>, condition: Condition) {
    match condition {
        Condition::None => out.push(0),
        Condition::Absent => out.push(1),
        Condition::Present => out.push(2),
        Condition::Revision(revision) => {
            out.push(3);
            out.extend_from_slice(&revision.to_le_bytes());
        }
    }
}

/// A key that is too long gets a length that no reader takes, so that it cannot turn into another command.
fn write_key(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(key);
}

impl Command {
    /// The same, done once however often it is handed in under this key.
    #[must_use]
    pub fn once(self, key: Bytes) -> Command {
        Command::Once { key, stamped: 0, command: Box::new(self) }
    }

    /// The bytes that go into the log. Keys must be of 1 to [`KEY_BYTES_MAX`] bytes: the bytes of
    /// another command are no command.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.size_hint());
        self.encode_into(&mut out);
        Bytes::from(out)
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        match self {
            Command::Put { key, value, condition } => {
                out.extend_from_slice(&[PUT, value.kind as u8]);
                write_condition(out, *condition);
                write_key(out, key);
                out.extend_from_slice(&value.data);
            }
            Command::Delete { key, condition } => {
                out.push(DELETE);
                write_condition(out, *condition);
                out.extend_from_slice(key);
            }
            Command::PutMany { pairs } => {
                out.push(PUT_MANY);
                for (key, value) in pairs {
                    out.push(value.kind as u8);
                    write_key(out, key);
                    out.extend_from_slice(&u32::try_from(value.data.len()).unwrap_or(u32::MAX).to_le_bytes());
                    out.extend_from_slice(&value.data);
                }
            }
            Command::DeleteMany { keys } => {
                out.push(DELETE_MANY);
                keys.iter().for_each(|key| write_key(out, key));
            }
            Command::Increment { key, by } => {
                out.push(INCREMENT);
                out.extend_from_slice(&by.to_le_bytes());
                out.extend_from_slice(key);
            }
            Command::Once { key, stamped, command } => {
                out.push(ONCE);
                out.extend_from_slice(&stamped.to_le_bytes());
                // As in `write_key`: a length that no reader takes.
                out.push(u8::try_from(key.len()).unwrap_or(u8::MAX));
                out.extend_from_slice(key);
                command.encode_into(out);
            }
        }
    }

    /// Room for the encoded form: exact but for the condition, so that encoding allocates once.
    fn size_hint(&self) -> usize {
        const FIXED: usize = 16;
        match self {
            Command::Put { key, value, .. } => FIXED + key.len() + value.data.len(),
            Command::Delete { key, .. } | Command::Increment { key, .. } => FIXED + key.len(),
            Command::PutMany { pairs } => FIXED + pairs.iter().map(|(k, v)| 7 + k.len() + v.data.len()).sum::<usize>(),
            Command::DeleteMany { keys } => FIXED + keys.iter().map(|k| 2 + k.len()).sum::<usize>(),
            Command::Once { key, command, .. } => FIXED + key.len() + command.size_hint(),
        }
    }

    /// The command in these bytes, if they are one. Keys and values share the bytes' memory.
    #[must_use]
    pub fn decode(bytes: &Bytes) -> Option<Command> {
        let value = |raw: RawValue<'_>| Value { kind: raw.kind, data: bytes.slice_ref(raw.data) };
        Some(match Parsed::read(bytes)? {
            Parsed::Put { key, value: raw, condition } => {
                Command::Put { key: bytes.slice_ref(key), value: value(raw), condition }
            }
            Parsed::Delete { key, condition } => Command::Delete { key: bytes.slice_ref(key), condition },
            Parsed::PutMany(pairs) => {
                Command::PutMany { pairs: pairs.into_iter().map(|(k, v)| (bytes.slice_ref(k), value(v))).collect() }
            }
            Parsed::DeleteMany(keys) => {
                Command::DeleteMany { keys: keys.into_iter().map(|k| bytes.slice_ref(k)).collect() }
            }
            Parsed::Increment { key, by } => Command::Increment { key: bytes.slice_ref(key), by },
            Parsed::Once(Once { key, stamped, command, .. }) => Command::Once {
                key: bytes.slice_ref(key),
                stamped,
                command: Box::new(Command::decode(&bytes.slice_ref(command))?),
            },
        })
    }

    /// Whether it only removes data, and so is taken on a nearly full disk.
    #[must_use]
    pub fn frees_space(&self) -> bool {
        matches!(self.inner(), Command::Delete { .. } | Command::DeleteMany { .. })
    }

    /// What is done to the data: the command itself, or the one that is done once.
    fn inner(&self) -> &Command {
        match self {
            Command::Once { command, .. } => command,
            plain => plain,
        }
    }

    /// The keys it touches.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        let (one, pairs, many): (Option<&Bytes>, &[(Bytes, Value)], &[Bytes]) = match self.inner() {
            Command::Put { key, .. } | Command::Delete { key, .. } | Command::Increment { key, .. } => {
                (Some(key), &[], &[])
            }
            Command::PutMany { pairs } => (None, pairs, &[]),
            Command::DeleteMany { keys } => (None, &[], keys),
            // Nothing is done by one inside another: it is no command.
            Command::Once { .. } => (None, &[], &[]),
        };
        one.into_iter().chain(pairs.iter().map(|(key, _)| key)).chain(many)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 1..40).prop_map(Bytes::from)
    }

    fn value() -> impl Strategy<Value = Value> {
        (0..3u8, vec(any::<u8>(), 0..300))
            .prop_map(|(kind, data)| Value { kind: ValueKind::from_byte(kind).expect("kind"), data: Bytes::from(data) })
    }

    fn condition() -> impl Strategy<Value = Condition> {
        prop_oneof![
            Just(Condition::None),
            Just(Condition::Absent),
            Just(Condition::Present),
            any::<u64>().prop_map(Condition::Revision)
        ]
    }

    fn command() -> impl Strategy<Value = Command> {
        (plain(), proptest::option::of((vec(any::<u8>(), 1..=REQUEST_KEY_BYTES_MAX), any::<u64>()))).prop_map(
            |(command, once)| match once {
                Some((key, stamped)) => Command::Once { key: key.into(), stamped, command: Box::new(command) },
                None => command,
            },
        )
    }

    fn plain() -> impl Strategy<Value = Command> {
        prop_oneof![
            (key(), value(), condition()).prop_map(|(key, value, condition)| Command::Put { key, value, condition }),
            (key(), condition()).prop_map(|(key, condition)| Command::Delete { key, condition }),
            vec((key(), value()), 0..5).prop_map(|pairs| Command::PutMany { pairs }),
            vec(key(), 0..5).prop_map(|keys| Command::DeleteMany { keys }),
            (key(), any::<i64>()).prop_map(|(key, by)| Command::Increment { key, by }),
        ]
    }

    proptest! {
        #[test]
        fn a_command_comes_back_as_it_was_encoded(command in command()) {
            prop_assert_eq!(Command::decode(&command.encode()), Some(command));
        }

        #[test]
        fn arbitrary_bytes_are_read_without_a_panic_and_to_one_meaning(bytes in vec(any::<u8>(), 0..200), op in 0..7u8) {
            let mut bytes = bytes;
            bytes.splice(0..0, [VERSION, op]);
            let bytes = Bytes::from(bytes);
            if let Some(command) = Command::decode(&bytes) {
                prop_assert_eq!(Command::decode(&command.encode()), Some(command));
            }
        }

        #[test]
        fn a_cut_or_changed_command_is_read_without_a_panic(command in command(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let mut bytes = command.encode().to_vec();
            let at = at.index(bytes.len());
            let _ = Command::decode(&Bytes::copy_from_slice(&bytes[..at]));
            bytes[at] = with;
            let _ = Command::decode(&Bytes::from(bytes));
        }
    }

    #[test]
    fn a_decoded_value_shares_the_memory_of_the_payload() {
        let put = Command::Put { key: "k".into(), value: Value::bytes("hello"), condition: Condition::None };
        let payload = put.encode();
        let Some(Command::Put { value, .. }) = Command::decode(&payload) else { panic!("no put") };
        assert!(payload.as_ptr_range().contains(&value.data.as_ptr()));
    }

    #[test]
    fn keys_that_are_empty_or_too_long_make_no_command() {
        for key in [Bytes::new(), Bytes::from(vec![b'k'; KEY_BYTES_MAX + 1]), Bytes::from(vec![b'k'; 70_000])] {
            let put = Command::Put { key: key.clone(), value: Value::bytes("v"), condition: Condition::None };
            assert_eq!(Command::decode(&put.encode()), None);
            assert_eq!(Command::decode(&Command::Increment { key: key.clone(), by: 1 }.encode()), None);
            assert_eq!(Command::decode(&Command::DeleteMany { keys: vec![key] }.encode()), None);
        }
    }
}
