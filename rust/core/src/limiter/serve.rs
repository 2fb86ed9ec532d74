//! Serving those who wait, in this process and beside others.

use std::time::Duration;

use super::decide::{Decision, Limiter, Stamp};
use super::leases::Posted;
use super::queue::{Request, Ticket, Waiters};
use super::quota::LimiterError;

/// How soon to ask again where all reservations that may be are under way, some of them in other
/// processes: those cannot wake anybody here.
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
        /// Whether [`Limiter::poll`] may now have to be called sooner: it is the first, or may
        /// pass those before it.
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

pub(super) enum Attempt {
    Admitted(Stamp),
    Refused(LimiterError),
    Wait(Duration),
    Full,
}

impl Limiter {
    /// Admit at once, or join the queue.
    pub fn enqueue(&self, now: u64, request: Request) -> Result<Entrance, LimiterError> {
        let mut fits = false;
        if self.queue.is_empty() {
            match self.try_admit(now, request, u64::MAX) {
                Attempt::Admitted(stamp) => return Ok(Entrance::Admitted(stamp)),
                Attempt::Refused(error) => return Err(error),
                Attempt::Wait(_) | Attempt::Full => {}
            }
        } else {
            fits = self.wait(now, request.cost)?.is_zero();
        }
        let (ticket, is_first) = self.queue.push(now, request);
        Ok(Entrance::Waits {
            ticket,
            is_near: is_first || fits,
        })
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
    /// The first in the queue comes first. While it waits, others may pass who take nothing from
    /// anybody before them: each of those who are passed could still be admitted when it could be
    /// if nobody had passed.
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
        while let Some(((_, ticket), request)) = waiters.first() {
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
                    self.backfill(now, &mut left, waiters, since, served);
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

    /// One attempt, with the lease that it needs.
    pub(super) fn try_admit(&self, now: u64, request: Request, since: u64) -> Attempt {
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
}

pub(super) fn nanos(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)
}
