//! The pure core of tollway: it decides, and never blocks, sleeps, reads a clock, draws a random
//! number or touches a file. Time, draws and memory are arguments.

pub mod embed;
pub mod limiter;
pub mod retry;
pub mod tokens;
