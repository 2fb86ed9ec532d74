//! Limiters shared between processes: the core's decisions on the memory of a mapped file.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pyo3::prelude::*;
use tollway_core::limiter::{Layout, Limiter, Quotas};
use tollway_io::mapped::{self, Directory, Glance, Mapped, SLOTS, Wanted, monotonic_nanos};

use crate::errors;
use crate::limiter::refusal;

/// One place more than there are members: the one from which a glance is taken.
const PLACES: usize = SLOTS + 1;

/// How often the dead are looked for while somebody waits; nanoseconds.
const SWEEP_EVERY: u64 = 10_000_000;

/// What others do wakes nobody here, so whoever waits asks again after this long at the latest.
pub const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What a limiter holds on to so that its memory stays.
type Keep = Arc<dyn Any + Send + Sync>;

/// Where a limiter's memory is.
pub enum Home {
    /// Its own, and nobody else's.
    Own,
    /// A file's, in which it has a place.
    Member(Member),
    /// A file's, at which it only looks.
    Guest(Arc<Glance>),
}

/// A limiter's place among those who share it.
pub struct Member {
    mapped: Arc<Mapped>,
    /// When the dead were looked for; nanoseconds of the limiter's clock.
    swept: AtomicU64,
}

fn trouble(error: impl std::fmt::Display) -> PyErr {
    errors::configuration(error.to_string())
}

fn layout(quotas: &Quotas) -> PyResult<Layout> {
    Layout::of(quotas, PLACES).map_err(refusal)
}

/// Share the limiter called `name`; `limits` is how its holders see what it holds.
pub fn open(name: &str, limits: &str, quotas: &Quotas) -> PyResult<(Limiter, Home)> {
    let layout = layout(quotas)?;
    let directory = Directory::of_user().map_err(trouble)?;
    let wanted = Wanted {
        bytes: layout.bytes(),
        layout: layout.hash(),
        limits,
    };
    let mapped = Mapped::open(&directory, name, &wanted, |blank| {
        // SAFETY: zeros of the length that was asked for, aligned to a page, which live until this
        // closure returns, and the limiter does not outlive it.
        let limiter = unsafe {
            let keep: Keep = Arc::new(());
            Limiter::attach(quotas, &layout, blank.memory, &keep, true, SLOTS)
        };
        if blank.follows
            && let Ok(limiter) = limiter
        {
            // Nothing is known of what was sent before.
            let windows = quotas.windows.iter().filter(|quota| !quota.name.is_day());
            let longest = windows.map(|quota| quota.window).max().unwrap_or_default();
            limiter.pause(None, u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX));
        }
    })
    .map_err(trouble)?;
    let mapped = Arc::new(mapped);
    let member = mapped.member();
    // SAFETY: as long as was asked for, aligned to a page, alive as long as `mapped`, and laid out
    // as the layout's hash says by whoever made it.
    let limiter = unsafe {
        let keep = Arc::clone(&mapped) as Keep;
        Limiter::attach(quotas, &layout, mapped.memory(), &keep, false, member.slot)
    }
    .map_err(refusal)?;
    limiter.enter(member.entry);
    let swept = AtomicU64::new(0);
    Ok((limiter, Home::Member(Member { mapped, swept })))
}

/// Look at the limiter called `name` without taking part; `None` where it is not there, or holds
/// other limits by now.
pub fn look(name: &str, limits: &str, quotas: &Quotas) -> PyResult<Option<(Limiter, Home)>> {
    let layout = layout(quotas)?;
    let Some(glance) = glance(name)? else {
        return Ok(None);
    };
    let is_same = glance.limits() == limits
        && glance.layout() == layout.hash()
        && glance.bytes() == layout.bytes();
    if !is_same {
        return Ok(None);
    }
    let glance = Arc::new(glance);
    // SAFETY: as in `open`.
    let limiter = unsafe {
        let keep = Arc::clone(&glance) as Keep;
        Limiter::attach(quotas, &layout, glance.memory(), &keep, false, SLOTS)
    };
    Ok(Some((limiter.map_err(refusal)?, Home::Guest(glance))))
}

fn glance(name: &str) -> PyResult<Option<Glance>> {
    let directory = Directory::of_user().map_err(trouble)?;
    Glance::at(&directory, name).map_err(trouble)
}

impl Home {
    /// The reading of the system's clock that is the limiter's zero.
    pub fn epoch(&self) -> u64 {
        match self {
            Self::Own => monotonic_nanos(),
            Self::Member(member) => member.mapped.epoch(),
            Self::Guest(glance) => glance.epoch(),
        }
    }

    /// Take back what the dead left, at most every few milliseconds; true if there was anything.
    pub fn sweep(&self, limiter: &Limiter, now: u64) -> bool {
        let Self::Member(Member { mapped, swept }) = self else {
            return false;
        };
        if now < swept.load(Ordering::Relaxed).saturating_add(SWEEP_EVERY) {
            return false;
        }
        swept.store(now, Ordering::Relaxed);
        let mut is_any_dead = false;
        for (slot, remains) in limiter.others() {
            let entry = remains.entry();
            if !mapped.is_alive(mapped::Member { slot, entry }) {
                limiter.forget(slot, remains);
                is_any_dead = true;
            }
        }
        is_any_dead
    }

    /// Whether anybody else has to do with this limiter.
    pub fn is_shared(&self) -> bool {
        !matches!(self, Self::Own)
    }

    /// Whether charges and reservations may be given back through it: not by a forked child, whose
    /// copy of a permit is its parent's.
    pub fn is_ours(&self) -> bool {
        match self {
            Self::Own => true,
            Self::Member(member) => !member.mapped.is_disowned(),
            Self::Guest(_) => false,
        }
    }

    /// Drop a forked child's copy of its parent's place.
    pub fn disown(&self) {
        if let Self::Member(member) = self {
            member.mapped.disown();
        }
    }

    /// Place and process of all who take part.
    pub fn participants(&self) -> Vec<(usize, u32)> {
        let Self::Guest(glance) = self else {
            return Vec::new();
        };
        let participants = glance.participants().into_iter();
        participants
            .map(|participant| (participant.slot, participant.process))
            .collect()
    }
}

#[pyfunction]
fn shared_limiters() -> PyResult<Vec<String>> {
    let directory = Directory::of_user().map_err(trouble)?;
    directory.names().map_err(trouble)
}

#[pyfunction]
fn shared_limits(name: &str) -> PyResult<Option<String>> {
    Ok(glance(name)?.map(|glance| glance.limits().to_owned()))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(shared_limiters, module)?)?;
    module.add_function(wrap_pyfunction!(shared_limits, module)?)
}
