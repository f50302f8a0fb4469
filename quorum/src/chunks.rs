//! A queue that grows without moving what is in it: full chunks of a fixed size, and one that fills.
//!
//! A log's heads are a million before it is cut. A `VecDeque` of them doubles by copying all into memory never touched
//! before, which took the driver 20, 40 and 70 ms at 131,072, 262,144 and 524,288 heads, on every node of a cluster at
//! the same write. Nothing here takes longer than a chunk does, but letting go of many chunks at once.

use std::collections::VecDeque;

/// Elements of a chunk: 128 KiB of heads.
const CHUNK: usize = 4096;

/// The elements, by their place from the front.
#[derive(Debug)]
pub(crate) struct Chunks<T> {
    /// All but the last are full.
    chunks: VecDeque<Vec<T>>,
    /// Elements of the first chunk that are gone; they are dropped with it.
    gone: usize,
}

impl<T> Chunks<T> {
    pub(crate) fn new() -> Chunks<T> {
        Chunks { chunks: VecDeque::new(), gone: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        let full = self.chunks.len().saturating_sub(1) * CHUNK;
        full + self.chunks.back().map_or(0, Vec::len) - self.gone
    }

    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        let at = self.gone.checked_add(at)?;
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)
    }

    pub(crate) fn last(&self) -> Option<&T> {
        self.get(self.len().checked_sub(1)?)
    }

    pub(crate) fn push(&mut self, element: T) {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(element),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(element);
                self.chunks.push_back(chunk);
            }
        }
    }

    /// Keeps so many from the front.
    pub(crate) fn truncate(&mut self, keep: usize) {
        if keep >= self.len() {
            return;
        }
        let end = self.gone + keep;
        self.chunks.truncate(end.div_ceil(CHUNK));
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.truncate((end - 1) % CHUNK + 1);
        }
        self.forget_if_empty(keep);
    }

    /// Drops so many from the front; no more than there are.
    pub(crate) fn drop_front(&mut self, count: usize) {
        let left = self.len().saturating_sub(count);
        self.gone += count;
        self.chunks.drain(..(self.gone / CHUNK).min(self.chunks.len()));
        self.gone %= CHUNK;
        self.forget_if_empty(left);
    }

    fn forget_if_empty(&mut self, len: usize) {
        if len == 0 {
            *self = Chunks::new();
        }
    }

    /// Those from a place on.
    pub(crate) fn from(&self, at: usize) -> impl Iterator<Item = &T> {
        let at = self.gone.saturating_add(at);
        let chunks = self.chunks.range((at / CHUNK).min(self.chunks.len())..);
        chunks.flatten().skip(at % CHUNK)
    }

    /// How many from the front meet a condition that all of them meet up to some place, and none behind it.
    pub(crate) fn partition_point(&self, meets: impl Fn(&T) -> bool) -> usize {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from + (to - from) / 2;
            if self.get(middle).is_some_and(&meets) {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        from
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Truncate(usize),
        DropFront(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let near = prop_oneof![0..10_usize, CHUNK - 2..CHUNK + 3, 0..3 * CHUNK];
        (0..4_u8, near).prop_map(|(what, count)| match what {
            0 | 1 => Step::Push(count),
            2 => Step::Truncate(count),
            _ => Step::DropFront(count),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_is_a_queue(steps in prop::collection::vec(step(), 1..12)) {
            let (mut chunks, mut model, mut next) = (Chunks::new(), VecDeque::new(), 0_u64);
            for step in steps {
                match step {
                    Step::Push(count) => for _ in 0..count {
                        chunks.push(next);
                        model.push_back(next);
                        next += 1;
                    },
                    Step::Truncate(keep) => {
                        chunks.truncate(keep);
                        model.truncate(keep);
                    }
                    Step::DropFront(count) => {
                        let count = count.min(model.len());
                        chunks.drop_front(count);
                        model.drain(..count);
                    }
                }
                prop_assert_eq!(chunks.len(), model.len());
                prop_assert_eq!(chunks.last(), model.back());
                for at in [0, 1, CHUNK - 1, CHUNK, model.len() / 2, model.len().saturating_sub(1), model.len()] {
                    prop_assert_eq!(chunks.get(at), model.get(at));
                    prop_assert!(chunks.from(at).eq(model.iter().skip(at)));
                }
                if let Some(middle) = model.get(model.len() / 2) {
                    prop_assert_eq!(chunks.partition_point(|n| n < middle), model.len() / 2);
                }
            }
        }
    }
}
