//! The limiter: reads the clock, asks the core.

use std::time::{Duration, Instant};

use pyo3::prelude::*;
use tollway_core::limiter::{self, Decision, LimiterError, Poll, Ticket};

use crate::errors;

/// Tickets admitted, and the wait for the next: `None` where nobody waits, 0.0 where more may be
/// admitted at once.
type Served = (Vec<Ticket>, Option<f64>);

#[pyclass(frozen, module = "tollway._core")]
struct Limiter {
    /// Boxed: the interpreter does not align objects to a cache line, which the log asks for.
    limiter: Box<limiter::Limiter>,
    origin: Instant,
}

fn refusal(error: LimiterError) -> PyErr {
    match error {
        LimiterError::TooLarge { .. } => errors::request_too_large(error.to_string()),
        LimiterError::OutOfRange(_) => errors::configuration(error.to_string()),
    }
}

fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| errors::configuration(format!("{name} must be seconds >= 0, not {value}")))
}

/// A number of tokens as the core takes it.
fn size(tokens: i64) -> PyResult<u32> {
    u32::try_from(tokens).map_err(|_| {
        if tokens < 0 {
            errors::configuration(format!("tokens must be a number >= 0, not {tokens}"))
        } else {
            errors::request_too_large(format!(
                "a request of {tokens} tokens is more than any quota; split it"
            ))
        }
    })
}

impl Limiter {
    /// Nanoseconds since the origin: of the clock, or as given in seconds.
    fn now(&self, given: Option<f64>) -> PyResult<u64> {
        let elapsed = match given {
            None => self.origin.elapsed(),
            Some(now) => seconds("now", now)?,
        };
        Ok(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }
}

#[pymethods]
impl Limiter {
    #[new]
    #[pyo3(signature = (*, rpm=None, tpm=None, rps=None, sub_window=None, margin=None))]
    fn new(
        rpm: Option<u32>,
        tpm: Option<u32>,
        rps: Option<u32>,
        sub_window: Option<f64>,
        margin: Option<f64>,
    ) -> PyResult<Self> {
        let sub_window = sub_window
            .map(|length| seconds("sub_window", length))
            .transpose()?;
        let margin = margin.map(|margin| seconds("margin", margin)).transpose()?;
        let limits = limiter::Limits {
            rpm,
            tpm,
            rps,
            sub_window,
        };
        let limiter = limiter::Limiter::new(&limits, margin).map_err(refusal)?;
        Ok(Self {
            limiter: Box::new(limiter),
            origin: Instant::now(),
        })
    }

    #[pyo3(signature = (tokens=0, now=None))]
    fn try_acquire(&self, tokens: i64, now: Option<f64>) -> PyResult<f64> {
        match self
            .limiter
            .try_acquire(self.now(now)?, size(tokens)?)
            .map_err(refusal)?
        {
            Decision::Admitted => Ok(0.0),
            Decision::Wait(wait) => Ok(wait.as_secs_f64()),
        }
    }

    #[pyo3(signature = (tokens=0, now=None))]
    fn enqueue(&self, tokens: i64, now: Option<f64>) -> PyResult<Option<Ticket>> {
        self.limiter
            .enqueue(self.now(now)?, size(tokens)?)
            .map_err(refusal)
    }

    fn cancel(&self, ticket: Ticket) -> bool {
        self.limiter.cancel(ticket)
    }

    #[pyo3(signature = (most, now=None))]
    fn poll(&self, most: usize, now: Option<f64>) -> PyResult<Served> {
        let mut admitted = Vec::new();
        let wait = match self.limiter.poll(self.now(now)?, most, &mut admitted) {
            Poll::Empty => None,
            Poll::More => Some(0.0),
            Poll::Wait(wait) => Some(wait.as_secs_f64()),
        };
        Ok((admitted, wait))
    }

    fn clear_queue(&self) {
        self.limiter.clear_queue();
    }

    #[pyo3(signature = (now=None))]
    fn used(&self, now: Option<f64>) -> PyResult<Vec<u32>> {
        Ok(self.limiter.used(self.now(now)?))
    }

    #[getter]
    fn waiting(&self) -> usize {
        self.limiter.waiting()
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Limiter>()
}
