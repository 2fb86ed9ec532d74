//! Who may pass those before it: whoever takes nothing from them.

use super::admissions::View;
use super::decide::{Limiter, Stop};
use super::leases::Posted;
use super::memory::TICK_NANOS;
use super::queue::Waiters;
use super::quota::Cost;
use super::serve::{Attempt, Served};

/// How many of the first in the queue may be passed; no more are looked at.
const MOST_PASSED: u32 = 64;

/// Ticks for which the head of another process is given way to after it was due: 50 ms. By then it
/// was served, or has stopped.
const GRACE: u64 = 50_000_000 / TICK_NANOS;

/// Ticks after which to ask again where another process has to act first: a millisecond.
const ASK_AGAIN: u64 = 1_000_000 / TICK_NANOS;

/// The first so many of those who wait, taken together.
struct Front {
    requests: u32,
    cost: Cost,
    /// When they could be admitted as one, in ticks.
    due: u64,
}

impl Limiter {
    /// Let those behind the head pass that take nothing from anybody before them.
    ///
    /// If the first n fit as one request at a time, then in their order each of them is admitted by
    /// then at the latest, so that one that passes may take what is left at that time, for every n.
    /// Where they are more than a whole quota together, the last of them comes a window from now at
    /// the earliest, when whoever passes has left it again.
    pub(super) fn backfill(
        &self,
        now: u64,
        left: &mut usize,
        waiters: &mut Waiters,
        since: u64,
        served: &mut Served,
    ) {
        let mut fronts: Vec<Front> = Vec::new();
        let (mut requests, mut cost) = (0, Cost::default());
        let mut next = waiters.first();
        while let Some((rank, request)) = next.filter(|_| *left > 0 && requests < MOST_PASSED) {
            // Most often nobody can pass, which the smallest shows.
            let smallest = waiters.smallest();
            if smallest.is_none_or(|(_, smallest)| !self.may_pass(now, smallest.cost, &fronts)) {
                return;
            }
            next = waiters.after(rank);
            if requests > 0 && self.may_pass(now, request.cost, &fronts) {
                let Attempt::Admitted(stamp) = self.try_admit(now, request, since) else {
                    return;
                };
                served.admitted.push((rank.1, stamp));
                waiters.remove(rank.1);
                *left -= 1;
            } else {
                let Some(together) = cost.plus(request.cost) else {
                    return;
                };
                (requests, cost) = (requests + 1, together);
                fronts.push(Front {
                    requests,
                    cost,
                    due: self.due_together(now, cost, requests),
                });
            }
        }
    }

    fn due_together(&self, now: u64, cost: Cost, requests: u32) -> u64 {
        loop {
            let view = self.log.view();
            match self.earliest(&view, self.floor(&view, now), cost, requests) {
                Ok(due) => return due,
                // The head alone, for a limit that was lowered: it is refused soon.
                Err(Stop::TooLarge(_)) => return u64::MAX,
                Err(Stop::Moved) => {}
            }
        }
    }

    /// Whether `cost` could be admitted now and would leave all of these their time.
    fn may_pass(&self, now: u64, cost: Cost, fronts: &[Front]) -> bool {
        let passes = |view: &View| {
            if self.due(view, now, cost)?.is_some() {
                return Ok(false);
            }
            for front in fronts {
                if !self.leaves_room(view, now, cost, front)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        loop {
            match passes(&self.log.view()) {
                Ok(passes) => return passes,
                Err(Stop::TooLarge(_)) => return false,
                Err(Stop::Moved) => {}
            }
        }
    }

    fn leaves_room(&self, view: &View, now: u64, cost: Cost, front: &Front) -> Result<bool, Stop> {
        let stamp = self.log.stamp(view, now);
        let Some(both) = cost.plus(front.cost) else {
            return Ok(false);
        };
        for (index, window) in self.windows.iter().enumerate() {
            let amount =
                |cost: Cost, requests| cost.of(window.unit, requests, self.quotas.output_weight);
            let limit = self.limit(index);
            // Of a short window it will have left by then.
            let is_gone = !self.is_day(index) && stamp + window.ticks <= front.due;
            if is_gone {
                continue;
            }
            if amount(front.cost, front.requests) > limit {
                // One alone waits for the whole of an empty window.
                if front.requests == 1 && self.quotas.admits_oversized {
                    return Ok(false);
                }
                continue;
            }
            let requests = front.requests + 1;
            if amount(both, requests) > limit
                || self.room(view, index, front.due, both, requests)? > front.due
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Until when an admission of `cost` has to wait for the heads of other processes that were
    /// first before `since`, in ticks; `None` where it takes nothing from them.
    pub(super) fn gives_way_until(
        &self,
        view: &View,
        now: u64,
        cost: Cost,
        since: u64,
    ) -> Result<Option<u64>, Stop> {
        let at = self.log.floor(now);
        let is_waited_for = |&(process, posted): &(usize, Posted)| {
            at <= posted.due + GRACE && !self.leases.is_before(since, process, &posted)
        };
        let mut heads: Vec<_> = self.leases.posted(at).filter(is_waited_for).collect();
        heads.sort_unstable_by_key(|(process, posted)| (posted.since, *process));
        let (mut requests, mut together) = (0, Cost::default());
        for (_, posted) in heads {
            // Each of them fits alone at its time; the later ones only beside those before them.
            let Some(sum) = together.plus(posted.cost) else {
                break;
            };
            (requests, together) = (requests + 1, sum);
            let due = match self.earliest(view, at, together, requests) {
                Ok(due) => due.max(posted.due),
                Err(Stop::TooLarge(_)) => posted.due,
                Err(Stop::Moved) => return Err(Stop::Moved),
            };
            let front = Front {
                requests,
                cost: together,
                due,
            };
            let is_spared = posted.due > at && self.leaves_room(view, now, cost, &front)?;
            if !is_spared {
                return Ok(Some(posted.due.max(at + ASK_AGAIN)));
            }
        }
        Ok(None)
    }
}
