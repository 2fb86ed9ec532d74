//! Every admission with its time, and the quotas checked by looking at all of them.

// Every file of tests uses a part of it.
#![allow(dead_code)]

use std::time::Duration;

use tollway_core::limiter::{Cost, Decision, Name, Quota, Unit};

pub const TICK: u64 = 16_000;

pub const fn quota(name: Name, limit: u64, window: Duration) -> Quota {
    Quota {
        name,
        limit,
        window,
    }
}

pub fn nanos(decision: Decision) -> u64 {
    match decision {
        Decision::Admitted(_) => 0,
        Decision::Wait(wait) => u64::try_from(wait.as_nanos()).unwrap(),
    }
}

/// How much of a request counts for a quota.
pub fn amount(quota: &Quota, cost: Cost, output_weight: u32) -> u64 {
    let (input, output) = (u64::from(cost.input), u64::from(cost.output));
    match quota.name.unit() {
        Unit::Requests => 1,
        Unit::Tokens => input + output * u64::from(output_weight),
        Unit::Input => input,
        Unit::Output => output,
    }
}

pub struct ExactLog {
    quotas: Vec<Quota>,
    output_weight: u32,
    pub admitted: Vec<(u64, Cost)>,
}

impl ExactLog {
    pub fn new(quotas: &[Quota], output_weight: u32) -> Self {
        Self {
            quotas: quotas.to_vec(),
            output_weight,
            admitted: Vec::new(),
        }
    }

    pub fn used(&self, quota: &Quota, now: u64) -> u64 {
        let window = u64::try_from(quota.window.as_nanos()).unwrap();
        self.admitted
            .iter()
            .filter(|(at, _)| *at + window > now && *at <= now)
            .map(|(_, cost)| amount(quota, *cost, self.output_weight))
            .sum()
    }

    fn admits(&self, now: u64, cost: Cost) -> bool {
        self.quotas.iter().all(|quota| {
            let amount = amount(quota, cost, self.output_weight);
            amount == 0 || self.used(quota, now) + amount <= quota.limit
        })
    }

    /// The earliest time at which it admits: now, or when something leaves a window.
    pub fn due(&self, now: u64, cost: Cost) -> u64 {
        let leaves = |at: u64| {
            self.quotas
                .iter()
                .map(move |quota| at + u64::try_from(quota.window.as_nanos()).unwrap())
        };
        let mut times: Vec<u64> = self
            .admitted
            .iter()
            .flat_map(|(at, _)| leaves(*at))
            .collect();
        times.push(now);
        times.sort_unstable();
        let due = times
            .into_iter()
            .find(|at| *at >= now && self.admits(*at, cost));
        due.expect("everything leaves in the end")
    }

    /// Whether some request is too large for this log at any time.
    pub fn refuses(&self, cost: Cost) -> bool {
        self.quotas
            .iter()
            .any(|quota| amount(quota, cost, self.output_weight) > quota.limit)
    }
}
