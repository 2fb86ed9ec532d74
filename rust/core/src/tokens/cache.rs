//! What is remembered of pieces: how many tokens each has, and which.
//!
//! Tables belong to lanes, each used by one thread at a time; they grow as they fill, within a
//! budget for the whole process.

use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::count::Waiting;
use super::entry::{Long, Short};
use super::pairs::Pairs;
use super::table::{Table, release};

/// Threads that can work with one vocabulary at the same time and remember.
const LANES: usize = 16;

/// The tables of one lane.
pub struct Cache {
    pub waiting: Waiting,
    pub pairs: Pairs,
    pub short: Table<Short>,
    pub long: Table<Long<4>>,
    pub longer: Table<Long<8>>,
    pub short_ids: Table<Short, [u32; 8]>,
    pub long_ids: Table<Long<4>, [u32; 14]>,
}

impl Cache {
    const fn new() -> Self {
        Self {
            waiting: Waiting::new(),
            pairs: Pairs::none(),
            short: Table::new(),
            long: Table::new(),
            longer: Table::new(),
            short_ids: Table::new(),
            long_ids: Table::new(),
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
                release(self.bytes.swap(0, Ordering::Relaxed));
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
