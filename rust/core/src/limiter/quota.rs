//! What is limited: quotas, and how a caller's limits become quotas.

use std::fmt;
use std::time::Duration;

/// The window of `rpm` and `tpm`.
const MINUTE: Duration = Duration::from_secs(60);

/// Margin on windows of a minute and more: what passes between a permit and its bytes on the wire
/// on a busy machine.
const LONG_MARGIN: Duration = Duration::from_millis(250);

/// Margin on shorter windows, as a divisor of their length: 2 %.
const SHORT_MARGIN_DIVISOR: u32 = 50;

/// The most a quota may be: sums are 32-bit serial numbers, compared over half their range.
pub const MAX_LIMIT: u32 = (1 << 31) - 1;

/// What a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Admissions.
    Requests,
    /// Tokens.
    Tokens,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        })
    }
}

/// At most `limit` units in any window `(t - window, t]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// What is counted.
    pub unit: Unit,
    /// How many, at most; 1 ..= [`MAX_LIMIT`].
    pub limit: u32,
    /// The window's length; not zero.
    pub window: Duration,
}

/// Limits as a provider states them. Each one given is a ceiling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests a minute.
    pub rpm: Option<u32>,
    /// Tokens a minute.
    pub tpm: Option<u32>,
    /// Requests a second.
    pub rps: Option<u32>,
    /// Length of the window over which the provider judges `rpm` (Azure: 1 s or 10 s), if shorter
    /// than a minute.
    pub sub_window: Option<Duration>,
}

impl Limits {
    /// The quotas that hold these limits, with every window made longer by `margin` (`None`: 250 ms
    /// on a minute and more, 2 % of the length below).
    ///
    /// A sub-window of w seconds allows q = ⌈rpm · w / 60⌉ requests per max(w, 60 · q / rpm)
    /// seconds, so that it never asks for less than the minute's own rate.
    pub fn quotas(&self, margin: Option<Duration>) -> Vec<Quota> {
        let mut quotas = Vec::with_capacity(4);
        let mut add = |unit, limit, window: Duration| {
            let margin = margin.unwrap_or(if window >= MINUTE {
                LONG_MARGIN
            } else {
                window / SHORT_MARGIN_DIVISOR
            });
            quotas.push(Quota {
                unit,
                limit,
                window: window.saturating_add(margin),
            });
        };
        if let Some(rpm) = self.rpm {
            add(Unit::Requests, rpm, MINUTE);
            if let Some(length) = self.sub_window.filter(|length| !length.is_zero()) {
                // In whole nanoseconds: rounding must not let one more request into a sub-window.
                let (rpm, minute) = (u128::from(rpm.max(1)), MINUTE.as_nanos());
                let share = (rpm * length.as_nanos()).div_ceil(minute);
                let own_rate = u64::try_from((minute * share).div_ceil(rpm)).unwrap_or(u64::MAX);
                let count = u32::try_from(share).unwrap_or(u32::MAX);
                add(
                    Unit::Requests,
                    count,
                    length.max(Duration::from_nanos(own_rate)),
                );
            }
        }
        if let Some(rps) = self.rps {
            add(Unit::Requests, rps, Duration::from_secs(1));
        }
        if let Some(tpm) = self.tpm {
            add(Unit::Tokens, tpm, MINUTE);
        }
        quotas
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_window_never_asks_for_less_than_the_minute() {
        for rpm in [1, 7, 59, 60, 61, 500, 600, 10_000] {
            let limits = Limits {
                rpm: Some(rpm),
                sub_window: Some(Duration::from_secs(1)),
                ..Limits::default()
            };
            let quotas = limits.quotas(Some(Duration::ZERO));
            let sub = quotas[1];
            assert!(sub.window >= Duration::from_secs(1));
            let rate = f64::from(sub.limit) / sub.window.as_secs_f64() * 60.0;
            assert!((rate - f64::from(rpm)).abs() < 1e-3 || sub.window == Duration::from_secs(1));
            assert!(rate >= f64::from(rpm) - 1e-3, "{rpm}: {rate}");
        }
    }

    #[test]
    fn six_hundred_a_minute_is_ten_a_second() {
        let limits = Limits {
            rpm: Some(600),
            sub_window: Some(Duration::from_secs(1)),
            ..Limits::default()
        };
        let quotas = limits.quotas(None);
        assert_eq!(quotas[0].window, Duration::from_millis(60_250));
        assert_eq!(
            (quotas[1].limit, quotas[1].window),
            (10, Duration::from_millis(1020))
        );
    }
}
