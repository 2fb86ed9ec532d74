//! Quotas of a day, from checkpoints of the log's sums.
//!
//! The first to admit in a minute first writes down what had been admitted until then. The sum over
//! a day is the difference to the oldest checkpoint in it: a minute counts whole until all of it
//! has left the window. A checkpoint may hold less than it should where a clock lags behind, never
//! more, so that the difference is never too small.

use std::sync::atomic::{AtomicU64 as LocalU64, Ordering as LocalOrdering};

use super::adjust::{Cells, Sums};
use super::admissions::{Log, Moved, View};
use super::memory::{MINUTE, Memory, SECOND};
use super::quota::Unit;

/// The longest day: 24 hours, and one for the end of summer time.
const LONGEST_DAY: u64 = 25 * 3600 * SECOND;

/// The most that a day's sum may grow in a minute, so that its upper bits stay known.
const MOST_IN_A_MINUTE: u64 = 1 << 31;

pub(super) struct Days {
    checkpoints: Cells,
    refunds: Cells,
    output_weight: u32,
    is_calendar: bool,
    /// Bounds of the calendar day, in ticks; this process's own, told by its clock on the wall.
    start: LocalU64,
    end: LocalU64,
    /// Two minutes in 32 bits each: the second has the first checkpoint that is not before the
    /// first.
    hint: LocalU64,
}

impl Days {
    /// `None` where no quota is of a day.
    pub fn attach(memory: &Memory, output_weight: u32, is_calendar: bool) -> Option<Self> {
        (!memory.checkpoints.is_empty()).then(|| Self {
            checkpoints: Cells::new(memory.checkpoints.clone()),
            refunds: Cells::new(memory.day_refunds.clone()),
            output_weight,
            is_calendar,
            start: LocalU64::new(0),
            end: LocalU64::new(u64::MAX),
            hint: LocalU64::new(u64::MAX),
        })
    }

    /// Begin in a block of zeros, with the log at its first word.
    pub fn begin(&self, log: &Log) {
        let view = log.view();
        let (requests, input, output) = log.sums(&view);
        let sums = Sums {
            requests: requests.into(),
            input: input.into(),
            output: output.into(),
        };
        // In zeros, the first period has a cell with nothing in it.
        self.checkpoints.add(view.time / MINUTE, sums);
    }

    /// Tell the bounds of the calendar day in which `now` lies, all in ticks.
    ///
    /// Where the clock on the wall was set forward and the day begins anew before it was to end,
    /// the older beginning stays: the larger use counts. While the machine `slept` since the day was
    /// told, the day went on and the limiter's clock did not.
    pub fn set_day(&self, now: u64, start: u64, end: u64, slept: u64) {
        let (old_start, old_end) = self.bounds(now);
        let is_set = old_end != u64::MAX;
        let start = if is_set && now + MINUTE < old_end.saturating_sub(slept) {
            start.min(old_start)
        } else {
            start
        };
        // In this order: who sees only the new end still judges from the old beginning.
        self.end.store(end, LocalOrdering::Release);
        self.start.store(start, LocalOrdering::Release);
    }

    fn bounds(&self, now: u64) -> (u64, u64) {
        let start = self.start.load(LocalOrdering::Acquire);
        let end = self.end.load(LocalOrdering::Acquire);
        if now < end {
            (start, end)
        } else {
            // Nobody has told the new day yet: as long as a day can be.
            (end, end + LONGEST_DAY)
        }
    }

    /// The log's sums as they are at the head, with their upper bits.
    fn current(&self, log: &Log, view: &View) -> Result<(Sums, Sums), Moved> {
        let minute = view.time / MINUTE;
        let exact = self.checkpoints.get(minute);
        let base = exact
            .or_else(|| self.checkpoints.get_or_later(minute))
            .ok_or(Moved)?;
        // A later minute may have taken the cell of the head's, a day ago; its sums serve as well,
        // if the head has not moved on since.
        if exact.is_none() && !log.is_current(view) {
            return Err(Moved);
        }
        let (requests, input, output) = log.sums(view);
        let bits = log.sum_bits();
        let grown = |now: u32, then: u64, bits: u32| {
            let mask = (1u64 << bits) - 1;
            u64::from(now).wrapping_sub(then) & mask
        };
        let since = Sums {
            requests: grown(requests, base.requests, bits.0),
            input: grown(input, base.input, bits.1),
            output: grown(output, base.output, bits.2),
        };
        Ok((base.plus(since), since))
    }

    /// Write the checkpoint of the minute of `time`, if it is later than the head's: before
    /// anything is admitted in it.
    pub fn prepare(&self, log: &Log, view: &View, time: u64) -> Result<(), Moved> {
        if time / MINUTE > view.time / MINUTE {
            let (sums, _) = self.current(log, view)?;
            self.checkpoints.set_once(time / MINUTE, sums);
        }
        Ok(())
    }

    /// How much the larger of the log's sums of tokens has grown since the minute began.
    pub fn in_minute(&self, log: &Log, view: &View) -> Result<u64, Moved> {
        let (_, grown) = self.current(log, view)?;
        Ok(grown.input.max(grown.output))
    }

    /// What comes back to the day of a charge of this time.
    pub fn refund(&self, time: u64, amount: Sums) {
        self.refunds.add(time / MINUTE, amount);
    }

    /// The first checkpoint from `minute` up to the head's; `None` where nothing was admitted since.
    fn base(&self, view: &View, minute: u64) -> Option<(u64, Sums)> {
        let hint = self.hint.load(LocalOrdering::Relaxed);
        let (from, found) = (hint >> 32, hint & 0xffff_ffff);
        let is_known = (from..=found).contains(&(minute & 0xffff_ffff));
        let mut at = if is_known {
            minute + (found - (minute & 0xffff_ffff))
        } else {
            minute
        };
        while at <= view.time / MINUTE {
            if let Some(sums) = self.checkpoints.get(at) {
                let hint = (minute & 0xffff_ffff) << 32 | (at & 0xffff_ffff);
                if !is_known {
                    self.hint.store(hint, LocalOrdering::Relaxed);
                }
                return Some((at, sums));
            }
            at += 1;
        }
        None
    }

    fn first_minute(&self, window: u64, at: u64) -> u64 {
        let horizon = if self.is_calendar {
            self.bounds(at).0
        } else {
            at.saturating_sub(window)
        };
        // What the ring of minutes no longer holds cannot be told apart from older ones.
        (horizon / MINUTE).max((at / MINUTE).saturating_sub(self.checkpoints.len() - 2))
    }

    fn refunded(&self, view: &View, from: u64, unit: Unit) -> u64 {
        (from..=view.time / MINUTE)
            .filter_map(|minute| self.refunds.get(minute))
            .map(|sums| sums.of_unit(unit, self.output_weight))
            .sum()
    }

    /// What the day holds at `at`, of what was admitted up to `view`.
    pub fn used(
        &self,
        log: &Log,
        view: &View,
        unit: Unit,
        window: u64,
        at: u64,
    ) -> Result<u64, Moved> {
        let first = self.first_minute(window, at);
        let (now, _) = self.current(log, view)?;
        let used = self.base(view, first).map_or(0, |(_, then)| {
            now.since(then).of_unit(unit, self.output_weight)
        });
        Ok(used.saturating_sub(self.refunded(view, first, unit)))
    }

    /// The first time from `at` on at which `amount` more fits under `limit`.
    pub fn earliest(
        &self,
        log: &Log,
        view: &View,
        (unit, window): (Unit, u64),
        at: u64,
        amount: u64,
        limit: u64,
    ) -> Result<u64, Moved> {
        let first = self.first_minute(window, at);
        let (now, in_minute) = self.current(log, view)?;
        if in_minute.of_unit(unit, 1) + amount > MOST_IN_A_MINUTE
            && at / MINUTE == view.time / MINUTE
        {
            return Ok((view.time / MINUTE + 1) * MINUTE);
        }
        let Some((_, then)) = self.base(view, first) else {
            return Ok(at);
        };
        let used = now.since(then).of_unit(unit, self.output_weight);
        if used + amount <= limit {
            return Ok(at);
        }
        let mut refunded = self.refunded(view, first, unit);
        if used + amount <= limit + refunded {
            return Ok(at);
        }
        if self.is_calendar {
            return Ok(self.bounds(at).1);
        }
        // Room comes when enough minutes have left the window, each with what came back to it. One
        // without a checkpoint holds nothing.
        let last = view.time / MINUTE;
        let (mut held, mut before) = (first, first);
        for minute in first..=last + 1 {
            let left = match self.checkpoints.get(minute) {
                Some(then) => now.since(then).of_unit(unit, self.output_weight),
                None if minute > last => 0,
                None => continue,
            };
            while held < minute {
                let back = self.refunds.get(held).unwrap_or_default();
                refunded = refunded.saturating_sub(back.of_unit(unit, self.output_weight));
                held += 1;
            }
            if minute == first {
                continue;
            }
            if left + amount <= limit + refunded {
                return Ok((before + 1) * MINUTE + window);
            }
            before = minute;
        }
        Ok((last + 1) * MINUTE + window)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::memory::Layout;
    use super::super::quota::{Cost, Name, Quota, Quotas};
    use super::*;

    const DAY: u64 = 1_440 * MINUTE;

    fn days() -> (Log, Days) {
        let quota = |name, limit, seconds| Quota {
            name,
            limit,
            window: std::time::Duration::from_secs(seconds),
        };
        let quotas = Quotas::of(&[
            quota(Name::Rpm, 9, 60),
            quota(Name::Rpd, 9, 86_400),
            quota(Name::Tpd, 99, 86_400),
        ]);
        let layout = Layout::of(&quotas, 1).expect("the quotas are in range");
        let memory = Memory::allocate(&layout);
        let log = Log::attach(&layout, &memory, 1);
        let days = Days::attach(&memory, 1, false).expect("there are quotas of a day");
        log.begin(7);
        days.begin(&log);
        (log, days)
    }

    fn admit(log: &Log, days: &Days, time: u64) {
        let view = log.view();
        days.prepare(log, &view, time).expect("nobody else is here");
        assert!(log.admit(&view, time, Cost::input(5)));
    }

    fn used(log: &Log, days: &Days, at: u64) -> (u64, u64) {
        let view = log.view();
        let used = |unit| {
            days.used(log, &view, unit, DAY, at)
                .expect("nobody else is here")
        };
        (used(Unit::Requests), used(Unit::Tokens))
    }

    /// Who wrote the checkpoint of its minute and died took the cell of the head's: it lies just as
    /// many minutes later as there are cells.
    #[test]
    fn one_who_dies_before_it_admits_hinders_nobody() {
        let (log, days) = days();
        let first = 3 * MINUTE + 8;
        admit(&log, &days, first);
        let later = first + days.checkpoints.len() * MINUTE;
        days.prepare(&log, &log.view(), later)
            .expect("nobody else is here");
        assert_eq!(days.checkpoints.get(3), None);
        assert_eq!(used(&log, &days, later), (0, 0));
        admit(&log, &days, later);
        admit(&log, &days, later + 9);
        assert_eq!(used(&log, &days, later + 9), (2, 10));
        assert_eq!(used(&log, &days, later + DAY), (2, 10));
        assert_eq!(used(&log, &days, later + DAY + MINUTE), (0, 0));
    }

    #[test]
    fn days_without_anybody_leave_nothing() {
        let (log, days) = days();
        for day in [0, 1, 2, 30, 365, 900] {
            let time = day * DAY + day * 77 + 5;
            admit(&log, &days, time + 1);
            admit(&log, &days, time + 2 * MINUTE);
            assert_eq!(used(&log, &days, time + 3 * MINUTE), (2, 10), "day {day}");
        }
    }
}
