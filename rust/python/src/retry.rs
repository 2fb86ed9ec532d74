//! Retry delays for Python.

use std::time::Duration;

use pyo3::prelude::*;
use tollway_core::retry::{Decision, Failure, Jitter, Policy, Strategy};

use crate::errors;

#[derive(IntoPyObject)]
enum Outcome {
    Wait(f64),
    GiveUp(&'static str),
}

#[pyfunction]
#[pyo3(signature = (
    strategy, jitter, base_delay, max_delay, retry, draw,
    *, previous=None, hint=None, timed_out=false, remaining=None,
))]
#[allow(
    clippy::too_many_arguments,
    reason = "a function of numbers, called with keywords"
)]
fn retry_delay(
    strategy: &str,
    jitter: &str,
    base_delay: f64,
    max_delay: f64,
    retry: u32,
    draw: f64,
    previous: Option<f64>,
    hint: Option<f64>,
    timed_out: bool,
    remaining: Option<f64>,
) -> PyResult<Outcome> {
    let policy = Policy {
        strategy: named(&Strategy::ALL, "strategy", strategy)?,
        jitter: named(&Jitter::ALL, "jitter", jitter)?,
        base: seconds(base_delay),
        max_delay: seconds(max_delay),
    };
    let failure = Failure {
        retry,
        draw,
        previous: previous.map(seconds),
        hint: hint.filter(|hint| *hint >= 0.0).map(seconds),
        timed_out,
        remaining: remaining.map(seconds),
    };
    Ok(match policy.decide(&failure) {
        Decision::Wait(wait) => Outcome::Wait(wait.as_secs_f64()),
        Decision::Deadline => Outcome::GiveUp("deadline"),
        Decision::Hint => Outcome::GiveUp("hint"),
    })
}

#[pyfunction]
fn retry_base(strategy: &str) -> PyResult<f64> {
    Ok(named(&Strategy::ALL, "strategy", strategy)?
        .default_base()
        .as_secs_f64())
}

fn named<T: Copy>(all: &[(&str, T)], field: &str, name: &str) -> PyResult<T> {
    all.iter()
        .find_map(|(known, it)| (*known == name).then_some(*it))
        .ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|(known, _)| *known).collect();
            errors::configuration(format!(
                "{field}={name:?} is not one of {}",
                names.join(", ")
            ))
        })
}

/// NaN and negative seconds are none; more than a Duration holds is as long as there is.
fn seconds(seconds: f64) -> Duration {
    if seconds > 0.0 {
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    } else {
        Duration::ZERO
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(retry_base, module)?)?;
    module.add_function(wrap_pyfunction!(retry_delay, module)?)
}
