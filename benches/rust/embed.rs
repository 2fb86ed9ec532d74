//! How long do packing a million texts, decoding 128 × 1,536 numbers and finding a row take?

use std::hint::black_box;

use base64_simd::STANDARD;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tollway_core::embed::{Caps, Digest, RowTable, decode, decode_new, pack};

const ROWS: u16 = 128;
const DIMENSION: u16 = 1_536;

/// Vectors of about unit length, with as many digits as a float32 has.
fn row(index: u16) -> Vec<f32> {
    (0..DIMENSION)
        .map(|k| (f32::from(index) * 1.7 + f32::from(k) * 0.37).sin() / 39.0)
        .collect()
}

fn answer(vector: impl Fn(&[f32]) -> String) -> Vec<u8> {
    let item = |index| {
        let vector = vector(&row(index));
        format!(r#"{{"object":"embedding","index":{index},"embedding":{vector}}}"#)
    };
    let data: Vec<String> = (0..ROWS).map(item).collect();
    format!(r#"{{"object":"list","data":[{}]}}"#, data.join(",")).into_bytes()
}

fn decoding(criterion: &mut Criterion) {
    let base64 = answer(|row| {
        let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
        format!("\"{}\"", STANDARD.encode_to_string(bytes))
    });
    let floats = answer(|row| format!("{row:?}"));
    let mut group = criterion.benchmark_group("decode 128 rows");
    group.throughput(Throughput::Elements(u64::from(ROWS)));
    let mut place = vec![0.0; usize::from(ROWS) * usize::from(DIMENSION)];
    group.bench_function("base64, into a place that is there", |bencher| {
        bencher.iter(|| {
            decode(black_box(&base64), usize::from(ROWS), None, |_| {
                Some(&mut place[..])
            })
        });
    });
    for (name, body) in [("base64", &base64), ("floats", &floats)] {
        let (_, decoded) = decode_new(body, usize::from(ROWS), None).expect("a right answer");
        assert!(decoded.bad_rows.is_empty());
        group.bench_function(name, |bencher| {
            bencher.iter(|| decode_new(black_box(body), usize::from(ROWS), None));
        });
    }
    group.finish();
}

fn packing(criterion: &mut Criterion) {
    let counts: Vec<i64> = (0..1_000_000).map(|n| n * 7_919 % 700).collect();
    let caps = Caps {
        texts: 128,
        tokens: Some(300_000),
        target_tokens: Some(10_000),
    };
    let mut group = criterion.benchmark_group("pack");
    group.throughput(Throughput::Elements(1_000_000));
    group.bench_function("a million texts", |bencher| {
        bencher.iter(|| pack(black_box(&counts), caps));
    });
    group.finish();
}

fn rows(criterion: &mut Criterion) {
    let digest = |n: u128| -> Digest {
        // An odd multiplier keeps digests distinct and spreads them over all 128 bits.
        (n + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
            .to_le_bytes()
    };
    let digests: Vec<Digest> = (0..1_000_000).map(digest).collect();
    let mut full = RowTable::default();
    for digest in &digests {
        full.insert_new(digest);
    }
    let mut group = criterion.benchmark_group("row table, a million");
    group.throughput(Throughput::Elements(1_000_000));
    group.sample_size(10);
    group.bench_function("insert", |bencher| {
        bencher.iter(|| {
            let mut table = RowTable::default();
            digests
                .iter()
                .filter_map(|digest| table.insert_new(digest))
                .count()
        });
    });
    group.bench_function("get", |bencher| {
        bencher.iter(|| digests.iter().filter_map(|digest| full.get(digest)).count());
    });
    group.finish();
}

criterion_group!(benches, decoding, packing, rows);
criterion_main!(benches);
