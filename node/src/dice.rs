//! The one source of chance of a simulated run, and of tests that lose power: SplitMix64 (Steele, Lea and Flood, 2014),
//! the same on every machine. The product does not use it.

/// See the module's description.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Chance that begins here.
    #[must_use]
    pub fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x9e37_79b9_7f4a_7c15);
        dice.draw();
        dice
    }

    /// Sixty-four bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below a bound; zero for a bound of zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }

    /// Within a range, both ends included.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// So often in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { of.get(self.below(of.len() as u64) as usize).copied() }
    }

    /// A source of its own, for something that is to be independent of how often the others are asked.
    pub fn fork(&mut self) -> Dice {
        Dice::new(self.draw())
    }
}
