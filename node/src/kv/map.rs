//! An ordered map in which a single key is found by its hash.
//!
//! Most of what a node does with a table is to look for single keys: before a write, at the write, for a read. In a
//! tree of 100,000 keys each such search compares some seventeen keys, most of them far from each other in memory; that
//! was a tenth of a leader's time. So the tree only keeps the order, and is touched by keys that are new.
//!
//! Nothing is ever removed, and no growth moves the values: they lie in chunks of a fixed size, and what doubles
//! are eight bytes a key.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;

use bytes::Bytes;
use hashbrown::HashTable;

/// Values of a chunk.
const CHUNK: usize = 1024;

/// Keys, each with a value.
pub(super) struct Map<V> {
    chunks: Vec<Vec<(Bytes, V)>>,
    places: HashTable<Hashed>,
    order: BTreeMap<Bytes, Place>,
    /// Seeded anew for every map: keys come from strangers.
    hasher: RandomState,
}

/// Where a key's value is, for as long as the map lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

/// A place under the hash of its key, of which so much is kept: a table that grows need not look at the keys.
#[derive(Clone, Copy)]
struct Hashed {
    hash: u32,
    place: Place,
}

impl Hashed {
    /// The table wants all bits of a hash to differ.
    fn spread(&self) -> u64 {
        spread(self.hash)
    }
}

fn spread(hash: u32) -> u64 {
    u64::from(hash) | u64::from(hash) << 32
}

impl<V> Default for Map<V> {
    fn default() -> Map<V> {
        Map { chunks: Vec::new(), places: HashTable::new(), order: BTreeMap::new(), hasher: RandomState::new() }
    }
}

impl<V> Map<V> {
    fn hash(&self, key: &[u8]) -> u32 {
        let hash = self.hasher.hash_one(key);
        (hash ^ (hash >> 32)) as u32
    }

    fn entry(&self, place: Place) -> &(Bytes, V) {
        &self.chunks[place.0 as usize / CHUNK][place.0 as usize % CHUNK]
    }

    /// Where the key's value is.
    pub(super) fn find(&self, key: &[u8]) -> Option<Place> {
        let hash = self.hash(key);
        let is_it = |at: &Hashed| at.hash == hash && self.entry(at.place).0 == key;
        self.places.find(spread(hash), is_it).map(|at| at.place)
    }

    /// What is at a place of this map.
    pub(super) fn at(&self, place: Place) -> &V {
        &self.entry(place).1
    }

    /// The same, to be changed.
    pub(super) fn at_mut(&mut self, place: Place) -> &mut V {
        &mut self.chunks[place.0 as usize / CHUNK][place.0 as usize % CHUNK].1
    }

    /// The key's value.
    pub(super) fn get(&self, key: &[u8]) -> Option<&V> {
        self.find(key).map(|place| self.at(place))
    }

    /// Takes in a key that is not here yet.
    pub(super) fn insert(&mut self, key: Bytes, value: V) {
        // Four thousand million keys of the least size would fill a tebibyte: the overlay's bound is far below.
        let place = Place(u32::try_from(self.order.len()).unwrap_or_else(|_| panic!("a table has no place left")));
        assert!(self.order.insert(key.clone(), place).is_none(), "a key was taken into a table twice");
        let hash = self.hash(&key);
        self.places.insert_unique(spread(hash), Hashed { hash, place }, Hashed::spread);
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push((key, value)),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push((key, value));
                self.chunks.push(chunk);
            }
        }
    }

    /// Keys and values in the order of the keys, from a bound on.
    pub(super) fn from(&self, bound: Bound<&[u8]>) -> impl Iterator<Item = (&Bytes, &V)> + use<'_, V> {
        self.order.range::<[u8], _>((bound, Bound::Unbounded)).map(|(key, place)| (key, self.at(*place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the standard library's tree: whatever is taken in, changed and asked for.
        #[test]
        fn it_is_a_tree_to_whoever_asks(ops in proptest::collection::vec((0u16..3000, any::<u32>()), 1..4000), from in 0u16..3000) {
            let mut tree = BTreeMap::new();
            let mut map = Map::default();
            for (key, value) in ops {
                let key = Bytes::from(format!("{key}"));
                prop_assert_eq!(map.get(&key), tree.get(&key));
                match map.find(&key) {
                    Some(place) => *map.at_mut(place) = value,
                    None => map.insert(key.clone(), value),
                }
                tree.insert(key, value);
            }
            let from = from.to_string();
            for bound in [Bound::Unbounded, Bound::Included(from.as_bytes()), Bound::Excluded(from.as_bytes())] {
                prop_assert!(map.from(bound).eq(tree.range::<[u8], _>((bound, Bound::Unbounded))));
            }
        }
    }

    #[test]
    fn keys_whose_hashes_are_alike_are_told_apart() {
        let mut map = Map::default();
        for key in ["a", "b"] {
            map.insert(Bytes::from(key), key);
        }
        let alike = Hashed { hash: map.hash(b"a"), place: Place(1) };
        map.places.insert_unique(alike.spread(), alike, Hashed::spread);
        assert_eq!((map.get(b"a"), map.get(b"b")), (Some(&"a"), Some(&"b")));
    }

    #[test]
    #[should_panic(expected = "taken into a table twice")]
    fn a_key_is_taken_in_once() {
        let mut map = Map::default();
        map.insert(Bytes::from_static(b"a"), 1);
        map.insert(Bytes::from_static(b"a"), 2);
    }
}
