//! What others tell a limiter, and what it tells of itself.

use std::time::Duration;

use super::admissions::Moved;
use super::decide::{Limiter, Stop, wait_until};
use super::leases::Posted;
use super::memory::{TICK_NANOS, ticks};
use super::quota::{Cost, Name, Unit};
use crate::atomics::Ordering;

/// What one window holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowState {
    /// Which limit it is.
    pub name: Name,
    /// Its length.
    pub window: Duration,
    /// The limit as configured.
    pub configured: u64,
    /// The limit as it is now: lower where that was learned.
    pub limit: u64,
    /// What it holds; over-use can make it more than the limit.
    pub used: u64,
    /// Until it has room for one more of its unit and no pause holds it; zero for at once.
    pub next: Duration,
}

/// What a limiter holds at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// In the order of the quotas.
    pub windows: Vec<WindowState>,
    /// Reservations under way, in all processes.
    pub in_flight: u64,
    /// How many wait in this process.
    pub waiting: usize,
    /// Answers that said that a limit was exceeded.
    pub throttled: u64,
    /// Until the pause of everything ends; zero where there is none.
    pub paused: Duration,
}

impl Limiter {
    /// Admit nothing that counts for `name` (`None`: nothing at all) until `until`. A pause that
    /// ends later stays.
    pub fn pause(&self, name: Option<Name>, until: u64) {
        let until = self.log.floor(until.saturating_add(TICK_NANOS - 1));
        match name {
            None => {
                self.common[0].paused.fetch_max(until, Ordering::AcqRel);
            }
            Some(name) => self.indices(name).for_each(|index| {
                self.learned[index]
                    .paused
                    .fetch_max(until, Ordering::AcqRel);
            }),
        }
    }

    /// Hold a limit lower than it was configured, from now on; `None` ends that.
    ///
    /// With a limit a minute goes that of its sub-windows, in proportion and rounded down, but at
    /// least 1. A limit of 0 is taken as 1.
    pub fn set_ceiling(&self, name: Name, limit: Option<u64>) {
        for index in self.indices(name) {
            let ceiling = limit.map_or(0, |limit| limit.max(1));
            let learned = &self.learned[index].ceiling;
            learned.store(ceiling, Ordering::Release);
        }
        if name == Name::Rpm
            && let Some(rpm) = self.indices(Name::Rpm).next()
        {
            let whole = u128::from(self.quotas.windows[rpm].limit);
            for index in self.indices(Name::SubWindow) {
                let share = |limit: u64| {
                    let own = u128::from(self.quotas.windows[index].limit);
                    let share = u128::from(limit).min(whole) * own / whole;
                    u64::try_from(share).unwrap_or(u64::MAX).max(1)
                };
                let ceiling = limit.map_or(0, share);
                self.learned[index]
                    .ceiling
                    .store(ceiling, Ordering::Release);
            }
        }
    }

    /// Count an answer that said that a limit was exceeded.
    pub fn note_throttled(&self) {
        self.common[0].throttled.fetch_add(1, Ordering::Relaxed);
    }

    /// Tell the bounds of the calendar day in which `now` lies. Where they cannot be told any more,
    /// the day after lasts 25 hours. `slept` is for how long the machine slept since they were told,
    /// by which the day ends sooner on a clock that stands still meanwhile.
    pub fn set_day(&self, now: u64, start: u64, end: u64, slept: Duration) {
        if let Some(days) = &self.days {
            let floor = |nanos| self.log.floor(nanos);
            days.set_day(floor(now), floor(start), self.log.ceil(end), ticks(slept));
        }
    }

    /// What it holds at `now`.
    pub fn state(&self, now: u64) -> State {
        let windows = loop {
            if let Ok(windows) = self.window_states(now) {
                break windows;
            }
        };
        let paused = self
            .log
            .nanos(self.common[0].paused.load(Ordering::Acquire));
        State {
            windows,
            in_flight: self.leases.total(),
            waiting: self.queue.len(),
            throttled: self.common[0].throttled.load(Ordering::Relaxed),
            paused: Duration::from_nanos(paused.saturating_sub(now)),
        }
    }

    fn window_states(&self, now: u64) -> Result<Vec<WindowState>, Moved> {
        let view = self.log.view();
        let at = self.log.floor(now).max(view.time);
        let state = |index: usize| {
            let (window, quota) = (&self.windows[index], self.quotas.windows[index]);
            let used = match &self.days {
                Some(days) if quota.name.is_day() => {
                    days.used(&self.log, &view, window.unit, window.ticks, at)?
                }
                _ => window.used(&self.log, self.refunds_of(window), &view, at)?,
            };
            let one = Cost {
                input: u32::from(window.unit != Unit::Output),
                output: u32::from(window.unit == Unit::Output),
            };
            let floor = self.floor(&view, now);
            let next = match self.room(&view, index, floor, one, 1) {
                Err(Stop::Moved) => return Err(Moved),
                Ok(due) if due > floor => wait_until(self.log.nanos(due), now),
                _ => Duration::ZERO,
            };
            Ok(WindowState {
                name: quota.name,
                window: quota.window,
                configured: quota.limit,
                limit: self.limit(index),
                used,
                next,
            })
        };
        (0..self.windows.len()).map(state).collect()
    }

    /// What each quota's window holds at `now`, in the order in which the quotas were given.
    pub fn used(&self, now: u64) -> Vec<u64> {
        let windows = self.state(now).windows;
        windows.iter().map(|window| window.used).collect()
    }

    pub(super) fn post(&self, head: Option<Posted>) {
        self.leases.post(head);
    }
}
