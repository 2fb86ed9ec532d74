//! What does an admission cost, uncontended and between eight threads, and what does a denial?

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tollway_core::limiter::{Cost, Decision, Limiter, Limits, Name, Quota, Quotas};

const RPM: u64 = 60_000;
const COST: Cost = Cost {
    input: 80,
    output: 20,
};
/// Between two requests, so that the windows stay half full.
const STEP_NANOS: u64 = 2_000_000;

fn cases() -> [(&'static str, Limits); 5] {
    let rpm = Limits {
        rpm: Some(RPM),
        ..Limits::default()
    };
    let tpm = Some(RPM * 100);
    let joint = Limits { tpm, ..rpm.clone() };
    let sub_windows = vec![Duration::from_secs(1)];
    let all = Limits {
        input_tpm: Some(RPM * 90),
        output_tpm: Some(RPM * 30),
        rps: Some(1_100),
        rpd: Some(80_000_000),
        tpd: Some(8_000_000_000),
        sub_windows: vec![Duration::from_secs(1), Duration::from_secs(10)],
        max_in_flight: Some(100),
        ..joint.clone()
    };
    [
        ("rpm", rpm.clone()),
        (
            "tpm",
            Limits {
                rpm: None,
                tpm,
                ..rpm
            },
        ),
        ("rpm+tpm", joint.clone()),
        (
            "rpm+tpm+sub_window",
            Limits {
                sub_windows,
                ..joint
            },
        ),
        ("all", all),
    ]
}

fn limiter(limits: &Limits) -> Limiter {
    Limiter::new(limits, None).expect("the limits are in range")
}

fn admitting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("admit");
    for (name, limits) in cases() {
        let (limiter, mut now) = (limiter(&limits), 0);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                now += STEP_NANOS;
                let decision = limiter.try_acquire(black_box(now), black_box(COST));
                assert!(matches!(decision, Ok(Decision::Admitted(_))));
            });
        });
    }
    group.finish();
}

fn denying(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("deny");
    for (name, limits) in cases() {
        let (limiter, mut now) = (limiter(&limits), 0);
        // Unevenly full, so that the wait has to be searched for.
        while let Ok(Decision::Admitted(_)) = limiter.try_acquire(now, COST) {
            now += STEP_NANOS / 4;
        }
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let decision = limiter.try_acquire(black_box(now), black_box(COST));
                assert!(matches!(decision, Ok(Decision::Wait(_))));
            });
        });
    }
    group.finish();
}

/// Time for an admission while so many threads admit in a window of a millisecond, each with the
/// clock that it would read: the time of all ÷ the admissions of all.
fn contending(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("admit in 1 ms, threads");
    let window = Duration::from_millis(1);
    let quota = |name, limit| Quota {
        name,
        limit,
        window,
    };
    let quotas = [quota(Name::Rpm, RPM), quota(Name::Tpm, RPM * 100)];
    let limiter = Limiter::with_quotas(&Quotas::of(&quotas)).expect("the quotas are in range");
    let origin = Instant::now();
    let now = || u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
    for threads in [1, 2, 8] {
        group.bench_function(BenchmarkId::from_parameter(threads), |bencher| {
            bencher.iter_custom(|admissions| {
                let started = Instant::now();
                thread::scope(|scope| {
                    for index in 0..threads {
                        let share = admissions / threads + u64::from(index < admissions % threads);
                        let (limiter, now) = (&limiter, &now);
                        scope.spawn(move || {
                            for _ in 0..share {
                                let _ = black_box(limiter.try_acquire(now(), COST));
                            }
                        });
                    }
                });
                started.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, admitting, denying, contending);
criterion_main!(benches);
