//! How long does deciding the wait after a failed attempt take?

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tollway_core::retry::{Failure, Jitter, Policy, Strategy};

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

criterion_group!(benches, deciding);
criterion_main!(benches);
