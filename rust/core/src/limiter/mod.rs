//! An exact, lock-free limiter of requests and tokens over sliding windows and days.

mod adjust;
mod admissions;
mod backfill;
mod days;
mod decide;
mod leases;
mod memory;
mod queue;
mod quota;
mod serve;
mod settle;
mod state;
mod window;

pub use decide::{Decision, Limiter, Stamp};
pub use memory::{Layout, TICK_NANOS};
pub use queue::{AGEING, MAX_PRIORITY, Request, Ticket};
pub use quota::{
    Cost, LimiterError, Limits, MAX_DAY_REQUESTS, MAX_DAY_TOKENS, MAX_LIMIT, Name, Quota, Quotas,
    Unit,
};
pub use serve::{Entrance, Poll, Served};
pub use state::{State, WindowState};
