//! Byte-pair merging of one piece: the adjacent parts whose union has the lowest rank are merged,
//! the leftmost first among equals, until no two adjacent parts form a token.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::vocab::{MAX_TOKEN_BYTES, Ranks};

/// Pieces up to here find the lowest rank by looking at all of them; longer ones keep a heap, so
/// that no piece takes more than n log n.
const SCAN_LIMIT: usize = 128;
/// No merge starts here.
const NONE: u32 = u32::MAX;
/// An entry of the heap is `rank << POSITION_BITS | position`: 20 bits of rank, 16 TiB of text.
const POSITION_BITS: u32 = 44;
// The heap keeps the length of a part in a byte.
const _: () = assert!(MAX_TOKEN_BYTES <= u8::MAX as usize);

/// Calls `part` with the end of each token of `piece`, left to right. A piece that is a token
/// itself is not looked up here: that is the caller's first step.
#[inline]
pub fn merge(ranks: Ranks, piece: &[u8], part: impl FnMut(usize)) {
    match piece.len() {
        0..=16 => scan::<16>(ranks, piece, part),
        17..=32 => scan::<32>(ranks, piece, part),
        33..=SCAN_LIMIT => scan::<SCAN_LIMIT>(ranks, piece, part),
        _ => heap(ranks, piece, part),
    }
}

/// For pieces of at most `N` ≤ 256 bytes. Parts are addressed by their first byte.
#[allow(clippy::cast_possible_truncation)] // positions are below N
fn scan<const N: usize>(ranks: Ranks, piece: &[u8], mut part: impl FnMut(usize)) {
    let n = piece.len();
    // `rank << 8 | position` of the merge of this part with the next: the minimum of all is the
    // leftmost of the lowest rank, and a loop without branches finds it.
    let mut keys = [NONE; N];
    let mut end = [0u8; N];
    let mut previous = [0u8; N];
    let key = |rank: Option<u32>, at: usize| rank.map_or(NONE, |rank| rank << 8 | at as u32);
    for at in 0..n {
        end[at] = at as u8 + 1;
        previous[at] = (at as u8).wrapping_sub(1);
        if at + 1 < n {
            keys[at] = key(ranks.find_pair(piece[at], piece[at + 1]), at);
        }
    }
    loop {
        let lowest = keys.iter().fold(NONE, |lowest, &key| lowest.min(key));
        if lowest == NONE {
            break;
        }
        let left = (lowest & 0xff) as usize;
        let right = usize::from(end[left]);
        let after = usize::from(end[right]);
        end[left] = after as u8;
        keys[right] = NONE;
        keys[left] = NONE;
        if after < n {
            previous[after] = left as u8;
            keys[left] = key(ranks.find(&piece[left..usize::from(end[after])]), left);
        }
        if left > 0 {
            let before = usize::from(previous[left]);
            keys[before] = key(ranks.find(&piece[before..after]), before);
        }
    }
    let mut at = 0;
    while at < n {
        at = usize::from(end[at]);
        part(at);
    }
}

/// For pieces of any length: 14 bytes of memory a byte, n log n time.
#[allow(clippy::cast_possible_truncation)] // parts have at most MAX_TOKEN_BYTES bytes
fn heap(ranks: Ranks, piece: &[u8], mut part: impl FnMut(usize)) {
    let n = piece.len();
    let key = |rank: u32, at: usize| Reverse(u64::from(rank) << POSITION_BITS | at as u64);

    // For a part that starts at a position: its length, that of the part before it, and the rank
    // of its merge with the next. Entries of the heap that no longer agree with `merged` are stale.
    let mut length = vec![1u8; n];
    let mut length_before = vec![1u8; n];
    let mut merged: Vec<u32> = piece
        .windows(2)
        .map(|pair| ranks.find_pair(pair[0], pair[1]).unwrap_or(NONE))
        .chain([NONE])
        .collect();
    let mut queue: BinaryHeap<_> = (0..n)
        .filter(|&at| merged[at] != NONE)
        .map(|at| key(merged[at], at))
        .collect::<Vec<_>>()
        .into();

    while let Some(Reverse(lowest)) = queue.pop() {
        let left = (lowest & ((1 << POSITION_BITS) - 1)) as usize;
        let rank = (lowest >> POSITION_BITS) as u32;
        if merged[left] != rank {
            continue;
        }
        let right = left + usize::from(length[left]);
        let after = right + usize::from(length[right]);
        length[left] = (after - left) as u8;
        merged[right] = NONE;
        merged[left] = NONE;
        if after < n {
            length_before[after] = length[left];
            let end = after + usize::from(length[after]);
            if let Some(rank) = ranks.find(&piece[left..end]) {
                merged[left] = rank;
                queue.push(key(rank, left));
            }
        }
        if left > 0 {
            let before = left - usize::from(length_before[left]);
            merged[before] = NONE;
            if let Some(rank) = ranks.find(&piece[before..after]) {
                merged[before] = rank;
                queue.push(key(rank, before));
            }
        }
    }
    let mut at = 0;
    while at < n {
        at += usize::from(length[at]);
        part(at);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::vocab::{CL100K, O200K, P50K};
    use super::*;

    /// The definition, word for word: quadratic.
    fn naive(ranks: Ranks, piece: &[u8]) -> Vec<usize> {
        let mut ends: Vec<usize> = (1..=piece.len()).collect();
        loop {
            let lowest = (0..ends.len().saturating_sub(1))
                .filter_map(|i| {
                    let start = if i == 0 { 0 } else { ends[i - 1] };
                    Some((ranks.find(&piece[start..ends[i + 1]])?, i))
                })
                .min();
            match lowest {
                Some((_, i)) => drop(ends.remove(i)),
                None => return ends,
            }
        }
    }

    fn collect(run: impl FnOnce(&mut dyn FnMut(usize))) -> Vec<usize> {
        let mut ends = Vec::new();
        run(&mut |end| ends.push(end));
        ends
    }

    fn all() -> [Ranks; 4] {
        [
            Ranks {
                vocab: &P50K,
                limit: 50_256,
            },
            Ranks {
                vocab: &P50K,
                limit: 50_281,
            },
            Ranks {
                vocab: &CL100K,
                limit: 100_256,
            },
            Ranks {
                vocab: &O200K,
                limit: 199_998,
            },
        ]
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let few_letters = prop::collection::vec(prop::sample::select(b" aabne".to_vec()), 0..128);
        let bytes = prop::collection::vec(any::<u8>(), 0..128);
        let words = prop::collection::vec(
            prop::sample::select(vec![
                "ing", "the", "    ", "ation", "가나", "é", "\n\n", "==",
            ]),
            0..24,
        )
        .prop_map(|words| words.concat().into_bytes());
        prop_oneof![few_letters, bytes, words].prop_map(|mut piece| {
            piece.truncate(SCAN_LIMIT);
            piece
        })
    }

    proptest! {
        #[test]
        fn both_ways_follow_the_definition(piece in piece()) {
            for ranks in all() {
                let expected = naive(ranks, &piece);
                prop_assert_eq!(&collect(|part| merge(ranks, &piece, part)), &expected);
                prop_assert_eq!(&collect(|part| heap(ranks, &piece, part)), &expected);
            }
        }
    }

    #[test]
    fn every_rank_leads_back_to_its_token() {
        for ranks in all() {
            let mut found = 0;
            for id in 0..ranks.limit {
                if let Some(token) = ranks.token(id) {
                    assert_eq!(ranks.find(token), Some(id));
                    found += 1;
                }
            }
            assert!(found + 1 >= ranks.limit);
        }
    }

    #[test]
    fn ids_at_or_over_the_limit_do_not_exist() {
        let [r50k, p50k, ..] = all();
        let spaces = [b' '; 2];
        assert_eq!(p50k.find(&spaces), Some(50_257));
        assert_eq!(p50k.find_pair(b' ', b' '), Some(50_257));
        assert_eq!(r50k.find(&spaces), None);
        assert_eq!(r50k.find_pair(b' ', b' '), None);
        assert_eq!(p50k.token(50_256), None);
        assert_eq!(r50k.token(50_257), None);
    }
}
