//! What a limiter on shared memory asks of its owner, who alone can tell the living from the dead.

use std::time::Duration;

use super::decide::{Limiter, wait_until};
use super::leases::Remains;
use super::quota::Cost;

/// The first of those who wait in a process, as the others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The place of its process.
    pub process: usize,
    /// How soon it is due; zero where it should have been served by now.
    pub due: Duration,
    /// Its cost, rounded up to multiples of 128 tokens.
    pub cost: Cost,
}

impl Limiter {
    /// Begin in the place that was given to `attach`, with the number of this entry: no two entries
    /// into a place have the same. What is left in the place of its last holder, who is dead, is
    /// taken back.
    pub fn enter(&self, entry: u32) {
        self.leases.enter(entry);
    }

    /// The places of the other processes that have reservations under way or a head that waits, to
    /// be handed to [`Limiter::forget`] if they are dead.
    pub fn others(&self) -> impl Iterator<Item = (usize, Remains)> {
        self.leases.others()
    }

    /// Take back what a process had that was found dead after it was looked at.
    pub fn forget(&self, process: usize, remains: Remains) {
        self.leases.forget(process, remains);
    }

    /// Reservations under way in the process of this place.
    pub fn in_flight_of(&self, process: usize) -> u64 {
        self.leases.in_flight(process)
    }

    /// Who waits first in each of the other processes, as of `now`.
    pub fn heads(&self, now: u64) -> Vec<Head> {
        let posted = self.leases.posted(self.log.floor(now));
        posted
            .map(|(process, posted)| {
                let due = self.log.nanos(posted.due);
                Head {
                    process,
                    due: if due > now {
                        wait_until(due, now)
                    } else {
                        Duration::ZERO
                    },
                    cost: posted.cost,
                }
            })
            .collect()
    }
}
