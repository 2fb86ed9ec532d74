//! What two neighbouring tokens merge to, remembered: most pairs of a text come again.

use std::sync::atomic::AtomicUsize;

use super::table::reserve;
use super::vocab::Ranks;

/// Pairs that are remembered at most, a power of two: 512 KiB.
const PLACES: usize = 1 << 16;
/// An id, a rank, or one of the two signs below.
const BITS: u32 = 18;
const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
/// In place of `rank + FIRST`: the pair is no token. 0 would be an empty place.
const NEVER: u64 = 1;
const FIRST: u32 = 2;

/// A word a pair: left id, right id, and what they merge to. The whole pair is in the word, so that
/// an answer is exact.
pub struct Pairs(Vec<u64>);

impl Pairs {
    /// Remembers nothing.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Makes room, where the budget has it; what it takes is added to `bytes`.
    pub fn make_room(&mut self, bytes: &AtomicUsize) {
        if self.0.is_empty() && reserve(8 * PLACES, bytes) {
            self.0 = vec![0; PLACES];
        }
    }

    /// The rank of the token that `left` and `right` make, whose bytes are `union`.
    #[inline(always)]
    pub fn find(&mut self, ranks: Ranks, left: u32, right: u32, union: &[u8]) -> Option<u32> {
        let pair = u64::from(left) << BITS | u64::from(right);
        #[allow(clippy::cast_possible_truncation)] // sixteen bits
        let place = (pair.wrapping_mul(MIX) >> (64 - PLACES.trailing_zeros())) as usize;
        let Some(word) = self.0.get_mut(place) else {
            return ranks.find(union);
        };
        if *word >> BITS != pair || *word == 0 {
            let merged = ranks.find(union);
            *word = pair << BITS | merged.map_or(NEVER, |rank| u64::from(rank + FIRST));
            return merged;
        }
        #[allow(clippy::cast_possible_truncation)] // eighteen bits
        let merged = (*word & ((1 << BITS) - 1)) as u32;
        merged.checked_sub(FIRST)
    }
}
