//! Retrying: what to wait between attempts, as pure functions.

mod policy;

pub use policy::{Decision, Failure, Jitter, LONGEST_HINT, Policy, Strategy};
