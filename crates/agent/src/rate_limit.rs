//! A token bucket for each principal: so many calls per second, and a burst on top.
//!
//! Invariant: the number of buckets is bounded. A bucket that is full again says nothing and is dropped first.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const MAX_BUCKETS: usize = 10_000;

/// How much a principal may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: NonZeroU32,
    pub burst: NonZeroU32,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// See the file's comment.
#[derive(Debug)]
pub struct RateLimit {
    rate: Rate,
    buckets: Mutex<HashMap<Arc<str>, Bucket>>,
}

impl RateLimit {
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Counts a call, or says how long to wait with it.
    pub fn take(&self, principal: &Arc<str>, now: Instant) -> Result<(), Duration> {
        let (per_second, burst) = (f64::from(self.rate.per_second.get()), f64::from(self.rate.burst.get()));
        let mut buckets = self.buckets.lock();
        if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(principal) {
            let refilled = Duration::from_secs_f64(burst / per_second);
            buckets.retain(|_, bucket| now - bucket.at < refilled);
            if buckets.len() >= MAX_BUCKETS {
                return Err(refilled);
            }
        }
        let bucket = buckets.entry(Arc::clone(principal)).or_insert(Bucket { tokens: burst, at: now });
        bucket.tokens = (bucket.tokens + (now - bucket.at).as_secs_f64() * per_second).min(burst);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.tokens) / per_second));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit() -> RateLimit {
        let of = |n| NonZeroU32::new(n).unwrap();
        RateLimit::new(Rate { per_second: of(2), burst: of(3) })
    }

    #[test]
    fn a_burst_passes_and_then_so_many_per_second() {
        let (limit, now) = (limit(), Instant::now());
        let (ana, bot) = (Arc::from("ana"), Arc::from("bot"));
        let taken = |who: &Arc<str>, at| (0..10).filter(|_| limit.take(who, at).is_ok()).count();
        assert_eq!(taken(&ana, now), 3);
        assert_eq!(taken(&bot, now), 3);
        assert_eq!(taken(&ana, now + Duration::from_secs(1)), 2);
        assert_eq!(limit.take(&ana, now + Duration::from_secs(1)), Err(Duration::from_millis(500)));
        assert_eq!(taken(&ana, now + Duration::from_secs(100)), 3);
    }

    #[test]
    fn many_names_do_not_fill_the_memory() {
        let (limit, now) = (limit(), Instant::now());
        for i in 0..MAX_BUCKETS {
            limit.take(&Arc::from(i.to_string()), now).unwrap();
        }
        assert!(limit.take(&Arc::from("one more"), now).is_err());
        limit.take(&Arc::from("one more"), now + Duration::from_secs(2)).unwrap();
        assert_eq!(limit.buckets.lock().len(), 1);
    }
}
