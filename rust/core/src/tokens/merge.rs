//! Byte-pair merging of one piece: the adjacent parts whose union has the lowest rank are merged,
//! the leftmost first among equals, until no two adjacent parts form a token.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::merge_long::chunked;
use super::pairs::Pairs;
use super::pretokenize::{Work, widened};
use super::vocab::{MAX_TOKEN_BYTES, Ranks, lowest};

/// Pieces up to here find the lowest rank by looking at all of them.
const SCAN_LIMIT: usize = 128;
/// No merge starts here.
const NONE: u32 = u32::MAX;
/// An entry of the heap is `rank << POSITION_BITS | position`: 20 bits of rank, 16 TiB of text.
const POSITION_BITS: u32 = 44;
// The heap keeps the length of a part in a byte.
const _: () = assert!(MAX_TOKEN_BYTES <= u8::MAX as usize);

/// A token of a piece: where it ends, and its id.
pub type Part = (usize, u32);

/// Calls `part` with the end of each token of `piece`, left to right. A piece that is a token
/// itself is not looked up here: that is the caller's first step.
pub fn merge(ranks: Ranks, piece: &[u8], mut part: impl FnMut(usize)) {
    merge_with(ranks, &mut Pairs::none(), piece, |end, _| part(end));
}

/// As `merge`, with what `pairs` remembers; `part` is given the id of the token too.
pub fn merge_with(ranks: Ranks, pairs: &mut Pairs, piece: &[u8], mut part: impl FnMut(usize, u32)) {
    if piece.len() <= SCAN_LIMIT {
        return scan_wide(ranks, pairs, piece, part);
    }
    let chunked = widened(Long {
        ranks,
        pairs,
        piece,
    });
    let parts = chunked.unwrap_or_else(|| heap(ranks, piece));
    for (end, id) in parts {
        part(end, id);
    }
}

/// For pieces of at most 256 bytes, with the vector instructions that there are.
pub fn scan_wide(ranks: Ranks, pairs: &mut Pairs, piece: &[u8], part: impl FnMut(usize, u32)) {
    widened(Short {
        ranks,
        pairs,
        piece,
        part,
    });
}

struct Short<'a, F> {
    ranks: Ranks,
    pairs: &'a mut Pairs,
    piece: &'a [u8],
    part: F,
}

impl<F: FnMut(usize, u32)> Work for Short<'_, F> {
    type Result = ();

    #[inline(always)]
    fn run(self) {
        scan_any(self.ranks, self.pairs, self.piece, self.part);
    }
}

struct Long<'a> {
    ranks: Ranks,
    pairs: &'a mut Pairs,
    piece: &'a [u8],
}

impl Work for Long<'_> {
    type Result = Option<Vec<Part>>;

    #[inline(always)]
    fn run(self) -> Self::Result {
        chunked(self.ranks, self.pairs, self.piece)
    }
}

/// For pieces of at most 256 bytes.
#[inline(always)]
pub fn scan_any(ranks: Ranks, pairs: &mut Pairs, piece: &[u8], part: impl FnMut(usize, u32)) {
    match piece.len() {
        0..=16 => scan::<16>(ranks, pairs, piece, part),
        17..=32 => scan::<32>(ranks, pairs, piece, part),
        33..=64 => scan::<64>(ranks, pairs, piece, part),
        65..=128 => scan::<128>(ranks, pairs, piece, part),
        _ => scan::<256>(ranks, pairs, piece, part),
    }
}

/// For pieces of at most `N` ≤ 256 bytes. Parts are addressed by their first byte.
#[allow(clippy::cast_possible_truncation)] // positions are below N
#[inline(always)]
fn scan<const N: usize>(
    ranks: Ranks,
    pairs: &mut Pairs,
    piece: &[u8],
    mut part: impl FnMut(usize, u32),
) {
    let n = piece.len();
    // `rank << 8 | position` of the merge of this part with the next: the minimum of all is the
    // leftmost of the lowest rank, and a loop without branches finds it.
    let mut keys = [NONE; N];
    let mut ids = [0; N];
    let mut end = [0u16; N];
    let mut previous = [0u16; N];
    let key = |rank: Option<u32>, at: usize| rank.map_or(NONE, |rank| rank << 8 | at as u32);
    // A word can be read at every byte.
    let mut padded = [[0; N]; 2];
    let padded = padded.as_flattened_mut();
    padded[..n].copy_from_slice(piece);
    let find = |from: usize, to: usize| match padded[from..].first_chunk() {
        Some(bytes) if to - from <= 8 => ranks.find_word(lowest(*bytes, to - from), to - from),
        _ => ranks.find(&piece[from..to]),
    };
    for at in 0..n {
        ids[at] = ranks.byte(piece[at]);
        end[at] = at as u16 + 1;
        previous[at] = (at as u16).wrapping_sub(1);
        if at + 1 < n {
            keys[at] = key(ranks.find_pair(piece[at], piece[at + 1]), at);
        }
    }
    let mut lowest = keys.iter().fold(NONE, |lowest, &key| lowest.min(key));
    while lowest != NONE {
        let left = (lowest & 0xff) as usize;
        let right = usize::from(end[left]);
        let after = usize::from(end[right]);
        end[left] = after as u16;
        // The rank of a token is its id.
        ids[left] = lowest >> 8;
        let mut with_next = NONE;
        if after < n {
            previous[after] = left as u16;
            let end = usize::from(end[after]);
            let merged = pairs.find(ids[left], ids[after], || find(left, end));
            with_next = key(merged, left);
        }
        // Without a part before it: what is set there is set again.
        let (mut before, mut with_before) = (left, with_next);
        if left > 0 {
            before = usize::from(previous[left]);
            let merged = pairs.find(ids[before], ids[left], || find(before, after));
            with_before = key(merged, before);
        }
        // All keys are written: loads of vectors would wait for single ones to arrive in memory.
        lowest = NONE;
        for (at, key) in keys.iter_mut().enumerate() {
            let at = at as u32;
            let mut new = *key;
            new = if at == right as u32 { NONE } else { new };
            new = if at == left as u32 { with_next } else { new };
            new = if at == before as u32 {
                with_before
            } else {
                new
            };
            *key = new;
            lowest = lowest.min(new);
        }
    }
    let mut at = 0;
    while at < n {
        let id = ids[at];
        at = usize::from(end[at]);
        part(at, id);
    }
}

/// For pieces of any length: 14 bytes of memory a byte, n log n time.
#[allow(clippy::cast_possible_truncation)] // parts have at most MAX_TOKEN_BYTES bytes
pub fn heap(ranks: Ranks, piece: &[u8]) -> Vec<Part> {
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
    let mut parts = Vec::new();
    let mut at = 0;
    while at < n {
        let end = at + usize::from(length[at]);
        // Every part is a token: a byte, or what was found in the vocabulary.
        parts.extend(ranks.find(&piece[at..end]).map(|id| (end, id)));
        at = end;
    }
    parts
}

#[cfg(test)]
pub mod tests {
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

    /// The ends of parts, after checking that each has the id of its bytes.
    fn with_ids(ranks: Ranks, piece: &[u8], parts: Vec<Part>) -> Vec<usize> {
        let mut start = 0;
        let check = |(end, id): Part| {
            assert_eq!(ranks.find(&piece[start..end]), Some(id));
            start = end;
            end
        };
        parts.into_iter().map(check).collect()
    }

    pub fn all() -> [Ranks; 4] {
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
                prop_assert_eq!(&with_ids(ranks, &piece, heap(ranks, &piece)), &expected);
                let pairs = &mut Pairs::none();
                if let Some(parts) = chunked(ranks, pairs, &piece) {
                    prop_assert_eq!(&with_ids(ranks, &piece, parts), &expected);
                }
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

    /// Counting takes these for one token without looking.
    #[test]
    fn bytes_and_short_numbers_are_tokens() {
        let [.., cl100k, o200k] = all();
        for ranks in all() {
            assert!((0..=255).all(|byte| ranks.find(&[byte]) == Some(ranks.byte(byte))));
        }
        for number in 0..1000 {
            for text in [
                format!("{number}"),
                format!("{number:02}"),
                format!("{number:03}"),
            ] {
                assert!(cl100k.find(text.as_bytes()).is_some());
                assert!(o200k.find(text.as_bytes()).is_some());
            }
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
