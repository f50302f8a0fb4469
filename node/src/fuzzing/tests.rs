//! The checks under proptest: for every parser arbitrary bytes, and valid input that something happened to.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::{TARGETS, Target};

/// Cases of each kind for each target: together a few seconds. `PROPTEST_CASES` asks for more, as a night has time for.
const CASES: u32 = 300;

/// Something that happens to bytes on their way.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(Index, u8),
    Truncate(Index),
    Cut(Index, Index),
    Duplicate(Index, Index, Index),
    /// A part of another valid input in this one's place.
    Splice(Index, Index, Index),
    /// A number where a length may be.
    Length(Index, u64, usize),
    /// Digits where a length may be in a text.
    Digits(Index, u64),
    Swap(Index, Index, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    let number = || {
        let near = (0u32..64, -2i64..3).prop_map(|(shift, off)| (1u64 << shift).wrapping_add_signed(off));
        prop_oneof![Just(0), Just(u64::MAX), 0..300u64, near]
    };
    prop_oneof![
        (at(), 0..8u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        at().prop_map(Mutation::Truncate),
        (at(), at()).prop_map(|(a, b)| Mutation::Cut(a, b)),
        (at(), at(), at()).prop_map(|(a, b, c)| Mutation::Duplicate(a, b, c)),
        (at(), at(), at()).prop_map(|(a, b, c)| Mutation::Splice(a, b, c)),
        (at(), number(), 1..9usize).prop_map(|(at, number, width)| Mutation::Length(at, number, width)),
        (at(), number()).prop_map(|(at, number)| Mutation::Digits(at, number)),
        (at(), at(), 1..9usize).prop_map(|(a, b, width)| Mutation::Swap(a, b, width)),
    ]
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        let part = |a: &Index, b: &Index| {
            let (a, b) = (a.index(length), b.index(length));
            a.min(b)..a.max(b)
        };
        match self {
            Mutation::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Mutation::Truncate(at) => bytes.truncate(at.index(length)),
            Mutation::Cut(a, b) => drop(bytes.drain(part(a, b))),
            Mutation::Duplicate(a, b, to) => {
                let copy = bytes[part(a, b)].to_vec();
                bytes.splice(to.index(length)..to.index(length), copy);
            }
            Mutation::Splice(seed, a, b) => {
                let other = &seeds[seed.index(seeds.len())];
                let from = a.index(other.len().max(1)).min(other.len());
                bytes.splice(b.index(length).., other[from..].iter().copied());
            }
            Mutation::Length(at, number, width) => {
                let at = at.index(length);
                let end = (at + width).min(length);
                bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
            }
            Mutation::Digits(at, number) => {
                let digits: Vec<usize> = (0..length).filter(|at| bytes[*at].is_ascii_digit()).collect();
                let at = if digits.is_empty() { at.index(length) } else { digits[at.index(digits.len())] };
                bytes.splice(at..=at, number.to_string().into_bytes());
            }
            Mutation::Swap(a, b, width) => {
                let (a, b) = (a.index(length), b.index(length));
                let width = *width.min(&a.abs_diff(b)).min(&(length - a.max(b)));
                for n in 0..width {
                    bytes.swap(a + n, b + n);
                }
            }
        }
    }
}

/// What fuzzers kept for a target: inputs that together reach what it reaches, and those that once failed.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/").to_owned() + target.name;
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    files.map(|file| std::fs::read(file.expect("a file").path()).expect("read")).collect()
}

fn run(target: &Target) {
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{} has something valid to begin from", target.name);
    seeds.iter().chain(&corpus(target)).for_each(|input| (target.check)(input));
    let config = || ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES),
        // The input is printed; as a file in the corpus it stays a test.
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config(), |(bytes in vec(any::<u8>(), 0..300))| (target.check)(&bytes));
    proptest!(config(), |(seed in any::<Index>(), mutations in vec(mutation(), 1..5))| {
        let mut bytes = seeds[seed.index(seeds.len())].clone();
        mutations.iter().for_each(|mutation| mutation.apply(&mut bytes, &seeds));
        (target.check)(&bytes);
    });
}

/// What one check may hold at a time for so many bytes of input: its own copies and those of the parser, of the
/// other implementation and of texts in errors; and the room that serde makes ahead for a list, whatever its length
/// says: a mebibyte at most.
fn allowance(input: usize) -> u64 {
    (2 << 20) + 256 * input as u64
}

/// Checks that build a node, a connection or a folder around the parser.
const WITH_A_WORLD: [&str; 4] = ["node_folder", "http_requests", "tcp_sessions", "peer_openings"];

/// The others, with lengths that promise the world.
#[test]
fn no_announced_length_takes_memory() {
    let lengths = [u64::MAX, u64::from(u32::MAX), 1 << 31, (1 << 31) - 1, 31 << 20, 16 << 20, u64::from(u16::MAX)];
    for target in TARGETS.iter().filter(|target| !WITH_A_WORLD.contains(&target.name)) {
        for seed in (target.seeds)() {
            for at in 0..seed.len() {
                for (number, width) in lengths.iter().flat_map(|n| [2, 4, 8].map(|width| (n, width))) {
                    let mut bytes = seed.clone();
                    let end = (at + width).min(bytes.len());
                    bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
                    let used = allocation_counter::measure(|| (target.check)(&bytes));
                    let most = allowance(bytes.len());
                    assert!(used.bytes_max <= most, "{}: {} bytes for {}", target.name, used.bytes_max, bytes.len());
                }
            }
        }
    }
}

macro_rules! promises {
    ($($name:ident $target:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            run(TARGETS.iter().find(|target| target.name == $target).expect("a target"));
        })*

        #[test]
        fn every_target_has_its_test() {
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), [$($target),*]);
        }
    };
}

promises! {
    http_requests_are_answered_and_refused_in_the_documented_shape "http_requests",
    sessions_get_the_same_answers_in_any_pieces "tcp_sessions",
    redis_requests_are_understood_as_another_implementation_does_in_any_pieces "resp_requests",
    redis_replies_are_understood_by_another_implementation_in_both_versions "resp_replies",
    every_line_is_answered_by_one_line_of_json_and_values_come_back "lines",
    strangers_are_admitted_or_refused_alike_in_any_pieces "peer_openings",
    peer_frames_come_out_alike_in_any_pieces_and_take_no_room_ahead "peer_frames",
    peer_messages_survive_being_written_and_read_again "peer_messages",
    greetings_introductions_and_snapshot_frames_may_be_anything "peer_values",
    records_are_read_as_they_were_written_or_not_at_all "records",
    configurations_are_possible_ones_or_refused "configurations",
    a_damaged_folder_opens_to_a_state_it_was_in_or_a_new_node_or_not_at_all "node_folder",
    any_payload_leads_every_replica_to_the_same_state "commands",
    engine_values_are_read_as_they_were_written_or_not_at_all "engine_values",
    of_a_journal_of_the_engine_whole_batches_are_kept_and_nothing_behind_them "engine_journals",
    a_snapshot_is_taken_whole_or_not_at_all "snapshots",
    settings_are_shown_as_they_were_understood "settings",
}
