//! An exact, lock-free limiter of requests and tokens over sliding windows.

mod admissions;
mod queue;
mod quota;
mod window;

pub use queue::{Poll, Ticket};
pub use quota::{Limits, MAX_LIMIT, Quota, Unit};
pub use window::{Decision, Limiter, LimiterError};
