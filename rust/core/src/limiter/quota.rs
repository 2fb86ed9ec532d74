//! What is limited: quotas, and how a caller's limits become quotas.

use std::fmt;
use std::time::Duration;

/// The window of limits a minute.
const MINUTE: Duration = Duration::from_secs(60);

/// The window of limits a day.
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// Margin on windows of a minute and more: what passes between a permit and its bytes on the wire
/// on a busy machine.
const LONG_MARGIN: Duration = Duration::from_millis(250);

/// Margin on shorter windows, as a divisor of their length: 2 %.
const SHORT_MARGIN_DIVISOR: u32 = 50;

/// The most a quota shorter than a day may be: sums are 32-bit serial numbers, compared over half
/// their range.
pub const MAX_LIMIT: u64 = (1 << 31) - 1;

/// The most tokens a day: their sums have 36 bits.
pub const MAX_DAY_TOKENS: u64 = (1 << 35) - 1;

/// The most requests a day: their sums have 28 bits.
pub const MAX_DAY_REQUESTS: u64 = (1 << 27) - 1;

/// The longest window: a day and a margin of an hour.
const MAX_WINDOW: Duration = Duration::from_secs(25 * 3600);

/// What a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Admissions.
    Requests,
    /// Input tokens, and output tokens times their weight.
    Tokens,
    /// Input tokens.
    Input,
    /// Output tokens.
    Output,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Input => "input tokens",
            Self::Output => "output tokens",
        })
    }
}

/// The name of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Requests a minute.
    Rpm,
    /// Requests in a part of the minute, over which a provider judges `Rpm`.
    SubWindow,
    /// Requests a second.
    Rps,
    /// Tokens a minute.
    Tpm,
    /// Input tokens a minute.
    InputTpm,
    /// Output tokens a minute.
    OutputTpm,
    /// Requests a day.
    Rpd,
    /// Tokens a day.
    Tpd,
}

impl Name {
    /// Every name.
    pub const ALL: [Self; 8] = [
        Self::Rpm,
        Self::SubWindow,
        Self::Rps,
        Self::Tpm,
        Self::InputTpm,
        Self::OutputTpm,
        Self::Rpd,
        Self::Tpd,
    ];

    /// What it counts.
    pub const fn unit(self) -> Unit {
        match self {
            Self::Rpm | Self::SubWindow | Self::Rps | Self::Rpd => Unit::Requests,
            Self::Tpm | Self::Tpd => Unit::Tokens,
            Self::InputTpm => Unit::Input,
            Self::OutputTpm => Unit::Output,
        }
    }

    /// Whether its window is a day.
    pub const fn is_day(self) -> bool {
        matches!(self, Self::Rpd | Self::Tpd)
    }

    /// As users write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rpm => "rpm",
            Self::SubWindow => "sub_window",
            Self::Rps => "rps",
            Self::Tpm => "tpm",
            Self::InputTpm => "input_tpm",
            Self::OutputTpm => "output_tpm",
            Self::Rpd => "rpd",
            Self::Tpd => "tpd",
        }
    }
}

/// At most `limit` units in any window `(t - window, t]`; of a calendar day, in that day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Which limit it holds.
    pub name: Name,
    /// How many, at most; 1 ..= [`MAX_LIMIT`], for a day
    /// [`MAX_DAY_TOKENS`] or [`MAX_DAY_REQUESTS`].
    pub limit: u64,
    /// The window's length; not zero.
    pub window: Duration,
}

impl Quota {
    fn is_in_range(&self) -> bool {
        let most = match self.name {
            Name::Tpd => MAX_DAY_TOKENS,
            Name::Rpd => MAX_DAY_REQUESTS,
            _ => MAX_LIMIT,
        };
        (1..=most).contains(&self.limit)
            && (Duration::from_nanos(1)..=MAX_WINDOW).contains(&self.window)
    }
}

/// What one request takes, beside itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Input tokens.
    pub input: u32,
    /// Output tokens, as far as they are expected.
    pub output: u32,
}

impl Cost {
    /// A request of these input tokens.
    pub const fn input(tokens: u32) -> Self {
        Self {
            input: tokens,
            output: 0,
        }
    }

    /// Both together, where that can be told.
    pub(super) fn plus(self, other: Self) -> Option<Self> {
        Some(Self {
            input: self.input.checked_add(other.input)?,
            output: self.output.checked_add(other.output)?,
        })
    }

    /// Its tokens as one number; the largest where they are more.
    pub(super) fn weighted(self, output_weight: u32) -> u32 {
        self.input
            .saturating_add(self.output.saturating_mul(output_weight))
    }

    /// How much of it counts for a quota of `unit`, `requests` of them together.
    pub(super) fn of(self, unit: Unit, requests: u32, output_weight: u32) -> u64 {
        let (input, output) = (u64::from(self.input), u64::from(self.output));
        match unit {
            Unit::Requests => u64::from(requests),
            Unit::Tokens => input + output * u64::from(output_weight),
            Unit::Input => input,
            Unit::Output => output,
        }
    }
}

/// Everything a limiter holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// The windows.
    pub windows: Vec<Quota>,
    /// How often an output token counts in `tpm` and `tpd`; 1 ..= 1,000.
    pub output_weight: u32,
    /// Reservations under way at once; 0 for any number.
    pub max_in_flight: u32,
    /// Whether days are calendar days, whose bounds are told by [`super::Limiter::set_day`].
    pub is_calendar: bool,
    /// How much later than its permit a request may be sent; zero where lateness is not corrected.
    /// The other half of the smallest margin is for its way, which differs from one to the next.
    pub tolerance: Duration,
}

impl Quotas {
    /// These windows and nothing else.
    pub fn of(windows: &[Quota]) -> Self {
        Self {
            windows: windows.to_vec(),
            output_weight: 1,
            max_in_flight: 0,
            is_calendar: false,
            tolerance: Duration::ZERO,
        }
    }

    /// Whether input and output have to be told apart.
    pub(super) fn is_split(&self) -> bool {
        self.windows
            .iter()
            .any(|quota| matches!(quota.name.unit(), Unit::Input | Unit::Output))
    }

    pub(super) fn check(&self) -> Result<(), LimiterError> {
        match self.windows.iter().find(|quota| !quota.is_in_range()) {
            Some(quota) => Err(LimiterError::OutOfRange(*quota)),
            None if !(1..=1_000).contains(&self.output_weight) => {
                Err(LimiterError::WeightOutOfRange(self.output_weight))
            }
            None => Ok(()),
        }
    }
}

/// Why a limiter cannot be made, or a request never admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimiterError {
    /// A quota of zero, over [`MAX_LIMIT`], or with a window of no length or over 25 hours.
    OutOfRange(Quota),
    /// A weight of output tokens outside 1 ..= 1,000.
    WeightOutOfRange(u32),
    /// More than a whole quota: no wait would ever admit it.
    TooLarge {
        /// The quota.
        name: Name,
        /// What was asked for, in the quota's unit.
        amount: u64,
        /// The quota's limit at the time.
        limit: u64,
    },
}

impl fmt::Display for LimiterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange(quota) => write!(
                f,
                "{}: a quota of {} {} per {:?} is out of range: 1 to {MAX_LIMIT} (a day: \
                 {MAX_DAY_REQUESTS} requests, {MAX_DAY_TOKENS} tokens), in a window of at most 25 \
                 hours",
                quota.name.as_str(),
                quota.limit,
                quota.name.unit(),
                quota.window
            ),
            Self::WeightOutOfRange(weight) => {
                write!(f, "output_weight must be 1 to 1,000, not {weight}")
            }
            Self::TooLarge {
                name,
                amount,
                limit,
            } => write!(
                f,
                "a request of {amount} {unit} is more than the whole quota of {limit} {unit} \
                 ({name}), so no wait would ever admit it; split it or raise the limit",
                unit = name.unit(),
                name = name.as_str(),
            ),
        }
    }
}

impl std::error::Error for LimiterError {}

/// Limits as a provider states them. Each one given is a ceiling.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests a minute.
    pub rpm: Option<u64>,
    /// Tokens a minute.
    pub tpm: Option<u64>,
    /// Input tokens a minute.
    pub input_tpm: Option<u64>,
    /// Output tokens a minute.
    pub output_tpm: Option<u64>,
    /// Requests a second.
    pub rps: Option<u64>,
    /// Requests a day.
    pub rpd: Option<u64>,
    /// Tokens a day.
    pub tpd: Option<u64>,
    /// Lengths of the windows over which the provider judges `rpm` (Azure: 1 s and 10 s), if
    /// shorter than a minute.
    pub sub_windows: Vec<Duration>,
    /// How often an output token counts in `tpm` and `tpd`; `None` is once.
    pub output_weight: Option<u32>,
    /// Reservations under way at once.
    pub max_in_flight: Option<u32>,
    /// Whether days are calendar days.
    pub is_calendar: bool,
}

impl Limits {
    /// The quotas that hold these limits, with every window made longer by `margin` (`None`: 250 ms
    /// on a minute and more, 2 % of the length below).
    ///
    /// A sub-window of w seconds allows q = ⌈rpm · w / 60⌉ requests per max(w, 60 · q / rpm)
    /// seconds, so that it never asks for less than the minute's own rate.
    pub fn quotas(&self, margin: Option<Duration>) -> Quotas {
        let mut windows = Vec::with_capacity(8);
        let mut tolerance = Duration::MAX;
        let mut add = |name: Name, limit: Option<u64>, window: Duration| {
            let Some(limit) = limit else { return };
            let margin = margin.unwrap_or(if window >= MINUTE {
                LONG_MARGIN
            } else {
                window / SHORT_MARGIN_DIVISOR
            });
            tolerance = tolerance.min(margin / 2);
            windows.push(Quota {
                name,
                limit,
                window: window.saturating_add(margin),
            });
        };
        add(Name::Rpm, self.rpm, MINUTE);
        if let Some(rpm) = self.rpm {
            for length in self.sub_windows.iter().filter(|length| !length.is_zero()) {
                // In whole nanoseconds: rounding must not let one more request into a sub-window.
                let (rpm, minute) = (u128::from(rpm.max(1)), MINUTE.as_nanos());
                let share = (rpm * length.as_nanos()).div_ceil(minute);
                let own_rate = u64::try_from((minute * share).div_ceil(rpm)).unwrap_or(u64::MAX);
                let count = u64::try_from(share).unwrap_or(u64::MAX);
                let window = Duration::from_nanos(own_rate).max(*length);
                add(Name::SubWindow, Some(count), window);
            }
        }
        add(Name::Rps, self.rps, Duration::from_secs(1));
        add(Name::Tpm, self.tpm, MINUTE);
        add(Name::InputTpm, self.input_tpm, MINUTE);
        add(Name::OutputTpm, self.output_tpm, MINUTE);
        add(Name::Rpd, self.rpd, DAY);
        add(Name::Tpd, self.tpd, DAY);
        if windows.is_empty() {
            tolerance = Duration::ZERO;
        }
        Quotas {
            windows,
            output_weight: self.output_weight.unwrap_or(1),
            max_in_flight: self.max_in_flight.unwrap_or(0),
            is_calendar: self.is_calendar,
            tolerance,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_minute(rpm: u64) -> Limits {
        Limits {
            rpm: Some(rpm),
            sub_windows: vec![Duration::from_secs(1)],
            ..Limits::default()
        }
    }

    #[test]
    fn a_sub_window_never_asks_for_less_than_the_minute() {
        for rpm in [1u32, 7, 59, 60, 61, 500, 600, 10_000] {
            let quotas = a_minute(rpm.into()).quotas(Some(Duration::ZERO)).windows;
            let sub = quotas[1];
            assert!(sub.window >= Duration::from_secs(1));
            let count = f64::from(u32::try_from(sub.limit).unwrap());
            let rate = count / sub.window.as_secs_f64() * 60.0;
            assert!((rate - f64::from(rpm)).abs() < 1e-3 || sub.window == Duration::from_secs(1));
            assert!(rate >= f64::from(rpm) - 1e-3, "{rpm}: {rate}");
        }
    }

    #[test]
    fn six_hundred_a_minute_is_ten_a_second() {
        let quotas = a_minute(600).quotas(None);
        assert_eq!(quotas.windows[0].window, Duration::from_millis(60_250));
        assert_eq!(
            (quotas.windows[1].limit, quotas.windows[1].window),
            (10, Duration::from_millis(1020))
        );
        assert_eq!(quotas.tolerance, Duration::from_millis(10));
    }
}
