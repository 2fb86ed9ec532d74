//! What each process has of its own in the shared block: reservations under way, and its posted
//! head.
//!
//! A process that dies leaves its leases; whoever knows that it is dead takes them back by
//! [`super::Limiter::forget_process`]. A posted head lapses by itself.

use std::sync::atomic::{AtomicUsize as LocalUsize, Ordering as LocalOrdering};

use super::memory::{Array, Memory, Process};
use super::quota::Cost;
use crate::atomics::{Ordering, POST_SIZE_BITS, POST_TICK_BITS, Word};

const TICK_MASK: u64 = (1 << POST_TICK_BITS) - 1;
const SIZE_MASK: u32 = (1 << POST_SIZE_BITS) - 1;

/// Sizes are posted in units of so many tokens, rounded up.
const SIZE_UNIT: u32 = 128;

/// The first of those who wait in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Posted {
    /// Since when it is the first, in ticks.
    pub since: u64,
    /// When it is due, in ticks.
    pub due: u64,
    /// Its cost, rounded up.
    pub cost: Cost,
}

impl Posted {
    fn pack(self) -> Word {
        let size = |tokens: u32| Word::from(tokens.div_ceil(SIZE_UNIT).min(SIZE_MASK));
        // Never zero, which is nobody.
        let mut word = Word::from((self.since & TICK_MASK).max(1));
        word = word << POST_TICK_BITS | Word::from(self.due & TICK_MASK);
        word = word << POST_SIZE_BITS | size(self.cost.input);
        word << POST_SIZE_BITS | size(self.cost.output)
    }

    /// What was posted at about the time `now`.
    #[allow(clippy::cast_possible_truncation)]
    fn unpack(word: Word, now: u64) -> Self {
        let near = |ticks: u64| {
            let ahead = ticks.wrapping_sub(now) & TICK_MASK;
            if ahead > TICK_MASK / 2 {
                now.saturating_sub(TICK_MASK + 1 - ahead)
            } else {
                now + ahead
            }
        };
        let size = |units: u32| (units & SIZE_MASK).saturating_mul(SIZE_UNIT);
        Self {
            since: near((word >> (POST_TICK_BITS + 2 * POST_SIZE_BITS)) as u64 & TICK_MASK),
            due: near((word >> (2 * POST_SIZE_BITS)) as u64 & TICK_MASK),
            cost: Cost {
                input: size((word >> POST_SIZE_BITS) as u32),
                output: size(word as u32),
            },
        }
    }
}

pub(super) struct Leases {
    processes: Array<Process>,
    /// Which of them is this process.
    own: LocalUsize,
    /// How many reservations may be under way in all of them; 0 for any number.
    most: u64,
}

impl Leases {
    pub fn attach(memory: &Memory, own: usize, most: u32) -> Self {
        assert!(
            own < memory.processes.len(),
            "no such process in the layout"
        );
        Self {
            processes: memory.processes.clone(),
            own: LocalUsize::new(own),
            most: most.into(),
        }
    }

    pub fn move_to(&self, own: usize) {
        assert!(own < self.processes.len(), "no such process in the layout");
        self.own.store(own, LocalOrdering::Release);
    }

    pub fn are_shared(&self) -> bool {
        self.processes.len() > 1
    }

    fn own(&self) -> usize {
        self.own.load(LocalOrdering::Acquire)
    }

    pub fn in_flight(&self, process: usize) -> u64 {
        self.processes[process].in_flight.load(Ordering::SeqCst)
    }

    pub fn total(&self) -> u64 {
        (0..self.processes.len())
            .map(|process| self.in_flight(process))
            .sum()
    }

    /// Begin a reservation, if there may be one more.
    pub fn take(&self) -> bool {
        let own = self.own();
        let mine = &self.processes[own].in_flight;
        let is_over = |mine: u64| {
            let others = || (0..self.processes.len()).filter(|&process| process != own);
            self.most > 0
                && mine + others().map(|process| self.in_flight(process)).sum::<u64>() > self.most
        };
        let mut count = mine.load(Ordering::SeqCst);
        loop {
            if is_over(count + 1) {
                return false;
            }
            match mine.compare_exchange(count, count + 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break,
                Err(now) => count = now,
            }
        }
        // Another process may have begun one between the sum and the swap; then one of both, at
        // least, sees the other here.
        if self.are_shared() && is_over(mine.load(Ordering::SeqCst)) {
            self.give_back();
            return false;
        }
        true
    }

    /// End a reservation. A forked child may hold one of its parent: it has none to give back.
    pub fn give_back(&self) {
        let mine = &self.processes[self.own()].in_flight;
        let mut count = mine.load(Ordering::SeqCst);
        while count > 0 {
            match mine.compare_exchange(count, count - 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return,
                Err(now) => count = now,
            }
        }
    }

    /// Begin without reservations, where no other process sees them.
    pub fn start_anew(&self) {
        if !self.are_shared() {
            self.forget(self.own());
        }
    }

    /// Take back what a dead process had.
    pub fn forget(&self, process: usize) {
        self.processes[process].in_flight.store(0, Ordering::SeqCst);
        self.processes[process].posted.store(0, Ordering::Release);
    }

    /// Tell the other processes who is first here; `None` for nobody.
    pub fn post(&self, head: Option<Posted>) {
        if self.are_shared() {
            let word = head.map_or(0, Posted::pack);
            let posted = &self.processes[self.own()].posted;
            if posted.load(Ordering::Relaxed) != word {
                posted.store(word, Ordering::Release);
            }
        }
    }

    /// The heads posted by all processes but this one, as of about `now`.
    pub fn posted(&self, now: u64) -> impl Iterator<Item = (usize, Posted)> {
        let own = self.own();
        self.processes
            .iter()
            .enumerate()
            .filter(move |&(process, _)| process != own)
            .filter_map(move |(process, slot)| {
                let word = slot.posted.load(Ordering::Acquire);
                (word != 0).then(|| (process, Posted::unpack(word, now)))
            })
    }

    /// Whether a head of this process, first since `since`, comes before another's.
    pub fn is_before(&self, since: u64, other: usize, posted: &Posted) -> bool {
        (since, self.own()) < (posted.since, other)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_posted_head_is_read_as_it_was_written_but_for_its_size() {
        let cost = Cost {
            input: 1_000,
            output: 0,
        };
        for since in [70_000u64, (1 << 40) - 3, (1 << 40) + 9] {
            let posted = Posted {
                since,
                due: since + 5_000,
                cost,
            };
            for now in [since - 60_000, since, since + 100_000] {
                let read = Posted::unpack(posted.pack(), now);
                assert_eq!((read.since, read.due), (since, since + 5_000));
                assert_eq!(
                    read.cost,
                    Cost {
                        input: 1_024,
                        output: 0
                    }
                );
            }
        }
    }
}
