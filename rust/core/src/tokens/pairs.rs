//! What two neighbouring tokens become, and which tokens came where the same bytes did, remembered:
//! most of a text comes again.

use std::sync::atomic::AtomicUsize;

use super::merge::Part;
use super::table::reserve;
use super::vocab::Ranks;

/// Pairs that are remembered at most, a power of two: 512 KiB.
const PLACES: usize = 1 << 16;
/// An id, a rank, or one of the signs below.
const BITS: u32 = 18;
const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
/// In place of `rank + FIRST`: the pair is no token. 0 would be an empty place.
const NEVER: u64 = 1;
/// It is none, and the merge of its bytes is the two.
const STAY: u64 = 2;
/// It is none, and the merge of its bytes is something else.
const CHANGE: u64 = 3;
const FIRST: u32 = 4;

/// Openings that are remembered at most, a power of two: 512 KiB.
const OPENINGS: usize = 1 << 15;
/// Bytes that tell what may begin with them.
pub const SEEN: usize = 6;
/// Bytes of them that tokens are known for, if the first is no longer. The others were needed to
/// tell: with one other, twice as many guesses are wrong.
const TAKEN: usize = 4;
/// Tokens of an opening.
const MOST: usize = 3;
const END_BITS: usize = 3;

/// A word a pair: left id, right id, and what they merge to. The whole pair is in the word, so that
/// an answer is exact.
pub struct Pairs {
    merged: Vec<u64>,
    /// Bytes with the ends of tokens above them, and ids.
    openings: Vec<[u64; 2]>,
}

/// Tokens side by side.
#[derive(Clone, Copy)]
pub struct Opening {
    /// How many there are, and their ends above it.
    ends: u64,
    ids: u64,
}

#[allow(clippy::cast_possible_truncation)] // as many bits as a table has
fn place(key: u64, places: usize) -> usize {
    (key.wrapping_mul(MIX) >> (64 - places.trailing_zeros())) as usize
}

impl Pairs {
    /// Remembers nothing.
    pub const fn none() -> Self {
        Self {
            merged: Vec::new(),
            openings: Vec::new(),
        }
    }

    /// Makes room, where the budget has it; what it takes is added to `bytes`.
    pub fn make_room(&mut self, bytes: &AtomicUsize) {
        if self.merged.is_empty() && reserve(8 * PLACES + 16 * OPENINGS, bytes) {
            self.merged = vec![0; PLACES];
            self.openings = vec![[0; 2]; OPENINGS];
        }
    }

    /// The rank of the token that `left` and `right` make; `find` looks it up.
    #[inline(always)]
    pub fn find(
        &mut self,
        left: u32,
        right: u32,
        find: impl FnOnce() -> Option<u32>,
    ) -> Option<u32> {
        let pair = u64::from(left) << BITS | u64::from(right);
        let Some(word) = self.merged.get_mut(place(pair, PLACES)) else {
            return find();
        };
        if *word >> BITS != pair || *word == 0 {
            let merged = find();
            *word = pair << BITS | merged.map_or(NEVER, |rank| u64::from(rank + FIRST));
            return merged;
        }
        #[allow(clippy::cast_possible_truncation)] // eighteen bits
        let merged = (*word & ((1 << BITS) - 1)) as u32;
        merged.checked_sub(FIRST)
    }

    /// Whether the merge of the bytes of two tokens, `union`, is they themselves; where that is not
    /// known, `merge` finds it out.
    #[inline(always)]
    pub fn stay(
        &mut self,
        ranks: Ranks,
        (left, right): (u32, u32),
        union: &[u8],
        merge: impl FnOnce(&mut Self) -> bool,
    ) -> bool {
        let pair = u64::from(left) << BITS | u64::from(right);
        let at = place(pair, PLACES);
        let word = |pairs: &Self| pairs.merged.get(at).map_or(0, |word| word ^ pair << BITS);
        match word(self) {
            STAY => return true,
            CHANGE => return false,
            _ => {}
        }
        if self.find(left, right, || ranks.find(union)).is_some() {
            return false;
        }
        let stay = merge(self);
        if let Some(word) = self.merged.get_mut(at) {
            *word = pair << BITS | if stay { STAY } else { CHANGE };
        }
        stay
    }

    /// The tokens that `text` began with when it last had these bytes: a guess.
    #[inline(always)]
    pub fn opening(&self, text: &[u8]) -> Option<Opening> {
        let bytes = opening_bytes(text)?;
        let &[known, ids] = self.openings.get(place(bytes, OPENINGS))?;
        let ends = known >> (8 * SEEN);
        (known << 16 == bytes << 16 && ends != 0).then_some(Opening { ends, ids })
    }

    /// Remembers the tokens of `text` that `parts` begins with, a few bytes of them.
    #[inline(always)]
    pub fn keep_opening(&mut self, text: &[u8], start: usize, parts: &[Part]) {
        let Some(bytes) = opening_bytes(text) else {
            return;
        };
        let (mut count, mut ends, mut ids) = (0, 0, 0);
        for &(end, id) in parts.iter().take(MOST) {
            let end = end - start;
            if end > if count == 0 { SEEN } else { TAKEN } {
                break;
            }
            ends |= (end as u64) << (END_BITS * (count + 1));
            ids |= u64::from(id) << (BITS as usize * count);
            count += 1;
        }
        if count > 0
            && let Some(known) = self.openings.get_mut(place(bytes, OPENINGS))
        {
            *known = [bytes | (ends | count as u64) << (8 * SEEN), ids];
        }
    }
}

impl Opening {
    /// How many tokens it has, and they themselves, as parts of a piece in which it begins at
    /// `start`; what comes after them means nothing.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)] // a few bits each
    pub fn parts(self, start: usize) -> (usize, [Part; MOST]) {
        let parts = std::array::from_fn(|at| {
            let end = (self.ends >> (END_BITS * (at + 1))) as usize & ((1 << END_BITS) - 1);
            let id = (self.ids >> (BITS as usize * at)) as u32 & ((1 << BITS) - 1);
            (start + end, id)
        });
        (self.ends as usize & ((1 << END_BITS) - 1), parts)
    }
}

#[inline(always)]
fn opening_bytes(text: &[u8]) -> Option<u64> {
    let word = u64::from_le_bytes(*text.first_chunk()?);
    Some(word & (u64::MAX >> (64 - 8 * SEEN)))
}
