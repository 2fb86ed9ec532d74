//! Merging a long piece chunk by chunk.

use super::merge::{Part, scan_any, scan_wide};
use super::pairs::{Pairs, SEEN};
use super::vocab::Ranks;

/// Bytes of a chunk, and how many of its end are left to the next; the second where the first gives
/// no answer. In 32 the lowest rank is found in four instructions: random letters take half the time
/// that chunks of 64 take.
const CHUNKS: [(usize, usize); 2] = [(32, 5), (256, 64)];
/// Where openings are found, the next after a chunk is likely to be too.
const SHORT: (usize, usize) = (16, 4);
/// After so many chunks without an opening that was known, openings are kept of one in as many.
const PATIENCE: usize = 64;
/// So many tokens before a chunk are merged again where it cannot follow them.
const TRIED_ANEW: usize = 8;

/// The tokens of a piece, in linear time where it gives an answer.
///
/// Tokens side by side are the merge of their bytes if and only if each two neighbours are the
/// merge of theirs: the first merge across a boundary would also come first among the two alone.
/// So a piece is merged chunk by chunk, and where one follows the other the two tokens are checked.
/// A chunk is left some way before its end, where merges do not yet know what follows.
#[inline(always)]
pub fn chunked(ranks: Ranks, pairs: &mut Pairs, piece: &[u8]) -> Option<Vec<Part>> {
    let mut done: Vec<Part> = Vec::new();
    let mut parts: Vec<Part> = Vec::new();
    let mut last: Option<Chunk> = None;
    // What the last opening began with: the same at once again is a run, for chunks to repeat.
    let mut opened = None;
    // Chunks since an opening was found.
    let mut unknown = 0;
    let mut at = 0;
    while at < piece.len() {
        if let Some(chunk) = &mut last
            && piece.get(at..at + chunk.size) == piece.get(chunk.start..chunk.start + chunk.size)
            && (chunk.repeats || chunk.meets_itself(ranks, pairs, piece, &done))
        {
            // The same bytes again: the same tokens, and the same two where they meet. Both
            // together are the next chunk.
            let step = at - chunk.start;
            for part in chunk.first_part..done.len() {
                let (end, id) = done[part];
                done.push((end + step, id));
            }
            chunk.size += step;
            chunk.repeats = true;
            at += step;
            continue;
        }
        let is_run = opened.is_some() && opened == seen(piece, at);
        if !is_run && add_opening(ranks, pairs, piece, at, &mut done) {
            opened = seen(piece, at);
            at = done.last()?.0;
            last = None;
            unknown = 0;
            continue;
        }
        opened = None;
        let size = if unknown == 0 { SHORT } else { CHUNKS[0] };
        unknown += 1;
        last = add_chunk(ranks, pairs, piece, size, &mut done, &mut parts);
        if last.is_none() {
            last = Some(add_chunk(
                ranks, pairs, piece, CHUNKS[1], &mut done, &mut parts,
            )?);
        }
        at = done.last()?.0;
        if let Some(chunk) = &last
            && (unknown < PATIENCE || unknown % PATIENCE == 0)
        {
            for part in chunk.first_part..done.len() {
                let start = start_of(&done, part);
                pairs.keep_opening(&piece[start..], start, &done[part..]);
            }
        }
    }
    Some(done)
}

/// The bytes that tell an opening.
#[inline(always)]
fn seen(piece: &[u8], at: usize) -> Option<&[u8; SEEN]> {
    piece[at..].first_chunk()
}

/// Adds the tokens that followed the same bytes before, if they can follow those of `done`.
#[inline(always)]
fn add_opening(
    ranks: Ranks,
    pairs: &mut Pairs,
    piece: &[u8],
    at: usize,
    done: &mut Vec<Part>,
) -> bool {
    let Some(opening) = pairs.opening(&piece[at..]) else {
        return false;
    };
    let (count, parts) = opening.parts(at);
    if !follows(ranks, pairs, piece, done, done.len(), parts[0]) {
        return false;
    }
    // All of them: how many count is not guessed.
    done.extend_from_slice(&parts);
    done.truncate(done.len() - parts.len() + count);
    true
}

/// Whether `next` can follow the first `until` of `done`.
#[inline(always)]
fn follows(
    ranks: Ranks,
    pairs: &mut Pairs,
    piece: &[u8],
    done: &[Part],
    until: usize,
    (next_end, next): Part,
) -> bool {
    let Some(last) = until.checked_sub(1) else {
        return true;
    };
    let (end, id) = done[last];
    let start = start_of(done, last);
    meet(
        ranks,
        pairs,
        &piece[start..next_end],
        [(end - start, id), (next_end - start, next)],
    )
}

/// The chunk whose tokens were added last.
struct Chunk {
    start: usize,
    /// Bytes that were merged, the ones that were left included.
    size: usize,
    first_part: usize,
    /// Whether it is known that its tokens may follow themselves.
    repeats: bool,
}

impl Chunk {
    #[inline(always)]
    fn meets_itself(&self, ranks: Ranks, pairs: &mut Pairs, piece: &[u8], done: &[Part]) -> bool {
        let (first_end, first) = done[self.first_part];
        let end = done[done.len() - 1].0;
        let next = (end + first_end - self.start, first);
        follows(ranks, pairs, piece, done, done.len(), next)
    }
}

/// Where the part at `index` begins.
fn start_of(parts: &[Part], index: usize) -> usize {
    index.checked_sub(1).map_or(0, |before| parts[before].0)
}

/// Whether the merge of the bytes of two tokens is they themselves.
#[inline(always)]
fn meet(ranks: Ranks, pairs: &mut Pairs, bytes: &[u8], two: [Part; 2]) -> bool {
    let [(_, left), (_, right)] = two;
    pairs.stay(ranks, (left, right), bytes, |pairs| {
        merges_to(ranks, pairs, bytes, &two)
    })
}

#[cold]
#[inline(never)]
fn merges_to(ranks: Ranks, pairs: &mut Pairs, bytes: &[u8], parts: &[Part]) -> bool {
    let mut at = 0;
    let mut same = true;
    scan_wide(ranks, pairs, bytes, |end, id| {
        same &= parts.get(at) == Some(&(end, id));
        at += 1;
    });
    same
}

/// Merges at most `size` bytes after `done`, and adds their tokens but the last ones. Where the
/// last of `done` cannot be followed by the first of them, it and a few before it are tried anew.
/// `None`, and `done` as it was, where that does not help either, or gets no further than before:
/// each chunk ends after the one before it, so that there are at most as many as bytes.
#[inline(always)]
fn add_chunk(
    ranks: Ranks,
    pairs: &mut Pairs,
    piece: &[u8],
    (size, left_over): (usize, usize),
    done: &mut Vec<Part>,
    parts: &mut Vec<Part>,
) -> Option<Chunk> {
    let reached = start_of(done, done.len());
    for back in 0..=done.len().min(TRIED_ANEW) {
        let first_part = done.len() - back;
        let start = start_of(done, first_part);
        let bytes = &piece[start..piece.len().min(start + size)];
        let sure = if start + size < piece.len() {
            size - left_over
        } else {
            size
        };
        parts.clear();
        scan_any(ranks, pairs, bytes, |end, id| {
            if end <= sure {
                parts.push((start + end, id));
            }
        });
        let &first = parts.first()?;
        if parts.last()?.0 <= reached {
            return None;
        }
        if follows(ranks, pairs, piece, done, first_part, first) {
            done.truncate(first_part);
            done.append(parts);
            return Some(Chunk {
                start,
                size,
                first_part,
                repeats: false,
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc::channel;
    use std::thread::spawn;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::merge::{heap, tests::all};
    use super::*;

    /// Long pieces: runs of something short, letters at random, and few letters, whose openings
    /// come again.
    fn long_piece() -> impl Strategy<Value = Vec<u8>> {
        let unit = prop_oneof![
            prop::sample::select(vec![
                " ", "a", "=", "\n", "ab", "뷁", "🙂", "\u{301}", "the", "-="
            ])
            .prop_map(|unit| unit.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 1..7),
        ];
        let run = (unit, 1usize..700).prop_map(|(unit, times)| unit.repeat(times));
        let letters =
            prop::collection::vec(prop::sample::select(b"abcdefg \nxyz".to_vec()), 0..900);
        let few = prop::sample::select(vec![" \n\t\r", "ACGT", "ab", "=-", "가나"]).prop_flat_map(
            |few| {
                let few: Vec<_> = few.chars().map(String::from).collect();
                let drawn = prop::collection::vec(prop::sample::select(few), 0..1500);
                drawn.prop_map(|drawn| drawn.concat().into_bytes())
            },
        );
        prop::collection::vec(prop_oneof![run, letters, few], 1..4).prop_map(|parts| parts.concat())
    }

    /// Merges what is made of tokens longer than a third of a chunk: what a chunk is sure of is one
    /// of them or none.
    fn merge_long_tokens() {
        for ranks in all() {
            let long: Vec<_> = (0..ranks.limit)
                .filter_map(|id| ranks.token(id))
                .filter(|token| token.len() > CHUNKS[0].0 / 3)
                .collect();
            let pairs = &mut Pairs::none();
            pairs.make_room(&AtomicUsize::new(0));
            for (at, near) in long.chunks(40).enumerate() {
                let far = |i: usize| long[(at * 7 + i * 131) % long.len()];
                let mixed: Vec<_> = near
                    .iter()
                    .enumerate()
                    .flat_map(|(i, token)| [token, far(i)])
                    .collect();
                for piece in [near.concat(), mixed.concat()] {
                    if let Some(parts) = chunked(ranks, pairs, &piece) {
                        assert_eq!(parts, heap(ranks, &piece));
                    }
                }
            }
        }
    }

    #[test]
    fn going_back_over_long_tokens_comes_to_an_end() {
        let (sender, finished) = channel();
        spawn(move || {
            merge_long_tokens();
            sender.send(())
        });
        finished
            .recv_timeout(Duration::from_mins(2))
            .expect("merged within two minutes");
    }

    proptest! {
        #[test]
        fn chunks_and_heap_agree(piece in long_piece()) {
            for ranks in all() {
                let pairs = &mut Pairs::none();
                pairs.make_room(&AtomicUsize::new(0));
                let expected = heap(ranks, &piece);
                // The second time with what the first has left.
                for _ in 0..2 {
                    if let Some(parts) = chunked(ranks, pairs, &piece) {
                        prop_assert_eq!(&parts, &expected);
                    }
                }
            }
        }
    }
}
