//! One window over the log: how much it holds, and when there is room in it.

use super::adjust::{Cells, Sums};
use super::admissions::{Entry, Log, Moved, View};
use super::memory::{Array, Common, Layout, MINUTE, Memory, SECOND};
use super::quota::{Quota, Unit};
use crate::atomics::{AtomicU64, Ordering, SUM_BITS};

use std::sync::atomic::{AtomicU32 as LocalU32, Ordering as LocalOrdering};

/// How far the hint of where a window begins may be off before it is written again.
const HINT_SLACK: u32 = 8;

/// The most that a window may hold together with what came back to it: its sums would wrap, and what
/// they hold be taken for less.
pub(super) const MOST_HELD: u64 = 3 << (SUM_BITS - 2);

/// What came back of charges that lie in a window, kept by the period of the charge: its second,
/// or a small part of a short window.
///
/// A period counts while all of it is in the window: as long as every charge that it refunds.
pub(super) struct Refunds {
    cells: Cells,
    /// Length of a period in ticks.
    period: u64,
    common: Array<Common>,
    newest: fn(&Common) -> &AtomicU64,
    output_weight: u32,
}

impl Refunds {
    /// For windows of a minute and more.
    pub fn attach(memory: &Memory, output_weight: u32) -> Self {
        Self {
            cells: Cells::new(memory.refunds.clone()),
            period: SECOND,
            common: memory.common.clone(),
            newest: |common| &common.newest_refund,
            output_weight,
        }
    }

    /// For shorter windows, which hold only requests; `None` where there are none.
    pub fn attach_short(layout: &Layout, memory: &Memory, output_weight: u32) -> Option<Self> {
        (layout.parts > 0).then(|| Self {
            cells: Cells::of_requests(memory.short_refunds.clone()),
            period: layout.part,
            common: memory.common.clone(),
            newest: |common| &common.newest_short_refund,
            output_weight,
        })
    }

    /// Give back what was charged at `time`, in ticks.
    pub fn add(&self, time: u64, amount: Sums) {
        let period = time / self.period;
        (self.newest)(&self.common[0]).fetch_max(period, Ordering::AcqRel);
        self.cells.add(period, amount);
    }

    fn of(&self, period: u64, unit: Unit) -> u64 {
        let sums = self.cells.get(period).unwrap_or_default();
        sums.of_unit(unit, self.output_weight)
    }

    /// The sum over the periods that begin after `horizon`.
    fn after(&self, horizon: u64, unit: Unit) -> u64 {
        let newest = (self.newest)(&self.common[0]).load(Ordering::Acquire);
        let first = (horizon / self.period + 1).max((newest + 1).saturating_sub(self.cells.len()));
        (first..=newest).map(|period| self.of(period, unit)).sum()
    }
}

/// A quota in ticks, with the place where its window began when last looked at.
pub(super) struct Window {
    pub unit: Unit,
    pub ticks: u64,
    /// Whether it is shorter than a minute: its refunds are kept apart.
    pub is_short: bool,
    /// Serial of an entry that was the newest outside the window: where the next search begins.
    /// Any value is right; a good one makes the search short.
    base: LocalU32,
}

impl Window {
    pub fn new(quota: &Quota, ticks: u64, serial: u32) -> Self {
        Self {
            unit: quota.name.unit(),
            ticks,
            is_short: ticks < MINUTE,
            base: LocalU32::new(serial),
        }
    }

    /// What the window that ends at `at` holds of what was admitted up to `view`.
    pub fn used(&self, log: &Log, refunds: &Refunds, view: &View, at: u64) -> Result<u64, Moved> {
        let horizon = at.saturating_sub(self.ticks);
        let (_, base) = self.base(log, view, horizon)?;
        let used = log.since(view, base, self.unit);
        Ok(used.saturating_sub(refunds.after(horizon, self.unit)))
    }

    /// As `used`, without what came back: what the log's sums have to tell apart.
    pub fn held(&self, log: &Log, view: &View, at: u64) -> Result<u64, Moved> {
        let (_, base) = self.base(log, view, at.saturating_sub(self.ticks))?;
        Ok(log.since(view, base, self.unit))
    }

    /// The first time from `at` on at which `amount` more fits under `limit`, if nothing else is
    /// admitted before.
    #[inline]
    pub fn earliest(
        &self,
        log: &Log,
        refunds: &Refunds,
        view: &View,
        at: u64,
        amount: u64,
        limit: u64,
    ) -> Result<u64, Moved> {
        let mut horizon = at.saturating_sub(self.ticks);
        if self.needed(log, view, horizon, amount, limit)? <= horizon {
            return Ok(at);
        }
        let mut refunded = refunds.after(horizon, self.unit);
        let mut period = horizon / refunds.period;
        loop {
            let limit = (limit + refunded).min(MOST_HELD);
            let needed = self.needed(log, view, horizon, amount, limit)?;
            if refunded == 0 || needed <= horizon {
                return Ok(needed.max(horizon).saturating_add(self.ticks));
            }
            // With the next period that leaves goes its refund, a little before its last charge.
            let back = loop {
                period += 1;
                if period * refunds.period > needed.min(view.time) {
                    return Ok(needed.saturating_add(self.ticks));
                }
                match refunds.of(period, self.unit) {
                    0 => {}
                    back => break back,
                }
            };
            refunded = refunded.saturating_sub(back);
            horizon = period * refunds.period;
        }
    }

    /// Where the window must begin, at `horizon` or later, to have room for `amount` more.
    fn needed(
        &self,
        log: &Log,
        view: &View,
        horizon: u64,
        amount: u64,
        limit: u64,
    ) -> Result<u64, Moved> {
        if amount > limit {
            return Ok(u64::MAX);
        }
        if self.unit == Unit::Requests && log.counts_by_serial() {
            // The request this many places before the next one must have left the window. A ring
            // that does not reach back so far denies more.
            let oldest = u64::from(log.slots() - 1);
            let back = u32::try_from((limit - amount).min(oldest)).unwrap_or(u32::MAX);
            return Ok(view.time_of(log.entry(view, back)?));
        }
        let fits = |entry| log.since(view, entry, self.unit) + amount <= limit;
        let (mut outside, base) = self.base(log, view, horizon)?;
        let begins = view.time_of(base);
        if fits(base) {
            // Past the end of the ring, what there is cannot be told: it has to leave.
            return Ok(horizon.max(begins));
        }
        // Room comes when the oldest entry after which the rest fits has left; the head always is.
        let (mut inside, mut leaves) = (0, view.head);
        while outside - inside > 1 {
            let middle = inside + (outside - inside) / 2;
            let entry = log.entry(view, middle)?;
            if fits(entry) {
                (inside, leaves) = (middle, entry);
            } else {
                outside = middle;
            }
        }
        Ok(view.time_of(leaves).max(begins))
    }

    /// The newest entry at or before `horizon`, and how far behind the head it is; the oldest of
    /// the ring where all are after it.
    fn base(&self, log: &Log, view: &View, horizon: u64) -> Result<(u32, Entry), Moved> {
        let at = |back: u32| {
            if back == 0 {
                Ok(view.head)
            } else {
                log.entry(view, back)
            }
        };
        let oldest = log.slots() - 1;
        let outside = |entry: Entry| view.time_of(entry) <= horizon;
        let hint = Log::behind(view, self.base.load(LocalOrdering::Relaxed)).min(oldest);

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
        // Threads share it: written at every admission, its line would go to and fro between them.
        if found.abs_diff(hint) >= HINT_SLACK {
            self.base.store(entry.serial, LocalOrdering::Relaxed);
        }
        Ok((found, entry))
    }
}
