//! Which protocol a connection speaks, told by its first byte.
//!
//! Owns that one decision and nothing else. It is made once: a connection never changes its protocol afterwards. Before it: the first
//! read of [`super::session`]. After it: [`super::resp`] or [`super::lines`].

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Arrays of bulk strings, as every Redis client sends them.
    Redis,
    /// A command a line, a JSON object per answer.
    Lines,
}

impl Protocol {
    /// No command of the line protocol starts with `*`, and every command of a Redis client does.
    pub(super) fn of(first_byte: u8) -> Protocol {
        if first_byte == b'*' { Protocol::Redis } else { Protocol::Lines }
    }
}

#[cfg(test)]
mod tests {
    use super::Protocol;

    #[test]
    fn only_a_star_is_redis() {
        for byte in 0..=255 {
            assert_eq!(Protocol::of(byte) == Protocol::Redis, byte == b'*');
        }
    }
}
