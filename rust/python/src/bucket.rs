//! The token bucket: reads the clock, asks the core.

use std::time::{Duration, Instant};

use pyo3::prelude::*;
use tollway_core::bucket::{self, Take};

use crate::errors;

#[pyclass(frozen, module = "tollway._core")]
struct TokenBucket {
    bucket: bucket::TokenBucket,
    origin: Instant,
}

impl TokenBucket {
    /// Nanoseconds since the origin: of the clock, or as given in seconds.
    fn now(&self, given: Option<f64>) -> PyResult<u64> {
        let elapsed = match given {
            None => self.origin.elapsed(),
            Some(now) => Duration::try_from_secs_f64(now).map_err(|_| {
                errors::configuration(format!("now must be seconds >= 0, not {now}"))
            })?,
        };
        Ok(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }
}

#[pymethods]
impl TokenBucket {
    #[new]
    fn new(rate: f64, capacity: f64) -> PyResult<Self> {
        let bucket = bucket::TokenBucket::new(rate, capacity).ok_or_else(|| {
            errors::configuration(format!(
                "a bucket needs a rate above 0, a capacity of at least 1, both at most 1e15, and \
                 at most a hundred years for a refill; not rate={rate}, capacity={capacity}"
            ))
        })?;
        Ok(Self {
            bucket,
            origin: Instant::now(),
        })
    }

    #[pyo3(signature = (n=1, now=None))]
    fn take(&self, n: i64, now: Option<f64>) -> PyResult<f64> {
        let tokens = u64::try_from(n)
            .map_err(|_| errors::configuration(format!("n must be a number >= 0, not {n}")))?;
        match self.bucket.take(self.now(now)?, tokens) {
            Take::Taken => Ok(0.0),
            Take::Wait(wait) => Ok(wait.as_secs_f64()),
            Take::TooLarge => Err(errors::request_too_large(format!(
                "{n} is more than the bucket holds; take it in parts"
            ))),
        }
    }

    #[pyo3(signature = (now=None))]
    fn level(&self, now: Option<f64>) -> PyResult<u64> {
        Ok(self.bucket.level(self.now(now)?))
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<TokenBucket>()
}
