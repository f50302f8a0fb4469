//! Walking over the keys for Redis clients: glob patterns, KEYS, and the cursors of SCAN.
//!
//! Owns how a cursor, which in Redis is a number, stands for a place in an ordered key space: a bounded table of recent places, shared by
//! the connections of this node because clients draw each step from a pool of connections. It never holds a view of the data from one
//! step to the next. Before it: [`super::commands`]. After it: [`crate::kv::View`].

use std::collections::VecDeque;

use bytes::Bytes;

use super::resp;
use crate::kv::{StoreError, View};

/// Walks under way at once that are remembered; the oldest is forgotten first. At keys of at most 4 KiB that is 16 MiB at the very worst
/// and in practice some hundred KiB.
const CURSORS_MAX: usize = 4096;

/// Most keys that one KEYS looks at, and text that it returns: beyond, only SCAN will do.
pub(super) const KEYS: Bounds = Bounds { keys: 100_000, bytes: 16 << 20 };

/// The same for one step of SCAN, whatever COUNT says. Its text is a fraction of the largest value's.
pub(super) const SCAN: Bounds = Bounds { keys: 10_000, bytes: 256 << 10 };

/// KEYS at once: the text of all of them is at most 128 MiB.
pub(super) const KEYS_UNDER_WAY_MAX: usize = 8;

/// How far one step goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Keys looked at.
    pub keys: usize,
    /// Text, and one key more.
    pub bytes: usize,
}

/// Places where walks go on.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    /// The number of the oldest in `places`; numbers start at 1, as 0 means the beginning and the end.
    first: u64,
    places: VecDeque<Bytes>,
}

impl Cursors {
    /// Remembers the last key a walk has seen.
    pub(super) fn remember(&mut self, key: Bytes) -> u64 {
        if self.first == 0 {
            self.first = 1;
        }
        if self.places.len() == CURSORS_MAX {
            self.places.pop_front();
            self.first += 1;
        }
        // A copy: the key may be a small slice of a large block of the engine.
        self.places.push_back(Bytes::copy_from_slice(&key));
        self.first + self.places.len() as u64 - 1
    }

    /// The last key seen, if the cursor is not too old. It stays: a client may repeat a step.
    pub(super) fn place(&self, cursor: u64) -> Option<Bytes> {
        let at = usize::try_from(cursor.checked_sub(self.first)?).ok()?;
        self.places.get(at).cloned()
    }
}

/// Whether a key matches a glob pattern: `*`, `?`, `[a-z]`, `[^a]` and `\` before any of them. Takes at most key × pattern steps.
pub(super) fn matches(pattern: &[u8], key: &[u8]) -> bool {
    let (mut p, mut k) = (0, 0);
    // Where to go on if what follows the last star does not match: one more byte to the star.
    let mut retry: Option<(usize, usize)> = None;
    while k < key.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, k));
        } else if let Some(next) = one(pattern, p, key[k]) {
            p = next;
            k += 1;
        } else if let Some((star, from)) = retry {
            retry = Some((star, from + 1));
            (p, k) = (star, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// Where the pattern goes on if its element at `p` matches the byte.
fn one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => class(pattern, p + 1, byte),
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte).then_some(p + 2),
        literal => (*literal == byte).then_some(p + 1),
    }
}

/// The same for a class, whose first byte after the bracket is at `p`. One that is not closed ends with the pattern, as in Redis.
fn class(pattern: &[u8], mut p: usize, byte: u8) -> Option<usize> {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let mut found = false;
    loop {
        match pattern.get(p) {
            None => break,
            Some(b']') => {
                p += 1;
                break;
            }
            Some(b'\\') if p + 1 < pattern.len() => {
                found |= pattern[p + 1] == byte;
                p += 2;
            }
            Some(&low) if pattern.get(p + 1) == Some(&b'-') && p + 2 < pattern.len() => {
                let high = pattern[p + 2];
                found |= (low.min(high)..=low.max(high)).contains(&byte);
                p += 3;
            }
            Some(literal) => {
                found |= *literal == byte;
                p += 1;
            }
        }
    }
    (found != negated).then_some(p)
}

/// What every match starts with: it bounds the walk.
fn literal_prefix(pattern: &[u8]) -> &[u8] {
    let end = pattern.iter().position(|b| b"*?[\\".contains(b)).unwrap_or(pattern.len());
    &pattern[..end]
}

/// One step of a walk.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// How many keys match.
    pub count: usize,
    /// The keys themselves, as bulk strings one after the other. Not as slices of what the engine read: those would keep whole blocks of it in memory.
    pub text: Vec<u8>,
    /// The last key looked at, if there are more behind it.
    pub more: Option<Bytes>,
}

/// Looks at the keys after `after`, as far as the bounds go, and returns those that match. May read from the engine's disk: for a blocking thread.
pub(super) fn step(view: &View, pattern: &[u8], after: Option<&[u8]>, bounds: Bounds) -> Result<Step, StoreError> {
    let (mut step, mut seen, mut last) = (Step::default(), 0, None);
    for entry in view.try_scan(literal_prefix(pattern), after) {
        let (key, _) = entry?;
        if seen == bounds.keys || step.text.len() >= bounds.bytes {
            step.more = last;
            break;
        }
        seen += 1;
        if matches(pattern, &key) {
            resp::bulk(&mut step.text, &key);
            step.count += 1;
        }
        last = Some(key);
    }
    Ok(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Command, Condition, Store, Value};

    #[test]
    fn globs_match_as_in_redis() {
        for (pattern, key, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hbllo", true),
            ("h[a-b]llo", "hcllo", false),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hello", false),
            ("[", "[", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("user:*", "user:1", true),
            ("user:*", "use", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), key.as_bytes()), expected, "{pattern} on {key}");
        }
    }

    #[test]
    fn a_step_ends_at_its_bounds_and_says_whether_there_is_more() {
        let store = Store::memory();
        for (index, key) in ["a", "b", "c", "d"].into_iter().zip(1..).map(|(key, index)| (index, key)) {
            let put = Command::Put { key: key.into(), value: Value::text("v"), condition: Condition::None };
            store.apply_command(quorum::Position::new(index, 1), &put.encode());
        }
        let walk = |pattern: &str, after: Option<&str>, keys: usize, bytes: usize| {
            let after = after.map(str::as_bytes);
            let step = step(&store.view(), pattern.as_bytes(), after, Bounds { keys, bytes }).expect("readable");
            let more = step.more.map(|key| String::from_utf8_lossy(&key).into_owned());
            (String::from_utf8(step.text).expect("text").replace("\r\n", " "), step.count, more)
        };
        let found = |text: &str, count: usize, more: Option<&str>| (text.to_owned(), count, more.map(str::to_owned));
        assert_eq!(walk("*", None, 2, 100), found("$1 a $1 b ", 2, Some("b")));
        assert_eq!(walk("*", Some("b"), 2, 100), found("$1 c $1 d ", 2, None), "exactly as many as there are");
        assert_eq!(walk("*", None, 4, 100), found("$1 a $1 b $1 c $1 d ", 4, None));
        assert_eq!(walk("[ad]", None, 3, 100), found("$1 a ", 1, Some("c")));
        assert_eq!(walk("*", None, 100, 8), found("$1 a $1 b ", 2, Some("b")), "seven bytes of text each");
        assert_eq!(walk("[bd]", None, 100, 7), found("$1 b ", 1, Some("b")));
    }

    #[test]
    fn a_pattern_of_many_stars_is_decided_quickly() {
        let (pattern, key) = ("a*".repeat(200), "a".repeat(4096) + "b");
        assert!(!matches((pattern + "c").as_bytes(), key.as_bytes()));
    }

    #[test]
    fn cursors_are_found_until_they_are_too_old() {
        let mut cursors = Cursors::default();
        assert_eq!(cursors.place(1), None);
        let first = cursors.remember(Bytes::from_static(b"a"));
        assert_eq!(cursors.place(first), Some(Bytes::from_static(b"a")));
        for _ in 0..CURSORS_MAX {
            cursors.remember(Bytes::from_static(b"b"));
        }
        assert_eq!(cursors.place(first), None);
        assert_eq!(cursors.place(first + 1), Some(Bytes::from_static(b"b")));
        assert_eq!(cursors.place(u64::MAX), None);
    }
}
