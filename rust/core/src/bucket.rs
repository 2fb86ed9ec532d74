//! A token bucket: it holds `capacity` at most, starts full and refills continuously.
//!
//! Kept as one number, the time at which it is full again (the "theoretical arrival time" of the
//! generic cell rate algorithm, ITU-T I.371): to take tokens moves that time, and the bucket has
//! them if it does not move further than a whole refill from now. So a take is one swap.

use std::time::Duration;

use portable_atomic::{AtomicU128, Ordering};

/// Times are nanoseconds with so many binary digits after the point: a token of a fast bucket is no
/// whole number of nanoseconds, and rounding it up to one would cost up to half the rate.
const FRACTION_BITS: u32 = 32;

const NANOS_PER_SECOND: f64 = 1e9;

/// A refill takes at most a hundred years, so that no product overflows.
const LONGEST_REFILL: f64 = 3.2e9;

/// The range of rates and capacities.
const LARGEST: f64 = 1e15;

/// What a bucket answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// The tokens were there and are taken.
    Taken,
    /// They will be there after so long, if nothing else is taken before.
    Wait(Duration),
    /// More than the bucket holds: never.
    TooLarge,
}

/// A token bucket; any number of threads may take from it.
#[derive(Debug)]
pub struct TokenBucket {
    /// When the bucket is full again, if nothing is taken until then.
    full_at: AtomicU128,
    /// Time in which one token comes; rounded up.
    period: u128,
    /// Time in which an empty bucket fills; rounded down.
    refill: u128,
    capacity: u64,
}

impl TokenBucket {
    /// A full bucket of `capacity` tokens that refills by `rate` a second; `None` where one of them
    /// is not in range: both above 0 and at most 10¹⁵, `capacity` at least 1, and at most a hundred
    /// years for a refill.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be in range"
    )]
    pub fn new(rate: f64, capacity: f64) -> Option<Self> {
        let in_range = rate > 0.0
            && rate <= LARGEST
            && (1.0..=LARGEST).contains(&capacity)
            && capacity / rate <= LONGEST_REFILL;
        if !in_range {
            return None;
        }
        let unit = NANOS_PER_SECOND * f64::from(FRACTION_BITS).exp2();
        let period = unit / rate;
        Some(Self {
            full_at: AtomicU128::new(0),
            period: period.ceil() as u128,
            refill: (period * capacity).floor() as u128,
            capacity: capacity as u64,
        })
    }

    /// Takes `tokens` at `now`, in nanoseconds of a clock that does not go back.
    pub fn take(&self, now: u64, tokens: u64) -> Take {
        if tokens > self.capacity {
            return Take::TooLarge;
        }
        let now = u128::from(now) << FRACTION_BITS;
        // However it was rounded, a whole bucket can be taken.
        let cost = (u128::from(tokens) * self.period).min(self.refill);
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let next = full_at.max(now) + cost;
            if next > now + self.refill {
                return Take::Wait(up_to_nanoseconds(next - now - self.refill));
            }
            match self.full_at.compare_exchange_weak(
                full_at,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Take::Taken,
                Err(current) => full_at = current,
            }
        }
    }

    /// Whole tokens in the bucket at `now`.
    pub fn level(&self, now: u64) -> u64 {
        let now = u128::from(now) << FRACTION_BITS;
        let missing = self
            .full_at
            .load(Ordering::Relaxed)
            .saturating_sub(now)
            .div_ceil(self.period);
        self.capacity
            .saturating_sub(u64::try_from(missing).unwrap_or(u64::MAX))
    }
}

/// Rounded up, so that who waits for it does not come too early.
fn up_to_nanoseconds(time: u128) -> Duration {
    let nanoseconds = time.div_ceil(1 << FRACTION_BITS);
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}
