//! Retrying: what to wait between attempts, who waits, and when to stop asking.

mod breaker;
mod budget;
mod policy;
mod scheduler;

pub use breaker::{Breaker, Pass, State};
pub use budget::{Budget, LARGEST_BALANCE};
pub use policy::{Decision, Failure, Jitter, LONGEST_HINT, Policy, Strategy};
pub use scheduler::{Scheduler, Ticket};
