//! Models of the admission log: every interleaving of a few threads, up to the preemption bound.
//!
//! Run by `make loom`. The word is 64 bits wide here, its serial 6, so wrap-around is near.
#![cfg(loom)]

use std::time::Duration;

use loom::sync::Arc;
use loom::thread;
use tollway_core::limiter::{Decision, Limiter, Quota, Unit};

const TICK: u64 = 16_000;

const fn quota(unit: Unit, limit: u32, ticks: u64) -> Quota {
    Quota {
        unit,
        limit,
        window: Duration::from_nanos(ticks * TICK),
    }
}

/// Explore every schedule; `calls` gives each thread its (tick, tokens), `check` what was admitted.
fn model(
    quotas: &'static [Quota],
    serial: u32,
    calls: &'static [&'static [(u64, u32)]],
    check: fn(&[(u64, u32)]),
) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let limiter = Arc::new(Limiter::starting_at(quotas, serial).unwrap());
        let run = |limiter: &Limiter, calls: &[(u64, u32)]| -> Vec<(u64, u32)> {
            let admitted = |call: &&(u64, u32)| {
                limiter.try_acquire(call.0 * TICK, call.1) == Ok(Decision::Admitted)
            };
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
        for (quota, used) in quotas.iter().zip(used) {
            let ticks = u64::try_from(quota.window.as_nanos()).unwrap() / TICK;
            let sum = |since: u64| -> u32 {
                let amount = |call: &(u64, u32)| match quota.unit {
                    Unit::Requests => 1,
                    Unit::Tokens => call.1,
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
    static QUOTAS: &[Quota] = &[quota(Unit::Requests, 1, 4)];
    model(QUOTAS, 0, &[&[(1, 0)], &[(1, 0)], &[(1, 0)]], |admitted| {
        assert_eq!(admitted.len(), 1)
    });
}

#[test]
fn two_dimensions_are_one_decision() {
    static QUOTAS: &[Quota] = &[quota(Unit::Requests, 2, 8), quota(Unit::Tokens, 5, 8)];
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
    static QUOTAS: &[Quota] = &[quota(Unit::Requests, 2, 2)];
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
    static QUOTAS: &[Quota] = &[quota(Unit::Tokens, 4, 64)];
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
