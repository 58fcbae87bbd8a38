//! Waiting between attempts: longer each time, and not at the same moment as others.
//!
//! The one rule for everything that is tried again. It has no source of randomness: callers that would begin together give
//! different seeds, and a simulation that gives the same seeds repeats itself.

use std::time::Duration;

/// The waits of one operation that is repeated until it succeeds.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
    spread: u64,
}

impl Backoff {
    /// The first wait is up to `first`, each further one up to twice as long as the one before, none longer than `longest`.
    /// `seed` tells operations apart that begin at the same time.
    pub fn new(first: Duration, longest: Duration, seed: u64) -> Backoff {
        Backoff { first, longest, next: first, spread: seed }
    }

    /// How long to wait before the next attempt: between half of and the whole step, which doubles each time.
    pub fn pause(&mut self) -> Duration {
        // A step of splitmix64.
        self.spread = self.spread.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.spread ^ (self.spread >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let share = ((mixed ^ (mixed >> 31)) >> 40) as f64 / (1u64 << 24) as f64;
        let step = self.next;
        self.next = step.saturating_mul(2).min(self.longest);
        step.mul_f64(0.5 + share / 2.0)
    }

    /// An attempt succeeded: the next wait is a first one.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(5);

    #[test]
    fn waits_grow_to_a_limit_and_repeat_with_the_seed() {
        let waits = |seed| {
            let mut backoff = Backoff::new(FIRST, LONGEST, seed);
            std::iter::repeat_with(move || backoff.pause()).take(12).collect::<Vec<_>>()
        };
        let (a, b) = (waits(1), waits(2));
        assert_eq!(a, waits(1));
        assert_ne!(a, b);
        for (i, wait) in a.iter().enumerate() {
            let step = (FIRST * (1 << i)).min(LONGEST);
            assert!(*wait >= step / 2 && *wait <= step, "{i}: {wait:?}");
        }
    }

    #[test]
    fn neighbouring_seeds_spread_over_the_whole_step() {
        let first = |seed| Backoff::new(LONGEST, LONGEST, seed).pause();
        let early = (0..1000).filter(|seed| first(*seed) < LONGEST.mul_f64(0.75)).count();
        assert!((400..600).contains(&early), "{early} of 1000 in the first half");
    }

    #[test]
    fn after_a_success_waits_begin_anew() {
        let mut backoff = Backoff::new(FIRST, LONGEST, 7);
        std::iter::repeat_with(|| backoff.pause()).take(20).for_each(|wait| assert!(wait <= LONGEST));
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }
}
