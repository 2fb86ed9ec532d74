//! The pure core of tollway: it decides, and never blocks, sleeps, reads a clock, draws a random
//! number or touches a file. Time, draws and memory are arguments.

mod atomics;
pub mod bucket;
pub mod embed;
pub mod limiter;
pub mod retry;
pub mod tokens;

pub use atomics::is_lock_free;
