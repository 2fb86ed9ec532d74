//! Serving those who wait, in this process and beside others.

use std::time::Duration;

use super::admissions::View;
use super::decide::{Decision, Limiter, Stamp, Stop};
use super::leases::Posted;
use super::memory::TICK_NANOS;
use super::queue::{Request, Ticket, Waiters};
use super::quota::{Cost, LimiterError};

/// How long the head of another process is given way to after it was due: by then it was served, or
/// has stopped.
const GRACE: u64 = Duration::from_millis(50).as_nanos() as u64 / TICK_NANOS;

/// How soon to ask again where another process has to act first: it cannot wake anybody here.
const ASK_AGAIN: Duration = Duration::from_millis(1);

/// As [`ASK_AGAIN`], where all reservations that may be are under way, some in other processes.
const ASK_FOR_LEASE: Duration = Duration::from_millis(20);

/// What is left after the queue was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Nobody waits.
    Empty,
    /// The first in the queue can be admitted after this long.
    Wait(Duration),
    /// The first in the queue waits for a reservation of this process to end.
    Full,
    /// As many were admitted as asked for; there may be more.
    More,
}

/// What became of one who came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// Admitted and charged.
    Admitted(Stamp),
    /// In the queue.
    Waits {
        /// Its place.
        ticket: Ticket,
        /// Whether it is one of the first two, so that [`Limiter::poll`] may now admit sooner.
        is_near: bool,
    },
}

/// Who waits no longer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Admitted, in this order.
    pub admitted: Vec<(Ticket, Stamp)>,
    /// Larger than a limit that was lowered while they waited.
    pub refused: Vec<(Ticket, LimiterError)>,
}

enum Attempt {
    Admitted(Stamp),
    Refused(LimiterError),
    Wait(Duration),
    Full,
}

impl Limiter {
    /// Admit at once, or join the queue.
    pub fn enqueue(&self, now: u64, request: Request) -> Result<Entrance, LimiterError> {
        if self.queue.is_empty() {
            match self.try_admit(now, request, u64::MAX) {
                Attempt::Admitted(stamp) => return Ok(Entrance::Admitted(stamp)),
                Attempt::Refused(error) => return Err(error),
                Attempt::Wait(_) | Attempt::Full => {}
            }
        } else {
            self.wait(now, request.cost)?;
        }
        let (ticket, is_near) = self.queue.push(now, request);
        Ok(Entrance::Waits { ticket, is_near })
    }

    /// Leave the queue. False if the ticket was admitted already, or never given.
    pub fn cancel(&self, ticket: Ticket) -> bool {
        let was_waiting = self.queue.cancel(ticket);
        if was_waiting && self.queue.is_empty() {
            self.post(None);
        }
        was_waiting
    }

    /// Forget everybody who waits: what a forked child does, whose parent's waiters are not its own.
    /// Reservations in memory of its own are not its own either.
    pub fn clear_queue(&self) {
        self.queue.clear();
        self.leases.start_anew();
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Admit whoever may be at `now`, `most` at the most.
    ///
    /// The first in the queue comes first; while it waits, the next may pass as long as that does
    /// not move the time at which the first is due, and the one after it. Who does not fit stops
    /// all behind it, so that nobody is admitted later than if nobody had passed.
    pub fn poll(&self, now: u64, most: usize, served: &mut Served) -> Poll {
        self.queue.change(|waiters| {
            let outcome = self.serve(now, most, waiters, served);
            if outcome == Poll::Empty {
                waiters.headed = None;
                self.post(None);
            }
            outcome
        })
    }

    fn serve(&self, now: u64, most: usize, waiters: &mut Waiters, served: &mut Served) -> Poll {
        let mut left = most;
        while let Some((ticket, request)) = waiters.first() {
            if left == 0 {
                return Poll::More;
            }
            let since = match waiters.headed {
                Some((head, since)) if head == ticket => since,
                _ => self.log.ceil(now),
            };
            waiters.headed = Some((ticket, since));
            match self.try_admit(now, request, since) {
                Attempt::Admitted(stamp) => served.admitted.push((ticket, stamp)),
                Attempt::Refused(error) => served.refused.push((ticket, error)),
                Attempt::Full if self.leases.are_shared() => return Poll::Wait(ASK_FOR_LEASE),
                Attempt::Full => return Poll::Full,
                Attempt::Wait(wait) => {
                    let head = Posted {
                        since,
                        due: self.log.ceil(now.saturating_add(nanos(wait))),
                        cost: request.cost,
                    };
                    self.post(Some(head));
                    self.backfill(now, &mut left, waiters, &head, served);
                    return if left == 0 {
                        Poll::More
                    } else {
                        Poll::Wait(wait)
                    };
                }
            }
            waiters.remove(ticket);
            left -= 1;
        }
        Poll::Empty
    }

    /// Let those behind the head pass that take nothing from it.
    fn backfill(
        &self,
        now: u64,
        left: &mut usize,
        waiters: &mut Waiters,
        head: &Posted,
        served: &mut Served,
    ) {
        while *left > 0 {
            let Some((ticket, request)) = waiters.second() else {
                return;
            };
            if !self.spares(now, request.cost, head) {
                return;
            }
            match self.try_admit(now, request, head.since) {
                Attempt::Admitted(stamp) => served.admitted.push((ticket, stamp)),
                _ => return,
            }
            waiters.remove(ticket);
            *left -= 1;
        }
    }

    /// Whether an admission of `cost` now would leave the head its time.
    fn spares(&self, now: u64, cost: Cost, head: &Posted) -> bool {
        loop {
            let view = self.log.view();
            match self.leaves_room(&view, now, cost, head) {
                Ok(spares) => return spares,
                Err(Stop::TooLarge(_)) => return false,
                Err(Stop::Moved) => {}
            }
        }
    }

    fn leaves_room(&self, view: &View, now: u64, cost: Cost, head: &Posted) -> Result<bool, Stop> {
        let stamp = self.log.stamp(view, now);
        let both = Cost {
            input: cost.input.saturating_add(head.cost.input),
            output: cost.output.saturating_add(head.cost.output),
        };
        for (index, window) in self.windows.iter().enumerate() {
            // Of a short window it will have left by then.
            let is_gone = stamp + window.ticks <= head.due && !self.is_day(index);
            if !is_gone && self.room(view, index, head.due, both, 2)? > head.due {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One attempt, with the lease that it needs.
    fn try_admit(&self, now: u64, request: Request, since: u64) -> Attempt {
        if request.is_leased && !self.lease() {
            return match self.wait(now, request.cost) {
                Err(error) => Attempt::Refused(error),
                Ok(_) => Attempt::Full,
            };
        }
        let attempt = match self.admit(now, request.cost, since) {
            Ok(Decision::Admitted(stamp)) => return Attempt::Admitted(stamp),
            Ok(Decision::Wait(wait)) => Attempt::Wait(wait),
            Err(error) => Attempt::Refused(error),
        };
        if request.is_leased {
            self.end_lease();
        }
        attempt
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
        for (process, posted) in self.leases.posted(at) {
            let has_lapsed = at > posted.due + GRACE;
            if has_lapsed || self.leases.is_before(since, process, &posted) {
                continue;
            }
            let is_spared = posted.due > at && self.leaves_room(view, now, cost, &posted)?;
            if !is_spared {
                let again = at + nanos(ASK_AGAIN) / TICK_NANOS;
                return Ok(Some(posted.due.max(again)));
            }
        }
        Ok(None)
    }
}

fn nanos(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)
}
