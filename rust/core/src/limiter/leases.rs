//! What each process has of its own in the shared block: reservations under way, and its posted
//! head.
//!
//! A process that dies leaves its leases and its head; whoever knows that it is dead takes them
//! back by [`super::Limiter::forget`]. A posted head lapses by itself too, after it was due.

use std::sync::atomic::{AtomicUsize as LocalUsize, Ordering as LocalOrdering};

use super::memory::{Array, Common, Memory, Process};
use super::quota::Cost;
use crate::atomics::{Ordering, POST_SIZE_BITS, POST_TICK_BITS, Word};

const TICK_MASK: u64 = (1 << POST_TICK_BITS) - 1;
const SIZE_MASK: u32 = (1 << POST_SIZE_BITS) - 1;

/// The first of those who wait in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Posted {
    /// Since when it is the first, in ticks.
    pub since: u64,
    /// When it is due, in ticks.
    pub due: u64,
    /// Its cost; in the block, at most 2²⁴ − 1 tokens of each kind.
    pub cost: Cost,
}

impl Posted {
    fn pack(self) -> Word {
        let size = |tokens: u32| Word::from(tokens.min(SIZE_MASK));
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
        Self {
            since: near((word >> (POST_TICK_BITS + 2 * POST_SIZE_BITS)) as u64 & TICK_MASK),
            due: near((word >> (2 * POST_SIZE_BITS)) as u64 & TICK_MASK),
            cost: Cost {
                input: (word >> POST_SIZE_BITS) as u32 & SIZE_MASK,
                output: word as u32 & SIZE_MASK,
            },
        }
    }
}

/// Of the word of reservations, the half that counts them. The other is the number of the entry
/// with which its process took the place, so that what a dead one left is never taken for what the
/// next holder of the place has.
const COUNT: u64 = u32::MAX as u64;

/// What a process had in its place when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remains {
    posted: Word,
    in_flight: u64,
}

impl Remains {
    /// The number of the entry with which the process took its place.
    pub fn entry(&self) -> u32 {
        u32::try_from(self.in_flight >> 32).unwrap_or(u32::MAX)
    }
}

pub(super) struct Leases {
    processes: Array<Process>,
    common: Array<Common>,
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
            common: memory.common.clone(),
            own: LocalUsize::new(own),
            most: most.into(),
        }
    }

    /// Begin with nothing in the own place, where another process may have left something.
    pub fn enter(&self, entry: u32) {
        let own = self.own();
        // Before anything is put there, so that all find it.
        self.common[0]
            .places
            .fetch_max(own as u64 + 1, Ordering::SeqCst);
        let place = &self.processes[own];
        place
            .in_flight
            .store(u64::from(entry) << 32, Ordering::SeqCst);
        place.posted.store(0, Ordering::Release);
    }

    pub fn are_shared(&self) -> bool {
        self.processes.len() > 1
    }

    fn own(&self) -> usize {
        self.own.load(LocalOrdering::Acquire)
    }

    /// The places that were ever taken: the lowest ones, as each process takes the first free one.
    fn places(&self) -> usize {
        let places = self.common[0].places.load(Ordering::SeqCst);
        usize::try_from(places).map_or(self.processes.len(), |places| {
            places.clamp(1, self.processes.len())
        })
    }

    pub fn in_flight(&self, process: usize) -> u64 {
        self.processes[process].in_flight.load(Ordering::SeqCst) & COUNT
    }

    pub fn total(&self) -> u64 {
        (0..self.places())
            .map(|process| self.in_flight(process))
            .sum()
    }

    /// Begin a reservation, if there may be one more.
    pub fn take(&self) -> bool {
        let own = self.own();
        let mine = &self.processes[own].in_flight;
        let is_over = |mine: u64| {
            let others = || (0..self.places()).filter(|&process| process != own);
            self.most > 0
                && (mine & COUNT) + others().map(|process| self.in_flight(process)).sum::<u64>()
                    > self.most
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
        while count & COUNT > 0 {
            match mine.compare_exchange(count, count - 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return,
                Err(now) => count = now,
            }
        }
    }

    /// Begin without reservations, where no other process sees them.
    pub fn start_anew(&self) {
        if !self.are_shared() {
            self.enter(0);
        }
    }

    /// What another process has in its place; `None` for nothing.
    pub fn remains(&self, process: usize) -> Option<Remains> {
        let place = &self.processes[process];
        let remains = Remains {
            posted: place.posted.load(Ordering::Acquire),
            in_flight: place.in_flight.load(Ordering::SeqCst),
        };
        (remains.posted != 0 || remains.in_flight & COUNT > 0).then_some(remains)
    }

    /// The other processes that have something in their place.
    pub fn others(&self) -> impl Iterator<Item = (usize, Remains)> {
        let own = self.own();
        (0..self.places())
            .filter(move |&process| process != own)
            .filter_map(|process| Some((process, self.remains(process)?)))
    }

    /// Take back what a dead process had, unless another has its place by now.
    pub fn forget(&self, process: usize, remains: Remains) {
        let place = &self.processes[process];
        let (seen, none) = (remains.in_flight, remains.in_flight & !COUNT);
        let _ = place
            .in_flight
            .compare_exchange(seen, none, Ordering::SeqCst, Ordering::SeqCst);
        let _ =
            place
                .posted
                .compare_exchange(remains.posted, 0, Ordering::AcqRel, Ordering::Relaxed);
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
        self.processes[..self.places()]
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
    fn a_posted_head_is_read_as_it_was_written() {
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
                assert_eq!(read.cost, cost);
            }
        }
    }
}
