//! The limiter: reads the clock, asks the core.

use std::time::Duration;

use pyo3::prelude::*;
use tollway_core::limiter::{
    self, Cost, Decision, Entrance, LimiterError, MAX_PRIORITY, Name, Poll, Request, Stamp, Ticket,
};

use tollway_io::mapped::monotonic_nanos;

use crate::errors;
use crate::shared::{self, Home};

/// Tickets admitted with their stamps, tickets refused with the reason, and the wait for the next:
/// `None` where nothing but a new waiter or the end of a reservation changes anything, 0.0 where
/// more may be admitted at once.
type Served = (Vec<(Ticket, u64)>, Vec<(Ticket, String)>, Option<f64>);

/// Name, length, configured limit, limit, use, and wait for one more.
type Window = (&'static str, f64, u64, u64, u64, f64);

/// Windows, reservations under way, waiters, answers of 429, and seconds that all is paused.
type State = (Vec<Window>, u64, usize, u64, f64);

/// Id of a process, its reservations under way, and seconds until the first of those who wait there
/// is due, with its tokens.
type Participant = (u32, u64, Option<(f64, u32, u32)>);

#[pyclass(frozen, module = "tollway._core")]
#[allow(clippy::struct_field_names, reason = "the core's word for it")]
struct Limiter {
    limiter: limiter::Limiter,
    /// What the system's clock read when the limiter's was at zero.
    epoch: u64,
    home: Home,
}

pub fn refusal(error: LimiterError) -> PyErr {
    match error {
        LimiterError::TooLarge { .. } => errors::request_too_large(error.to_string()),
        _ => errors::configuration(error.to_string()),
    }
}

fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| errors::configuration(format!("{name} must be seconds >= 0, not {value}")))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A number of tokens as the core takes it.
#[inline]
fn size(name: &str, tokens: i64) -> PyResult<u32> {
    u32::try_from(tokens).map_err(|_| {
        if tokens < 0 {
            errors::configuration(format!("{name} must be a number >= 0, not {tokens}"))
        } else {
            errors::request_too_large(format!(
                "a request of {tokens} tokens is more than any quota; split it"
            ))
        }
    })
}

#[inline]
fn cost(tokens: i64, output_tokens: i64) -> PyResult<Cost> {
    Ok(Cost {
        input: size("tokens", tokens)?,
        output: size("output_tokens", output_tokens)?,
    })
}

/// Tokens that a provider says were used: an absurd number counts as the largest.
fn used(tokens: u64) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

fn name(given: &str) -> PyResult<Name> {
    let found = Name::ALL.into_iter().find(|name| name.as_str() == given);
    found.ok_or_else(|| errors::configuration(format!("there is no limit named {given:?}")))
}

impl Limiter {
    /// Nanoseconds since the limiter's zero: of the clock, or as given in seconds.
    #[inline]
    fn now(&self, given: Option<f64>) -> PyResult<u64> {
        match given {
            None => Ok(monotonic_nanos().saturating_sub(self.epoch)),
            Some(now) => Ok(nanos(seconds("now", now)?)),
        }
    }
}

#[pymethods]
impl Limiter {
    #[new]
    #[pyo3(signature = (
        *, rpm=None, tpm=None, input_tpm=None, output_tpm=None, rps=None, rpd=None, tpd=None,
        sub_windows=vec![], output_weight=None, max_in_flight=None, is_calendar=false,
        admits_oversized=false, margin=None, shared=None, glance=false
    ))]
    #[allow(clippy::too_many_arguments, reason = "called with keywords")]
    fn new(
        rpm: Option<u64>,
        tpm: Option<u64>,
        input_tpm: Option<u64>,
        output_tpm: Option<u64>,
        rps: Option<u64>,
        rpd: Option<u64>,
        tpd: Option<u64>,
        sub_windows: Vec<f64>,
        output_weight: Option<u32>,
        max_in_flight: Option<u32>,
        is_calendar: bool,
        admits_oversized: bool,
        margin: Option<f64>,
        shared: Option<(String, String)>,
        glance: bool,
    ) -> PyResult<Self> {
        let sub_windows = sub_windows
            .into_iter()
            .map(|length| seconds("sub_window", length))
            .collect::<PyResult<_>>()?;
        let margin = margin.map(|margin| seconds("margin", margin)).transpose()?;
        let limits = limiter::Limits {
            rpm,
            tpm,
            input_tpm,
            output_tpm,
            rps,
            rpd,
            tpd,
            sub_windows,
            output_weight,
            max_in_flight,
            is_calendar,
            admits_oversized,
        };
        let quotas = limits.quotas(margin);
        let (limiter, home) = match shared {
            None => {
                let limiter = limiter::Limiter::with_quotas(&quotas).map_err(refusal)?;
                (limiter, Home::Own)
            }
            Some((name, limits)) if glance => {
                shared::look(&name, &limits, &quotas)?.ok_or_else(|| {
                    let other = "is not held with these limits, or by another version of tollway";
                    errors::configuration(format!("the limiter {name:?} {other}"))
                })?
            }
            Some((name, limits)) => shared::open(&name, &limits, &quotas)?,
        };
        Ok(Self {
            limiter,
            epoch: home.epoch(),
            home,
        })
    }

    #[pyo3(signature = (tokens=0, output_tokens=0, now=None))]
    fn try_acquire(&self, tokens: i64, output_tokens: i64, now: Option<f64>) -> PyResult<f64> {
        let cost = cost(tokens, output_tokens)?;
        let now = self.now(now)?;
        let mut decision = self.limiter.try_acquire(now, cost);
        if matches!(decision, Ok(Decision::Wait(_))) && self.home.sweep(&self.limiter, now) {
            decision = self.limiter.try_acquire(now, cost);
        }
        match decision {
            Ok(Decision::Admitted(_)) => Ok(0.0),
            Ok(Decision::Wait(wait)) => Ok(wait.as_secs_f64()),
            Err(error) => Err(refusal(error)),
        }
    }

    #[pyo3(signature = (tokens=0, output_tokens=0, *, priority=0, leased=false, now=None))]
    fn enqueue(
        &self,
        tokens: i64,
        output_tokens: i64,
        priority: i32,
        leased: bool,
        now: Option<f64>,
    ) -> PyResult<(Option<Ticket>, u64, bool)> {
        if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&priority) {
            return Err(errors::configuration(format!(
                "priority must be -{MAX_PRIORITY} to {MAX_PRIORITY}, not {priority}"
            )));
        }
        let request = Request {
            cost: cost(tokens, output_tokens)?,
            priority,
            is_leased: leased,
        };
        match self.limiter.enqueue(self.now(now)?, request) {
            Ok(Entrance::Admitted(Stamp(stamp))) => Ok((None, stamp, false)),
            Ok(Entrance::Waits { ticket, is_near }) => Ok((Some(ticket), 0, is_near)),
            Err(error) => Err(refusal(error)),
        }
    }

    fn cancel(&self, ticket: Ticket) -> bool {
        self.limiter.cancel(ticket)
    }

    #[pyo3(signature = (most, now=None))]
    fn poll(&self, most: usize, now: Option<f64>) -> PyResult<Served> {
        let mut served = limiter::Served::default();
        let now = self.now(now)?;
        let mut left = self.limiter.poll(now, most, &mut served);
        if matches!(left, Poll::Wait(_)) && self.home.sweep(&self.limiter, now) {
            let most = most - served.admitted.len() - served.refused.len();
            left = self.limiter.poll(now, most, &mut served);
        }
        let wait = match left {
            Poll::Empty | Poll::Full => None,
            Poll::More => Some(0.0),
            Poll::Wait(wait) if self.home.is_shared() => {
                Some(wait.min(shared::ASK_AGAIN).as_secs_f64())
            }
            Poll::Wait(wait) => Some(wait.as_secs_f64()),
        };
        let admitted = served.admitted.into_iter();
        let refused = served.refused.into_iter();
        Ok((
            admitted.map(|(ticket, stamp)| (ticket, stamp.0)).collect(),
            refused
                .map(|(ticket, error)| (ticket, error.to_string()))
                .collect(),
            wait,
        ))
    }

    fn clear_queue(&self) {
        self.limiter.clear_queue();
    }

    fn refund(&self, stamp: u64, tokens: i64, output_tokens: i64) -> PyResult<()> {
        let cost = cost(tokens, output_tokens)?;
        if self.home.is_ours() {
            self.limiter.refund(Stamp(stamp), cost);
        }
        Ok(())
    }

    #[pyo3(signature = (stamp, tokens, output_tokens, used_tokens, used_output_tokens, now=None))]
    fn settle(
        &self,
        stamp: u64,
        tokens: i64,
        output_tokens: i64,
        used_tokens: u64,
        used_output_tokens: u64,
        now: Option<f64>,
    ) -> PyResult<()> {
        let taken = Cost {
            input: used(used_tokens),
            output: used(used_output_tokens),
        };
        let reserved = cost(tokens, output_tokens)?;
        let now = self.now(now)?;
        if self.home.is_ours() {
            self.limiter.settle(now, Stamp(stamp), reserved, taken);
        }
        Ok(())
    }

    #[pyo3(signature = (stamp, tokens, output_tokens, now=None))]
    fn sent(&self, stamp: u64, tokens: i64, output_tokens: i64, now: Option<f64>) -> PyResult<u64> {
        let cost = cost(tokens, output_tokens)?;
        Ok(self.limiter.sent(self.now(now)?, Stamp(stamp), cost).0)
    }

    fn end_lease(&self) {
        if self.home.is_ours() {
            self.limiter.end_lease();
        }
    }

    fn disown(&self) {
        self.home.disown();
    }

    fn participants(&self) -> PyResult<Vec<Participant>> {
        let heads = self.limiter.heads(self.now(None)?);
        let participants = self.home.participants().into_iter();
        let described = participants
            .map(|(slot, process)| {
                let head = heads.iter().find(|head| head.process == slot);
                let head = head.map(|head| {
                    let Cost { input, output } = head.cost;
                    (head.due.as_secs_f64(), input, output)
                });
                (process, self.limiter.in_flight_of(slot), head)
            })
            .collect();
        Ok(described)
    }

    #[pyo3(signature = (length, limit=None, now=None))]
    fn pause(&self, length: f64, limit: Option<&str>, now: Option<f64>) -> PyResult<()> {
        let until = self
            .now(now)?
            .saturating_add(nanos(seconds("length", length)?));
        self.limiter.pause(limit.map(name).transpose()?, until);
        Ok(())
    }

    #[pyo3(signature = (limit, ceiling))]
    fn set_ceiling(&self, limit: &str, ceiling: Option<u64>) -> PyResult<()> {
        self.limiter.set_ceiling(name(limit)?, ceiling);
        Ok(())
    }

    fn note_throttled(&self) {
        self.limiter.note_throttled();
    }

    #[pyo3(signature = (since, left, slept=0.0, now=None))]
    fn set_day(&self, since: f64, left: f64, slept: f64, now: Option<f64>) -> PyResult<()> {
        let now = self.now(now)?;
        let start = now.saturating_sub(nanos(seconds("since", since)?));
        let end = now.saturating_add(nanos(seconds("left", left)?));
        let slept = seconds("slept", slept)?;
        self.limiter.set_day(now, start, end, slept);
        Ok(())
    }

    #[pyo3(signature = (now=None))]
    fn state(&self, now: Option<f64>) -> PyResult<State> {
        let state = self.limiter.state(self.now(now)?);
        let windows = state.windows.iter().map(|window| {
            (
                window.name.as_str(),
                window.window.as_secs_f64(),
                window.configured,
                window.limit,
                window.used,
                window.next.as_secs_f64(),
            )
        });
        Ok((
            windows.collect(),
            state.in_flight,
            state.waiting,
            state.throttled,
            state.paused.as_secs_f64(),
        ))
    }

    #[pyo3(signature = (now=None))]
    fn used(&self, now: Option<f64>) -> PyResult<Vec<u64>> {
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
