//! Chance with a seed: the same seed, the same choices.

/// A small generator (splitmix64): choices for tests, nothing secret.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Begins with a seed.
    #[must_use]
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A seed: `QUORATE_SEED` if given, or one from the clock and the process.
    ///
    /// # Panics
    /// If the variable is no number.
    #[must_use]
    pub fn seed() -> u64 {
        match std::env::var("QUORATE_SEED").ok().filter(|text| !text.is_empty()) {
            Some(text) => text.parse().expect("QUORATE_SEED is a number"),
            None => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                (now.as_nanos() as u64 ^ u64::from(std::process::id()) << 40) % 1_000_000_007
            }
        }
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// One of several.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// Dice of its own for something that runs beside.
    pub fn fork(&mut self) -> Dice {
        Dice(self.draw())
    }
}
