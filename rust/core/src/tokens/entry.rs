//! Pieces and their counts as table entries: the whole piece, so that equality is exact.

use bytemuck::{Pod, Zeroable};

use super::pretokenize::{KEPT, Machine, REACH};

/// A piece of up to 15 bytes, its length and its count: sixteen bytes, four to a cache line.
#[derive(Clone, Copy, Default)]
#[repr(C, align(16))]
pub struct Short {
    low: u64,
    /// Seven bytes of the piece, four bits of its length, four of its count.
    high: u64,
}

/// A piece of 16 to 30 bytes, or of 31 to 62, in so many words.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub struct Long<const WORDS: usize> {
    /// The piece, but for the two last bytes: they hold its count and its length.
    words: [u64; WORDS],
}

/// What a table holds; the default is an empty place and equals no key.
pub trait Entry: Copy + Default {
    /// Fours of a new table and of the largest, powers of two.
    const FOURS: (usize, usize);
    fn hash(&self) -> u64;
    /// The count of that of four which has the piece of `key`.
    #[inline(always)]
    fn find(four: &[Self; 4], machine: impl Machine, key: &Self) -> Option<usize> {
        Some(four[Self::position(four, machine, key)?].count())
    }
    /// Which of four has the piece of `key`.
    fn position(four: &[Self; 4], machine: impl Machine, key: &Self) -> Option<usize>;
    fn is_empty(&self) -> bool;
    fn count(&self) -> usize;
}

const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
const SHORT_COUNT_SHIFT: u32 = 60;
const LONG_COUNT_SHIFT: u32 = 48;
const LONG_LENGTH_SHIFT: u32 = 56;

impl Short {
    pub const MAX: usize = 15;

    /// The key of the first `length` ≤ 15 of these bytes.
    #[inline(always)]
    pub fn key(machine: impl Machine, bytes: &[u8; REACH], length: usize) -> Self {
        let [low, high] = bytes
            .first_chunk()
            .map_or([0; 2], |bytes| machine.head(bytes, length));
        Self { low, high }
    }

    /// Bit 2 × i for that of four which has the piece of `key`.
    #[inline(always)]
    fn found(words: &[u64; 8], machine: impl Machine, key: &Self) -> u32 {
        machine.equal(words, [key.low, key.high], [u64::MAX, u64::MAX >> 4])
    }

    #[must_use]
    pub fn with_count(self, count: usize) -> Self {
        let high = self.high | (count as u64) << SHORT_COUNT_SHIFT;
        Self { high, ..self }
    }
}

impl Entry for Short {
    /// From 64 KiB to 1 MiB.
    const FOURS: (usize, usize) = (1 << 10, 1 << 14);

    #[inline(always)]
    fn hash(&self) -> u64 {
        // The count is no part of the piece.
        (self.low ^ (self.high << 4).rotate_left(23)).wrapping_mul(MIX)
    }

    #[inline(always)]
    fn find(four: &[Self; 4], machine: impl Machine, key: &Self) -> Option<usize> {
        let words: &[u64; 8] = bytemuck::cast_ref(four);
        let found = Self::found(words, machine, key);
        let high = words[(found.trailing_zeros() as usize + 1) & 7];
        (found != 0).then_some((high >> SHORT_COUNT_SHIFT) as usize)
    }

    #[inline(always)]
    fn position(four: &[Self; 4], machine: impl Machine, key: &Self) -> Option<usize> {
        let found = Self::found(bytemuck::cast_ref(four), machine, key);
        (found != 0).then(|| found.trailing_zeros() as usize / 2)
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.high == 0
    }

    #[inline(always)]
    fn count(&self) -> usize {
        (self.high >> SHORT_COUNT_SHIFT) as usize
    }
}

// SAFETY: all bits zero is the empty entry.
unsafe impl Zeroable for Short {}
// SAFETY: two words side by side, without padding, of which any bits are valid.
unsafe impl Pod for Short {}

/// Everything in the last word of a `Long` but the count.
const LONG_KEY: u64 = !(0xff << LONG_COUNT_SHIFT);

impl<const WORDS: usize> Long<WORDS> {
    /// The longest piece.
    pub const MAX: usize = 8 * WORDS - 2;

    /// The key of the first `length` of these bytes: more than 16 × (WORDS / 2 - 1) and at most
    /// `MAX`.
    #[inline(always)]
    pub fn key(bytes: &[u8; REACH], length: usize) -> Self {
        let (given, _) = bytes.as_chunks::<8>();
        let mut words = [0; WORDS];
        for pair in 0..WORDS / 2 {
            let (low, high) = KEPT[length.saturating_sub(16 * pair).min(16)];
            words[2 * pair] = u64::from_le_bytes(given[2 * pair]) & low;
            words[2 * pair + 1] = u64::from_le_bytes(given[2 * pair + 1]) & high;
        }
        words[WORDS - 1] |= (length as u64) << LONG_LENGTH_SHIFT;
        Self { words }
    }

    #[must_use]
    pub fn with_count(mut self, count: usize) -> Self {
        self.words[WORDS - 1] |= (count as u64) << LONG_COUNT_SHIFT;
        self
    }
}

impl<const WORDS: usize> Default for Long<WORDS> {
    fn default() -> Self {
        Self { words: [0; WORDS] }
    }
}

impl<const WORDS: usize> Entry for Long<WORDS> {
    /// From 16 KiB to 512 KiB for either length.
    const FOURS: (usize, usize) = ((16 << 10) / (32 * WORDS), (256 << 10) / (32 * WORDS));

    #[inline(always)]
    fn hash(&self) -> u64 {
        let mut mixed = self.words[WORDS - 1] & LONG_KEY;
        for &word in &self.words[..WORDS - 1] {
            mixed = mixed.rotate_left(23) ^ word;
        }
        mixed.wrapping_mul(MIX)
    }

    #[inline(always)]
    fn position(four: &[Self; 4], _: impl Machine, key: &Self) -> Option<usize> {
        four.iter().position(|entry| {
            let last = (entry.words[WORDS - 1] ^ key.words[WORDS - 1]) & LONG_KEY;
            let others = entry.words.iter().zip(&key.words).take(WORDS - 1);
            others.fold(last, |different, (a, b)| different | a ^ b) == 0
        })
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.words[WORDS - 1] == 0
    }

    #[inline(always)]
    fn count(&self) -> usize {
        (self.words[WORDS - 1] >> LONG_COUNT_SHIFT & 0xff) as usize
    }
}
