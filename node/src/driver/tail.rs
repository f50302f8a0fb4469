//! The end of the log in memory: framed records that followers and the state still need, so that
//! neither waits for the disk.
//!
//! Records are kept in the chunks they were written in: the very bytes that went to the WAL go to the
//! followers. Old chunks leave once they are durable, applied, and the cache is over its bound; who needs them
//! after that reads the log.

use std::collections::VecDeque;

use bytes::Bytes;
use quorum::Index;

#[derive(Debug)]
struct Chunk {
    first: Index,
    /// The records, one behind the other.
    bytes: Bytes,
    /// Where each record ends.
    ends: Vec<usize>,
}

impl Chunk {
    fn last(&self) -> Index {
        Index(self.first.0 + self.ends.len() as u64 - 1)
    }

    /// The offset at which the record of `index` begins.
    fn begin(&self, index: Index) -> usize {
        match index.0 - self.first.0 {
            0 => 0,
            n => self.ends[n as usize - 1],
        }
    }

    fn end(&self, index: Index) -> usize {
        self.ends[(index.0 - self.first.0) as usize]
    }
}

/// The cached end of the log.
#[derive(Debug)]
pub(crate) struct Tail {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    /// An empty cache of about so many bytes.
    pub(crate) fn new(bytes_max: usize) -> Tail {
        Tail { chunks: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds records from `first` on, dropping whatever was cached from there.
    pub(crate) fn push(&mut self, first: Index, bytes: Bytes, ends: Vec<usize>) {
        self.truncate(first);
        // A gap can only be what a snapshot skipped: what lies before it is of no use any more.
        if self.chunks.back().is_some_and(|c| c.last().next() != first) {
            self.clear();
        }
        self.bytes += bytes.len();
        self.chunks.push_back(Chunk { first, bytes, ends });
    }

    fn truncate(&mut self, first: Index) {
        while let Some(mut chunk) = self.chunks.pop_back() {
            if chunk.last() < first {
                self.chunks.push_back(chunk);
                return;
            }
            self.bytes -= chunk.bytes.len();
            if chunk.first < first {
                let end = chunk.begin(first);
                chunk.ends.truncate((first.0 - chunk.first.0) as usize);
                chunk.bytes.truncate(end);
                self.bytes += chunk.bytes.len();
                self.chunks.push_back(chunk);
                return;
            }
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.bytes = 0;
    }

    /// Drops the oldest chunks that lie wholly at or before `unneeded`, as far as the bound asks for it.
    pub(crate) fn trim(&mut self, unneeded: Index) {
        while self.bytes > self.bytes_max {
            match self.chunks.front() {
                Some(chunk) if chunk.last() <= unneeded => self.bytes -= chunk.bytes.len(),
                _ => return,
            }
            self.chunks.pop_front();
        }
    }

    /// The first record that is cached.
    pub(crate) fn first(&self) -> Option<Index> {
        self.chunks.front().map(|chunk| chunk.first)
    }

    fn chunk_at(&self, index: Index) -> Option<usize> {
        let at = self.chunks.partition_point(|c| c.last() < index);
        (self.chunks.get(at)?.first <= index).then_some(at)
    }

    /// The framed records `from..=to`, in as few pieces as they were written in; `None` if one of them is not cached.
    pub(crate) fn frames(&self, from: Index, to: Index) -> Option<Vec<Bytes>> {
        let first = self.chunk_at(from)?;
        self.chunk_at(to)?;
        let mut pieces = Vec::new();
        for chunk in self.chunks.range(first..).take_while(|c| c.first <= to) {
            let begin = chunk.begin(from.max(chunk.first));
            let end = chunk.end(to.min(chunk.last()));
            pieces.push(chunk.bytes.slice(begin..end));
        }
        Some(pieces)
    }

    /// The framed record of one entry, sharing the chunk's memory: whoever keeps it for long keeps the chunk.
    pub(crate) fn frame(&self, index: Index) -> Option<Bytes> {
        let chunk = self.chunks.get(self.chunk_at(index)?)?;
        Some(chunk.bytes.slice(chunk.begin(index)..chunk.end(index)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chunk whose records are single bytes, named after their index.
    fn push(tail: &mut Tail, first: u8, count: u8) {
        let bytes: Vec<u8> = (first..first + count).collect();
        tail.push(Index(first.into()), Bytes::from(bytes), (1..=count as usize).collect());
    }

    #[test]
    fn a_range_comes_in_the_pieces_it_was_written_in() {
        let mut tail = Tail::new(100);
        push(&mut tail, 1, 3);
        push(&mut tail, 4, 2);
        let pieces = tail.frames(Index(2), Index(4)).expect("cached");
        assert_eq!(pieces, vec![Bytes::from_static(&[2, 3]), Bytes::from_static(&[4])]);
        assert_eq!(tail.frames(Index(4), Index(6)), None);
    }

    #[test]
    fn overwriting_cuts_into_a_chunk() {
        let mut tail = Tail::new(100);
        push(&mut tail, 1, 5);
        push(&mut tail, 3, 1);
        assert_eq!(tail.frame(Index(2)), Some(Bytes::from_static(&[2])));
        assert_eq!(tail.frame(Index(3)), Some(Bytes::from_static(&[3])));
        assert_eq!(tail.frame(Index(4)), None);
        assert_eq!(tail.first(), Some(Index(1)));
        assert_eq!(tail.bytes, 3);
    }

    #[test]
    fn only_what_is_over_the_bound_and_not_needed_leaves() {
        let mut tail = Tail::new(4);
        for first in [1, 4, 7] {
            push(&mut tail, first, 3);
        }
        tail.trim(Index(2));
        assert!(tail.frame(Index(1)).is_some(), "still needed");
        tail.trim(Index(9));
        assert!(tail.frame(Index(6)).is_none() && tail.frame(Index(7)).is_some());
    }
}
