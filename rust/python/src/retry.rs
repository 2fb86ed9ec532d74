//! Retry delays, pending retries, budgets and breakers for Python. Times are seconds of one clock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use tollway_core::retry::{
    Breaker, Budget, Decision, Failure, Jitter, Pass, Policy, Scheduler, State, Strategy, Ticket,
};

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

fn nanoseconds(at: f64) -> u64 {
    u64::try_from(seconds(at).as_nanos()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The core's changes are whole or do not happen.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No Python code runs while a lock below is held: objects are dropped outside of it.
#[pyclass(frozen, name = "Scheduler", module = "tollway._core")]
struct PyScheduler {
    pending: Mutex<Scheduler<Py<PyAny>>>,
}

#[pymethods]
impl PyScheduler {
    #[new]
    const fn new() -> Self {
        Self {
            pending: Mutex::new(Scheduler::new()),
        }
    }

    fn push(&self, due: f64, waiter: Py<PyAny>) -> Ticket {
        lock(&self.pending).push(nanoseconds(due), waiter)
    }

    fn cancel(&self, ticket: Ticket) -> Option<Py<PyAny>> {
        lock(&self.pending).cancel(ticket)
    }

    fn pop_due(&self, now: f64, most: usize) -> (Vec<Py<PyAny>>, Option<f64>) {
        let mut taken = Vec::new();
        let mut pending = lock(&self.pending);
        pending.pop_due(nanoseconds(now), most, &mut taken);
        let next = pending.next_due();
        drop(pending);
        (
            taken,
            next.map(|due| Duration::from_nanos(due).as_secs_f64()),
        )
    }

    #[getter]
    fn memory(&self) -> usize {
        lock(&self.pending).memory()
    }

    fn __len__(&self) -> usize {
        lock(&self.pending).len()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Held only by a thread that the collector has stopped: then nothing is collected yet.
        self.pending.try_lock().map_or(Ok(()), |pending| {
            pending.values().try_for_each(|waiter| visit.call(waiter))
        })
    }

    fn __clear__(&self) {
        let pending = std::mem::take(&mut *lock(&self.pending));
        drop(pending);
    }
}

#[pyclass(frozen, name = "RetryBudget", module = "tollway._core")]
struct PyBudget {
    budget: Mutex<Budget>,
}

#[pymethods]
impl PyBudget {
    #[new]
    fn new(ratio: f64, interval: f64) -> Self {
        Self {
            budget: Mutex::new(Budget::new(ratio, seconds(interval))),
        }
    }

    fn deposit(&self) -> bool {
        lock(&self.budget).deposit()
    }

    fn give_back(&self) {
        lock(&self.budget).give_back();
    }

    fn take(&self, now: f64) -> f64 {
        let taken = lock(&self.budget).take(nanoseconds(now));
        taken.map_or_else(|wait| wait.as_secs_f64(), |()| 0.0)
    }

    fn take_paid(&self) -> bool {
        lock(&self.budget).take_paid()
    }

    #[getter]
    fn balance(&self) -> f64 {
        lock(&self.budget).balance()
    }
}

#[derive(IntoPyObject)]
enum Admission {
    Pass(u32),
    Refused(f64),
}

#[pyclass(frozen, name = "CircuitBreaker", module = "tollway._core")]
struct PyBreaker {
    breaker: Mutex<Breaker>,
}

#[pymethods]
impl PyBreaker {
    #[new]
    fn new(cooldown: f64) -> Self {
        Self {
            breaker: Mutex::new(Breaker::new(seconds(cooldown))),
        }
    }

    fn state(&self, now: f64) -> &'static str {
        match lock(&self.breaker).state(nanoseconds(now)) {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half_open",
        }
    }

    fn admit(&self, now: f64) -> Admission {
        match lock(&self.breaker).admit(nanoseconds(now)) {
            Ok(pass) => Admission::Pass(pass.number()),
            Err(wait) => Admission::Refused(wait.as_secs_f64()),
        }
    }

    fn refusal(&self, now: f64) -> Option<f64> {
        lock(&self.breaker)
            .refusal(nanoseconds(now))
            .map(|wait| wait.as_secs_f64())
    }

    fn is_valid(&self, pass_: u32) -> bool {
        lock(&self.breaker).is_valid(Pass::from_number(pass_))
    }

    #[pyo3(signature = (pass_, now, hint=None))]
    fn trip(&self, pass_: u32, now: f64, hint: Option<f64>) -> bool {
        lock(&self.breaker).trip(
            Pass::from_number(pass_),
            nanoseconds(now),
            hint.map(seconds),
        )
    }

    fn succeed(&self, pass_: u32) -> bool {
        lock(&self.breaker).succeed(Pass::from_number(pass_))
    }

    fn release(&self, pass_: u32) {
        lock(&self.breaker).release(Pass::from_number(pass_));
    }

    fn abandon_probe(&self) {
        lock(&self.breaker).abandon_probe();
    }

    fn reset(&self) {
        lock(&self.breaker).reset();
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyBreaker>()?;
    module.add_class::<PyBudget>()?;
    module.add_class::<PyScheduler>()?;
    module.add_function(wrap_pyfunction!(retry_base, module)?)?;
    module.add_function(wrap_pyfunction!(retry_delay, module)?)
}
