//! Models of the admission log: every interleaving of a few threads, up to the preemption bound.
//!
//! Run by `make loom`. The word is 64 bits wide here, its serial 6, so wrap-around is near.
#![cfg(loom)]

use std::time::Duration;

use loom::sync::Arc;
use loom::thread;
use tollway_core::limiter::{
    Cost, Decision, Entrance, Limiter, Name, Quota, Quotas, Request, Stamp, Unit,
};

const TICK: u64 = 16_000;
/// Refunds are kept by seconds, which are this short here, and minutes have sixty of them.
const SECOND: u64 = 4;
const MINUTE: u64 = 60 * SECOND;

const fn quota(name: Name, limit: u64, ticks: u64) -> Quota {
    Quota {
        name,
        limit,
        window: Duration::from_nanos(ticks * TICK),
    }
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    // A window's refunds lie in sixty cells.
    builder.max_branches = 20_000;
    builder.check(model);
}

fn acquire(limiter: &Limiter, tick: u64, tokens: u32) -> Option<Stamp> {
    match limiter.try_acquire(tick * TICK, Cost::input(tokens)) {
        Ok(Decision::Admitted(stamp)) => Some(stamp),
        _ => None,
    }
}

/// Explore every schedule; `calls` gives each thread its (tick, tokens), `check` what was admitted.
fn model(
    windows: &'static [Quota],
    serial: u32,
    calls: &'static [&'static [(u64, u32)]],
    check: fn(&[(u64, u32)]),
) {
    explore(move || {
        let quotas = Quotas::of(windows);
        let limiter = Arc::new(Limiter::starting_at(&quotas, serial).unwrap());
        let run = |limiter: &Limiter, calls: &[(u64, u32)]| -> Vec<(u64, u32)> {
            let admitted = |call: &&(u64, u32)| acquire(limiter, call.0, call.1).is_some();
            calls.iter().filter(admitted).copied().collect()
        };
        let others: Vec<_> = calls[1..]
            .iter()
            .map(|calls| {
                let limiter = Arc::clone(&limiter);
                thread::spawn(move || run(&limiter, calls))
            })
            .collect();
        let mut admitted = run(&limiter, calls[0]);
        for other in others {
            admitted.extend(other.join().unwrap());
        }
        check(&admitted);
        // What the log says of itself is what was admitted: no charge lost, none made twice. One is
        // stamped no earlier than it was asked for.
        let latest = calls
            .iter()
            .flat_map(|calls| calls.iter())
            .map(|call| call.0)
            .max();
        let latest = latest.unwrap();
        let used = limiter.used(latest * TICK);
        for (quota, used) in windows.iter().zip(used) {
            let ticks = u64::try_from(quota.window.as_nanos()).unwrap() / TICK;
            let sum = |since: u64| -> u64 {
                let amount = |call: &(u64, u32)| match quota.name.unit() {
                    Unit::Requests => 1,
                    _ => u64::from(call.1),
                };
                admitted
                    .iter()
                    .filter(|call| call.0 >= since)
                    .map(amount)
                    .sum()
            };
            let least = sum((latest + 1).saturating_sub(ticks));
            assert!(
                (least..=sum(0).min(quota.limit)).contains(&used),
                "{used} of {quota:?}"
            );
        }
    });
}

#[test]
fn one_permit_is_given_once() {
    static QUOTAS: &[Quota] = &[quota(Name::Rps, 1, 4)];
    model(QUOTAS, 0, &[&[(1, 0)], &[(1, 0)], &[(1, 0)]], |admitted| {
        assert_eq!(admitted.len(), 1)
    });
}

#[test]
fn two_dimensions_are_one_decision() {
    static QUOTAS: &[Quota] = &[quota(Name::Rps, 2, 8), quota(Name::Tpm, 5, 8)];
    model(QUOTAS, 0, &[&[(1, 3), (1, 2)], &[(1, 3)]], |admitted| {
        let tokens: u32 = admitted.iter().map(|call| call.1).sum();
        assert!(admitted.len() <= 2 && tokens <= 5, "{admitted:?}");
        // Whatever the order, 3 fits first and then 2: the second 3 never does.
        assert!(tokens == 5 || tokens == 3, "{admitted:?}");
    });
}

/// Four slots and serials about to wrap: a helper that sleeps through a whole ring must not write
/// an old word over a new one.
#[test]
fn a_stalled_helper_writes_nothing_old() {
    static QUOTAS: &[Quota] = &[quota(Name::Rps, 2, 2)];
    static CALLS: &[&[(u64, u32)]] =
        &[&[(1, 0), (1, 0), (3, 0), (3, 0), (5, 0), (5, 0)], &[(1, 0)]];
    // Three windows of two: whoever the slow caller displaces, six are admitted, never seven.
    model(QUOTAS, 62, CALLS, |admitted| {
        assert_eq!(admitted.len(), 6, "{admitted:?}")
    });
}

/// Without a request quota, admissions of one granule share a slot that is written again and again.
#[test]
fn a_shared_slot_keeps_every_charge() {
    static QUOTAS: &[Quota] = &[quota(Name::Tpm, 4, 64)];
    model(
        QUOTAS,
        63,
        &[&[(1, 2), (70, 1)], &[(1, 1), (1, 1)]],
        |admitted| {
            let early: u32 = admitted
                .iter()
                .filter(|call| call.0 == 1)
                .map(|call| call.1)
                .sum();
            assert!(early <= 4, "{admitted:?}");
        },
    );
}

/// One gives back what it was admitted for while another asks: nobody is admitted before, all are
/// after, and what came back is there once.
#[test]
fn a_refund_is_there_once() {
    static WINDOWS: &[Quota] = &[quota(Name::Rpm, 2, MINUTE), quota(Name::Tpm, 5, MINUTE)];
    explore(|| {
        let limiter = Arc::new(Limiter::with_quotas(&Quotas::of(WINDOWS)).unwrap());
        let stamp = acquire(&limiter, 9, 4).expect("it is empty");
        let giver = {
            let limiter = Arc::clone(&limiter);
            thread::spawn(move || limiter.refund(stamp, Cost::input(4)))
        };
        let asker = {
            let limiter = Arc::clone(&limiter);
            thread::spawn(move || acquire(&limiter, 9, 3).is_some())
        };
        let own = acquire(&limiter, 9, 3).is_some();
        let other = asker.join().unwrap();
        giver.join().unwrap();
        // Both together are more than the quota, whatever came back.
        assert!(!(own && other));
        let left = !(own || other) && acquire(&limiter, 9, 3).is_some();
        assert!(own || other || left);
        assert_eq!(limiter.used(9 * TICK), [1, 3]);
    });
}

/// Two settle charges of one second at once: neither refund is lost.
#[test]
fn refunds_of_one_second_add_up() {
    static WINDOWS: &[Quota] = &[quota(Name::Rpm, 3, MINUTE), quota(Name::Tpm, 9, MINUTE)];
    explore(|| {
        let limiter = Arc::new(Limiter::with_quotas(&Quotas::of(WINDOWS)).unwrap());
        let stamps = [5, 5, 5].map(|tick| acquire(&limiter, tick, 3).expect("there is room"));
        let other = {
            let limiter = Arc::clone(&limiter);
            thread::spawn(move || {
                limiter.settle(5 * TICK, stamps[1], Cost::input(3), Cost::input(1));
            })
        };
        limiter.refund(stamps[0], Cost::input(3));
        // Over-use at the same time is charged at once, and once.
        limiter.settle(5 * TICK, stamps[2], Cost::input(3), Cost::input(4));
        other.join().unwrap();
        assert_eq!(limiter.used(5 * TICK), [2, 5]);
    });
}

/// Of three who want the only reservation one has it, until it is given back.
#[test]
fn a_reservation_is_held_by_one() {
    explore(|| {
        let quotas = Quotas {
            max_in_flight: 1,
            ..Quotas::of(&[quota(Name::Rps, 9, 4)])
        };
        let limiter = Arc::new(Limiter::with_quotas(&quotas).unwrap());
        let holders = Arc::new(loom::sync::atomic::AtomicUsize::new(0));
        let visit = |limiter: &Limiter, holders: &loom::sync::atomic::AtomicUsize| {
            if limiter.lease() {
                assert_eq!(
                    holders.fetch_add(1, loom::sync::atomic::Ordering::SeqCst),
                    0
                );
                holders.fetch_sub(1, loom::sync::atomic::Ordering::SeqCst);
                limiter.end_lease();
            }
        };
        let others = [(); 2].map(|()| {
            let (limiter, holders) = (Arc::clone(&limiter), Arc::clone(&holders));
            thread::spawn(move || visit(&limiter, &holders))
        });
        visit(&limiter, &holders);
        for other in others {
            other.join().unwrap();
        }
        let request = Request {
            is_leased: true,
            ..Request::default()
        };
        assert!(matches!(
            limiter.enqueue(TICK, request),
            Ok(Entrance::Admitted(_))
        ));
        assert_eq!(limiter.state(TICK).in_flight, 1);
    });
}

/// The first two to come in a new minute of the day both write down what there was before; a day's
/// sum counts both, and neither too little.
#[test]
fn a_minute_begins_once() {
    static WINDOWS: &[Quota] = &[quota(Name::Rpm, 6, MINUTE), quota(Name::Rpd, 3, 3 * MINUTE)];
    explore(|| {
        let limiter = Arc::new(Limiter::with_quotas(&Quotas::of(WINDOWS)).unwrap());
        assert!(acquire(&limiter, 1, 0).is_some());
        let other = {
            let limiter = Arc::clone(&limiter);
            thread::spawn(move || acquire(&limiter, MINUTE + 9, 0).is_some())
        };
        let own = acquire(&limiter, MINUTE + 9, 0).is_some();
        assert!(other.join().unwrap() && own);
        assert_eq!(limiter.used((MINUTE + 9) * TICK)[1], 3);
        assert!(acquire(&limiter, MINUTE + 9, 0).is_none());
    });
}
