//! The token bucket against exact arithmetic, and between threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use tollway_core::bucket::{Take, TokenBucket};

const SECOND: u64 = 1_000_000_000;

/// A bucket that counts in quota-nanoseconds, which are whole where the rate is.
struct Exact {
    rate: u128,
    capacity: u128,
    level: u128,
    at: u64,
}

impl Exact {
    fn take(&mut self, now: u64, tokens: u64) -> Take {
        let (full, unit) = (self.capacity * u128::from(SECOND), u128::from(SECOND));
        let cost = u128::from(tokens) * unit;
        if cost > full {
            return Take::TooLarge;
        }
        self.level = full.min(self.level + u128::from(now - self.at) * self.rate);
        self.at = now;
        if cost <= self.level {
            self.level -= cost;
            return Take::Taken;
        }
        let wait = (cost - self.level).div_ceil(self.rate);
        Take::Wait(Duration::from_nanos(u64::try_from(wait).unwrap()))
    }
}

proptest! {
    /// Where a token is a whole number of the bucket's time units, the two agree to the nanosecond.
    #[test]
    fn agrees_with_exact_arithmetic(
        power in 0_u32..12,
        capacity in 1_u64..5_000,
        steps in prop::collection::vec((0_u64..SECOND, 0_u64..6_000), 1..200),
    ) {
        let rate = 1_u64 << power;
        #[allow(clippy::cast_precision_loss)]
        let bucket = TokenBucket::new(rate as f64, capacity as f64).unwrap();
        let (rate, capacity) = (u128::from(rate), u128::from(capacity));
        let level = capacity * u128::from(SECOND);
        let mut exact = Exact { rate, capacity, level, at: 0 };
        let mut now = 0;
        for (step, tokens) in steps {
            now += step;
            prop_assert_eq!(bucket.take(now, tokens), exact.take(now, tokens));
        }
    }

    /// At any rate, no stretch of time holds more than the capacity and what came in it, and who
    /// comes back after the wait that was named is served.
    #[test]
    fn holds_its_rate_and_keeps_its_word(
        rate in 0.001_f64..1e7,
        capacity in 1.0_f64..1e6,
        steps in prop::collection::vec((0_u64..SECOND, 0.0_f64..1.0), 1..60),
    ) {
        let bucket = TokenBucket::new(rate, capacity).unwrap();
        let mut taken: Vec<(u64, f64)> = Vec::new();
        let mut now = 0;
        for (step, share) in steps {
            now += step;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let tokens = (share * capacity) as u64;
            if let Take::Wait(wait) = bucket.take(now, tokens) {
                let wait = u64::try_from(wait.as_nanos()).unwrap();
                prop_assert!(wait > 0);
                prop_assert!(wait < 2 || matches!(bucket.take(now + wait - 2, tokens), Take::Wait(_)));
                now += wait;
                prop_assert_eq!(bucket.take(now, tokens), Take::Taken);
            }
            #[allow(clippy::cast_precision_loss)]
            taken.push((now, tokens as f64));
        }
        for first in 0..taken.len() {
            let mut sum = 0.0;
            for (at, tokens) in &taken[first..] {
                sum += tokens;
                #[allow(clippy::cast_precision_loss)]
                let seconds = (at - taken[first].0) as f64 / 1e9;
                prop_assert!(sum <= (capacity + seconds * rate) * (1.0 + 1e-9) + 1e-6);
            }
        }
    }
}

#[test]
fn a_fast_bucket_gives_its_whole_rate() {
    for rate in [3.0, 7e5, 3e6, 9.9e8] {
        let bucket = TokenBucket::new(rate, 1.0).unwrap();
        let (mut now, mut taken) = (0, 0_u32);
        while taken < 100_000 {
            match bucket.take(now, 1) {
                Take::Taken => taken += 1,
                Take::Wait(wait) => now += u64::try_from(wait.as_nanos()).unwrap(),
                Take::TooLarge => unreachable!("one token is all the bucket holds"),
            }
        }
        #[allow(clippy::cast_precision_loss)]
        let used = f64::from(taken - 1) / (now as f64 / 1e9 * rate);
        // A bucket that holds one token loses what is rounded up to a nanosecond in each wait.
        let least = 1.0 / (1.0 + rate / 1e9) - 1e-9;
        assert!((least..=1.0 + 1e-9).contains(&used), "{rate}: {used}");
    }
}

#[test]
fn threads_take_no_token_twice() {
    let bucket = TokenBucket::new(1_000.0, 10_000.0).unwrap();
    let taken = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    if bucket.take(0, 1) == Take::Taken {
                        taken.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(taken.into_inner(), 10_000);
    assert_eq!((bucket.level(0), bucket.level(SECOND)), (0, 1_000));
}

#[test]
fn a_bucket_that_cannot_be_is_refused() {
    for (rate, capacity) in [
        (0.0, 1.0),
        (-1.0, 1.0),
        (f64::NAN, 1.0),
        (f64::INFINITY, 1.0),
        (1.0, 0.5),
        (1.0, f64::NAN),
        (1.0, 1e16),
        (1e-9, 1e3),
    ] {
        assert!(TokenBucket::new(rate, capacity).is_none(), "{rate} {capacity}");
    }
    assert_eq!(TokenBucket::new(1.0, 2.5).unwrap().take(0, 3), Take::TooLarge);
}
