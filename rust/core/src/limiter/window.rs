//! The limiter: all quotas judged on one log, and the queue of those who wait.

use std::fmt;
use std::time::Duration;

use super::admissions::{Entry, Log, Moved, TICK_NANOS, View};
use super::queue::{Poll, Queue, Ticket};
use super::quota::{Limits, MAX_LIMIT, Quota, Unit};
use crate::atomics::{AtomicU32, Ordering};

/// The longest window: a day and its margin. Longer ones would outlast the clock of the log.
const MAX_WINDOW: Duration = Duration::from_secs(25 * 3600);

/// Why a limiter cannot be made, or a request never admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimiterError {
    /// A quota of zero, over [`MAX_LIMIT`], or with a window of no length or over 25 hours.
    OutOfRange(Quota),
    /// More tokens than a whole quota: no wait would ever admit it.
    TooLarge {
        /// What was asked for.
        tokens: u32,
        /// The quota's limit.
        limit: u32,
    },
}

impl fmt::Display for LimiterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange(quota) => write!(
                f,
                "a quota of {} {} per {:?} is out of range: 1 to {MAX_LIMIT}, in a window of at \
                 most 25 hours",
                quota.limit, quota.unit, quota.window
            ),
            Self::TooLarge { tokens, limit } => write!(
                f,
                "a request of {tokens} tokens is more than the whole quota of {limit} tokens, so \
                 no wait would ever admit it; split it or raise the limit"
            ),
        }
    }
}

impl std::error::Error for LimiterError {}

/// The answer to a request for admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Admitted and charged.
    Admitted,
    /// Not admitted, nothing charged; at the earliest after this long.
    Wait(Duration),
}

/// A quota in ticks, with the place where its window began when last looked at.
struct Window {
    unit: Unit,
    limit: u32,
    ticks: u64,
    /// Serial of an entry that was the newest outside the window: where the next search begins.
    /// Any value is right; a good one makes the search short.
    base: AtomicU32,
}

/// A limiter of requests and tokens: for every t, what it admitted in `(t − W, t]` is at most the
/// quota, for all quotas jointly.
///
/// [`try_acquire`](Self::try_acquire) is lock-free. Times are nanoseconds since an origin of the
/// caller's choice, from a clock that does not go back.
pub struct Limiter {
    log: Log,
    windows: Box<[Window]>,
    /// The smallest token quota; the largest number where there is none.
    max_tokens: u32,
    /// Whether the log's serial counts admissions one by one.
    counts_by_serial: bool,
    queue: Queue,
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("windows", &self.windows.len())
            .field("slots", &self.log.slots())
            .field("waiting", &self.queue.len())
            .finish_non_exhaustive()
    }
}

impl Limiter {
    /// A limiter that holds `limits`, its windows longer by `margin` (see [`Limits::quotas`]).
    pub fn new(limits: &Limits, margin: Option<Duration>) -> Result<Self, LimiterError> {
        Self::with_quotas(&limits.quotas(margin))
    }

    /// A limiter that holds these quotas; with none it admits everything.
    pub fn with_quotas(quotas: &[Quota]) -> Result<Self, LimiterError> {
        Self::starting_at(quotas, 0)
    }

    /// As [`Limiter::with_quotas`], with the log's first serial given: for tests of wrap-around.
    #[doc(hidden)]
    pub fn starting_at(quotas: &[Quota], serial: u32) -> Result<Self, LimiterError> {
        for quota in quotas {
            let limit = 1..=MAX_LIMIT;
            let window = Duration::from_nanos(1)..=MAX_WINDOW;
            if !limit.contains(&quota.limit) || !window.contains(&quota.window) {
                return Err(LimiterError::OutOfRange(*quota));
            }
        }
        let windows: Box<[Window]> = quotas
            .iter()
            .map(|quota| Window {
                unit: quota.unit,
                limit: quota.limit,
                ticks: ticks(quota.window),
                base: AtomicU32::new(serial),
            })
            .collect();
        let longest = windows.iter().map(|window| window.ticks).max().unwrap_or(1);
        let admissions = windows
            .iter()
            .filter(|window| window.unit == Unit::Requests)
            .map(|window| longest.div_ceil(window.ticks) * u64::from(window.limit))
            .min();
        let log = Log::starting_at(longest, admissions, serial);
        Ok(Self {
            max_tokens: windows
                .iter()
                .filter(|window| window.unit == Unit::Tokens)
                .map(|window| window.limit)
                .min()
                .unwrap_or(u32::MAX),
            counts_by_serial: log.counts_by_serial(),
            log,
            windows,
            queue: Queue::new(),
        })
    }

    /// Bytes of the log's ring.
    pub fn ring_bytes(&self) -> usize {
        self.log.slots() as usize * size_of::<crate::atomics::Word>()
    }

    /// Admit a request of `tokens` at `now`, or say when it could be.
    ///
    /// While others wait it admits nothing: the answer is then the earliest time at which both the
    /// first of them and this request could be.
    pub fn try_acquire(&self, now: u64, tokens: u32) -> Result<Decision, LimiterError> {
        self.check(tokens)?;
        if self.queue.is_empty() {
            return Ok(self.admit(now, tokens));
        }
        let head = self.queue.head().unwrap_or(0);
        let wait = self.wait(now, tokens).max(self.wait(now, head));
        // Where the first is due but not served yet, this one comes a tick after it at the earliest.
        Ok(Decision::Wait(wait.max(Duration::from_nanos(TICK_NANOS))))
    }

    /// Admit at once, or join the queue: `None` when admitted.
    pub fn enqueue(&self, now: u64, tokens: u32) -> Result<Option<Ticket>, LimiterError> {
        self.check(tokens)?;
        if self.queue.is_empty() && self.admit(now, tokens) == Decision::Admitted {
            return Ok(None);
        }
        Ok(Some(self.queue.push(tokens)))
    }

    /// Leave the queue. False if the ticket was admitted already, or never given.
    pub fn cancel(&self, ticket: Ticket) -> bool {
        self.queue.cancel(ticket)
    }

    /// Forget everybody who waits: what a forked child does, whose parent's waiters are not its own.
    pub fn clear_queue(&self) {
        self.queue.clear();
    }

    /// Admit from the front of the queue whatever fits at `now`, `most` at the most.
    pub fn poll(&self, now: u64, most: usize, admitted: &mut Vec<Ticket>) -> Poll {
        self.queue
            .poll(most, admitted, |tokens| self.admit(now, tokens))
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// What each quota's window holds at `now`, in the order in which the quotas were given.
    pub fn used(&self, now: u64) -> Vec<u32> {
        loop {
            let view = self.log.view();
            let used: Result<Vec<u32>, Moved> = self
                .windows
                .iter()
                .map(|window| {
                    let horizon = self
                        .log
                        .floor(now)
                        .max(view.time)
                        .saturating_sub(window.ticks);
                    let (_, base) = self.base(&view, window, horizon)?;
                    Ok(u32::try_from(view.head.since(base, window.unit)).unwrap_or(u32::MAX))
                })
                .collect();
            if let Ok(used) = used {
                return used;
            }
        }
    }

    fn check(&self, tokens: u32) -> Result<(), LimiterError> {
        if tokens > self.max_tokens {
            return Err(LimiterError::TooLarge {
                tokens,
                limit: self.max_tokens,
            });
        }
        Ok(())
    }

    fn admit(&self, now: u64, tokens: u32) -> Decision {
        if self.windows.is_empty() {
            return Decision::Admitted;
        }
        loop {
            let view = self.log.view();
            match self.due(&view, now, tokens) {
                Err(Moved) => {}
                Ok(None) => {
                    if self.log.admit(&view, now, tokens) {
                        return Decision::Admitted;
                    }
                }
                Ok(Some(due)) => return Decision::Wait(wait_until(self.log.nanos(due), now)),
            }
        }
    }

    fn wait(&self, now: u64, tokens: u32) -> Duration {
        loop {
            let view = self.log.view();
            match self.due(&view, now, tokens) {
                Err(Moved) => {}
                Ok(None) => return Duration::ZERO,
                Ok(Some(due)) => return wait_until(self.log.nanos(due), now),
            }
        }
    }

    /// When every quota would admit a request of `tokens`, if nothing else is admitted before:
    /// `None` for at once, else a time in ticks.
    fn due(&self, view: &View, now: u64, tokens: u32) -> Result<Option<u64>, Moved> {
        let now = self
            .log
            .floor(now)
            .max(view.time.saturating_sub(self.log.rounding()));
        let mut due = None;
        for window in &self.windows {
            let at = if window.unit == Unit::Requests && self.counts_by_serial {
                // The request `limit` places before this one must have left the window. Where the
                // ring does not reach back so far, another quota admits fewer anyway.
                if window.limit > self.log.slots() {
                    continue;
                }
                view.time_of(self.log.entry(view, window.limit - 1)?) + window.ticks
            } else {
                let amount = if window.unit == Unit::Requests {
                    1
                } else {
                    tokens
                };
                self.room_for(view, window, now, amount)?
            };
            if at > now {
                due = due.max(Some(at));
            }
        }
        Ok(due)
    }

    /// When the window will have room for `amount` more, in ticks.
    fn room_for(&self, view: &View, window: &Window, now: u64, amount: u32) -> Result<u64, Moved> {
        let fits = |entry| {
            view.head.since(entry, window.unit) + u64::from(amount) <= u64::from(window.limit)
        };
        let (mut outside, base) = self.base(view, window, now.saturating_sub(window.ticks))?;
        if fits(base) {
            return Ok(now);
        }
        // Room comes when the oldest entry after which the rest fits has left. The head itself
        // always does: a request larger than the quota was refused before.
        let (mut inside, mut leaves) = (0, view.head);
        while outside - inside > 1 {
            let middle = inside + (outside - inside) / 2;
            let entry = self.log.entry(view, middle)?;
            if fits(entry) {
                (inside, leaves) = (middle, entry);
            } else {
                outside = middle;
            }
        }
        Ok(view.time_of(leaves) + window.ticks)
    }

    /// The newest entry at or before `horizon`, and how far behind the head it is.
    fn base(&self, view: &View, window: &Window, horizon: u64) -> Result<(u32, Entry), Moved> {
        let at = |back: u32| {
            if back == 0 {
                Ok(view.head)
            } else {
                self.log.entry(view, back)
            }
        };
        let oldest = self.log.slots() - 1;
        let outside = |entry: Entry| view.time_of(entry) <= horizon;
        let hint = Log::behind(view, window.base.load(Ordering::Relaxed)).min(oldest);

        // Step away from the hint, in strides that double, until the edge lies in between:
        // `inside` is in the window (or past the head), `found` is not.
        let mut entry = at(hint)?;
        let (mut found, mut inside, mut stride) = (hint, None, 1);
        if outside(entry) {
            while found > 0 {
                let back = found.saturating_sub(stride);
                let newer = at(back)?;
                if !outside(newer) {
                    inside = Some(back);
                    break;
                }
                (found, entry, stride) = (back, newer, stride * 2);
            }
        } else {
            while !outside(entry) {
                if found == oldest {
                    // The ring is as long as the window can hold, so this entry is the last of it.
                    return Ok((found, entry));
                }
                inside = Some(found);
                found = (found + stride).min(oldest);
                stride *= 2;
                entry = at(found)?;
            }
        }
        while let Some(back) = inside.filter(|back| found - back > 1) {
            let middle = back + (found - back) / 2;
            let candidate = at(middle)?;
            if outside(candidate) {
                (found, entry) = (middle, candidate);
            } else {
                inside = Some(middle);
            }
        }
        window.base.store(entry.serial, Ordering::Relaxed);
        Ok((found, entry))
    }
}

fn ticks(window: Duration) -> u64 {
    u64::try_from(window.as_nanos().div_ceil(u128::from(TICK_NANOS))).unwrap_or(u64::MAX)
}

fn wait_until(due: u64, now: u64) -> Duration {
    // Never zero: zero means admitted.
    Duration::from_nanos(due.saturating_sub(now).max(1))
}
