//! The limiter beside an exact log: every admission remembered with its time.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tollway_core::limiter::{
    Cost, Decision, Entrance, Layout, Limiter, LimiterError, Limits, Name, Poll, Quota, Quotas,
    Request, Served,
};

mod exact;

use exact::{ExactLog, TICK, amount, nanos, quota};

/// What a quota counts, in a window of any length.
fn named(requests: bool, limit: u64, window: Duration) -> Quota {
    quota(if requests { Name::Rps } else { Name::Tpm }, limit, window)
}

fn any_quota() -> impl Strategy<Value = Quota> {
    // The short ones fit a ring of shared slots to the last of them.
    let ticks = prop_oneof![2 => 1u64..2_000, 1 => 64u64..128];
    let name = prop::sample::select(vec![
        Name::Rps,
        Name::Rps,
        Name::Tpm,
        Name::InputTpm,
        Name::OutputTpm,
    ]);
    (name, 1u64..60, ticks)
        .prop_map(|(name, limit, ticks)| quota(name, limit, Duration::from_nanos(ticks * TICK)))
}

fn any_cost() -> impl Strategy<Value = Cost> {
    (0u32..40, prop_oneof![2 => Just(0u32), 1 => 0u32..10])
        .prop_map(|(input, output)| Cost { input, output })
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// On whole ticks, with requests counted one by one, the limiter is the exact log: the same
    /// decisions and the same waits to the nanosecond, through serial wrap-around.
    #[test]
    fn decides_as_the_exact_log(
        first in any_quota(),
        others in prop::collection::vec(any_quota(), 0..5),
        steps in prop::collection::vec((0u64..400, any_cost(), any::<bool>()), 1..300),
        serial in prop::sample::select(vec![0, (1 << 24) - 5, 12_345]),
        output_weight in 1u32..6,
    ) {
        let mut windows = vec![Quota { name: Name::Rps, ..first }];
        windows.extend(others);
        let quotas = Quotas { output_weight, ..Quotas::of(&windows) };
        let limiter = Limiter::starting_at(&quotas, serial).unwrap();
        let mut exact = ExactLog::new(&windows, output_weight);
        let mut now = 0;
        for (ticks, cost, jump) in steps {
            now += ticks * TICK;
            if exact.refuses(cost) {
                prop_assert!(limiter.try_acquire(now, cost).is_err());
                continue;
            }
            let mut wait = nanos(limiter.try_acquire(now, cost).unwrap());
            prop_assert_eq!(wait, exact.due(now, cost) - now);
            if wait > 0 && jump {
                now += wait;
                wait = nanos(limiter.try_acquire(now, cost).unwrap());
                prop_assert_eq!(wait, 0);
            }
            if wait == 0 {
                exact.admitted.push((now, cost));
            }
            for (quota, used) in windows.iter().zip(limiter.used(now)) {
                prop_assert_eq!(used, exact.used(quota, now));
            }
        }
    }

    /// At any time between ticks, with admissions that share slots and clocks that go back, no true
    /// window is ever over its quota.
    #[test]
    fn no_true_window_is_over(
        windows in prop::collection::vec(any_quota(), 1..6),
        steps in prop::collection::vec((step(), any_cost()), 1..400),
        output_weight in 1u32..6,
    ) {
        let quotas = Quotas { output_weight, ..Quotas::of(&windows) };
        let limiter = Limiter::with_quotas(&quotas).unwrap();
        let mut exact = ExactLog::new(&windows, output_weight);
        let (mut now, mut latest) = (0u64, 0u64);
        for (step, cost) in steps {
            now = now.saturating_add_signed(step);
            if exact.refuses(cost) {
                continue;
            }
            if matches!(limiter.try_acquire(now, cost), Ok(Decision::Admitted(_))) {
                // What is charged is charged no earlier than the latest charge before it.
                latest = latest.max(now);
                exact.admitted.push((latest, cost));
                for quota in &windows {
                    prop_assert!(exact.used(quota, latest) <= quota.limit);
                }
            }
        }
    }
}

/// Nanoseconds to wait; 0 when admitted.
fn ask(limiter: &Limiter, now: u64, tokens: u32) -> u64 {
    nanos(limiter.try_acquire(now, Cost::input(tokens)).unwrap())
}

fn a_minute(rpm: Option<u64>, tpm: Option<u64>) -> Limiter {
    let limits = Limits {
        rpm,
        tpm,
        ..Limits::default()
    };
    Limiter::new(&limits, Some(Duration::ZERO)).unwrap()
}

fn requests(limit: u64, ticks: u64) -> Limiter {
    let window = Duration::from_nanos(ticks * TICK);
    Limiter::with_quotas(&Quotas::of(&[quota(Name::Rps, limit, window)])).unwrap()
}

#[test]
fn a_saturated_limiter_wastes_nothing() {
    let limiter = a_minute(Some(600), Some(120_000));
    let (mut now, mut admitted) = (0, 0u64);
    let end = 600_000_000_000;
    while now < end {
        match ask(&limiter, now, 200) {
            0 => admitted += 1,
            wait => now += wait,
        }
    }
    assert_eq!(admitted, 6_000);
}

#[test]
fn a_log_idle_for_a_year_starts_free() {
    let limiter = a_minute(Some(2), Some(10));
    let day = 86_400_000_000_000;
    for days in [0, 100, 110, 204, 365, 365 + 203, 1_200, 3_000] {
        let now = days * day;
        assert_eq!(ask(&limiter, now, 5), 0, "after {days} days");
        assert_eq!(ask(&limiter, now + 1, 5), 0, "after {days} days");
        assert!(ask(&limiter, now + 2, 0) > 0);
    }
}

#[test]
fn what_can_never_fit_is_refused_at_once() {
    let limiter = a_minute(None, Some(100));
    let error = LimiterError::TooLarge {
        name: Name::Tpm,
        amount: 101,
        limit: 100,
    };
    let request = Request {
        cost: Cost::input(101),
        ..Request::default()
    };
    assert_eq!(limiter.try_acquire(0, request.cost), Err(error));
    assert_eq!(limiter.enqueue(0, request), Err(error));
    assert_eq!(ask(&limiter, 0, 100), 0);
    // Behind others as well.
    let waits = limiter.enqueue(
        0,
        Request {
            cost: Cost::input(1),
            ..request
        },
    );
    assert!(matches!(waits, Ok(Entrance::Waits { .. })));
    assert_eq!(limiter.try_acquire(0, request.cost), Err(error));
    assert_eq!(limiter.enqueue(0, request), Err(error));
    assert_eq!(
        limiter.poll(61_000_000_000, 9, &mut Served::default()),
        Poll::Empty
    );
}

#[test]
fn limits_that_nothing_could_hold_are_refused() {
    let minute = Duration::from_secs(60);
    for wrong in [
        quota(Name::Rpm, 0, minute),
        quota(Name::Tpm, 1 << 31, minute),
        quota(Name::Rpd, 1 << 27, minute),
        quota(Name::Tpd, 1 << 35, minute),
        quota(Name::Tpm, 1, Duration::ZERO),
        quota(Name::Tpm, 1, Duration::from_secs(25 * 3600 + 1)),
    ] {
        let error = Limiter::with_quotas(&Quotas::of(&[wrong])).unwrap_err();
        assert_eq!(error, LimiterError::OutOfRange(wrong));
        assert!(error.to_string().starts_with(wrong.name.as_str()));
    }
    for output_weight in [0, 1_001] {
        let quotas = Quotas {
            output_weight,
            ..Quotas::of(&[])
        };
        let error = LimiterError::WeightOutOfRange(output_weight);
        assert_eq!(Limiter::with_quotas(&quotas).unwrap_err(), error);
    }
}

/// Who read the clock before the last admission is admitted after it, and judged at its time.
#[test]
fn a_late_caller_is_judged_at_the_time_of_the_log() {
    let limiter = requests(2, 100);
    for now in [0, 102, 90] {
        assert_eq!(ask(&limiter, now * TICK, 0), 0);
    }
    // Both of them at 102.
    assert_eq!(ask(&limiter, 200 * TICK, 0), 2 * TICK);
}

/// Rounding in floats would let a second request into some of these.
#[test]
fn a_sub_window_holds_its_share_to_the_request() {
    for rpm in 1..=3_000 {
        for millis in [10, 50, 70, 100, 300, 700, 1_000, 7_000, 10_000, 60_000] {
            let limits = Limits {
                rpm: Some(rpm),
                sub_windows: vec![Duration::from_millis(millis)],
                ..Limits::default()
            };
            let sub = limits.quotas(Some(Duration::ZERO)).windows[1];
            let share = rpm * millis;
            assert_eq!(sub.limit, share.div_ceil(60_000), "{rpm} in {millis} ms");
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
    for (counted, late) in [(true, TICK), (false, 64 * TICK)] {
        for shift in [0, 1, TICK / 2, TICK - 1, 63 * TICK + 1] {
            let window = Duration::from_nanos(1_000 * TICK);
            let limiter = Limiter::with_quotas(&Quotas::of(&[named(counted, 1, window)])).unwrap();
            assert_eq!(ask(&limiter, shift, 1), 0);
            let wait = ask(&limiter, shift, 1);
            assert!(
                (1_000 * TICK..1_000 * TICK + late).contains(&wait),
                "{counted} at {shift}: {wait}"
            );
            assert_eq!(ask(&limiter, shift + wait - 1, 1), 1);
            assert_eq!(ask(&limiter, shift + wait, 1), 0);
        }
    }
}

#[test]
fn the_block_is_little_more_than_the_ring() {
    for (rpm, rpd) in [(500, None), (500, Some(9_000)), (60_000, Some(9_000))] {
        let limits = Limits {
            rpm: Some(rpm),
            tpm: Some(1 << 20),
            output_tpm: Some(1 << 19),
            rpd,
            tpd: rpd,
            sub_windows: vec![Duration::from_secs(1), Duration::from_secs(10)],
            ..Limits::default()
        };
        let quotas = limits.quotas(None);
        let slots = Limiter::with_quotas(&quotas).unwrap().slots() as usize;
        let bytes = Layout::of(&quotas, 96).unwrap().bytes();
        assert!(bytes <= 16 * slots + (64 << 10), "{bytes} of {slots} slots");
    }
}

/// More requests than the longest ring has slots: with input and output apart they are counted by
/// serial, and a full ring denies; else they share slots and are all counted.
#[test]
fn more_requests_than_slots_are_never_too_many() {
    let (rpm, slots) = (3 << 20, 1 << 20);
    for (output_tpm, most) in [(None, rpm), (Some(1 << 30), slots)] {
        let limits = Limits {
            rpm: Some(rpm),
            output_tpm,
            ..Limits::default()
        };
        let limiter = Limiter::new(&limits, Some(Duration::ZERO)).unwrap();
        let mut admitted = 0;
        while ask(&limiter, 0, 0) == 0 {
            admitted += 1;
        }
        assert_eq!(admitted, most);
        assert_eq!(ask(&limiter, 61_000_000_000, 0), 0);
    }
}

/// Real threads and a real clock: the exact log of what was admitted holds in every window.
#[test]
fn threads_together_never_exceed_a_window() {
    let millis = Duration::from_millis;
    for quotas in [
        vec![quota(Name::Rps, 50, millis(5))],
        vec![quota(Name::Tpm, 500, millis(5))],
        vec![
            quota(Name::Rpm, 200, millis(8)),
            quota(Name::Rps, 40, millis(1)),
            quota(Name::Tpm, 900, millis(4)),
        ],
        vec![
            quota(Name::Rps, 70, millis(3)),
            quota(Name::InputTpm, 800, millis(6)),
            quota(Name::OutputTpm, 300, millis(4)),
            quota(Name::Tpm, 900, millis(4)),
        ],
    ] {
        let limiter = Limiter::with_quotas(&Quotas::of(&quotas)).unwrap();
        let origin = Instant::now();
        let clock = || u64::try_from(origin.elapsed().as_nanos()).unwrap();
        let admitted = AtomicU64::new(0);
        let mut log: Vec<(u64, u64, Cost)> = std::thread::scope(|scope| {
            let run = |seed: u32| {
                let mut mine = Vec::new();
                let mut tokens = seed;
                // Longer where the machine gives this test little time of its own.
                let is_enough = |now| {
                    let admitted = admitted.load(Ordering::Relaxed);
                    now >= 200_000_000 && (admitted > 100 || now >= 60_000_000_000)
                };
                while !is_enough(clock()) {
                    tokens = tokens.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                    let before = clock();
                    let wanted = Cost {
                        input: tokens >> 16 & 15,
                        output: tokens >> 20 & 7,
                    };
                    if let Ok(Decision::Admitted(_)) = limiter.try_acquire(before, wanted) {
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
        log.sort_unstable_by_key(|(before, after, _)| (*before, *after));
        for quota in &quotas {
            let window = u64::try_from(quota.window.as_nanos()).unwrap();
            for (first, (_, start, _)) in log.iter().enumerate() {
                let used: u64 = log[first..]
                    .iter()
                    .take_while(|(before, _, _)| *before < start + window)
                    .filter(|(before, after, _)| before >= start && after - start < window)
                    .map(|(_, _, cost)| amount(quota, *cost, 1))
                    .sum();
                assert!(used <= quota.limit, "{used} in a window of {quota:?}");
            }
        }
    }
}
