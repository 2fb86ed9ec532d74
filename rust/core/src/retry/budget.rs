//! How many retries a stream of successes pays for.

use std::time::Duration;

/// Retries saved up at most: what was long quiet must not meet an outage with a hoard.
pub const LARGEST_BALANCE: f64 = 100.0;

/// Each success pays for a part of a retry; with nothing saved, retries are let go one by one.
///
/// In any stretch of time, retries taken ≤ `ratio` × successes + what was saved before + one for
/// each `interval` begun.
#[derive(Debug, Clone)]
pub struct Budget {
    ratio: f64,
    interval: u64,
    /// Retries paid for and not taken, in [0, `LARGEST_BALANCE`].
    balance: f64,
    /// When the next retry may go that nobody has paid for.
    next_unpaid: u64,
}

impl Budget {
    /// Nothing saved; the first retry may go at once.
    ///
    /// `ratio` is the part of a retry that a success pays for, `interval` the time between retries
    /// that are not paid for.
    pub fn new(ratio: f64, interval: Duration) -> Self {
        Self {
            ratio: if ratio > 0.0 { ratio } else { 0.0 },
            interval: u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX),
            balance: 0.0,
            next_unpaid: 0,
        }
    }

    /// Retries paid for and not taken.
    pub const fn balance(&self) -> f64 {
        self.balance
    }

    /// Note a success; whether a whole retry is paid for now.
    pub fn deposit(&mut self) -> bool {
        self.balance = (self.balance + self.ratio).min(LARGEST_BALANCE);
        self.is_paid()
    }

    /// Return a retry that was taken and not sent.
    pub fn give_back(&mut self) {
        self.balance = (self.balance + 1.0).min(LARGEST_BALANCE);
    }

    /// Take a retry at `now` (nanoseconds), paid for or not, or learn how long there is none.
    pub fn take(&mut self, now: u64) -> Result<(), Duration> {
        if self.take_paid() {
            return Ok(());
        }
        if now < self.next_unpaid {
            return Err(Duration::from_nanos(self.next_unpaid - now));
        }
        self.next_unpaid = now.saturating_add(self.interval);
        Ok(())
    }

    /// Take a retry if one is paid for.
    pub fn take_paid(&mut self) -> bool {
        let is_paid = self.is_paid();
        if is_paid {
            self.balance = (self.balance - 1.0).max(0.0);
        }
        is_paid
    }

    fn is_paid(&self) -> bool {
        // Ten successes at 0.1 each are one retry, whatever floating point makes of the sum.
        self.balance >= 1.0 - 1e-9
    }
}
