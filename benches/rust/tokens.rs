//! How many nanoseconds a byte does counting take, by text and encoding?

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tollway_core::tokens::Encoding;

/// The corpora where `TOLLWAY_CORPORA` names them, otherwise this crate's own source.
fn texts() -> Vec<(String, String)> {
    let own = (
        "source".to_owned(),
        include_str!("../../rust/core/src/tokens/merge.rs").to_owned(),
    );
    let Ok(folder) = std::env::var("TOLLWAY_CORPORA") else {
        return vec![own];
    };
    ["english", "korean", "python", "json"]
        .into_iter()
        .filter_map(|name| {
            let path = Path::new(&folder).join(name).with_extension("txt");
            let mut text = std::fs::read_to_string(path).ok()?;
            let cut = (0..=200_000).rev().find(|&at| text.is_char_boundary(at))?;
            text.truncate(cut);
            Some((name.to_owned(), text))
        })
        .collect()
}

fn count(criterion: &mut Criterion) {
    for encoding in ["o200k_base", "cl100k_base"]
        .into_iter()
        .filter_map(Encoding::by_name)
    {
        let mut group = criterion.benchmark_group(format!("count/{}", encoding.name()));
        for (name, text) in texts() {
            group.throughput(Throughput::Bytes(text.len() as u64));
            group.bench_function(name, |bencher| {
                bencher.iter(|| encoding.count(black_box(&text)));
            });
        }
        group.finish();
    }
}

/// Runs that a merge must not take quadratic time for.
fn adversarial(criterion: &mut Criterion) {
    let Some(encoding) = Encoding::by_name("o200k_base") else {
        return;
    };
    let mut group = criterion.benchmark_group("adversarial");
    group.sample_size(10);
    for (name, unit) in [
        ("letter", "a"),
        ("space", " "),
        ("newline", "\n"),
        ("hangul", "뷁"),
    ] {
        let text = unit.repeat(1_000_000 / unit.len());
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| encoding.count(black_box(&text)));
        });
    }
    group.finish();
}

criterion_group!(benches, count, adversarial);
criterion_main!(benches);
