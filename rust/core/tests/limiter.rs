//! The limiter beside an exact log: every admission remembered with its time.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tollway_core::limiter::{Decision, Limiter, LimiterError, Limits, Poll, Quota, Unit};

const TICK: u64 = 16_000;

/// Every admission with its time, and the quotas checked by looking at all of them.
struct ExactLog {
    quotas: Vec<Quota>,
    admitted: Vec<(u64, u32)>,
}

impl ExactLog {
    fn new(quotas: &[Quota]) -> Self {
        Self {
            quotas: quotas.to_vec(),
            admitted: Vec::new(),
        }
    }

    fn amount(quota: &Quota, tokens: u32) -> u64 {
        if quota.unit == Unit::Requests {
            1
        } else {
            u64::from(tokens)
        }
    }

    fn used(&self, quota: &Quota, now: u64) -> u64 {
        let window = u64::try_from(quota.window.as_nanos()).unwrap();
        self.admitted
            .iter()
            .filter(|(at, _)| *at + window > now && *at <= now)
            .map(|(_, tokens)| Self::amount(quota, *tokens))
            .sum()
    }

    fn admits(&self, now: u64, tokens: u32) -> bool {
        self.quotas.iter().all(|quota| {
            self.used(quota, now) + Self::amount(quota, tokens) <= u64::from(quota.limit)
        })
    }

    /// The earliest time at which it admits: now, or when something leaves a window.
    fn due(&self, now: u64, tokens: u32) -> u64 {
        let leaves = |at: u64| {
            self.quotas
                .iter()
                .map(move |quota| at + u64::try_from(quota.window.as_nanos()).unwrap())
        };
        let mut times: Vec<u64> = self
            .admitted
            .iter()
            .flat_map(|(at, _)| leaves(*at))
            .collect();
        times.push(now);
        times.sort_unstable();
        let due = times
            .into_iter()
            .find(|at| *at >= now && self.admits(*at, tokens));
        due.expect("everything leaves in the end")
    }
}

fn quota() -> impl Strategy<Value = Quota> {
    // The short ones fit a ring of shared slots to the last of them.
    let ticks = prop_oneof![2 => 1u64..2_000, 1 => 64u64..128];
    (any::<bool>(), 1u32..60, ticks).prop_map(|(requests, limit, ticks)| Quota {
        unit: if requests {
            Unit::Requests
        } else {
            Unit::Tokens
        },
        limit,
        window: Duration::from_nanos(ticks * TICK),
    })
}

/// Nanoseconds to the next call: back, at once, about as long as admissions share a slot, and more.
fn step() -> impl Strategy<Value = i64> {
    prop_oneof![
        -20_000i64..200_000,
        900_000i64..1_200_000,
        900_000i64..1_200_000,
        -20_000i64..8_000_000,
    ]
}

fn nanos(decision: Decision) -> u64 {
    match decision {
        Decision::Admitted => 0,
        Decision::Wait(wait) => u64::try_from(wait.as_nanos()).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// On whole ticks, with a request quota among them, the limiter is the exact log: the same
    /// decisions and the same waits to the nanosecond, through serial wrap-around.
    #[test]
    fn decides_as_the_exact_log(
        first in quota(),
        others in prop::collection::vec(quota(), 0..3),
        steps in prop::collection::vec((0u64..400, 0u32..40, any::<bool>()), 1..300),
        serial in prop::sample::select(vec![0, (1 << 24) - 5, 12_345]),
    ) {
        let mut quotas = vec![Quota { unit: Unit::Requests, ..first }];
        quotas.extend(others);
        let most = quotas.iter().filter(|q| q.unit == Unit::Tokens).map(|q| q.limit).min();
        let limiter = Limiter::starting_at(&quotas, serial).unwrap();
        let mut exact = ExactLog::new(&quotas);
        let mut now = 0;
        for (ticks, tokens, jump) in steps {
            now += ticks * TICK;
            if most.is_some_and(|most| tokens > most) {
                prop_assert!(limiter.try_acquire(now, tokens).is_err());
                continue;
            }
            let mut wait = nanos(limiter.try_acquire(now, tokens).unwrap());
            prop_assert_eq!(wait, exact.due(now, tokens) - now);
            if wait > 0 && jump {
                now += wait;
                wait = nanos(limiter.try_acquire(now, tokens).unwrap());
                prop_assert_eq!(wait, 0);
            }
            if wait == 0 {
                exact.admitted.push((now, tokens));
            }
            for (quota, used) in quotas.iter().zip(limiter.used(now)) {
                prop_assert_eq!(u64::from(used), exact.used(quota, now));
            }
        }
    }

    /// At any time between ticks, with admissions that share slots and clocks that go back, no true
    /// window is ever over its quota.
    #[test]
    fn no_true_window_is_over(
        quotas in prop::collection::vec(quota(), 1..4),
        steps in prop::collection::vec((step(), 0u32..20), 1..400),
    ) {
        let limiter = Limiter::with_quotas(&quotas).unwrap();
        let most = quotas.iter().filter(|q| q.unit == Unit::Tokens).map(|q| q.limit).min();
        let mut exact = ExactLog::new(&quotas);
        let (mut now, mut latest) = (0u64, 0u64);
        for (step, tokens) in steps {
            now = now.saturating_add_signed(step);
            // What is charged is charged no earlier than the latest charge before it.
            latest = latest.max(now);
            if most.is_some_and(|most| tokens > most) {
                continue;
            }
            if limiter.try_acquire(now, tokens).unwrap() == Decision::Admitted {
                exact.admitted.push((latest, tokens));
                for quota in &quotas {
                    prop_assert!(exact.used(quota, latest) <= u64::from(quota.limit));
                }
            }
        }
    }
}

#[test]
fn a_saturated_limiter_wastes_nothing() {
    let limits = Limits {
        rpm: Some(600),
        tpm: Some(120_000),
        ..Limits::default()
    };
    let limiter = Limiter::new(&limits, Some(Duration::ZERO)).unwrap();
    let (mut now, mut admitted) = (0, 0u64);
    let end = 600_000_000_000;
    while now < end {
        match limiter.try_acquire(now, 200).unwrap() {
            Decision::Admitted => admitted += 1,
            wait @ Decision::Wait(_) => now += nanos(wait),
        }
    }
    assert_eq!(admitted, 6_000);
}

#[test]
fn a_log_idle_for_a_year_starts_free() {
    let limits = Limits {
        rpm: Some(2),
        tpm: Some(10),
        ..Limits::default()
    };
    let limiter = Limiter::new(&limits, Some(Duration::ZERO)).unwrap();
    let day = 86_400_000_000_000;
    for days in [0, 100, 110, 204, 365, 365 + 203, 1_200, 3_000] {
        let now = days * day;
        assert_eq!(
            limiter.try_acquire(now, 5),
            Ok(Decision::Admitted),
            "after {days} days"
        );
        assert_eq!(
            limiter.try_acquire(now + 1, 5),
            Ok(Decision::Admitted),
            "after {days} days"
        );
        assert!(matches!(
            limiter.try_acquire(now + 2, 0),
            Ok(Decision::Wait(_))
        ));
    }
}

#[test]
fn what_can_never_fit_is_refused_at_once() {
    let limits = Limits {
        tpm: Some(100),
        ..Limits::default()
    };
    let limiter = Limiter::new(&limits, None).unwrap();
    let refused = Err(LimiterError::TooLarge {
        tokens: 101,
        limit: 100,
    });
    assert_eq!(limiter.try_acquire(0, 101), refused);
    assert_eq!(
        limiter.enqueue(0, 101),
        Err(LimiterError::TooLarge {
            tokens: 101,
            limit: 100
        })
    );
    assert!(
        Limiter::new(
            &Limits {
                rpm: Some(0),
                ..Limits::default()
            },
            None
        )
        .is_err()
    );
    assert!(
        Limiter::new(
            &Limits {
                tpm: Some(u32::MAX),
                ..Limits::default()
            },
            None
        )
        .is_err()
    );
}

#[test]
fn the_queue_is_served_in_order_and_not_passed() {
    let limits = Limits {
        tpm: Some(100),
        ..Limits::default()
    };
    let limiter = Limiter::new(&limits, Some(Duration::ZERO)).unwrap();
    assert_eq!(limiter.enqueue(0, 100), Ok(None));
    let big = limiter.enqueue(0, 80).unwrap().unwrap();
    let gone = limiter.enqueue(0, 10).unwrap().unwrap();
    let small = limiter.enqueue(0, 20).unwrap().unwrap();
    assert!(limiter.cancel(gone));
    assert!(!limiter.cancel(gone));
    assert_eq!(limiter.waiting(), 2);
    assert!(matches!(limiter.try_acquire(0, 0), Ok(Decision::Wait(_))));

    let mut admitted = Vec::new();
    let Poll::Wait(wait) = limiter.poll(0, 9, &mut admitted) else {
        panic!("nothing fits yet")
    };
    assert!(admitted.is_empty());
    let then = u64::try_from(wait.as_nanos()).unwrap();
    assert_eq!(limiter.poll(then, 1, &mut admitted), Poll::More);
    assert_eq!(limiter.poll(then, 9, &mut admitted), Poll::Empty);
    assert_eq!(admitted, [big, small]);
    assert_eq!(limiter.waiting(), 0);
}

#[test]
fn the_first_in_the_queue_is_not_passed_when_it_is_due() {
    let quotas = [Quota {
        unit: Unit::Requests,
        limit: 1,
        window: Duration::from_nanos(100 * TICK),
    }];
    let limiter = Limiter::with_quotas(&quotas).unwrap();
    assert_eq!(limiter.enqueue(0, 0), Ok(None));
    let first = limiter.enqueue(0, 0).unwrap().unwrap();
    // A wait of no length would mean admitted.
    let wait = Decision::Wait(Duration::from_nanos(TICK));
    assert_eq!(limiter.try_acquire(100 * TICK, 0), Ok(wait));
    assert!(matches!(limiter.enqueue(100 * TICK, 0), Ok(Some(_))));
    let mut admitted = Vec::new();
    assert!(matches!(
        limiter.poll(100 * TICK, 9, &mut admitted),
        Poll::Wait(_)
    ));
    assert_eq!(admitted, [first]);
}

/// Who read the clock before the last admission is admitted after it, and judged at its time.
#[test]
fn a_late_caller_is_judged_at_the_time_of_the_log() {
    let quotas = [Quota {
        unit: Unit::Requests,
        limit: 2,
        window: Duration::from_nanos(100 * TICK),
    }];
    let limiter = Limiter::with_quotas(&quotas).unwrap();
    for now in [0, 102, 90] {
        assert_eq!(limiter.try_acquire(now * TICK, 0), Ok(Decision::Admitted));
    }
    // Both of them at 102.
    let wait = Decision::Wait(Duration::from_nanos(2 * TICK));
    assert_eq!(limiter.try_acquire(200 * TICK, 0), Ok(wait));
}

/// Rounding in floats would let a second request into some of these.
#[test]
fn a_sub_window_holds_its_share_to_the_request() {
    for rpm in 1..=3_000 {
        for millis in [10, 50, 70, 100, 300, 700, 1_000, 7_000, 10_000, 60_000] {
            let limits = Limits {
                rpm: Some(rpm),
                sub_window: Some(Duration::from_millis(millis)),
                ..Limits::default()
            };
            let sub = limits.quotas(Some(Duration::ZERO))[1];
            let share = u64::from(rpm) * millis;
            assert_eq!(
                u64::from(sub.limit),
                share.div_ceil(60_000),
                "{rpm} in {millis} ms"
            );
            assert!(sub.window >= Duration::from_millis(millis));
            assert!(
                sub.window.as_nanos() * u128::from(rpm) >= 60_000_000_000 * u128::from(sub.limit)
            );
        }
    }
}

/// Times between ticks: an admission is never early, and at most a tick (where admissions share a
/// slot, 64 of them) late.
#[test]
fn a_time_between_ticks_is_rounded_against_the_caller() {
    for (unit, late) in [(Unit::Requests, TICK), (Unit::Tokens, 64 * TICK)] {
        for shift in [0, 1, TICK / 2, TICK - 1, 63 * TICK + 1] {
            let window = Duration::from_nanos(1_000 * TICK);
            let quotas = [Quota {
                unit,
                limit: 1,
                window,
            }];
            let limiter = Limiter::with_quotas(&quotas).unwrap();
            assert_eq!(limiter.try_acquire(shift, 1), Ok(Decision::Admitted));
            let wait = nanos(limiter.try_acquire(shift, 1).unwrap());
            assert!(
                (1_000 * TICK..1_000 * TICK + late).contains(&wait),
                "{unit} at {shift}: {wait}"
            );
            assert_eq!(nanos(limiter.try_acquire(shift + wait - 1, 1).unwrap()), 1);
            assert_eq!(limiter.try_acquire(shift + wait, 1), Ok(Decision::Admitted));
        }
    }
}

/// Real threads and a real clock: the exact log of what was admitted holds in every window.
#[test]
fn threads_together_never_exceed_a_window() {
    for quotas in [
        vec![Quota {
            unit: Unit::Requests,
            limit: 50,
            window: Duration::from_millis(5),
        }],
        vec![Quota {
            unit: Unit::Tokens,
            limit: 500,
            window: Duration::from_millis(5),
        }],
        vec![
            Quota {
                unit: Unit::Requests,
                limit: 200,
                window: Duration::from_millis(8),
            },
            Quota {
                unit: Unit::Requests,
                limit: 40,
                window: Duration::from_millis(1),
            },
            Quota {
                unit: Unit::Tokens,
                limit: 900,
                window: Duration::from_millis(4),
            },
        ],
    ] {
        let limiter = Limiter::with_quotas(&quotas).unwrap();
        let origin = Instant::now();
        let clock = || u64::try_from(origin.elapsed().as_nanos()).unwrap();
        let admitted = AtomicU64::new(0);
        let mut log: Vec<(u64, u64, u32)> = std::thread::scope(|scope| {
            let run = |seed: u32| {
                let mut mine = Vec::new();
                let mut tokens = seed;
                while clock() < 200_000_000 {
                    tokens = tokens.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                    let (before, wanted) = (clock(), tokens >> 16 & 15);
                    if limiter.try_acquire(before, wanted) == Ok(Decision::Admitted) {
                        mine.push((before, clock(), wanted));
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                }
                mine
            };
            let threads: Vec<_> = (1..5).map(|seed| scope.spawn(move || run(seed))).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(admitted.load(Ordering::Relaxed) > 100);
        // The charge lies between the two clock readings. A window is surely broken only if it is
        // even when each charge is placed as far from the others as its readings allow.
        log.sort_unstable();
        for quota in &quotas {
            let window = u64::try_from(quota.window.as_nanos()).unwrap();
            for (first, (_, start, _)) in log.iter().enumerate() {
                let used: u64 = log[first..]
                    .iter()
                    .take_while(|(before, _, _)| *before < start + window)
                    .filter(|(before, after, _)| before >= start && after - start < window)
                    .map(|(_, _, tokens)| ExactLog::amount(quota, *tokens))
                    .sum();
                assert!(
                    used <= u64::from(quota.limit),
                    "{used} in a window of {quota:?}"
                );
            }
        }
    }
}
