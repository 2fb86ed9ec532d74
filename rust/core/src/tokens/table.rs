//! Tables of entries that are found by one look at a cache line, within a budget of memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::entry::Entry;
use super::pretokenize::{Machine, Portable};

/// Bytes that all tables of the process may take together.
pub const BUDGET: usize = 32 << 20;

/// Entries in fours: a piece is somewhere in the four that its hash names.
pub struct Table<E, V = ()> {
    fours: Vec<Four<E>>,
    /// What is remembered beside the count, in the order of the entries.
    values: Vec<[V; 4]>,
    used: usize,
    /// Entries given up for others since the table grew.
    lost: usize,
    /// The four of a hash is its upper bits.
    shift: u32,
    /// Which of four is given up next.
    turn: usize,
}

/// Four short entries are a cache line.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Four<E>([E; 4]);

impl<E: Entry, V: Copy + Default> Table<E, V> {
    pub const fn new() -> Self {
        Self {
            fours: Vec::new(),
            values: Vec::new(),
            used: 0,
            lost: 0,
            shift: 0,
            turn: 0,
        }
    }

    #[inline(always)]
    fn place(&self, key: &E) -> usize {
        #[allow(clippy::cast_possible_truncation)] // as many bits as there are fours
        let place = key.hash().wrapping_shr(self.shift) as usize;
        place
    }

    /// The count of the piece with this key, if it is remembered.
    #[inline(always)]
    pub fn find(&self, machine: impl Machine, key: &E) -> Option<usize> {
        let Four(four) = self.fours.get(self.place(key))?;
        E::find(four, machine, key)
    }

    /// The count of the piece with this key and its value, if they are remembered.
    #[inline(always)]
    pub fn get(&self, machine: impl Machine, key: &E) -> Option<(usize, &V)> {
        let place = self.place(key);
        let Four(four) = self.fours.get(place)?;
        let at = E::position(four, machine, key)?;
        Some((four[at].count(), &self.values[place][at]))
    }

    /// Remembers an entry; what it takes of the budget is added to `bytes`.
    pub fn insert(&mut self, entry: E, value: V, bytes: &AtomicUsize) {
        if self.find(Portable, &entry).is_some() {
            return;
        }
        let fours = self.fours.len();
        if self.used >= 2 * fours || self.lost > fours / 16 {
            self.grow(bytes);
        }
        if !self.fours.is_empty() {
            self.put(entry, value);
        }
    }

    fn put(&mut self, entry: E, value: V) {
        let place = self.place(&entry);
        let Four(four) = &mut self.fours[place];
        let free = four.iter().position(E::is_empty);
        self.used += usize::from(free.is_some());
        self.lost += usize::from(free.is_none());
        self.turn = (self.turn + 1) % 4;
        let at = free.unwrap_or(self.turn);
        four[at] = entry;
        self.values[place][at] = value;
    }

    /// Takes four times the room, where the budget has it.
    fn grow(&mut self, bytes: &AtomicUsize) {
        let (least, most) = E::FOURS;
        let fours = (4 * self.fours.len()).max(least);
        let more = (fours - self.fours.len()) * (size_of::<Four<E>>() + size_of::<[V; 4]>());
        if fours > most || !reserve(more, bytes) {
            return;
        }
        let entries = std::mem::replace(&mut self.fours, vec![Four::default(); fours]);
        let values = std::mem::replace(&mut self.values, vec![[V::default(); 4]; fours]);
        self.shift = 64 - fours.trailing_zeros();
        self.used = 0;
        self.lost = 0;
        for (Four(four), values) in entries.into_iter().zip(values) {
            let pairs = four.into_iter().zip(values);
            for (entry, value) in pairs.filter(|(entry, _)| !entry.is_empty()) {
                self.put(entry, value);
            }
        }
    }
}

/// Bytes of all tables.
static RESERVED: AtomicUsize = AtomicUsize::new(0);

/// Takes so many from the budget and adds them to `held`, if there are as many left.
pub fn reserve(bytes: usize, held: &AtomicUsize) -> bool {
    let take = |reserved: usize| Some(reserved + bytes).filter(|&all| all <= BUDGET);
    let taken = RESERVED
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        .is_ok();
    if taken {
        held.fetch_add(bytes, Ordering::Relaxed);
    }
    taken
}

/// Gives bytes back to the budget.
pub fn release(bytes: usize) {
    RESERVED.fetch_sub(bytes, Ordering::Relaxed);
}
