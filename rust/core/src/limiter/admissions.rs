//! The admission log: what has been admitted, in one word, and a ring of that word's past.
//!
//! The head word holds the serial number and time of the last admission and the cumulative sums of
//! what has been admitted since the log began. Slot `serial mod N` of the ring keeps the head as it
//! was after that admission, so the sum over any window is the difference of two words. An
//! admission is one compare-and-swap of the head: a thread that stops anywhere leaves the log
//! whole, and the next one writes the slot that it owed.
//!
//! The two sums are tokens (weighted) and requests; where input and output have limits of their
//! own, they are input and output, and requests are counted by the serial.
//!
//! Invariants, each with a model in `tests/loom.rs`:
//! - The head moves from word w only after the slot of w holds w. So every slot behind the head is
//!   written, and a slot that shows another serial than expected means that the head moved on.
//! - A slot is only swapped from a value read *before* the head was seen to be the word that it is
//!   to hold. A helper that slept in between finds either the value or the head changed.
//! - Times in the log never fall: an admission is stamped with the later of the caller's time,
//!   rounded up, and the head's.

use super::memory::{Array, Common, Head, Layout, Memory, TICK_NANOS};
use super::quota::{Cost, Unit};
use crate::atomics::{AtomicWord, Ordering, REQUEST_BITS, SERIAL_BITS, SUM_BITS, TICK_BITS, Word};

/// `last_seen` is at most this far behind the head's time: about a second.
const SEEN_SLACK: u64 = if cfg!(loom) { 4 } else { 1 << 16 };

const SERIAL_MASK: u32 = (1 << SERIAL_BITS) - 1;
const TICK_MASK: u64 = (1 << TICK_BITS) - 1;
const SUM_MASK: u64 = (1 << SUM_BITS) - 1;

/// The state after one admission, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Number of the slot written, mod 2^`SERIAL_BITS`.
    pub serial: u32,
    /// Time of the admission in ticks, mod 2^`TICK_BITS`.
    pub tick: u64,
    /// Tokens, or input tokens, admitted so far, mod 2^`SUM_BITS`.
    first: u32,
    /// Requests, or output tokens, admitted so far, mod 2^`SUM_BITS`.
    second: u32,
}

impl Entry {
    fn pack(self) -> Word {
        let mut word = Word::from(self.serial & SERIAL_MASK);
        word = word << TICK_BITS | Word::from(self.tick & TICK_MASK);
        for sum in [self.first, self.second] {
            word = word << SUM_BITS | Word::from(u64::from(sum) & SUM_MASK);
        }
        word
    }

    #[allow(clippy::cast_possible_truncation)]
    fn unpack(word: Word) -> Self {
        Self {
            serial: (word >> (TICK_BITS + 2 * SUM_BITS)) as u32 & SERIAL_MASK,
            tick: (word >> (2 * SUM_BITS)) as u64 & TICK_MASK,
            first: ((word >> SUM_BITS) as u64 & SUM_MASK) as u32,
            second: (word as u64 & SUM_MASK) as u32,
        }
    }

    fn ticks_since(self, earlier: Self) -> u64 {
        self.tick.wrapping_sub(earlier.tick) & TICK_MASK
    }
}

/// A consistent view of the log: the head, and its time in full.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    word: Word,
    /// The head's fields.
    pub head: Entry,
    /// The head's time in ticks since the log's origin, not truncated.
    pub time: u64,
}

impl View {
    /// Time of an entry of this log, in full. One older than 203 days looks younger than it is.
    pub fn time_of(&self, entry: Entry) -> u64 {
        self.time.saturating_sub(self.head.ticks_since(entry))
    }
}

/// The head moved while the caller was looking: begin again.
#[derive(Debug)]
pub(super) struct Moved;

pub(super) struct Log {
    head: Array<Head>,
    common: Array<Common>,
    ring: Array<AtomicWord>,
    /// Times are rounded up to a multiple of this.
    granule: u64,
    is_split: bool,
    output_weight: u32,
    /// Ticks before the log's origin at which the ring's first, empty entries lie: more than the
    /// longest window, so that no window begins before the ring does.
    offset: u64,
}

impl Log {
    pub fn attach(layout: &Layout, memory: &Memory, output_weight: u32) -> Self {
        Self {
            head: memory.head.clone(),
            common: memory.common.clone(),
            ring: memory.ring.clone(),
            granule: layout.granule,
            is_split: layout.is_split,
            output_weight,
            offset: layout.longest + SEEN_SLACK,
        }
    }

    /// Begin a log in a block of zeros: as if empty admissions had been made long ago. The first
    /// serial is given so that wrap-around can be tested.
    pub fn begin(&self, serial: u32) {
        let slots = self.slots();
        let empty = |serial| {
            Entry {
                serial,
                tick: 0,
                first: 0,
                second: 0,
            }
            .pack()
        };
        for index in 0..slots {
            let behind = serial.wrapping_sub(index) & (slots - 1);
            self.ring[index as usize].store(empty(serial.wrapping_sub(behind)), Ordering::Relaxed);
        }
        self.head[0].word.store(empty(serial), Ordering::Release);
    }

    /// Whether every admission has a serial of its own.
    pub fn counts_by_serial(&self) -> bool {
        self.granule == 1
    }

    /// How far the head's time may lie after the time at which it was admitted.
    pub fn rounding(&self) -> u64 {
        self.granule
    }

    /// How far `serial` is behind the head's.
    pub fn behind(view: &View, serial: u32) -> u32 {
        view.head.serial.wrapping_sub(serial) & SERIAL_MASK
    }

    /// Slots of the ring.
    pub fn slots(&self) -> u32 {
        u32::try_from(self.ring.len()).expect("at most 2²⁰ slots")
    }

    /// Ticks of a time since the origin, rounded down: what a window's end is compared with.
    pub fn floor(&self, nanos: u64) -> u64 {
        nanos / TICK_NANOS + self.offset
    }

    /// Ticks of a time since the origin, rounded up: what an admission is stamped with.
    pub fn ceil(&self, nanos: u64) -> u64 {
        (nanos.div_ceil(TICK_NANOS) + self.offset).next_multiple_of(self.granule)
    }

    /// Nanoseconds since the origin of a time in ticks; 0 for one before it.
    pub fn nanos(&self, ticks: u64) -> u64 {
        ticks.saturating_sub(self.offset).saturating_mul(TICK_NANOS)
    }

    /// What was admitted after `earlier` and up to the head, in units of a quota.
    #[inline]
    pub fn since(&self, view: &View, earlier: Entry, unit: Unit) -> u64 {
        let first = u64::from(view.head.first.wrapping_sub(earlier.first)) & SUM_MASK;
        let second = u64::from(view.head.second.wrapping_sub(earlier.second)) & SUM_MASK;
        match (unit, self.is_split) {
            (Unit::Requests, true) => u64::from(Self::behind(view, earlier.serial)),
            (Unit::Requests, false) | (Unit::Output, _) => second,
            (Unit::Tokens, true) => first + second * u64::from(self.output_weight),
            (Unit::Tokens, false) | (Unit::Input, _) => first,
        }
    }

    /// The head's cumulative sums as a checkpoint keeps them: requests, input, output. Where input
    /// and output are not told apart, tokens count as input.
    pub fn sums(&self, view: &View) -> (u32, u32, u32) {
        let Entry {
            serial,
            first,
            second,
            ..
        } = view.head;
        if self.is_split {
            (serial, first, second)
        } else {
            (second, first, 0)
        }
    }

    /// Bits of the three sums that `sums` gives, as far as a checkpoint keeps them.
    pub fn sum_bits(&self) -> (u32, u32, u32) {
        let requests = if self.is_split { SERIAL_BITS } else { SUM_BITS };
        (requests.min(REQUEST_BITS), SUM_BITS, SUM_BITS)
    }

    fn slot(&self, serial: u32) -> &AtomicWord {
        &self.ring[serial as usize & (self.ring.len() - 1)]
    }

    /// The head as it is now, its slot written.
    pub fn view(&self) -> View {
        let word = self.head[0].word.load(Ordering::Acquire);
        self.publish(word);
        let head = Entry::unpack(word);
        // The head's time lies in the 203 days up to `last_seen + SEEN_SLACK`; the load of the head
        // made every raise that came before it visible.
        let latest = self.common[0].last_seen.load(Ordering::Relaxed) + SEEN_SLACK;
        let behind = latest.wrapping_sub(head.tick) & TICK_MASK;
        View {
            word,
            head,
            time: latest.saturating_sub(behind),
        }
    }

    /// Whether the head is still what it was.
    pub fn is_current(&self, view: &View) -> bool {
        self.head[0].word.load(Ordering::Acquire) == view.word
    }

    /// Write the slot of `word`, which was the head a moment ago, unless somebody has.
    fn publish(&self, word: Word) {
        let slot = self.slot(Entry::unpack(word).serial);
        loop {
            let held = slot.load(Ordering::Acquire);
            // Only the head's own word is ever written: when the head has moved on, whoever moved
            // it wrote the slot first. The order of these two loads is what makes a helper that
            // sleeps for a whole ring harmless: its swap below fails.
            if held == word || self.head[0].word.load(Ordering::Acquire) != word {
                return;
            }
            if slot
                .compare_exchange(held, word, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                return;
            }
        }
    }

    /// The entry with the serial `back` before the head's.
    #[inline]
    pub fn entry(&self, view: &View, back: u32) -> Result<Entry, Moved> {
        let serial = view.head.serial.wrapping_sub(back) & SERIAL_MASK;
        let entry = Entry::unpack(self.slot(serial).load(Ordering::Acquire));
        if entry.serial == serial {
            Ok(entry)
        } else {
            Err(Moved)
        }
    }

    /// When an admission at `now` nanoseconds would be stamped, in ticks.
    pub fn stamp(&self, view: &View, now: u64) -> u64 {
        self.ceil(now).max(view.time)
    }

    /// Admit one request, stamped `time`: one swap of the head.
    ///
    /// Returns false, with nothing done, if the head moved since `view`.
    #[inline]
    pub fn admit(&self, view: &View, time: u64, cost: Cost) -> bool {
        self.swap(view, time, cost, 1)
    }

    /// Charge what a request took beyond what was admitted. Its tokens count at `time`, and where
    /// requests are counted by serial so does the last admission, which is moved there: later
    /// than it was made, and so against the caller.
    pub fn charge(&self, view: &View, time: u64, over: Cost) -> bool {
        self.swap(view, time, over, 0)
    }

    fn swap(&self, view: &View, time: u64, cost: Cost, requests: u32) -> bool {
        let last_seen = &self.common[0].last_seen;
        if time > last_seen.load(Ordering::Relaxed) + SEEN_SLACK {
            last_seen.fetch_max(time, Ordering::Relaxed);
        }
        let is_own = if self.granule > 1 {
            time != view.time
        } else {
            requests > 0
        };
        let (first, second) = if self.is_split {
            (cost.input, cost.output)
        } else {
            (cost.weighted(self.output_weight), requests)
        };
        let next = Entry {
            serial: view.head.serial.wrapping_add(u32::from(is_own)),
            tick: time,
            first: view.head.first.wrapping_add(first),
            second: view.head.second.wrapping_add(second),
        }
        .pack();
        // Its slot is written by whoever looks at the log next.
        self.head[0]
            .word
            .compare_exchange(view.word, next, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::quota::{Name, Quota, Quotas};
    use super::*;

    fn log(serial: u32) -> Log {
        let quotas = Quotas::of(&[Quota {
            name: Name::Rps,
            limit: 6,
            window: std::time::Duration::from_nanos(10 * TICK_NANOS),
        }]);
        let layout = Layout::of(&quotas, 1).expect("the quota is in range");
        let log = Log::attach(&layout, &Memory::allocate(&layout), 1);
        log.begin(serial);
        log
    }

    fn admit(log: &Log, times: u64) {
        for _ in 0..times {
            let view = log.view();
            assert!(log.admit(&view, view.time + 1, Cost::input(1)));
        }
    }

    /// loom does not preempt one who only reads, so that the schedule is written out here.
    #[test]
    fn a_slot_of_another_turn_is_not_taken_for_an_older_one() {
        let log = log(SERIAL_MASK - 3);
        assert_eq!(log.slots(), 8);
        admit(&log, 8);
        let view = log.view();
        let oldest = log.entry(&view, 7).expect("nobody came in between");
        assert_eq!(log.since(&view, oldest, Unit::Requests), 7);
        // The slot is written over once the next admission has been looked at.
        admit(&log, 1);
        log.view();
        assert!(log.entry(&view, 7).is_err());
        assert!(log.entry(&view, 6).is_ok());
    }

    #[test]
    fn an_old_view_neither_writes_nor_admits() {
        let log = log(0);
        let old = log.view();
        admit(&log, 8);
        let view = log.view();
        log.publish(old.word);
        assert!(!log.admit(&old, 0, Cost::input(1)));
        let same_slot = log.entry(&view, 0).expect("the slot is as it was");
        assert_eq!(same_slot, view.head);
    }

    #[test]
    fn what_is_charged_later_counts_in_the_place_of_the_last_admission() {
        let log = log(5);
        admit(&log, 3);
        let before = log.view();
        assert!(log.charge(&before, before.time + 7, Cost::input(40)));
        let view = log.view();
        assert_eq!(view.head.serial, before.head.serial);
        assert_eq!(view.time, before.time + 7);
        assert_eq!(log.entry(&view, 0).expect("the slot is written"), view.head);
        let empty = log.entry(&view, 3).expect("the ring is long enough");
        assert_eq!(log.since(&view, empty, Unit::Tokens), 43);
        assert_eq!(log.since(&view, empty, Unit::Requests), 3);
    }
}
