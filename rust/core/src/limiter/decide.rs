//! The limiter: all quotas judged on one log, in one decision.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use super::admissions::{Log, Moved, View};
use super::days::Days;
use super::leases::Leases;
use super::memory::{Array, Common, Layout, Learned, Memory, TICK_NANOS, ticks};
use super::queue::Queue;
use super::quota::{Cost, LimiterError, Limits, Name, Quotas};
use super::window::{MOST_OVERSIZED, Refunds, Window};
use crate::atomics::Ordering;

/// Turns of a spin loop after a lost swap, as a power of two: each loss doubles them, so many times.
/// Without it two cores that admit all the time reach an eighth of what one does, with it as much.
const FIRST_SPINS: u32 = 6;
const MOST_LOST: u32 = 3;

/// The time at which an admission was charged, in ticks of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub u64);

/// The answer to a request for admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Admitted and charged.
    Admitted(Stamp),
    /// Not admitted, nothing charged; at the earliest after this long.
    Wait(Duration),
}

/// Why there is no decision on a view of the log.
pub(super) enum Stop {
    Moved,
    TooLarge(LimiterError),
}

impl From<Moved> for Stop {
    fn from(_: Moved) -> Self {
        Self::Moved
    }
}

/// A limiter of requests and tokens: for every t, what it admitted in `(t − W, t]` is at most the
/// quota, for all quotas jointly.
///
/// [`try_acquire`](Self::try_acquire) is lock-free. Times are nanoseconds since an origin of the
/// caller's choice, from a clock that does not go back; limiters that share a block of memory share
/// the origin.
pub struct Limiter {
    pub(super) quotas: Quotas,
    pub(super) log: Log,
    /// In the order of the quotas; those of a day are only named.
    pub(super) windows: Box<[Window]>,
    pub(super) days: Option<Days>,
    pub(super) refunds: Refunds,
    pub(super) short_refunds: Option<Refunds>,
    pub(super) leases: Leases,
    pub(super) common: Array<Common>,
    pub(super) learned: Array<Learned>,
    /// How late after its stamp a request may be sent, in ticks.
    pub(super) tolerance: u64,
    pub(super) queue: Queue,
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("quotas", &self.quotas)
            .field("waiting", &self.queue.len())
            .finish_non_exhaustive()
    }
}

impl Limiter {
    /// A limiter that holds `limits`, its windows longer by `margin` (see [`Limits::quotas`]).
    pub fn new(limits: &Limits, margin: Option<Duration>) -> Result<Self, LimiterError> {
        Self::with_quotas(&limits.quotas(margin))
    }

    /// A limiter that holds these quotas, in memory of its own; with none it admits everything.
    pub fn with_quotas(quotas: &Quotas) -> Result<Self, LimiterError> {
        Self::starting_at(quotas, 0)
    }

    /// As [`Limiter::with_quotas`], with the log's first serial given: for tests of wrap-around.
    #[doc(hidden)]
    pub fn starting_at(quotas: &Quotas, serial: u32) -> Result<Self, LimiterError> {
        let layout = Layout::of(quotas, 1)?;
        let memory = Memory::allocate(&layout);
        Ok(Self::over(quotas, &layout, &memory, Some(serial), 0))
    }

    /// A limiter on a block of memory that other limiters of the same quotas may share, in this
    /// process and in others.
    ///
    /// Its place among the processes is `process`, which no other living one has; it has to
    /// [`enter`](Self::enter) it before it takes part. `keep` is
    /// held as long as the limiter. Where the block is `fresh`, it holds zeros, and nobody else uses it before
    /// this returns.
    ///
    /// # Safety
    /// `memory` is aligned to `layout.align()`; `layout.bytes()` of it stay valid while `keep`
    /// lives, and are changed by nothing but limiters of the same layout.
    ///
    /// # Panics
    /// If `layout` is not that of `quotas`, or has no place `process`.
    pub unsafe fn attach(
        quotas: &Quotas,
        layout: &Layout,
        memory: NonNull<u8>,
        keep: &Arc<dyn Any + Send + Sync>,
        fresh: bool,
        process: usize,
    ) -> Result<Self, LimiterError> {
        let own = Layout::of(quotas, layout.processes())?;
        assert_eq!(&own, layout, "the layout of other quotas");
        // SAFETY: promised by the caller.
        let memory = unsafe { Memory::attach(layout, memory, keep) };
        let serial = fresh.then_some(0);
        Ok(Self::over(quotas, layout, &memory, serial, process))
    }

    fn over(
        quotas: &Quotas,
        layout: &Layout,
        memory: &Memory,
        first_serial: Option<u32>,
        process: usize,
    ) -> Self {
        let output_weight = quotas.output_weight;
        let log = Log::attach(layout, memory, output_weight);
        let days = Days::attach(memory, output_weight, quotas.is_calendar);
        if let Some(serial) = first_serial {
            log.begin(serial);
            if let Some(days) = &days {
                days.begin(&log);
            }
        }
        Self {
            windows: quotas
                .windows
                .iter()
                .map(|quota| Window::new(quota, ticks(quota.window), first_serial.unwrap_or(0)))
                .collect(),
            days,
            refunds: Refunds::attach(memory, output_weight),
            short_refunds: Refunds::attach_short(layout, memory, output_weight),
            leases: Leases::attach(memory, process, quotas.max_in_flight),
            common: memory.common.clone(),
            learned: memory.learned.clone(),
            tolerance: ticks(quotas.tolerance),
            queue: Queue::new(output_weight),
            quotas: quotas.clone(),
            log,
        }
    }

    /// How many admissions it can look back on. Where more lie in a window than that, of which some
    /// came back, it denies until the oldest of these has left.
    pub fn slots(&self) -> u32 {
        self.log.slots()
    }

    /// What it holds.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// Admit a request of `cost` at `now`, or say when it could be.
    ///
    /// While others wait it admits nothing: the answer is then the earliest time at which both the
    /// first of them and this request could be.
    pub fn try_acquire(&self, now: u64, cost: Cost) -> Result<Decision, LimiterError> {
        if self.queue.is_empty() {
            return self.admit(now, cost, u64::MAX);
        }
        let first = self.queue.first().unwrap_or_default();
        // That one may be too large by now for a limit that was lowered: it is refused when served.
        let head = self.wait(now, first.cost).unwrap_or(Duration::ZERO);
        let wait = self.wait(now, cost)?.max(head);
        // Where the first is due but not served yet, this one comes a tick after it at the earliest.
        Ok(Decision::Wait(wait.max(Duration::from_nanos(TICK_NANOS))))
    }

    /// Admit `cost` at `now` unless a quota, or the head of another process that was posted before
    /// `since`, forbids it.
    pub(super) fn admit(&self, now: u64, cost: Cost, since: u64) -> Result<Decision, LimiterError> {
        if self.windows.is_empty() && self.common[0].paused.load(Ordering::Acquire) == 0 {
            return Ok(Decision::Admitted(Stamp(self.log.ceil(now))));
        }
        let mut lost = 0;
        loop {
            let view = self.log.view();
            match self.attempt(&view, now, cost, since) {
                Err(Stop::Moved) => {}
                Err(Stop::TooLarge(error)) => return Err(error),
                Ok(Some(due)) => {
                    return Ok(Decision::Wait(wait_until(self.log.nanos(due), now)));
                }
                Ok(None) => {
                    let time = self.log.stamp(&view, now);
                    if self.log.admit(&view, time, cost) {
                        return Ok(Decision::Admitted(Stamp(time)));
                    }
                    // Whoever won has the word in its cache, and admits some more before it is
                    // taken away again.
                    lost = (lost + 1).min(MOST_LOST);
                    for _ in 0..1u32 << (lost + FIRST_SPINS) {
                        std::hint::spin_loop();
                    }
                }
            }
        }
    }

    /// All that is to be asked before the swap.
    #[inline]
    fn attempt(&self, view: &View, now: u64, cost: Cost, since: u64) -> Result<Option<u64>, Stop> {
        let due = self.due(view, now, cost)?;
        if due.is_some() {
            return Ok(due);
        }
        if self.leases.are_shared() {
            let due = self.gives_way_until(view, now, cost, since)?;
            if due.is_some() {
                return Ok(due);
            }
        }
        if let Some(days) = &self.days {
            days.prepare(&self.log, view, self.log.stamp(view, now))?;
        }
        Ok(None)
    }

    pub(super) fn wait(&self, now: u64, cost: Cost) -> Result<Duration, LimiterError> {
        loop {
            let view = self.log.view();
            match self.due(&view, now, cost) {
                Err(Stop::Moved) => {}
                Err(Stop::TooLarge(error)) => return Err(error),
                Ok(None) => return Ok(Duration::ZERO),
                Ok(Some(due)) => return Ok(wait_until(self.log.nanos(due), now)),
            }
        }
    }

    /// The time at which a window that begins to be judged at `now` ends, in ticks.
    pub(super) fn floor(&self, view: &View, now: u64) -> u64 {
        let latest = view.time.saturating_sub(self.log.rounding());
        self.log.floor(now).max(latest)
    }

    /// When every quota would admit a request of `cost`, if nothing else is admitted before:
    /// `None` for at once, else a time in ticks.
    #[inline]
    pub(super) fn due(&self, view: &View, now: u64, cost: Cost) -> Result<Option<u64>, Stop> {
        let now = self.floor(view, now);
        let due = self.earliest(view, now, cost, 1)?;
        Ok((due > now).then_some(due))
    }

    /// The first time from `now` on, in ticks, at which all quotas and pauses admit `requests` that
    /// take `cost` together.
    #[inline]
    pub(super) fn earliest(
        &self,
        view: &View,
        now: u64,
        cost: Cost,
        requests: u32,
    ) -> Result<u64, Stop> {
        let mut at = now;
        loop {
            let mut due = at.max(self.common[0].paused.load(Ordering::Acquire));
            for index in 0..self.windows.len() {
                due = due.max(self.room(view, index, at, cost, requests)?);
            }
            // Where one window made room at a later time, another may have less by then: a refund
            // leaves it a little before the charges do.
            if due == at {
                return Ok(due);
            }
            at = due;
        }
    }

    /// When one window has room, from `at` on.
    #[inline]
    pub(super) fn room(
        &self,
        view: &View,
        index: usize,
        at: u64,
        cost: Cost,
        requests: u32,
    ) -> Result<u64, Stop> {
        let window = &self.windows[index];
        let amount = cost.of(window.unit, requests, self.quotas.output_weight);
        if amount == 0 {
            return Ok(at);
        }
        let name = self.quotas.windows[index].name;
        let limit = self.limit(index);
        // Of a whole day's tokens, no more at once than a minute's sum can tell apart.
        let most = if name.is_day() { 1 << 31 } else { u64::MAX };
        if amount > limit.min(most) {
            // Of several together, see `backfill`.
            if requests > 1 {
                return Ok(at);
            }
            if !self.quotas.admits_oversized || amount > MOST_OVERSIZED {
                return Err(Stop::TooLarge(LimiterError::TooLarge {
                    name,
                    amount,
                    limit: limit.min(most),
                }));
            }
        }
        // What is larger needs the whole of an empty window.
        let amount = amount.min(limit);
        let at = at.max(self.learned[index].paused.load(Ordering::Acquire));
        let due = match &self.days {
            Some(days) if name.is_day() => {
                let window = (window.unit, window.ticks);
                days.earliest(&self.log, view, window, at, amount, limit)?
            }
            _ => window.earliest(&self.log, self.refunds_of(window), view, at, amount, limit)?,
        };
        Ok(due)
    }

    /// What came back of charges that lie in a window.
    pub(super) fn refunds_of(&self, window: &Window) -> &Refunds {
        let short = self.short_refunds.as_ref().filter(|_| window.is_short);
        short.unwrap_or(&self.refunds)
    }

    pub(super) fn is_day(&self, index: usize) -> bool {
        self.quotas.windows[index].name.is_day()
    }

    /// The limit of a window as it is now: as configured, or lower by what was learned.
    pub(super) fn limit(&self, index: usize) -> u64 {
        let configured = self.quotas.windows[index].limit;
        match self.learned[index].ceiling.load(Ordering::Acquire) {
            0 => configured,
            ceiling => configured.min(ceiling),
        }
    }

    /// The quotas of a name.
    pub(super) fn indices(&self, name: Name) -> impl Iterator<Item = usize> {
        let windows = self.quotas.windows.iter().enumerate();
        windows.filter_map(move |(index, quota)| (quota.name == name).then_some(index))
    }
}

pub(super) fn wait_until(due: u64, now: u64) -> Duration {
    // Never zero: zero means admitted.
    Duration::from_nanos(due.saturating_sub(now).max(1))
}
