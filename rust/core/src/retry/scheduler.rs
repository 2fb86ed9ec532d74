//! Pending retries, soonest first. The caller keeps one timer, for the first that is due.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Names a pending value until it is taken or cancelled; later ones are named otherwise.
pub type Ticket = u64;

const NO_SLOT: u32 = u32::MAX;

/// Cancelled entries that may stay whatever the number of live ones: sweeping fewer gains nothing.
const SWEEP_FLOOR: usize = 64;

/// A heap of times over a table of values.
///
/// Cancelling empties a value's slot and leaves its time in the heap, where it is thrown away when
/// it comes up, or swept out together with others once they are the greater part. So a cancel is
/// O(1) on average. Memory is that of the busiest time: 40 bytes for each pointer that was pending
/// at once, at most twice that just after a table has grown.
pub struct Scheduler<T> {
    heap: BinaryHeap<Reverse<Entry>>,
    slots: Vec<Slot<T>>,
    /// First of the empty slots, which are linked by `next`.
    free: u32,
    /// Slots with a value, each with exactly one entry of its generation in the heap.
    live: usize,
    /// Counts pushes, so that values due at the same time come out as they came in.
    serial: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    due: u64,
    serial: u64,
    slot: u32,
    generation: u32,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.serial).cmp(&(other.due, other.serial))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

struct Slot<T> {
    value: Option<T>,
    /// Rises each time the slot is emptied: an entry or ticket of an older one names nothing.
    generation: u32,
    next: u32,
}

impl<T> Default for Scheduler<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Scheduler<T> {
    /// Nothing pending.
    pub const fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            slots: Vec::new(),
            free: NO_SLOT,
            live: 0,
            serial: 0,
        }
    }

    /// How many are pending.
    pub const fn len(&self) -> usize {
        self.live
    }

    /// Whether nothing is pending.
    pub const fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// What is pending, in no order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// Bytes that the structure holds, spare room included.
    pub fn memory(&self) -> usize {
        self.heap.capacity() * size_of::<Entry>() + self.slots.capacity() * size_of::<Slot<T>>()
    }

    /// Keep `value` until the time `due`.
    ///
    /// # Panics
    /// With 2³² − 1 values pending.
    pub fn push(&mut self, due: u64, value: T) -> Ticket {
        let index = self.free;
        let (index, generation) = if let Some(slot) = self.slots.get_mut(index as usize) {
            self.free = slot.next;
            slot.value = Some(value);
            (index, slot.generation)
        } else {
            let index = u32::try_from(self.slots.len()).expect("under 2^32 values pending");
            assert!(index != NO_SLOT, "under 2^32 - 1 values pending");
            self.slots.push(Slot {
                value: Some(value),
                generation: 0,
                next: NO_SLOT,
            });
            (index, 0)
        };
        self.live += 1;
        self.serial += 1;
        self.heap.push(Reverse(Entry {
            due,
            serial: self.serial,
            slot: index,
            generation,
        }));
        u64::from(generation) << 32 | u64::from(index)
    }

    /// Take a value out before its time; None if it has been taken already.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<T> {
        // The upper half of a ticket is the generation, the lower the slot.
        let (generation, slot) = ((ticket >> 32) as u32, (ticket & 0xFFFF_FFFF) as u32);
        let value = self.take(slot, generation)?;
        if self.heap.len() > 2 * self.live + SWEEP_FLOOR {
            let slots = &self.slots;
            self.heap.retain(|Reverse(entry)| {
                let slot = &slots[entry.slot as usize];
                slot.generation == entry.generation
            });
        }
        Some(value)
    }

    /// Move what is due at `now` to `taken`, in order of time and then of arrival, `most` at most.
    pub fn pop_due(&mut self, now: u64, most: usize, taken: &mut Vec<T>) {
        let wanted = taken.len().saturating_add(most);
        while taken.len() < wanted {
            match self.heap.peek() {
                Some(Reverse(entry)) if entry.due <= now => {
                    let Entry {
                        slot, generation, ..
                    } = *entry;
                    self.heap.pop();
                    taken.extend(self.take(slot, generation));
                }
                _ => break,
            }
        }
    }

    /// When the first pending value is due.
    pub fn next_due(&mut self) -> Option<u64> {
        while let Some(Reverse(entry)) = self.heap.peek() {
            if self.slots[entry.slot as usize].generation == entry.generation {
                return Some(entry.due);
            }
            self.heap.pop();
        }
        None
    }

    fn take(&mut self, index: u32, generation: u32) -> Option<T> {
        let slot = self
            .slots
            .get_mut(index as usize)
            .filter(|slot| slot.generation == generation)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.next = self.free;
        self.free = index;
        self.live -= 1;
        Some(value)
    }
}
