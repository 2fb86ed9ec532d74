//! The one place that picks real or model-checked atomics, and the width of the admission word.
//!
//! loom has no 128-bit atomic, so under `--cfg loom` the word has 64 bits and narrow fields; the
//! code above is the same, and wrap-around comes sooner.

#[cfg(not(loom))]
mod imp {
    pub use portable_atomic::{AtomicU64, AtomicU128 as AtomicWord, Ordering};

    pub type Word = u128;
    pub const SERIAL_BITS: u32 = 24;
    pub const TICK_BITS: u32 = 40;
    pub const SUM_BITS: u32 = 32;
    /// Of a cell's word: number of the period, requests, and twice tokens.
    pub const PERIOD_BITS: u32 = 28;
    pub const REQUEST_BITS: u32 = 28;
    pub const TOKEN_BITS: u32 = 36;
    /// Of the word of a posted head: twice a time, and twice a number of tokens.
    pub const POST_TICK_BITS: u32 = 40;
    pub const POST_SIZE_BITS: u32 = 24;

    /// Whether the word is swapped by one instruction on this machine.
    pub fn is_lock_free() -> bool {
        AtomicWord::is_lock_free()
    }
}

#[cfg(loom)]
mod imp {
    pub use loom::sync::atomic::{AtomicU64, AtomicU64 as AtomicWord, Ordering};

    pub type Word = u64;
    pub const SERIAL_BITS: u32 = 6;
    pub const TICK_BITS: u32 = 18;
    pub const SUM_BITS: u32 = 20;
    pub const PERIOD_BITS: u32 = 8;
    pub const REQUEST_BITS: u32 = 8;
    pub const TOKEN_BITS: u32 = 24;
    pub const POST_TICK_BITS: u32 = 18;
    pub const POST_SIZE_BITS: u32 = 14;

    /// loom's atomics stand for lock-free ones.
    pub fn is_lock_free() -> bool {
        true
    }
}

pub(crate) use imp::{
    AtomicU64, AtomicWord, Ordering, PERIOD_BITS, POST_SIZE_BITS, POST_TICK_BITS, REQUEST_BITS,
    SERIAL_BITS, SUM_BITS, TICK_BITS, TOKEN_BITS, Word,
};

pub use imp::is_lock_free;
