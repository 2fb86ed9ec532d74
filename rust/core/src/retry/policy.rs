//! How long to wait after a failed attempt. Time and the random draw are arguments.

use std::time::Duration;

/// A server that asks for more than this is not waited for: a spent day's quota, most often.
pub const LONGEST_HINT: Duration = Duration::from_secs(600);

/// How the wait grows with the number of the retry, n = 1, 2, …
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// base · 2ⁿ⁻¹
    ExponentialBackoff,
    /// base · n
    Incremental,
    /// base · n; its default base differs
    Linear,
    /// base
    Fixed,
    /// uniform in [base, `max_delay`]
    Random,
    /// uniform in [base, 3 · previous wait], the previous one being base at first
    Decorrelated,
    /// what the server asks for; where it asks for nothing, as `ExponentialBackoff`
    Native,
}

impl Strategy {
    /// Every strategy by its public name.
    pub const ALL: [(&'static str, Self); 7] = [
        ("exponential_backoff", Self::ExponentialBackoff),
        ("incremental", Self::Incremental),
        ("linear", Self::Linear),
        ("fixed", Self::Fixed),
        ("random", Self::Random),
        ("decorrelated", Self::Decorrelated),
        ("native", Self::Native),
    ];

    /// The strategy of a public name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find_map(|(known, it)| (known == name).then_some(it))
    }

    /// The base where the caller names none.
    pub const fn default_base(self) -> Duration {
        match self {
            Self::Fixed => Duration::from_secs(60),
            Self::Linear => Duration::from_secs(10),
            _ => Duration::from_secs(1),
        }
    }
}

/// How a computed wait d is spread, so that many callers do not come back at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// d
    None,
    /// uniform in [0, d]
    Full,
    /// uniform in [d/2, d]
    Equal,
    /// uniform in [0.5 d, 1.5 d]
    Proportional,
    /// uniform in [d, 1.1 d]
    Additive,
}

impl Jitter {
    /// Every jitter by its public name.
    pub const ALL: [(&'static str, Self); 5] = [
        ("none", Self::None),
        ("full", Self::Full),
        ("equal", Self::Equal),
        ("proportional", Self::Proportional),
        ("additive", Self::Additive),
    ];

    /// The jitter of a public name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find_map(|(known, it)| (known == name).then_some(it))
    }

    fn spread(self, delay: f64, draw: f64) -> f64 {
        match self {
            Self::None => delay,
            Self::Full => delay * draw,
            Self::Equal => delay * (0.5 + 0.5 * draw),
            Self::Proportional => delay * (0.5 + draw),
            Self::Additive => delay * (1.0 + 0.1 * draw),
        }
    }
}

/// One policy of waiting.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How the wait grows.
    pub strategy: Strategy,
    /// How it is spread; `Random` and `Decorrelated` are draws already and take none.
    pub jitter: Jitter,
    /// The base of the strategy's formula.
    pub base: Duration,
    /// The longest wait of our own choosing; twice as long after a time-out.
    pub max_delay: Duration,
}

/// A failed attempt, as far as waiting is concerned.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    /// Number of the retry that would follow, 1 for the first; 0 counts as 1.
    pub retry: u32,
    /// Uniform in [0, 1); what lies outside is brought to the nearer end.
    pub draw: f64,
    /// The wait before the attempt that failed; None before the first retry.
    pub previous: Option<Duration>,
    /// The wait the server asks for: never undercut, and not capped by `max_delay`.
    pub hint: Option<Duration>,
    /// Whether the attempt ran into its time limit.
    pub timed_out: bool,
    /// Time left for the whole call; None without a deadline.
    pub remaining: Option<Duration>,
}

/// What to do after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Wait this long, then try again.
    Wait(Duration),
    /// Raise now: the wait would leave no time for another attempt.
    Deadline,
    /// Raise now: the server asks for more than [`LONGEST_HINT`].
    Hint,
}

impl Policy {
    /// Decide what follows a failure that may be retried.
    pub fn decide(&self, failure: &Failure) -> Decision {
        let hint = failure.hint.unwrap_or(Duration::ZERO);
        let wait = self.own_delay(failure).max(hint);
        if failure.remaining.is_some_and(|remaining| wait >= remaining) {
            Decision::Deadline
        } else if hint > LONGEST_HINT {
            Decision::Hint
        } else {
            Decision::Wait(wait)
        }
    }

    fn own_delay(&self, failure: &Failure) -> Duration {
        let factor = if failure.timed_out { 2.0 } else { 1.0 };
        let max = self.max_delay.as_secs_f64();
        let cap = factor * max;
        let base = self.base.as_secs_f64();
        let n = failure.retry.max(1);
        let draw = if failure.draw.is_nan() {
            0.0
        } else {
            failure.draw.clamp(0.0, 1.0)
        };
        let delay = match self.strategy {
            Strategy::Native if failure.hint.is_some() => 0.0,
            Strategy::ExponentialBackoff | Strategy::Native => {
                // Past every cap for any base, and short of ∞, whose product with a draw of 0 is NaN.
                let doublings = i32::try_from(n - 1).unwrap_or(i32::MAX).min(900);
                self.jitter.spread(base * 2_f64.powi(doublings), draw)
            }
            Strategy::Incremental | Strategy::Linear => {
                self.jitter.spread(base * f64::from(n), draw)
            }
            Strategy::Fixed => self.jitter.spread(base, draw),
            Strategy::Random => between(base.min(max), max, draw),
            Strategy::Decorrelated => {
                // A server's long hint is no step of this walk: it counts as max_delay at most.
                let previous = failure
                    .previous
                    .map_or(base, |wait| wait.as_secs_f64().min(max));
                between(base, (3.0 * previous).max(base), draw)
            }
        };
        Duration::try_from_secs_f64(delay.min(cap)).unwrap_or(Duration::MAX)
    }
}

fn between(low: f64, high: f64, draw: f64) -> f64 {
    low + (high - low) * draw
}
