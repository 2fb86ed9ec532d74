//! What do deciding a wait, and keeping 100,000 of them, take?

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use tollway_core::retry::{Failure, Jitter, Policy, Scheduler, Strategy};

fn deciding(criterion: &mut Criterion) {
    let failure = Failure {
        retry: 5,
        draw: 0.3,
        previous: Some(Duration::from_secs(8)),
        hint: Some(Duration::from_secs(2)),
        timed_out: false,
        remaining: Some(Duration::from_secs(500)),
    };
    let mut group = criterion.benchmark_group("decide");
    for (name, strategy) in Strategy::ALL {
        let base = strategy.default_base();
        let max_delay = Duration::from_secs(60);
        let policy = Policy {
            strategy,
            jitter: Jitter::Full,
            base,
            max_delay,
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(&policy).decide(black_box(&failure)));
        });
    }
    group.finish();
}

const PENDING: u64 = 100_000;

/// Scattered over 2^40 ns, a quarter of an hour.
fn due(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 24
}

fn filled() -> Scheduler<Box<u64>> {
    let mut scheduler = Scheduler::new();
    for number in 0..PENDING {
        scheduler.push(due(number), Box::new(number));
    }
    scheduler
}

fn pending(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("100,000 pending");
    group.sample_size(20);
    group.bench_function("push one and cancel it", |bencher| {
        let mut scheduler = filled();
        let mut number = 0;
        bencher.iter(|| {
            number += 1;
            let ticket = scheduler.push(due(number), Box::new(number));
            black_box(scheduler.cancel(ticket))
        });
    });
    group.bench_function("pop all in order", |bencher| {
        bencher.iter_batched(
            filled,
            |mut scheduler| {
                let mut taken = Vec::new();
                while !scheduler.is_empty() {
                    taken.clear();
                    scheduler.pop_due(u64::MAX, 256, &mut taken);
                }
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, deciding, pending);
criterion_main!(benches);
