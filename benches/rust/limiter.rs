//! What does an admission cost, uncontended and between eight threads, and what does a denial?

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tollway_core::limiter::{Decision, Limiter, Limits};

const RPM: u32 = 60_000;
const TOKENS: u32 = 100;
/// Between two requests, so that the windows stay half full.
const STEP_NANOS: u64 = 2_000_000;

fn cases() -> [(&'static str, Limits); 4] {
    let rpm = Limits {
        rpm: Some(RPM),
        ..Limits::default()
    };
    let tpm = Some(RPM * TOKENS);
    let sub_window = Some(Duration::from_secs(1));
    [
        ("rpm", rpm),
        (
            "tpm",
            Limits {
                rpm: None,
                tpm,
                ..rpm
            },
        ),
        ("rpm+tpm", Limits { tpm, ..rpm }),
        (
            "rpm+tpm+sub_window",
            Limits {
                tpm,
                sub_window,
                ..rpm
            },
        ),
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
                let decision = limiter.try_acquire(black_box(now), black_box(TOKENS));
                assert_eq!(decision, Ok(Decision::Admitted));
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
        while limiter.try_acquire(now, TOKENS) == Ok(Decision::Admitted) {
            now += STEP_NANOS / 4;
        }
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let decision = limiter.try_acquire(black_box(now), black_box(TOKENS));
                assert!(matches!(decision, Ok(Decision::Wait(_))));
            });
        });
    }
    group.finish();
}

/// Time for an admission while eight threads admit: the time of all ÷ the admissions of all.
fn contending(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("admit, 8 threads");
    for (name, limits) in cases() {
        let (limiter, clock) = (limiter(&limits), AtomicU64::new(0));
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter_custom(|admissions| {
                let started = Instant::now();
                thread::scope(|scope| {
                    for index in 0..8 {
                        let share = admissions / 8 + u64::from(index < admissions % 8);
                        let (limiter, clock) = (&limiter, &clock);
                        scope.spawn(move || {
                            for _ in 0..share {
                                let now = clock.fetch_add(STEP_NANOS, Ordering::Relaxed);
                                let _ = black_box(limiter.try_acquire(now, TOKENS));
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
