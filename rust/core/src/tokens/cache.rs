//! How many tokens a piece has, remembered for pieces of up to 62 bytes.
//!
//! An entry holds the whole piece, so an answer is exact. Tables belong to lanes, each used by one
//! thread at a time; they grow as they fill, within a budget for the whole process.

use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use bytemuck::{Pod, Zeroable};

use super::pretokenize::{Machine, REACH};

/// Bytes that all tables of the process may take together.
pub const BUDGET: usize = 32 << 20;
/// Threads that can count with one vocabulary at the same time and remember.
const LANES: usize = 16;

/// A piece of up to 15 bytes, its length and its count: sixteen bytes, four to a cache line.
#[derive(Clone, Copy, Default)]
#[repr(C, align(16))]
pub struct Short {
    low: u64,
    /// Seven bytes of the piece, four bits of its length, four of its count.
    high: u64,
}

/// A piece of 16 to 30 bytes, or of 31 to 62, in so many words.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub struct Long<const WORDS: usize> {
    /// The piece, but for the two last bytes: they hold its count and its length.
    words: [u64; WORDS],
}

/// What a table holds; the default is an empty place and equals no key.
pub trait Entry: Copy + Default {
    /// Fours of a new table and of the largest, powers of two.
    const FOURS: (usize, usize);
    fn hash(&self) -> u64;
    /// Which of four has the piece of `key`.
    fn position(four: &[Self; 4], machine: impl Machine, key: &Self) -> Option<usize>;
    fn is_empty(&self) -> bool;
    fn count(&self) -> usize;
}

const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
const SHORT_COUNT_SHIFT: u32 = 60;
const SHORT_LENGTH_SHIFT: u32 = 56;
const LONG_COUNT_SHIFT: u32 = 48;
const LONG_LENGTH_SHIFT: u32 = 56;

/// The bytes of `low` and `high` that belong to a piece of so many.
static KEPT: [(u64, u64); 17] = {
    let mut kept = [(0, 0); 17];
    let mut length = 1;
    while length <= 16 {
        kept[length] = if length <= 8 {
            (u64::MAX >> (64 - 8 * length), 0)
        } else {
            (u64::MAX, u64::MAX >> (128 - 8 * length))
        };
        length += 1;
    }
    kept
};

impl Short {
    pub const MAX: usize = 15;

    /// The key of the first `length` ≤ 15 of these bytes.
    #[inline(always)]
    pub fn key(bytes: &[u8; REACH], length: usize) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let (low, high) = KEPT[length];
        Self {
            low: u64::from_le_bytes(words[0]) & low,
            high: u64::from_le_bytes(words[1]) & high | (length as u64) << SHORT_LENGTH_SHIFT,
        }
    }

    #[must_use]
    pub fn with_count(self, count: usize) -> Self {
        let high = self.high | (count as u64) << SHORT_COUNT_SHIFT;
        Self { high, ..self }
    }
}

impl Entry for Short {
    /// From 64 KiB to 1 MiB.
    const FOURS: (usize, usize) = (1 << 10, 1 << 14);

    #[inline(always)]
    fn hash(&self) -> u64 {
        // The count is no part of the piece.
        (self.low ^ (self.high << 4).rotate_left(23)).wrapping_mul(MIX)
    }

    #[inline(always)]
    fn position(four: &[Self; 4], machine: impl Machine, key: &Self) -> Option<usize> {
        let words = bytemuck::cast_ref(four);
        let mask = [u64::MAX, u64::MAX >> 4];
        let found = machine.equal(words, [key.low, key.high], mask);
        (found != 0).then(|| found.trailing_zeros() as usize / 2)
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.high == 0
    }

    #[inline(always)]
    fn count(&self) -> usize {
        (self.high >> SHORT_COUNT_SHIFT) as usize
    }
}

// SAFETY: all bits zero is the empty entry.
unsafe impl Zeroable for Short {}
// SAFETY: two words side by side, without padding, of which any bits are valid.
unsafe impl Pod for Short {}

/// Everything in the last word of a `Long` but the count.
const LONG_KEY: u64 = !(0xff << LONG_COUNT_SHIFT);

impl<const WORDS: usize> Long<WORDS> {
    /// The longest piece.
    pub const MAX: usize = 8 * WORDS - 2;

    /// The key of the first `length` of these bytes: more than 16 × (WORDS / 2 - 1) and at most
    /// `MAX`.
    #[inline(always)]
    pub fn key(bytes: &[u8; REACH], length: usize) -> Self {
        let (given, _) = bytes.as_chunks::<8>();
        let mut words = [0; WORDS];
        for pair in 0..WORDS / 2 {
            let (low, high) = KEPT[length.saturating_sub(16 * pair).min(16)];
            words[2 * pair] = u64::from_le_bytes(given[2 * pair]) & low;
            words[2 * pair + 1] = u64::from_le_bytes(given[2 * pair + 1]) & high;
        }
        words[WORDS - 1] |= (length as u64) << LONG_LENGTH_SHIFT;
        Self { words }
    }

    #[must_use]
    pub fn with_count(mut self, count: usize) -> Self {
        self.words[WORDS - 1] |= (count as u64) << LONG_COUNT_SHIFT;
        self
    }
}

impl<const WORDS: usize> Default for Long<WORDS> {
    fn default() -> Self {
        Self { words: [0; WORDS] }
    }
}

impl<const WORDS: usize> Entry for Long<WORDS> {
    /// From 16 KiB to 512 KiB for either length.
    const FOURS: (usize, usize) = ((16 << 10) / (32 * WORDS), (256 << 10) / (32 * WORDS));

    #[inline(always)]
    fn hash(&self) -> u64 {
        let mut mixed = self.words[WORDS - 1] & LONG_KEY;
        for &word in &self.words[..WORDS - 1] {
            mixed = mixed.rotate_left(23) ^ word;
        }
        mixed.wrapping_mul(MIX)
    }

    #[inline(always)]
    fn position(four: &[Self; 4], _: impl Machine, key: &Self) -> Option<usize> {
        four.iter().position(|entry| {
            let last = (entry.words[WORDS - 1] ^ key.words[WORDS - 1]) & LONG_KEY;
            let others = entry.words.iter().zip(&key.words).take(WORDS - 1);
            others.fold(last, |different, (a, b)| different | a ^ b) == 0
        })
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.words[WORDS - 1] == 0
    }

    #[inline(always)]
    fn count(&self) -> usize {
        (self.words[WORDS - 1] >> LONG_COUNT_SHIFT & 0xff) as usize
    }
}

/// Entries in fours: a piece is somewhere in the four that its hash names.
pub struct Table<E> {
    fours: Vec<Four<E>>,
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

impl<E: Entry> Table<E> {
    const fn new() -> Self {
        Self {
            fours: Vec::new(),
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
        Some(four[E::position(four, machine, key)?].count())
    }

    /// Remembers an entry that is not there.
    pub fn insert(&mut self, entry: E, bytes: &AtomicUsize) {
        if self.used >= 2 * self.fours.len() || self.lost > self.fours.len() / 16 {
            self.grow(bytes);
        }
        if !self.fours.is_empty() {
            self.put(entry);
        }
    }

    fn put(&mut self, entry: E) {
        let place = self.place(&entry);
        let Four(four) = &mut self.fours[place];
        let free = four.iter().position(E::is_empty);
        self.used += usize::from(free.is_some());
        self.lost += usize::from(free.is_none());
        self.turn = (self.turn + 1) % 4;
        four[free.unwrap_or(self.turn)] = entry;
    }

    /// Takes four times the room, where the budget has it.
    fn grow(&mut self, bytes: &AtomicUsize) {
        let (least, most) = E::FOURS;
        let fours = (4 * self.fours.len()).max(least);
        let more = (fours - self.fours.len()) * size_of::<Four<E>>();
        if fours > most || !reserve(more) {
            return;
        }
        bytes.fetch_add(more, Ordering::Relaxed);
        let old = std::mem::replace(&mut self.fours, vec![Four::default(); fours]);
        self.shift = 64 - fours.trailing_zeros();
        self.used = 0;
        self.lost = 0;
        for Four(four) in old {
            for entry in four.into_iter().filter(|entry| !entry.is_empty()) {
                self.put(entry);
            }
        }
    }
}

/// Bytes of all tables.
static RESERVED: AtomicUsize = AtomicUsize::new(0);

fn reserve(bytes: usize) -> bool {
    let take = |reserved: usize| Some(reserved + bytes).filter(|&all| all <= BUDGET);
    RESERVED
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        .is_ok()
}

/// The tables of one lane.
pub struct Cache {
    pub short: Table<Short>,
    pub long: Table<Long<4>>,
    pub longer: Table<Long<8>>,
}

impl Cache {
    const fn new() -> Self {
        Self {
            short: Table::new(),
            long: Table::new(),
            longer: Table::new(),
        }
    }
}

/// 1 in the process that loaded the library, one more in each generation of its children.
static GENERATION: AtomicU32 = AtomicU32::new(1);
const FREE: u32 = 0;

/// To be called in the child of a fork, before it has a second thread: tables that other threads of
/// the parent were using are given up there, since those threads do not exist to finish.
pub fn forked() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// The tables that one thread uses at a time. Lanes do not share cache lines.
#[repr(align(128))]
struct Lane {
    /// `FREE`, or the generation of the thread that holds the lane.
    holder: AtomicU32,
    /// Bytes reserved for the tables.
    bytes: AtomicUsize,
    /// Only the holder looks inside.
    cache: UnsafeCell<Cache>,
}

// SAFETY: `cache` is reached only through a `Held`, of which `holder` allows one at a time.
unsafe impl Sync for Lane {}

/// The lanes of one vocabulary and pattern.
pub struct Lanes([Lane; LANES]);

/// A lane that this thread holds.
pub struct Held(&'static Lane);

thread_local! {
    /// The lane that this thread had last: its tables are in this core's caches.
    static LAST: Cell<usize> = const { Cell::new(0) };
}

impl Lane {
    const fn new() -> Self {
        Self {
            holder: AtomicU32::new(FREE),
            bytes: AtomicUsize::new(0),
            cache: UnsafeCell::new(Cache::new()),
        }
    }

    fn try_hold(&'static self) -> Option<Held> {
        let generation = GENERATION.load(Ordering::Relaxed);
        let take = |from| {
            self.holder
                .compare_exchange(from, generation, Ordering::Acquire, Ordering::Relaxed)
        };
        match take(FREE) {
            Ok(_) => Some(Held(self)),
            Err(holder) if holder == generation => None,
            Err(holder) => {
                take(holder).ok()?;
                RESERVED.fetch_sub(self.bytes.swap(0, Ordering::Relaxed), Ordering::Relaxed);
                // SAFETY: the holder was a thread of a parent process, and this thread has just
                // taken its place. What it left may be half written: it is not dropped.
                unsafe { self.cache.get().write(Cache::new()) };
                Some(Held(self))
            }
        }
    }
}

impl Lanes {
    pub const fn new() -> Self {
        Self([const { Lane::new() }; LANES])
    }

    /// A lane for this thread, or `None` where all are in use.
    #[inline]
    pub fn hold(&'static self) -> Option<Held> {
        let last = LAST.get();
        self.0[last].try_hold().or_else(|| self.any())
    }

    #[cold]
    fn any(&'static self) -> Option<Held> {
        self.0.iter().enumerate().find_map(|(at, lane)| {
            let held = lane.try_hold()?;
            LAST.set(at);
            Some(held)
        })
    }
}

impl Held {
    #[inline]
    pub fn cache(&mut self) -> (&mut Cache, &AtomicUsize) {
        // SAFETY: this thread holds the lane, and the borrow ends with that of the only `Held`.
        (unsafe { &mut *self.0.cache.get() }, &self.0.bytes)
    }
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        self.0.holder.store(FREE, Ordering::Release);
    }
}
