//! Those who wait: order, passing, reservations, and the heads of other processes.
#![cfg(not(loom))]

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tollway_core::limiter::{
    AGEING, Cost, Decision, Entrance, Layout, Limiter, LimiterError, Name, Poll, Quotas, Request,
    Served, Ticket,
};

mod exact;

use exact::{ExactLog, nanos, quota};

const SECOND: u64 = 1_000_000_000;
const MINUTE: Duration = Duration::from_secs(60);

fn tpm(limit: u64) -> Quotas {
    Quotas::of(&[
        quota(Name::Rpm, 100, MINUTE),
        quota(Name::Tpm, limit, MINUTE),
    ])
}

fn request(tokens: u32) -> Request {
    Request {
        cost: Cost::input(tokens),
        ..Request::default()
    }
}

/// Join the queue, where nobody is admitted at once.
fn join(limiter: &Limiter, now: u64, request: Request) -> Ticket {
    match limiter.enqueue(now, request) {
        Ok(Entrance::Waits { ticket, .. }) => ticket,
        other => panic!("{other:?}"),
    }
}

fn is_admitted(limiter: &Limiter, now: u64, tokens: u32) -> bool {
    let decision = limiter.try_acquire(now, Cost::input(tokens));
    matches!(decision, Ok(Decision::Admitted(_)))
}

fn poll(limiter: &Limiter, now: u64) -> (Vec<Ticket>, Poll) {
    let mut served = Served::default();
    let outcome = limiter.poll(now, 100, &mut served);
    let tickets = served.admitted.iter().map(|(ticket, _)| *ticket);
    (tickets.collect(), outcome)
}

#[test]
fn the_queue_is_served_in_order_and_not_passed() {
    let limiter = Limiter::with_quotas(&tpm(100)).unwrap();
    assert!(is_admitted(&limiter, 0, 100));
    let big = join(&limiter, 0, request(80));
    let gone = join(&limiter, 0, request(10));
    let small = join(&limiter, 0, request(20));
    assert!(limiter.cancel(gone));
    assert!(!limiter.cancel(gone));
    assert_eq!(limiter.waiting(), 2);
    assert!(!is_admitted(&limiter, 0, 0));

    let (served, Poll::Wait(wait)) = poll(&limiter, 0) else {
        panic!("nothing fits yet")
    };
    assert!(served.is_empty());
    let then = nanos(Decision::Wait(wait));
    let mut served = Served::default();
    assert_eq!(limiter.poll(then, 1, &mut served), Poll::More);
    assert_eq!(limiter.poll(then, 9, &mut served), Poll::Empty);
    let tickets: Vec<_> = served.admitted.iter().map(|(ticket, _)| *ticket).collect();
    assert_eq!(tickets, [big, small]);
    assert_eq!(limiter.waiting(), 0);
}

#[test]
fn the_first_in_the_queue_is_not_passed_when_it_is_due() {
    let quotas = Quotas::of(&[quota(Name::Rps, 1, Duration::from_secs(1))]);
    let limiter = Limiter::with_quotas(&quotas).unwrap();
    assert!(is_admitted(&limiter, 0, 0));
    let first = join(&limiter, 0, request(0));
    // A wait of no length would mean admitted.
    let wait = limiter.try_acquire(SECOND, Cost::default()).unwrap();
    assert!(nanos(wait) > 0);
    join(&limiter, SECOND, request(0));
    assert!(matches!(poll(&limiter, SECOND), (served, Poll::Wait(_)) if served == [first]));
}

#[test]
fn priority_comes_before_arrival_and_waiting_raises_it() {
    let quotas = Quotas::of(&[quota(Name::Rpm, 1, MINUTE)]);
    let limiter = Limiter::with_quotas(&quotas).unwrap();
    assert!(is_admitted(&limiter, 0, 0));
    let level = u64::try_from(AGEING.as_nanos()).unwrap();
    let with = |priority| Request {
        priority,
        ..Request::default()
    };
    let low = join(&limiter, 0, with(-1));
    let first = join(&limiter, 0, with(0));
    let second = join(&limiter, 0, with(0));
    let high = join(&limiter, level - 1, with(1));
    let late = join(&limiter, level + 1, with(1));
    let lowest = join(&limiter, level + 1, with(i32::MIN));
    let mut order = Vec::new();
    let mut now = level + 1;
    while limiter.waiting() > 0 {
        now += 61 * SECOND;
        order.extend(poll(&limiter, now).0);
    }
    // The last of priority 1 came over a level after the two of 0; the lowest of all comes last.
    assert_eq!(order, [high, first, second, late, low, lowest]);
}

#[test]
fn clocks_read_out_of_order_do_not_change_the_order_of_arrival() {
    let limiter = Limiter::with_quotas(&tpm(10)).unwrap();
    assert!(is_admitted(&limiter, 9, 10));
    let first = join(&limiter, 2_000, request(10));
    let second = join(&limiter, 1_000, request(10));
    assert_eq!(poll(&limiter, 70 * SECOND).0, [first]);
    assert_eq!(poll(&limiter, 140 * SECOND).0, [second]);
}

#[test]
fn who_waits_for_more_than_a_lowered_limit_is_refused() {
    let limiter = Limiter::with_quotas(&tpm(100)).unwrap();
    assert!(is_admitted(&limiter, 0, 100));
    let big = join(&limiter, 0, request(80));
    let small = join(&limiter, 0, request(30));
    limiter.set_ceiling(Name::Tpm, Some(50));
    let mut served = Served::default();
    assert!(matches!(
        limiter.poll(SECOND, 9, &mut served),
        Poll::Wait(_)
    ));
    let error = LimiterError::TooLarge {
        name: Name::Tpm,
        amount: 80,
        limit: 50,
    };
    assert_eq!(served.refused, [(big, error)]);
    // Below the limit that holds now, it goes once the 100 have left.
    assert_eq!(poll(&limiter, 61 * SECOND).0, [small]);
    assert!(!is_admitted(&limiter, 61 * SECOND, 21) && is_admitted(&limiter, 61 * SECOND, 20));
    limiter.set_ceiling(Name::Tpm, None);
    assert!(is_admitted(&limiter, 61 * SECOND, 50));
}

#[test]
fn a_pause_holds_what_it_concerns_until_its_end() {
    let limiter = Limiter::with_quotas(&tpm(100)).unwrap();
    limiter.pause(Some(Name::Tpm), 5 * SECOND);
    limiter.pause(Some(Name::Tpm), 3 * SECOND);
    assert!(is_admitted(&limiter, SECOND, 0));
    assert_eq!(
        limiter.try_acquire(SECOND, Cost::input(1)),
        Ok(Decision::Wait(Duration::from_secs(4)))
    );
    limiter.pause(None, 6 * SECOND);
    assert!(!is_admitted(&limiter, 5 * SECOND, 0));
    assert!(is_admitted(&limiter, 6 * SECOND, 1));
    // Without any limit as well.
    let free = Limiter::with_quotas(&Quotas::of(&[])).unwrap();
    free.pause(None, SECOND);
    assert!(!is_admitted(&free, 0, 0) && is_admitted(&free, SECOND, 0));
}

#[test]
fn a_ceiling_on_a_minute_lowers_its_sub_windows() {
    let windows = [
        quota(Name::Rpm, 600, MINUTE),
        quota(Name::SubWindow, 10, Duration::from_secs(1)),
    ];
    let limiter = Limiter::with_quotas(&Quotas::of(&windows)).unwrap();
    let limits = |limiter: &Limiter| {
        let state = limiter.state(0).windows;
        (state[0].limit, state[1].limit)
    };
    for (ceiling, expected) in [
        (Some(300), (300, 5)),
        (Some(1), (1, 1)),
        (Some(0), (1, 1)),
        (Some(9_000), (600, 10)),
        (None, (600, 10)),
    ] {
        limiter.set_ceiling(Name::Rpm, ceiling);
        assert_eq!(limits(&limiter), expected);
    }
}

#[test]
fn a_reservation_waits_for_another_to_end() {
    let quotas = Quotas {
        max_in_flight: 2,
        ..tpm(100)
    };
    let limiter = Limiter::with_quotas(&quotas).unwrap();
    let leased = |tokens| Request {
        is_leased: true,
        ..request(tokens)
    };
    for _ in 0..2 {
        let entrance = limiter.enqueue(0, leased(10)).unwrap();
        assert!(matches!(entrance, Entrance::Admitted(_)));
    }
    let ticket = join(&limiter, 0, leased(10));
    assert_eq!(poll(&limiter, SECOND), (vec![], Poll::Full));
    assert_eq!(limiter.used(SECOND), [2, 20]);
    limiter.end_lease();
    assert_eq!(poll(&limiter, SECOND), (vec![ticket], Poll::Empty));
    // One that is denied by a quota gives its reservation back.
    limiter.end_lease();
    let big = join(&limiter, SECOND, leased(90));
    assert_eq!(limiter.state(SECOND).in_flight, 1);
    assert!(limiter.cancel(big));
    limiter.clear_queue();
    assert_eq!(limiter.state(SECOND).in_flight, 0);
    limiter.end_lease();
    assert_eq!(limiter.state(SECOND).in_flight, 0);
}

/// Limiters of several processes on one block of memory.
fn processes(quotas: &Quotas, count: usize) -> Vec<Limiter> {
    #[repr(align(128))]
    struct Line(#[allow(dead_code)] std::cell::UnsafeCell<[u8; 128]>);
    // SAFETY: only looked at through the limiters.
    unsafe impl Sync for Line {}
    // SAFETY: as above.
    unsafe impl Send for Line {}
    let layout = Layout::of(quotas, count).unwrap();
    let lines = layout.bytes() / layout.align();
    let mut block: Vec<Line> = Vec::new();
    block.resize_with(lines, || Line([0; 128].into()));
    let memory = NonNull::new(block.as_mut_ptr()).unwrap().cast();
    let keep: Arc<dyn Any + Send + Sync> = Arc::new(block);
    (0..count)
        .map(|process| {
            // SAFETY: the block is as long and as aligned as the layout asks, and held by `keep`.
            let attached =
                unsafe { Limiter::attach(quotas, &layout, memory, &keep, process == 0, process) };
            let limiter = attached.unwrap();
            limiter.enter(1);
            limiter
        })
        .collect()
}

#[test]
fn processes_share_one_quota_and_one_number_of_reservations() {
    let quotas = Quotas {
        max_in_flight: 3,
        ..tpm(100)
    };
    let limiters = processes(&quotas, 3);
    assert!(is_admitted(&limiters[0], 0, 60));
    assert!(!is_admitted(&limiters[1], 0, 41) && is_admitted(&limiters[1], 0, 40));
    assert_eq!(limiters[2].used(SECOND), [2, 100]);
    assert!(limiters[0].lease() && limiters[0].lease() && limiters[1].lease());
    assert!(!limiters[2].lease());
    // The first process dies.
    assert_eq!(limiters[2].in_flight_of(0), 2);
    let (place, left) = limiters[2].others().next().unwrap();
    assert_eq!((place, left.entry()), (0, 1));
    limiters[2].forget(place, left);
    assert!(limiters[2].lease() && limiters[2].lease() && !limiters[2].lease());
    // Another takes its place, and as many reservations: what the dead one left is not theirs.
    limiters[2].end_lease();
    limiters[2].end_lease();
    limiters[0].enter(2);
    assert!(limiters[0].lease() && limiters[0].lease());
    limiters[2].forget(place, left);
    assert_eq!(limiters[1].state(0).in_flight, 3);
}

#[test]
fn the_head_of_another_process_is_given_way_to_until_it_has_stopped() {
    let limiters = processes(&tpm(100), 2);
    assert!(is_admitted(&limiters[0], 0, 50));
    assert!(is_admitted(&limiters[0], 10 * SECOND, 50));
    // 80 fit when both have left, at 70 s.
    join(&limiters[0], 20 * SECOND, request(80));
    let (_, Poll::Wait(wait)) = poll(&limiters[0], 20 * SECOND) else {
        panic!("it does not fit")
    };
    assert_eq!(wait, Duration::from_secs(50));
    // There is room for 30 at 60 s, but then the other would come later; 10 take nothing from it.
    assert!(!is_admitted(&limiters[1], 60 * SECOND, 30));
    assert!(is_admitted(&limiters[1], 60 * SECOND, 10));
    // It is due, has 50 ms to come, and does not.
    assert!(!is_admitted(&limiters[1], 70 * SECOND + 40_000_000, 30));
    assert!(is_admitted(&limiters[1], 70 * SECOND + 51_000_000, 30));
}

#[test]
fn heads_of_processes_go_in_the_order_in_which_they_became_first() {
    let limiters = processes(&tpm(100), 2);
    assert!(is_admitted(&limiters[0], 0, 100));
    let first = join(&limiters[0], SECOND, request(60));
    let second = join(&limiters[1], 2 * SECOND, request(50));
    for limiter in &limiters {
        assert!(matches!(poll(limiter, 3 * SECOND), (served, Poll::Wait(_)) if served.is_empty()));
    }
    // Whichever is asked first.
    let (served, Poll::Wait(wait)) = poll(&limiters[1], 60 * SECOND) else {
        panic!("the other goes first")
    };
    assert!(served.is_empty() && wait <= Duration::from_millis(50));
    assert_eq!(poll(&limiters[0], 60 * SECOND), (vec![first], Poll::Empty));
    assert!(
        matches!(poll(&limiters[1], 61 * SECOND), (served, Poll::Wait(_)) if served.is_empty())
    );
    assert_eq!(poll(&limiters[1], 120 * SECOND).0, [second]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Arrivals at random, big ones among them: nobody is admitted later than in strict order, and
    /// no window is ever over.
    #[test]
    fn nobody_comes_later_for_those_who_pass(
        script in prop::collection::vec((0u64..3_000, 1u32..40, 0u32..20), 1..150),
        rpm in 5u64..40,
        sub_window in prop::option::of(1u64..5),
    ) {
        let mut windows = vec![quota(Name::Rpm, rpm, MINUTE), quota(Name::Tpm, 100, MINUTE)];
        windows.extend(sub_window.map(|limit| quota(Name::Rps, limit, Duration::from_secs(2))));
        let limiter = Limiter::with_quotas(&Quotas::of(&windows)).unwrap();
        let (mut exact, mut strict) = (ExactLog::new(&windows, 1), ExactLog::new(&windows, 1));
        let (mut now, mut strictly) = (0, 0);
        let mut waiting = std::collections::HashMap::new();
        let check = |exact: &mut ExactLog, now: u64, size: Cost, latest: u64| {
            exact.admitted.push((now, size));
            let is_held = windows.iter().all(|quota| exact.used(quota, now) <= quota.limit);
            prop_assert!(is_held && now <= latest, "at {} not {}", now, latest);
            Ok(())
        };
        let serve = |limiter: &Limiter, until: u64, now: &mut u64,
                         waiting: &mut std::collections::HashMap<Ticket, (Cost, u64)>,
                         exact: &mut ExactLog| {
            loop {
                let mut served = Served::default();
                let outcome = limiter.poll(*now, 1_000, &mut served);
                for (ticket, _) in served.admitted {
                    let (size, latest) = waiting.remove(&ticket).unwrap();
                    check(exact, *now, size, latest)?;
                }
                match outcome {
                    Poll::Wait(wait) if *now + nanos(Decision::Wait(wait)) <= until => {
                        *now += nanos(Decision::Wait(wait));
                    }
                    _ => break,
                }
            }
            *now = until.max(*now);
            Ok::<(), TestCaseError>(())
        };
        for (millis, tokens, is_big) in script {
            // Whole ticks, so that both clocks are one.
            let arrival = now + millis * 1_000_000 / 16_000 * 16_000;
            serve(&limiter, arrival, &mut now, &mut waiting, &mut exact)?;
            let size = Cost::input(if is_big == 0 { tokens * 2 + 20 } else { tokens / 4 });
            strictly = strict.due(arrival.max(strictly), size);
            strict.admitted.push((strictly, size));
            match limiter.enqueue(arrival, Request { cost: size, ..Request::default() }).unwrap() {
                Entrance::Admitted(_) => exact.admitted.push((arrival, size)),
                Entrance::Waits { ticket, .. } => {
                    waiting.insert(ticket, (size, strictly));
                    // Who may pass does at once.
                    serve(&limiter, arrival, &mut now, &mut waiting, &mut exact)?;
                }
            }
        }
        serve(&limiter, u64::MAX, &mut now, &mut waiting, &mut exact)?;
        prop_assert!(waiting.is_empty());
    }
}

/// Small ones pass one that is larger than the quota only as long as they are gone by its time.
#[test]
fn what_is_larger_than_the_quota_goes_alone_where_it_may() {
    let quotas = Quotas {
        admits_oversized: true,
        ..tpm(100)
    };
    let limiter = Limiter::with_quotas(&quotas).unwrap();
    assert!(is_admitted(&limiter, 0, 30));
    let wait = nanos(limiter.try_acquire(0, Cost::input(250)).unwrap());
    assert!((60 * SECOND..61 * SECOND).contains(&wait));
    let large = join(&limiter, 10 * SECOND, request(250));
    let small = join(&limiter, 10 * SECOND, request(10));
    for second in 10..60 {
        assert!(poll(&limiter, second * SECOND).0.is_empty());
    }
    assert_eq!(poll(&limiter, wait).0, [large]);
    assert_eq!(limiter.used(wait), [1, 250]);
    assert!(poll(&limiter, wait + 59 * SECOND).0.is_empty());
    assert_eq!(poll(&limiter, wait + 61 * SECOND).0, [small]);
    // Beyond what the sums can tell apart it is an error all the same.
    let error = limiter.try_acquire(0, Cost::input(1 << 31)).unwrap_err();
    assert!(matches!(error, LimiterError::TooLarge { .. }));
}

/// However many more than whole quotas come and come back, each window holds one at a time.
#[test]
fn those_larger_than_the_quota_go_one_at_a_time() {
    let quotas = Quotas {
        admits_oversized: true,
        ..tpm(100)
    };
    let limiter = Limiter::with_quotas(&quotas).unwrap();
    let whole = Cost::input(1 << 30);
    let mut held = 0;
    for turn in 0..9 {
        if let Ok(Decision::Admitted(stamp)) = limiter.try_acquire(turn, whole) {
            if turn < 6 {
                limiter.refund(stamp, whole);
            } else {
                held += 1;
            }
        }
    }
    assert!(held <= 1, "{held} in one window");
    assert!(is_admitted(&limiter, 121 * SECOND, 1 << 30));
}
