//! A seeded random number generator, so that a fault with a probability hits the same requests in
//! each run of the same requests. Not for secrets.

/// splitmix64 (Steele, Lea, Flood 2014; public domain reference by S. Vigna).
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// True with this probability; always at 1.
    pub(crate) fn draw(&mut self, probability: f64) -> bool {
        self.fraction() < probability
    }

    /// From 0 up to, but not including, 1.
    fn fraction(&mut self) -> f64 {
        let high = u32::try_from(self.next() >> 32).unwrap_or(u32::MAX);
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_match_the_reference() {
        let mut chance = Chance::new(1_234_567);
        assert_eq!(chance.next(), 6_457_827_717_110_365_317);
        assert_eq!(chance.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn half_the_draws_are_true_at_one_half_and_all_at_one() {
        let mut chance = Chance::new(1);
        let hits = (0..10_000).filter(|_| chance.draw(0.5)).count();
        assert!((4_800..5_200).contains(&hits), "{hits}");
        assert!((0..1_000).all(|_| chance.draw(1.0)));
    }
}
