//! Stops asking where an answer has said that asking again is of no use.

use std::time::Duration;

/// Whether requests are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All are.
    Closed,
    /// None is.
    Open,
    /// One is, to learn whether the trouble is over.
    HalfOpen,
}

/// Leave to send requests, until the breaker opens or is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass(u32);

impl Pass {
    /// The pass as a number that a caller can hold.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The pass of a number.
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    /// Nobody is let through before `until`; after it, one.
    Open {
        until: u64,
    },
    /// The one who was let through has not come back.
    Probing,
}

/// Closed → open when tripped → half-open after a while → closed or open, as the one request went.
#[derive(Debug, Clone)]
pub struct Breaker {
    cooldown: u64,
    phase: Phase,
    /// Rises with every change of phase but a probe's success. What comes back from an earlier one
    /// is no verdict on the present: it neither opens a breaker that was reset nor closes an open
    /// one.
    epoch: u32,
}

impl Breaker {
    /// Closed. `cooldown` is how long it stays open once tripped.
    pub fn new(cooldown: Duration) -> Self {
        Self {
            cooldown: nanoseconds(cooldown),
            phase: Phase::Closed,
            epoch: 0,
        }
    }

    /// Whether requests are let through at `now` (nanoseconds).
    pub fn state(&self, now: u64) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open { until } if now < until => State::Open,
            Phase::Open { .. } | Phase::Probing => State::HalfOpen,
        }
    }

    /// How long leave would be refused at `now`; zero while another request is the probe, `None`
    /// where it would be given.
    pub const fn refusal(&self, now: u64) -> Option<Duration> {
        match self.phase {
            Phase::Open { until } if now < until => Some(Duration::from_nanos(until - now)),
            Phase::Closed | Phase::Open { .. } => None,
            Phase::Probing => Some(Duration::ZERO),
        }
    }

    /// Ask for leave, or learn how long there is none, as by [`Breaker::refusal`].
    pub fn admit(&mut self, now: u64) -> Result<Pass, Duration> {
        if let Some(wait) = self.refusal(now) {
            return Err(wait);
        }
        if self.phase != Phase::Closed {
            self.enter(Phase::Probing);
        }
        Ok(Pass(self.epoch))
    }

    /// Whether a pass still lets its holder send.
    pub const fn is_valid(&self, pass: Pass) -> bool {
        pass.0 == self.epoch
    }

    /// Open, for `cooldown` or the longer `hint`. False if the pass is no longer valid.
    pub fn trip(&mut self, pass: Pass, now: u64, hint: Option<Duration>) -> bool {
        if !self.is_valid(pass) {
            return false;
        }
        let wait = hint.map_or(0, nanoseconds).max(self.cooldown);
        self.enter(Phase::Open {
            until: now.saturating_add(wait),
        });
        true
    }

    /// Note a success: that of the probe closes. True if it did.
    pub fn succeed(&mut self, pass: Pass) -> bool {
        let closes = self.is_valid(pass) && self.phase == Phase::Probing;
        if closes {
            self.phase = Phase::Closed;
        }
        closes
    }

    /// Note an end that proves nothing: the next one may be the probe.
    pub fn release(&mut self, pass: Pass) {
        if self.is_valid(pass) && self.phase == Phase::Probing {
            self.enter(Phase::Open { until: 0 });
        }
    }

    /// Forget a probe that will not come back: what a forked child does with its parent's.
    pub fn abandon_probe(&mut self) {
        self.release(Pass(self.epoch));
    }

    /// Close by hand.
    pub fn reset(&mut self) {
        self.enter(Phase::Closed);
    }

    const fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.epoch = self.epoch.wrapping_add(1);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
