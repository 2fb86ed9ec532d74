//! Delays: the formula of each strategy, their bounds, and the two reasons to raise at once.

use std::time::Duration;

use proptest::prelude::{any, prop, prop_assert, proptest};
use proptest::strategy::Strategy as Arbitrary;
use tollway_core::retry::{Decision, Failure, Jitter, LONGEST_HINT, Policy, Strategy};

fn failure(retry: u32, draw: f64) -> Failure {
    Failure {
        retry,
        draw,
        previous: None,
        hint: None,
        timed_out: false,
        remaining: None,
    }
}

fn policy(strategy: Strategy, jitter: Jitter, base: f64, max_delay: f64) -> Policy {
    let (base, max_delay) = (
        Duration::from_secs_f64(base),
        Duration::from_secs_f64(max_delay),
    );
    Policy {
        strategy,
        jitter,
        base,
        max_delay,
    }
}

fn seconds(policy: &Policy, failure: &Failure) -> f64 {
    match policy.decide(failure) {
        Decision::Wait(wait) => wait.as_secs_f64(),
        other => panic!("{other:?} without a deadline or a long hint"),
    }
}

fn close(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-6
}

#[test]
fn each_strategy_follows_its_formula() {
    let table = [
        (Strategy::ExponentialBackoff, [1.0, 2.0, 4.0, 8.0]),
        (Strategy::Native, [1.0, 2.0, 4.0, 8.0]),
        (Strategy::Incremental, [1.0, 2.0, 3.0, 4.0]),
        (Strategy::Linear, [1.0, 2.0, 3.0, 4.0]),
        (Strategy::Fixed, [1.0, 1.0, 1.0, 1.0]),
        (Strategy::Random, [30.5, 30.5, 30.5, 30.5]),
        (Strategy::Decorrelated, [2.0, 2.0, 2.0, 2.0]),
    ];
    for (strategy, expected) in table {
        let policy = policy(strategy, Jitter::None, 1.0, 60.0);
        for (retry, expected) in (1..).zip(expected) {
            let wait = seconds(&policy, &failure(retry, 0.5));
            assert!(close(wait, expected), "{strategy:?} {retry}: {wait}");
        }
    }
}

#[test]
fn each_jitter_spreads_as_it_says() {
    let table = [
        (Jitter::None, [8.0, 8.0, 8.0]),
        (Jitter::Full, [0.0, 2.0, 8.0]),
        (Jitter::Equal, [4.0, 5.0, 8.0]),
        (Jitter::Proportional, [4.0, 6.0, 12.0]),
        (Jitter::Additive, [8.0, 8.2, 8.8]),
    ];
    for (jitter, expected) in table {
        let policy = policy(Strategy::Fixed, jitter, 8.0, 60.0);
        for (draw, expected) in [0.0, 0.25, 1.0].into_iter().zip(expected) {
            let wait = seconds(&policy, &failure(1, draw));
            assert!(close(wait, expected), "{jitter:?} {draw}: {wait}");
        }
    }
}

#[test]
fn a_time_out_may_wait_twice_the_cap_and_jitter_never_passes_it() {
    let policy = policy(Strategy::Fixed, Jitter::Proportional, 50.0, 60.0);
    assert!(close(seconds(&policy, &failure(1, 1.0)), 60.0));
    let timed_out = Failure {
        timed_out: true,
        ..failure(1, 1.0)
    };
    assert!(close(seconds(&policy, &timed_out), 75.0));
}

#[test]
fn decorrelated_walks_from_the_previous_wait_but_not_from_a_long_hint() {
    let policy = policy(Strategy::Decorrelated, Jitter::Full, 1.0, 60.0);
    let after = |wait| Failure {
        previous: Some(Duration::from_secs(wait)),
        ..failure(2, 0.5)
    };
    assert!(close(seconds(&policy, &after(5)), 8.0));
    let timed_out = Failure {
        timed_out: true,
        ..after(500)
    };
    assert!(close(seconds(&policy, &timed_out), 90.5));
}

#[test]
fn native_waits_what_the_server_asks_for() {
    let policy = policy(Strategy::Native, Jitter::Full, 1.0, 60.0);
    let hinted = Failure {
        hint: Some(Duration::from_secs(90)),
        ..failure(9, 0.9)
    };
    assert_eq!(
        policy.decide(&hinted),
        Decision::Wait(Duration::from_secs(90))
    );
}

#[test]
fn names_are_found_and_others_are_not() {
    for (name, strategy) in Strategy::ALL {
        assert_eq!(Strategy::from_name(name), Some(strategy));
    }
    for (name, jitter) in Jitter::ALL {
        assert_eq!(Jitter::from_name(name), Some(jitter));
    }
    assert_eq!(Strategy::from_name("exponential"), None);
    assert_eq!(Jitter::from_name("Full"), None);
    assert_eq!(Strategy::Fixed.default_base(), Duration::from_secs(60));
    assert_eq!(Strategy::Linear.default_base(), Duration::from_secs(10));
    assert_eq!(
        Strategy::Decorrelated.default_base(),
        Duration::from_secs(1)
    );
}

fn strategies() -> impl Arbitrary<Value = Strategy> {
    prop::sample::select(Strategy::ALL.map(|(_, it)| it).to_vec())
}

fn jitters() -> impl Arbitrary<Value = Jitter> {
    prop::sample::select(Jitter::ALL.map(|(_, it)| it).to_vec())
}

proptest! {
    #[test]
    fn a_wait_lies_between_the_hint_and_the_cap(
        strategy in strategies(), jitter in jitters(), base in 0.0..1e9, max_delay in 0.0..1e9,
        retry in any::<u32>(), draw in any::<f64>(),
        previous in prop::option::of(0_u64..u64::MAX), hint in prop::option::of(0_u64..2_000),
        timed_out in any::<bool>(), remaining in prop::option::of(0_u64..5_000),
    ) {
        let policy = policy(strategy, jitter, base, max_delay);
        let failure = Failure {
            retry, draw, timed_out,
            previous: previous.map(Duration::from_secs),
            hint: hint.map(Duration::from_secs),
            remaining: remaining.map(Duration::from_secs),
        };
        let floor = failure.hint.unwrap_or(Duration::ZERO);
        // A double of 2e9 seconds is exact to less than a microsecond.
        let cap = (2 - u32::from(!timed_out)) * policy.max_delay + Duration::from_micros(1);
        match policy.decide(&failure) {
            Decision::Wait(wait) => {
                prop_assert!(floor <= wait && wait <= cap.max(floor));
                prop_assert!(floor <= LONGEST_HINT);
                prop_assert!(failure.remaining.is_none_or(|remaining| wait < remaining));
            }
            Decision::Deadline => {
                prop_assert!(failure.remaining.is_some_and(|left| left <= cap.max(floor)));
            }
            Decision::Hint => prop_assert!(floor > LONGEST_HINT),
        }
    }

    #[test]
    fn waits_without_jitter_never_shrink_with_the_retry(
        strategy in strategies(), retry in 0..u32::MAX, base in 0.0..1e3, max_delay in 0.0..1e4,
    ) {
        let policy = policy(strategy, Jitter::None, base, max_delay);
        let (now, next) = (failure(retry, 0.5), failure(retry + 1, 0.5));
        prop_assert!(seconds(&policy, &next) >= seconds(&policy, &now));
    }
}
