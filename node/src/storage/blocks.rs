//! The write buffer of the log: a batch behind the bytes that share its first block, in memory as a disk wants it.
//!
//! A write past the system's cache begins and ends at the bounds of blocks, in the file as in memory. A batch does
//! neither, so the buffer keeps the last, unfilled block of what was written before: the next batch is written together
//! with it, and zeros up to the end of its own last block. What was durable in a block is written again with the same
//! bytes, so losing power over it can hurt no more than losing it over a new batch.
//!
//! Before: `log`. After: nothing; whole blocks go to [`super::disk::DiskFile::write_blocks`].

use super::disk::BLOCK_BYTES;

/// The buffer is given back beyond this, so that one huge value does not keep its memory for ever.
const BYTES_KEPT: usize = 2 << 20;

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    bytes: Vec<u8>,
    /// Where the first block begins: the first place in memory that is a multiple of [`BLOCK_BYTES`].
    start: usize,
    /// Bytes of the first block that were written before.
    tail: usize,
}

impl Blocks {
    /// A buffer for what is written behind these bytes of the last block.
    pub(super) fn behind(tail: &[u8]) -> Blocks {
        debug_assert!(tail.len() < BLOCK_BYTES, "a tail of {} bytes is no part of a block", tail.len());
        let mut blocks = Blocks::default();
        blocks.extend(tail);
        blocks.tail = tail.len();
        blocks
    }

    /// Appends to the batch.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// The batch so far.
    pub(super) fn batch(&self) -> &[u8] {
        self.bytes.get(self.start + self.tail..).unwrap_or_default()
    }

    /// The batch so far, to fill in what its header could not say before.
    pub(super) fn batch_mut(&mut self) -> &mut [u8] {
        let from = self.start + self.tail;
        self.bytes.get_mut(from..).unwrap_or_default()
    }

    /// The batch goes to where a block begins.
    pub(super) fn begin_block(&mut self) {
        let from = self.start + self.tail;
        self.bytes.drain(self.start..from);
        self.tail = 0;
    }

    /// The batch in whole blocks: behind what it shares its first one with, and with zeros up to the end of its last.
    pub(super) fn whole(&mut self) -> &[u8] {
        let used = self.bytes.len() - self.start;
        let missing = used.next_multiple_of(BLOCK_BYTES) - used;
        self.reserve(missing);
        let end = self.bytes.len();
        self.bytes.resize(end + missing, 0);
        &self.bytes[self.start..]
    }

    /// Bytes in the first block that precede the batch.
    pub(super) fn tail_bytes(&self) -> usize {
        self.tail
    }

    /// Forgets the batch, whose length is `batch`: it was written, and the next one comes behind it.
    pub(super) fn written(&mut self, batch: usize) {
        let used = self.tail + batch;
        let whole = used - used % BLOCK_BYTES;
        self.bytes.truncate(self.start + used);
        self.bytes.copy_within(self.start + whole.., self.start);
        self.tail = used - whole;
        self.bytes.truncate(self.start + self.tail);
        if self.bytes.capacity() > BYTES_KEPT {
            *self = Blocks::behind(&self.bytes[self.start..]);
        }
    }

    /// Forgets the batch, which was not written.
    pub(super) fn clear(&mut self) {
        self.bytes.truncate(self.start + self.tail);
    }

    /// Makes room; a buffer that grows is begun anew where a block may begin.
    fn reserve(&mut self, more: usize) {
        if self.bytes.len() + more <= self.bytes.capacity() {
            return;
        }
        let used = &self.bytes[self.start..];
        let wanted = (used.len() + more).next_power_of_two().max(BLOCK_BYTES);
        let mut bytes = Vec::<u8>::with_capacity(wanted + BLOCK_BYTES);
        // Should the platform not tell, the write finds the place wrong, and goes through the cache.
        let start = Some(bytes.as_ptr().align_offset(BLOCK_BYTES)).filter(|at| *at < BLOCK_BYTES).unwrap_or(0);
        bytes.resize(start, 0);
        bytes.extend_from_slice(used);
        self.bytes = bytes;
        self.start = start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn whole_blocks_begin_where_a_block_of_memory_begins() {
        let mut blocks = Blocks::default();
        for bytes in [1, 4096, 10_000, 70, 3 << 20, 5] {
            blocks.extend(&vec![1; bytes]);
            let whole = blocks.whole();
            assert_eq!(whole.as_ptr().align_offset(BLOCK_BYTES), 0);
            assert_eq!(whole.len() % BLOCK_BYTES, 0);
            blocks.written(bytes);
            assert!(blocks.bytes.capacity() <= BYTES_KEPT);
        }
    }

    proptest! {
        #[test]
        fn a_file_written_in_whole_blocks_holds_the_batches_one_behind_the_other(
            batches in prop::collection::vec((1_usize..9000, 0..3_u8), 1..20),
        ) {
            let (mut file, mut expected) = (Vec::new(), Vec::new());
            let mut blocks = Blocks::default();
            for (number, (bytes, way)) in batches.into_iter().enumerate() {
                let batch = vec![number as u8 + 1; bytes];
                if way == 0 {
                    // One that is given up, and one that begins a block.
                    blocks.extend(&[255; 5000]);
                    blocks.clear();
                    blocks.extend(&batch);
                    blocks.begin_block();
                    expected.resize(expected.len().next_multiple_of(BLOCK_BYTES), 0);
                } else {
                    blocks.extend(&batch);
                }
                prop_assert_eq!(blocks.batch(), &batch[..]);
                let at = expected.len() - blocks.tail_bytes();
                prop_assert_eq!(at % BLOCK_BYTES, 0);
                file.resize(at, 0);
                file.extend_from_slice(blocks.whole());
                expected.extend_from_slice(&batch);
                prop_assert_eq!(&file[..expected.len()], &expected[..]);
                prop_assert!(file[expected.len()..].iter().all(|byte| *byte == 0));
                blocks.written(bytes);
                prop_assert_eq!(blocks.tail_bytes(), expected.len() % BLOCK_BYTES);
            }
        }
    }
}
