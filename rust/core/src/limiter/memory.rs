//! The block of plain memory in which a limiter keeps all that several processes may share.
//!
//! Nothing in it is a pointer, and every field is one atomic that is right whatever bits it holds
//! or is whole by one swap: a process that dies or stops at any instruction leaves nothing half
//! done.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use super::quota::{LimiterError, Quotas, Unit};
use crate::atomics::{AtomicU64, AtomicWord};

/// Length of a tick: 2⁴⁰ of them are 203 days.
pub const TICK_NANOS: u64 = 16_000;

/// Charges of a request that is late each time that it is said to be sent: once more at its call,
/// once more when it is written. A ring for one of them would hold half the requests and less.
const CHARGES: u64 = 3;

/// The longest ring; beyond it admissions share slots.
const MAX_SLOTS: u64 = if cfg!(loom) { 1 << 4 } else { 1 << 20 };

/// Admissions that share a slot lie in one such span: 64 ticks, 1.024 ms.
const SHARED_TICKS: u64 = 64;

/// Ticks of a second: refunds are kept apart by the second they came from.
pub(super) const SECOND: u64 = if cfg!(loom) { 4 } else { 62_500 };

/// Refunds of windows under a minute are kept apart by such a part of the longest of them.
const PARTS: u64 = if cfg!(loom) { 13 } else { 125 };

/// Ticks of the minute after which a day's sums have a checkpoint.
pub(super) const MINUTE: u64 = 60 * SECOND;

/// Minutes kept: a calendar day of 25 hours, and a margin.
const MINUTES: usize = if cfg!(loom) { 8 } else { 1_504 };

/// Changes with the meaning of any field.
const VERSION: u64 = 2;

/// The word that every admission swaps, on a line of its own.
#[derive(Default)]
#[repr(C, align(128))]
pub(super) struct Head {
    pub word: AtomicWord,
}

/// What concerns the limiter as a whole; written seldom.
#[derive(Default)]
#[repr(C, align(128))]
pub(super) struct Common {
    /// A time in ticks that the head's is never more than `SEEN_SLACK` ahead of.
    pub last_seen: AtomicU64,
    /// Nothing is admitted before this time, in ticks.
    pub paused: AtomicU64,
    /// The newest second in which a refund lies.
    pub newest_refund: AtomicU64,
    /// The newest part of a window under a minute in which one lies.
    pub newest_short_refund: AtomicU64,
    /// Answers that said that a limit was exceeded.
    pub throttled: AtomicU64,
    /// How many of the processes' places were ever taken.
    pub places: AtomicU64,
}

/// What a provider said of one window.
#[derive(Default)]
#[repr(C)]
pub(super) struct Learned {
    /// A limit lower than the configured one; 0 for none.
    pub ceiling: AtomicU64,
    /// Nothing that counts here is admitted before this time, in ticks.
    pub paused: AtomicU64,
}

/// What one process has, which dies with it.
#[derive(Default)]
#[repr(C, align(128))]
pub(super) struct Process {
    /// Who waits first there; see `leases.rs`. 0 for nobody.
    pub posted: AtomicWord,
    /// Reservations under way.
    pub in_flight: AtomicU64,
}

/// A type that any bits are a value of, that needs no drop, and that is only changed by atomics.
///
/// # Safety
/// All of its fields are atomics or such types.
pub(super) unsafe trait Plain: Default + 'static {}

// SAFETY: an atomic integer.
unsafe impl Plain for AtomicWord {}
// SAFETY: atomic integers and padding.
unsafe impl Plain for Head {}
// SAFETY: atomic integers and padding.
unsafe impl Plain for Common {}
// SAFETY: atomic integers.
unsafe impl Plain for Learned {}
// SAFETY: atomic integers and padding.
unsafe impl Plain for Process {}

#[cfg(not(loom))]
mod array {
    use super::{Arc, NonNull, Plain};
    use std::any::Any;

    /// A part of the block.
    pub struct Array<T: Plain> {
        first: NonNull<T>,
        len: usize,
        /// Holds the block where it is.
        keep: Arc<dyn Any + Send + Sync>,
    }

    impl<T: Plain> Clone for Array<T> {
        fn clone(&self) -> Self {
            Self {
                first: self.first,
                len: self.len,
                keep: Arc::clone(&self.keep),
            }
        }
    }

    // SAFETY: a shared slice of atomics, and an owner that may be sent and shared.
    unsafe impl<T: Plain> Send for Array<T> {}
    // SAFETY: as above.
    unsafe impl<T: Plain> Sync for Array<T> {}

    impl<T: Plain> Array<T> {
        /// # Safety
        /// `memory + offset` is aligned for T, and `len` of them lie in memory that stays valid
        /// while `keep` lives and that is only changed by atomics.
        pub unsafe fn new(
            memory: NonNull<u8>,
            offset: usize,
            len: usize,
            keep: &Arc<dyn Any + Send + Sync>,
        ) -> Self {
            Self {
                // SAFETY: inside the block, as the caller promised.
                first: unsafe { memory.add(offset) }.cast(),
                len,
                keep: Arc::clone(keep),
            }
        }
    }

    impl<T: Plain> std::ops::Deref for Array<T> {
        type Target = [T];

        fn deref(&self) -> &[T] {
            // SAFETY: promised to `new`; any bits are a T.
            unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
        }
    }
}

#[cfg(loom)]
mod array {
    use super::{Arc, NonNull, Plain};
    use std::any::Any;

    /// loom's atomics have to be made one by one: the block's memory is not used.
    pub struct Array<T: Plain>(Arc<[T]>);

    impl<T: Plain> Clone for Array<T> {
        fn clone(&self) -> Self {
            Self(Arc::clone(&self.0))
        }
    }

    impl<T: Plain> Array<T> {
        /// # Safety
        /// None is needed.
        pub unsafe fn new(
            _memory: NonNull<u8>,
            _offset: usize,
            len: usize,
            _keep: &Arc<dyn Any + Send + Sync>,
        ) -> Self {
            Self((0..len).map(|_| T::default()).collect())
        }
    }

    impl<T: Plain> std::ops::Deref for Array<T> {
        type Target = [T];

        fn deref(&self) -> &[T] {
            &self.0
        }
    }
}

pub(super) use array::Array;

/// How a limiter's block is divided: the same for the same quotas and number of processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Times are rounded up to a multiple of this.
    pub(super) granule: u64,
    /// The longest window, days apart, in ticks.
    pub(super) longest: u64,
    /// Whether the log's second sum is output, and requests are counted by serial.
    pub(super) is_split: bool,
    pub(super) windows: usize,
    pub(super) slots: usize,
    pub(super) seconds: usize,
    /// Length of a part in ticks, and how many are kept: none without windows under a minute.
    pub(super) part: u64,
    pub(super) parts: usize,
    pub(super) minutes: usize,
    pub(super) processes: usize,
}

pub(super) fn ticks(window: std::time::Duration) -> u64 {
    u64::try_from(window.as_nanos().div_ceil(u128::from(TICK_NANOS))).unwrap_or(u64::MAX)
}

impl Layout {
    /// The layout for these quotas, shared by at most `processes`.
    pub fn of(quotas: &Quotas, processes: usize) -> Result<Self, LimiterError> {
        quotas.check()?;
        let short = || quotas.windows.iter().filter(|quota| !quota.name.is_day());
        let longest = short().map(|quota| ticks(quota.window)).max().unwrap_or(1);
        let is_split = quotas.is_split();
        // Where requests are only counted by serial, a limit a day needs serials as well.
        let counted = |day: bool| !day || is_split;
        let admissions = quotas
            .windows
            .iter()
            .filter(|quota| quota.name.unit() == Unit::Requests && counted(quota.name.is_day()))
            .map(|quota| longest.div_ceil(ticks(quota.window)) * quota.limit)
            .min();
        // One slot more than the charges of a window, and one for the head itself.
        let slots = |charges: u64| (charges + 2).next_power_of_two();
        let most = if quotas.tolerance.is_zero() {
            1
        } else {
            CHARGES
        };
        let (slots, granule) = match admissions {
            Some(count) if slots(count) <= MAX_SLOTS => (slots(most * count).min(MAX_SLOTS), 1),
            // A full ring denies.
            Some(_) if is_split => (MAX_SLOTS, 1),
            _ => {
                let mut granule = SHARED_TICKS;
                while (longest / granule + 3).next_power_of_two() > MAX_SLOTS {
                    granule *= 2;
                }
                ((longest / granule + 3).next_power_of_two(), granule)
            }
        };
        let under_a_minute = short()
            .map(|quota| ticks(quota.window))
            .filter(|it| *it < MINUTE);
        let part = under_a_minute.max().map(|longest| longest.div_ceil(PARTS));
        let has_days = quotas.windows.iter().any(|quota| quota.name.is_day());
        // None is more than 2²⁰.
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Self {
            granule,
            longest,
            is_split,
            windows: quotas.windows.len(),
            slots: size(slots),
            // One for the second that a window begins in, one for the present, one for a caller
            // whose clock is a little ahead.
            seconds: size(
                (longest.div_ceil(SECOND) + 3)
                    .next_power_of_two()
                    .min(1 << 16),
            ),
            part: part.unwrap_or(1).max(1),
            parts: if part.is_some() { size(PARTS + 3) } else { 0 },
            minutes: if has_days { MINUTES } else { 0 },
            processes: processes.max(1),
        })
    }

    /// Length of the block in bytes, a multiple of [`Self::align`].
    pub fn bytes(&self) -> usize {
        self.offsets().end
    }

    /// Alignment of the block in bytes.
    pub const fn align(&self) -> usize {
        128
    }

    /// How many processes may share the block.
    pub fn processes(&self) -> usize {
        self.processes
    }

    /// A number that differs between layouts: what a block was laid out as.
    pub fn hash(&self) -> u64 {
        let fields = [
            VERSION,
            TICK_NANOS,
            self.granule,
            self.longest,
            u64::from(self.is_split),
            self.windows as u64,
            self.slots as u64,
            self.seconds as u64,
            self.part,
            self.parts as u64,
            self.minutes as u64,
            self.processes as u64,
        ];
        // FNV-1a, 64 bits.
        fields
            .iter()
            .flat_map(|field| field.to_le_bytes())
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })
    }

    fn offsets(&self) -> Offsets {
        let mut end = 0;
        let mut place = |size: usize, len: usize| {
            let start = end;
            end = (start + size * len).next_multiple_of(self.align());
            start
        };
        Offsets {
            head: place(size_of::<Head>(), 1),
            common: place(size_of::<Common>(), 1),
            learned: place(size_of::<Learned>(), self.windows),
            processes: place(size_of::<Process>(), self.processes),
            refunds: place(size_of::<AtomicWord>(), self.seconds),
            short_refunds: place(size_of::<AtomicWord>(), self.parts),
            checkpoints: place(size_of::<AtomicWord>(), self.minutes),
            day_refunds: place(size_of::<AtomicWord>(), self.minutes),
            ring: place(size_of::<AtomicWord>(), self.slots),
            end,
        }
    }
}

struct Offsets {
    head: usize,
    common: usize,
    learned: usize,
    processes: usize,
    refunds: usize,
    short_refunds: usize,
    checkpoints: usize,
    day_refunds: usize,
    ring: usize,
    end: usize,
}

/// The parts of a block.
pub(super) struct Memory {
    pub head: Array<Head>,
    pub common: Array<Common>,
    pub learned: Array<Learned>,
    pub processes: Array<Process>,
    pub refunds: Array<AtomicWord>,
    pub short_refunds: Array<AtomicWord>,
    pub checkpoints: Array<AtomicWord>,
    pub day_refunds: Array<AtomicWord>,
    pub ring: Array<AtomicWord>,
}

impl Memory {
    /// # Safety
    /// `memory` is aligned to `layout.align()`, `layout.bytes()` of it stay valid while `keep`
    /// lives, and they are only changed by limiters of this layout.
    pub unsafe fn attach(
        layout: &Layout,
        memory: NonNull<u8>,
        keep: &Arc<dyn Any + Send + Sync>,
    ) -> Self {
        let at = layout.offsets();
        // SAFETY: each part lies inside the block, at a multiple of 128 bytes.
        unsafe {
            Self {
                head: Array::new(memory, at.head, 1, keep),
                common: Array::new(memory, at.common, 1, keep),
                learned: Array::new(memory, at.learned, layout.windows, keep),
                processes: Array::new(memory, at.processes, layout.processes, keep),
                refunds: Array::new(memory, at.refunds, layout.seconds, keep),
                short_refunds: Array::new(memory, at.short_refunds, layout.parts, keep),
                checkpoints: Array::new(memory, at.checkpoints, layout.minutes, keep),
                day_refunds: Array::new(memory, at.day_refunds, layout.minutes, keep),
                ring: Array::new(memory, at.ring, layout.slots, keep),
            }
        }
    }

    /// A block of zeros on the heap.
    pub fn allocate(layout: &Layout) -> Self {
        let lines = layout.bytes() / size_of::<Line>();
        let mut block = Vec::<Line>::with_capacity(lines);
        let memory = NonNull::new(block.as_mut_ptr()).expect("a vector's pointer is not null");
        // SAFETY: as many lines as were asked for, of zeros.
        unsafe {
            memory.as_ptr().write_bytes(0, lines);
            block.set_len(lines);
        }
        let keep: Arc<dyn Any + Send + Sync> = Arc::new(block);
        // SAFETY: the vector's memory stays where it is while `keep` holds it, and nothing else
        // refers to it.
        unsafe { Self::attach(layout, memory.cast(), &keep) }
    }
}

/// What the heap's block consists of.
#[repr(C, align(128))]
struct Line(std::cell::UnsafeCell<[u8; 128]>);

// SAFETY: never looked at but through the atomics of `Memory`.
unsafe impl Sync for Line {}
