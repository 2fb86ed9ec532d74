//! The admission log: what has been admitted, in one word, and a ring of that word's past.
//!
//! The head word holds the serial number and time of the last admission and the tokens and requests
//! admitted since the log began. Slot `serial mod N` of the ring keeps the head as it was after that
//! admission, so the sum over any window is the difference of two words. An admission is one
//! compare-and-swap of the head: a thread that stops anywhere leaves the log whole, and the next
//! one writes the slot that it owed.
//!
//! Invariants, each with a model in `tests/loom.rs`:
//! - The head moves from word w only after the slot of w holds w. So every slot behind the head is
//!   written, and a slot that shows another serial than expected means that the head moved on.
//! - A slot is only swapped from a value read *before* the head was seen to be the word that it is
//!   to hold. A helper that slept in between finds either the value or the head changed.
//! - Times in the log never fall: an admission is stamped with the later of the caller's time,
//!   rounded up, and the head's.

use super::quota::Unit;
use crate::atomics::{AtomicU64, AtomicWord, Ordering, SERIAL_BITS, SUM_BITS, TICK_BITS, Word};

/// Length of a tick: 2⁴⁰ of them are 203 days.
pub const TICK_NANOS: u64 = 16_000;

/// The longest ring; beyond it admissions share slots.
const MAX_SLOTS: u64 = if cfg!(loom) { 1 << 4 } else { 1 << 20 };

/// Admissions that share a slot lie in one such span: 64 ticks, 1.024 ms.
const SHARED_TICKS: u64 = 64;

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
    /// Tokens admitted so far, mod 2^`SUM_BITS`.
    tokens: u32,
    /// Requests admitted so far, mod 2^`SUM_BITS`.
    requests: u32,
}

impl Entry {
    fn pack(self) -> Word {
        let mut word = Word::from(self.serial & SERIAL_MASK);
        word = word << TICK_BITS | Word::from(self.tick & TICK_MASK);
        for sum in [self.tokens, self.requests] {
            word = word << SUM_BITS | Word::from(u64::from(sum) & SUM_MASK);
        }
        word
    }

    #[allow(clippy::cast_possible_truncation)]
    fn unpack(word: Word) -> Self {
        Self {
            serial: (word >> (TICK_BITS + 2 * SUM_BITS)) as u32 & SERIAL_MASK,
            tick: (word >> (2 * SUM_BITS)) as u64 & TICK_MASK,
            tokens: ((word >> SUM_BITS) as u64 & SUM_MASK) as u32,
            requests: (word as u64 & SUM_MASK) as u32,
        }
    }

    /// What was admitted after `earlier` and up to here.
    pub fn since(self, earlier: Self, unit: Unit) -> u64 {
        let (now, then) = match unit {
            Unit::Requests => (self.requests, earlier.requests),
            Unit::Tokens => (self.tokens, earlier.tokens),
        };
        u64::from(now.wrapping_sub(then)) & SUM_MASK
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
pub(super) struct Moved;

#[repr(align(128))]
struct Line<T>(T);

pub(super) struct Log {
    head: Line<AtomicWord>,
    /// A time in ticks that the head's is never more than `SEEN_SLACK` ahead of. Raised before the
    /// head is, so that the upper bits of the head's time are known however long nobody came.
    last_seen: AtomicU64,
    ring: Box<[AtomicWord]>,
    /// Times are rounded up to a multiple of this.
    granule: u64,
    /// Ticks before the log's origin at which the ring's first, empty entries lie: more than the
    /// longest window, so that no window begins before the ring does.
    offset: u64,
}

impl Log {
    /// A log that can look back over `window` ticks when at most `admissions` fall into it;
    /// `None`, or more than the longest ring takes, makes admissions of a millisecond share a slot.
    /// The first serial is given so that wrap-around can be tested.
    pub fn starting_at(window: u64, admissions: Option<u64>, serial: u32) -> Self {
        // One slot more than the admissions of a window, and one for the head itself.
        let wanted = admissions.map(|count| (count + 2).next_power_of_two());
        let (slots, granule) = match wanted {
            Some(slots) if slots <= MAX_SLOTS => (slots, 1),
            _ => {
                let mut granule = SHARED_TICKS;
                while (window / granule + 3).next_power_of_two() > MAX_SLOTS {
                    granule *= 2;
                }
                ((window / granule + 3).next_power_of_two(), granule)
            }
        };
        let slots = u32::try_from(slots).expect("at most MAX_SLOTS");
        let empty = |index: u32| {
            let behind = serial.wrapping_sub(index) & (slots - 1);
            let word = Entry {
                serial: serial.wrapping_sub(behind),
                tick: 0,
                tokens: 0,
                requests: 0,
            };
            AtomicWord::new(word.pack())
        };
        Self {
            head: Line(AtomicWord::new(
                Entry {
                    serial,
                    tick: 0,
                    tokens: 0,
                    requests: 0,
                }
                .pack(),
            )),
            last_seen: AtomicU64::new(0),
            ring: (0..slots).map(empty).collect(),
            granule,
            offset: window + SEEN_SLACK,
        }
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
        u32::try_from(self.ring.len()).expect("at most MAX_SLOTS")
    }

    /// Ticks of a time since the origin, rounded down: what a window's end is compared with.
    pub fn floor(&self, nanos: u64) -> u64 {
        nanos / TICK_NANOS + self.offset
    }

    /// Ticks of a time since the origin, rounded up: what an admission is stamped with.
    fn ceil(&self, nanos: u64) -> u64 {
        (nanos.div_ceil(TICK_NANOS) + self.offset).next_multiple_of(self.granule)
    }

    /// Nanoseconds since the origin of a time in ticks; 0 for one before it.
    pub fn nanos(&self, ticks: u64) -> u64 {
        ticks.saturating_sub(self.offset) * TICK_NANOS
    }

    fn slot(&self, serial: u32) -> &AtomicWord {
        &self.ring[serial as usize & (self.ring.len() - 1)]
    }

    /// The head as it is now, its slot written.
    pub fn view(&self) -> View {
        let word = self.head.0.load(Ordering::Acquire);
        self.publish(word);
        let head = Entry::unpack(word);
        // The head's time lies in the 203 days up to `last_seen + SEEN_SLACK`; the load of the head
        // made every raise that came before it visible.
        let latest = self.last_seen.load(Ordering::Relaxed) + SEEN_SLACK;
        let behind = latest.wrapping_sub(head.tick) & TICK_MASK;
        View {
            word,
            head,
            time: latest.saturating_sub(behind),
        }
    }

    /// Write the slot of `word`, which was the head a moment ago, unless somebody has.
    fn publish(&self, word: Word) {
        let slot = self.slot(Entry::unpack(word).serial);
        loop {
            let held = slot.load(Ordering::Acquire);
            // Only the head's own word is ever written: when the head has moved on, whoever moved
            // it wrote the slot first. The order of these two loads is what makes a helper that
            // sleeps for a whole ring harmless: its swap below fails.
            if held == word || self.head.0.load(Ordering::Acquire) != word {
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
    pub fn entry(&self, view: &View, back: u32) -> Result<Entry, Moved> {
        let serial = view.head.serial.wrapping_sub(back) & SERIAL_MASK;
        let entry = Entry::unpack(self.slot(serial).load(Ordering::Acquire));
        if entry.serial == serial {
            Ok(entry)
        } else {
            Err(Moved)
        }
    }

    /// Admit one request at `now`: one swap of the head.
    ///
    /// Returns false, with nothing done, if the head moved since `view`.
    pub fn admit(&self, view: &View, now: u64, tokens: u32) -> bool {
        let time = self.ceil(now).max(view.time);
        if time > self.last_seen.load(Ordering::Relaxed) + SEEN_SLACK {
            self.last_seen.fetch_max(time, Ordering::Relaxed);
        }
        let shares = self.granule > 1 && time == view.time;
        let next = Entry {
            serial: view.head.serial.wrapping_add(u32::from(!shares)),
            tick: time,
            tokens: view.head.tokens.wrapping_add(tokens),
            requests: view.head.requests.wrapping_add(1),
        }
        .pack();
        // Its slot is written by whoever looks at the log next.
        self.head
            .0
            .compare_exchange(view.word, next, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn admit(log: &Log, times: u64) {
        for _ in 0..times {
            let view = log.view();
            assert!(log.admit(&view, view.time * TICK_NANOS, 1));
        }
    }

    /// loom does not preempt one who only reads, so that the schedule is written out here.
    #[test]
    fn a_slot_of_another_turn_is_not_taken_for_an_older_one() {
        let log = Log::starting_at(10, Some(6), SERIAL_MASK - 3);
        assert_eq!(log.slots(), 8);
        admit(&log, 8);
        let view = log.view();
        let oldest = log.entry(&view, 7).ok().expect("nobody came in between");
        assert_eq!(view.head.since(oldest, Unit::Requests), 7);
        // The slot is written over once the next admission has been looked at.
        admit(&log, 1);
        log.view();
        assert!(log.entry(&view, 7).is_err());
        assert!(log.entry(&view, 6).is_ok());
    }

    #[test]
    fn an_old_view_neither_writes_nor_admits() {
        let log = Log::starting_at(10, Some(6), 0);
        let old = log.view();
        admit(&log, 8);
        let view = log.view();
        log.publish(old.word);
        assert!(!log.admit(&old, 0, 1));
        let same_slot = log.entry(&view, 0).ok().expect("the slot is as it was");
        assert_eq!(same_slot, view.head);
    }
}
