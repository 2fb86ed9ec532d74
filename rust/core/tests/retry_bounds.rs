//! What bounds retries: the budget beside successes, the breaker after a refusal.

use std::time::Duration;

use proptest::prelude::{prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy};
use tollway_core::retry::{Breaker, Budget, LARGEST_BALANCE, Pass, State};

const SECOND: u64 = 1_000_000_000;

#[test]
fn ten_successes_pay_for_a_retry() {
    let mut budget = Budget::new(0.1, Duration::from_secs(1));
    assert!(budget.take(5).is_ok(), "the first unpaid one goes at once");
    for _ in 0..10 {
        assert!(!budget.take_paid());
        budget.deposit();
    }
    assert!(budget.take_paid());
    assert!(!budget.take_paid());
}

#[test]
fn unpaid_retries_go_one_a_second() {
    let mut budget = Budget::new(0.1, Duration::from_secs(1));
    assert_eq!(budget.take(5), Ok(()));
    assert_eq!(budget.take(5), Err(Duration::from_secs(1)));
    assert_eq!(budget.take(SECOND), Err(Duration::from_nanos(5)));
    assert_eq!(budget.take(SECOND + 5), Ok(()));
    // Time in which nobody asked is not saved up.
    assert_eq!(budget.take(100 * SECOND), Ok(()));
    assert_eq!(budget.take(100 * SECOND), Err(Duration::from_secs(1)));
}

#[test]
fn no_more_than_a_hundred_are_saved() {
    let mut budget = Budget::new(1.0, Duration::from_secs(1));
    for _ in 0..1_000 {
        budget.deposit();
    }
    assert!((budget.balance() - LARGEST_BALANCE).abs() < 1e-9);
    assert_eq!((0..1_000).filter(|_| budget.take_paid()).count(), 100);
}

proptest! {
    #[test]
    fn retries_are_bounded_by_successes_and_time(
        ratio in 0.0..1.0_f64,
        steps in prop::collection::vec((prop::bool::ANY, 0_u64..SECOND / 2), 1..500),
    ) {
        let mut budget = Budget::new(ratio, Duration::from_secs(1));
        let (mut now, mut successes, mut retries) = (0, 0.0, 0.0);
        for (is_success, passed) in steps {
            now += passed;
            if is_success {
                budget.deposit();
                successes += 1.0;
            } else if let Err(wait) = budget.take(now) {
                prop_assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1));
                // Nothing else happening, the time that was named is the time it goes.
                let mut later = budget.clone();
                let due = now + u64::try_from(wait.as_nanos()).unwrap();
                prop_assert!(later.clone().take(due - 1).is_err() && later.take(due).is_ok());
            } else {
                retries += 1.0;
            }
            let seconds = Duration::from_nanos(now).as_secs_f64().floor();
            prop_assert!(retries <= ratio * successes + seconds + 1.0 + 1e-6);
            prop_assert!((0.0..=LARGEST_BALANCE).contains(&budget.balance()));
        }
    }
}

#[test]
fn it_opens_lets_one_through_and_closes_when_that_succeeds() {
    let mut breaker = Breaker::new(Duration::from_secs(60));
    let pass = breaker.admit(0).unwrap();
    assert!(breaker.trip(pass, SECOND, None));
    assert_eq!(breaker.state(2 * SECOND), State::Open);
    assert_eq!(breaker.admit(2 * SECOND), Err(Duration::from_secs(59)));
    assert_eq!(breaker.state(61 * SECOND), State::HalfOpen);
    let probe = breaker.admit(61 * SECOND).unwrap();
    assert_eq!(breaker.admit(61 * SECOND), Err(Duration::ZERO));
    assert!(breaker.succeed(probe));
    assert_eq!(breaker.state(61 * SECOND), State::Closed);
    assert!(breaker.is_valid(probe));
    assert!(!breaker.succeed(probe), "it was closed already");
}

#[test]
fn a_refused_probe_opens_it_again_and_a_lost_one_makes_room_for_the_next() {
    let mut breaker = Breaker::new(Duration::from_secs(60));
    let pass = breaker.admit(0).unwrap();
    breaker.trip(pass, 0, None);
    let lost = breaker.admit(60 * SECOND).unwrap();
    breaker.release(lost);
    let probe = breaker.admit(60 * SECOND).unwrap();
    assert!(breaker.trip(probe, 60 * SECOND, Some(Duration::from_secs(300))));
    assert_eq!(breaker.admit(61 * SECOND), Err(Duration::from_secs(299)));
}

#[test]
fn what_was_sent_before_is_no_verdict_on_the_present() {
    let mut breaker = Breaker::new(Duration::from_secs(60));
    let (early, late) = (breaker.admit(0).unwrap(), breaker.admit(0).unwrap());
    assert!(breaker.trip(early, 0, None));
    assert!(!breaker.trip(late, SECOND, None), "open already");
    assert!(!breaker.succeed(late));
    assert_eq!(breaker.state(SECOND), State::Open);
    breaker.reset();
    assert!(!breaker.trip(late, SECOND, None), "reset since");
    assert_eq!(breaker.state(SECOND), State::Closed);
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Admit,
    Trip(usize),
    Succeed(usize),
    Release(usize),
    Reset,
    Sleep(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let which = 0_usize..50;
    let event = prop_oneof![
        4 => Just(Event::Admit),
        1 => which.clone().prop_map(Event::Trip),
        2 => which.clone().prop_map(Event::Succeed),
        1 => which.prop_map(Event::Release),
        1 => Just(Event::Reset),
        3 => (0_u64..20).prop_map(Event::Sleep),
    ];
    prop::collection::vec(event, 0..200)
}

proptest! {
    /// While it is not closed, at most one holder of a pass may send; none before the cooldown.
    #[test]
    fn at_most_one_is_let_through_until_it_closes(events in events()) {
        let mut breaker = Breaker::new(Duration::from_nanos(10));
        let mut passes: Vec<Pass> = Vec::new();
        let (mut now, mut opened) = (0, None);
        for event in events {
            match event {
                Event::Admit => {
                    let before = breaker.state(now);
                    if let Ok(pass) = breaker.admit(now) {
                        prop_assert!(before != State::Open);
                        prop_assert!(opened.is_none_or(|at| now >= at + 10) || before == State::Closed);
                        if before == State::HalfOpen {
                            prop_assert!(!passes.iter().any(|other| breaker.is_valid(*other)));
                        }
                        prop_assert!(breaker.is_valid(pass));
                        passes.push(pass);
                    } else {
                        prop_assert!(before != State::Closed);
                    }
                }
                Event::Trip(which) => if let Some(pass) = passes.get(which)
                    && breaker.trip(*pass, now, None)
                {
                    opened = Some(now);
                    prop_assert_eq!(breaker.state(now), State::Open);
                },
                Event::Succeed(which) => if let Some(pass) = passes.get(which) {
                    breaker.succeed(*pass);
                },
                Event::Release(which) => if let Some(pass) = passes.get(which) {
                    breaker.release(*pass);
                },
                Event::Reset => {
                    breaker.reset();
                    prop_assert_eq!(breaker.state(now), State::Closed);
                }
                Event::Sleep(passed) => now += passed,
            }
        }
    }
}
