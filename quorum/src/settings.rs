//! The numbers a replica runs with, and its source of chance.

/// Durations in microseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time between heartbeats.
    pub heartbeat: u64,
    /// The shortest election timeout; also how long a voter stands by a leader it heard from.
    pub election_min: u64,
    /// The longest; also how long a leader stays in office without hearing from C voters.
    pub election_max: u64,
    /// How long a preferred node must have been in step before leadership is handed to it.
    pub hand_back_after: u64,
    /// Most bytes in one append (one entry may exceed it alone).
    pub append_bytes_max: u64,
    /// Most entries in one append.
    pub append_entries_max: usize,
    /// Most appends under way to one member at once over a long line; over a short one, one is.
    pub window: usize,
    /// Whether all lines are known to be long, however soon some answers come.
    pub long_lines: bool,
    /// How far behind the log's end a learner may be when it becomes a voter, in entries.
    pub promotion_lag_max: u64,
    /// Whether linearizable reads may rely on the leader's lease. Safe only if clocks of the nodes run
    /// at nearly the same rate.
    pub lease_reads: bool,
    /// Where chance starts from: two replicas of a cluster should differ.
    pub seed: u64,
}

impl Default for Settings {
    /// For a local network: heartbeats of 100 ms, election timeouts of 500 to 1000 ms.
    fn default() -> Settings {
        Settings {
            heartbeat: 100_000,
            election_min: 500_000,
            election_max: 1_000_000,
            hand_back_after: 3_000_000,
            append_bytes_max: 1 << 20,
            append_entries_max: 4_096,
            window: 256,
            long_lines: false,
            promotion_lag_max: 1_000,
            lease_reads: false,
            seed: 0,
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): the same seed gives the same run on every machine.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `low..=high`. The slight bias of the remainder does not matter for timeouts.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high.saturating_sub(low) + 1)
    }
}
