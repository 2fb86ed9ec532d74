//! Packing: every text once, in order, under every cap, and no request that could have been fewer.

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};
use tollway_core::embed::{Caps, PackError, pack, pack_fewest, request_caps};

fn caps(texts: usize, tokens: Option<u64>, target_tokens: Option<u64>) -> Caps {
    Caps {
        texts,
        tokens,
        target_tokens,
    }
}

#[test]
fn requests_close_at_each_cap() {
    assert_eq!(pack::<u32>(&[], caps(2, None, None)), Ok(vec![0]));
    assert_eq!(pack(&[1_u32; 5], caps(2, None, None)), Ok(vec![0, 2, 4, 5]));
    assert_eq!(
        pack(&[5_i64, 5, 1, 9, 1], caps(9, Some(10), None)),
        Ok(vec![0, 2, 4, 5])
    );
    assert_eq!(
        pack(&[5_i64, 50, 1, 9], caps(9, Some(60), Some(10))),
        Ok(vec![0, 1, 2, 4])
    );
}

#[test]
fn a_text_that_no_request_can_hold_is_named() {
    let error = pack(&[1_i64, 11], caps(9, Some(10), None)).unwrap_err();
    assert_eq!(
        error,
        PackError::TooLarge {
            index: 1,
            tokens: 11,
            cap: 10
        }
    );
    assert!(error.to_string().contains("text 1 has 11 tokens"));
    assert_eq!(
        pack(&[1_i64, -1], caps(9, None, None)),
        Err(PackError::Negative { index: 1 })
    );
}

#[test]
fn huge_counts_do_not_overflow() {
    assert_eq!(pack(&[i64::MAX; 3], caps(9, None, None)), Ok(vec![0, 3]));
    assert_eq!(
        pack(&[i64::MAX; 3], caps(9, None, Some(7))),
        Ok(vec![0, 1, 2, 3])
    );
}

#[test]
fn the_default_size_follows_the_limits() {
    let openai = |rpm, tpm, mean| request_caps(rpm, tpm, 2_048, Some(300_000), mean);
    // 1 % of the tokens a minute.
    assert_eq!(
        openai(Some(500), Some(1_000_000), None),
        caps(128, Some(300_000), Some(10_000))
    );
    // Few requests a minute: tokens ÷ requests wins over 1 %.
    assert_eq!(
        openai(Some(3), Some(40_000), None),
        caps(128, Some(300_000), Some(13_334))
    );
    // Short texts: as many as reach tokens ÷ requests.
    let short = openai(Some(500), Some(1_000_000), Some(5));
    assert_eq!(short, caps(400, Some(300_000), Some(10_000)));
    // Never over the provider's caps, and never nothing.
    let huge = openai(Some(1), Some(100_000_000), Some(1));
    assert_eq!(huge, caps(2_048, Some(300_000), Some(300_000)));
    assert_eq!(
        openai(Some(9), Some(5), None),
        caps(128, Some(300_000), Some(1))
    );
    assert_eq!(
        openai(Some(0), Some(0), Some(0)),
        caps(128, Some(300_000), Some(1))
    );
    assert_eq!(
        openai(Some(500), None, Some(5)),
        caps(128, Some(300_000), None)
    );
    assert_eq!(
        request_caps(None, None, 96, None, None),
        caps(96, None, None)
    );
}

proptest! {
    #[test]
    fn packing_keeps_its_promises(
        counts in prop::collection::vec(0_u32..1_000, 0..200),
        texts in 1_usize..20, tokens in prop::option::of(1_000_u64..5_000),
        target in prop::option::of(0_u64..3_000),
    ) {
        let offsets = pack(&counts, caps(texts, tokens, target)).unwrap();
        prop_assert_eq!(offsets[0], 0);
        prop_assert_eq!(*offsets.last().unwrap(), counts.len());
        prop_assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]));
        let most = target.or(tokens).unwrap_or(u64::MAX).min(tokens.unwrap_or(u64::MAX));
        let sum = |range: &[usize]| -> u64 {
            counts[range[0]..range[range.len() - 1]].iter().map(|count| u64::from(*count)).sum()
        };
        for pair in offsets.windows(2) {
            let alone = pair[1] - pair[0] == 1;
            prop_assert!(pair[1] - pair[0] <= texts);
            prop_assert!(sum(pair) <= most || alone);
        }
        for three in offsets.windows(3) {
            prop_assert!(three[2] - three[0] > texts || sum(three) > most);
        }
    }
}

fn bound(counts: &[u32], texts: usize, tokens: u64) -> usize {
    let sum: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    usize::try_from(sum.div_ceil(tokens))
        .unwrap()
        .max(counts.len().div_ceil(texts))
}

#[test]
fn few_requests_are_made_of_long_and_short_texts() {
    // Half of the texts fill requests by tokens, the other half by number: in order, or sorted, the
    // two halves would not share requests.
    let counts: Vec<u32> = (0..40_000)
        .map(|i| if i < 20_000 { 300 } else { 3 })
        .collect();
    let whole = pack_fewest(&counts, caps(2_048, Some(300_000), None), true).unwrap();
    assert_eq!(whole.len(), bound(&counts, 2_048, 300_000));
    // First-fit decreasing, where texts are large beside a request.
    let halves: Vec<u32> = [vec![60; 10], vec![40; 10]].concat();
    let whole = pack_fewest(&halves, caps(9, Some(100), None), true).unwrap();
    assert_eq!(whole.len(), 10);
    assert_eq!(
        pack_fewest::<u32>(&[], caps(9, None, None), true),
        Ok(vec![])
    );
    assert_eq!(
        pack_fewest(&[1_i64, 11], caps(9, Some(10), None), false),
        Err(PackError::TooLarge {
            index: 1,
            tokens: 11,
            cap: 10
        })
    );
}

proptest! {
    #[test]
    fn the_fewest_requests_hold_every_text_once(
        counts in prop::collection::vec(0_u32..1_000, 0..300),
        texts in 1_usize..20, tokens in 1_000_u64..5_000, whole in any::<bool>(),
    ) {
        let requests = pack_fewest(&counts, caps(texts, Some(tokens), None), whole).unwrap();
        let mut seen: Vec<usize> = requests.concat();
        seen.sort_unstable();
        prop_assert!(seen.windows(2).all(|pair| pair[0] < pair[1]));
        for request in &requests {
            let sum: u64 = request.iter().map(|&text| u64::from(counts[text])).sum();
            prop_assert!(!request.is_empty() && request.len() <= texts && sum <= tokens);
        }
        let in_order = pack(&counts, caps(texts, Some(tokens), None)).unwrap().len() - 1;
        if whole {
            prop_assert_eq!(seen.len(), counts.len());
            prop_assert!(requests.len() >= bound(&counts, texts, tokens));
            prop_assert!(requests.len() <= in_order);
        } else {
            prop_assert!(requests.len() <= bound(&counts, texts, tokens));
        }
    }
}
