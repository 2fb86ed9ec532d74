//! The kinds of characters in a block by AVX2 and by AVX-512.

use std::arch::x86_64::{
    __m256i, __m512i, _bzhi_u32, _mm_cvtsi128_si64, _mm_extract_epi64, _mm_insert_epi8,
    _mm_maskz_loadu_epi8, _mm_set_epi64x, _mm256_and_si256, _mm256_castsi256_pd, _mm256_cmpeq_epi8,
    _mm256_cmpeq_epi64, _mm256_cmpgt_epi8, _mm256_loadu_si256, _mm256_max_epu8,
    _mm256_movemask_epi8, _mm256_movemask_pd, _mm256_or_si256, _mm256_set_epi64x, _mm256_set1_epi8,
    _mm256_setzero_si256, _mm256_sub_epi8, _mm256_xor_si256, _mm512_broadcast_i32x4,
    _mm512_cmpeq_epi8_mask, _mm512_cmpge_epu8_mask, _mm512_cmplt_epu8_mask, _mm512_loadu_epi8,
    _mm512_loadu_epi64, _mm512_movepi8_mask, _mm512_set1_epi8, _mm512_sub_epi8,
    _mm512_testn_epi64_mask, _mm512_xor_si512,
};

use super::masks::{Ascii, BLOCK_BYTES, Machine, Wide};
use super::portable::Portable;

/// Only where the processor has AVX2.
#[derive(Clone, Copy)]
pub struct Avx2(());

/// Only where the processor has AVX-512 BW and VL, and BMI2.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx2 {
    #[target_feature(enable = "avx2")]
    pub fn new() -> Self {
        Self(())
    }
}

impl Avx512 {
    #[target_feature(enable = "avx512bw,avx512vl,bmi2")]
    pub fn new() -> Self {
        Self(())
    }
}

impl Machine for Avx2 {
    #[inline(always)]
    fn ascii(self, block: &[u8; BLOCK_BYTES]) -> Ascii {
        // SAFETY: `self` was made where there is AVX2.
        unsafe { avx2_ascii(block) }
    }

    #[inline(always)]
    fn wide(self, block: &[u8; BLOCK_BYTES]) -> Wide {
        // SAFETY: as above.
        unsafe { avx2_wide(block) }
    }

    #[inline(always)]
    fn head(self, bytes: &[u8; 16], length: usize) -> [u64; 2] {
        Portable.head(bytes, length)
    }

    #[inline(always)]
    fn equal(self, pairs: &[u64; 8], key: [u64; 2], mask: [u64; 2]) -> u32 {
        // SAFETY: as above.
        unsafe { avx2_equal(pairs, key, mask) }
    }
}

impl Machine for Avx512 {
    #[inline(always)]
    fn ascii(self, block: &[u8; BLOCK_BYTES]) -> Ascii {
        // SAFETY: `self` was made where there is AVX-512 BW.
        unsafe { avx512_ascii(block) }
    }

    #[inline(always)]
    fn wide(self, block: &[u8; BLOCK_BYTES]) -> Wide {
        // SAFETY: as above.
        unsafe { avx512_wide(block) }
    }

    #[inline(always)]
    fn head(self, bytes: &[u8; 16], length: usize) -> [u64; 2] {
        // SAFETY: as above.
        unsafe { avx512_head(bytes, length) }
    }

    #[inline(always)]
    fn equal(self, pairs: &[u64; 8], key: [u64; 2], mask: [u64; 2]) -> u32 {
        // SAFETY: as above.
        unsafe { avx512_equal(pairs, key, mask) }
    }
}

/// Half a block each.
#[derive(Clone, Copy)]
struct Halves(__m256i, __m256i);

impl Halves {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn load(block: &[u8; BLOCK_BYTES]) -> Self {
        let (halves, _) = block.as_chunks::<32>();
        let [low, high] = [halves[0].as_ptr(), halves[1].as_ptr()];
        // SAFETY: the block has twice 32 bytes, and the load asks for no alignment.
        unsafe {
            Self(
                _mm256_loadu_si256(low.cast()),
                _mm256_loadu_si256(high.cast()),
            )
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn map(self, work: impl Fn(__m256i) -> __m256i) -> u64 {
        let bits = |half| u64::from(_mm256_movemask_epi8(work(half)).cast_unsigned());
        bits(self.0) | bits(self.1) << 32
    }

    /// Bytes equal to `byte`.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn equal(self, byte: u8) -> u64 {
        let byte = _mm256_set1_epi8(byte.cast_signed());
        self.map(|half| _mm256_cmpeq_epi8(half, byte))
    }

    /// Bytes from `low` to `low + count - 1`.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn range(self, low: u8, count: u8) -> u64 {
        // Moved to the lowest of the signed numbers, the range is all below one bound.
        let shift = _mm256_set1_epi8(low.wrapping_add(128).cast_signed());
        let bound = _mm256_set1_epi8(count.wrapping_add(128).cast_signed());
        self.map(|half| _mm256_cmpgt_epi8(bound, _mm256_sub_epi8(half, shift)))
    }

    /// Bytes at or above `low`.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn from(self, low: u8) -> u64 {
        let low = _mm256_set1_epi8(low.cast_signed());
        self.map(|half| _mm256_cmpeq_epi8(_mm256_max_epu8(half, low), half))
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn avx2_ascii(block: &[u8; BLOCK_BYTES]) -> Ascii {
    let halves = Halves::load(block);
    let newline = |half| {
        _mm256_or_si256(
            _mm256_cmpeq_epi8(half, _mm256_set1_epi8(b'\n'.cast_signed())),
            _mm256_cmpeq_epi8(half, _mm256_set1_epi8(b'\r'.cast_signed())),
        )
    };
    let newline = halves.map(newline);
    let space = halves.equal(b' ');
    Ascii {
        upper: halves.range(b'A', 26),
        lower: halves.range(b'a', 26),
        digit: halves.range(b'0', 10),
        newline,
        blank: halves.range(b'\t', 5) & !newline | space,
        space,
        apostrophe: halves.equal(b'\''),
        slash: halves.equal(b'/'),
        wide: halves.map(|half| half),
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn avx2_wide(block: &[u8; BLOCK_BYTES]) -> Wide {
    let halves = Halves::load(block);
    Wide {
        lead: halves.from(0xc0),
        letter: letters(
            halves.range(0xe5, 5) | halves.range(0xeb, 2),
            halves.equal(0xe4) & halves.from(0xb8) >> 1,
            halves.equal(0xea) & halves.from(0xb0) >> 1,
            halves.equal(0xed) & halves.range(0x80, 0x1e) >> 1,
        ),
        punctuation: halves.equal(0xe2) & halves.equal(0x80) >> 1 & halves.range(0x90, 24) >> 2,
    }
}

/// First bytes of letters: those that are of letters whatever follows, then U+4E00 to U+4FFF,
/// U+AC00 to U+AFFF and U+D000 to U+D77F.
#[inline(always)]
fn letters(always: u64, e4: u64, ea: u64, ed: u64) -> u64 {
    always | e4 | ea | ed
}

#[target_feature(enable = "avx512bw")]
#[inline]
fn load(block: &[u8; BLOCK_BYTES]) -> __m512i {
    // SAFETY: the block has 64 bytes, and the load asks for no alignment.
    unsafe { _mm512_loadu_epi8(block.as_ptr().cast()) }
}

#[target_feature(enable = "avx512bw")]
#[inline]
fn equal(bytes: __m512i, byte: u8) -> u64 {
    _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte.cast_signed()))
}

#[target_feature(enable = "avx512bw")]
#[inline]
fn range(bytes: __m512i, low: u8, count: u8) -> u64 {
    let moved = _mm512_sub_epi8(bytes, _mm512_set1_epi8(low.cast_signed()));
    _mm512_cmplt_epu8_mask(moved, _mm512_set1_epi8(count.cast_signed()))
}

#[target_feature(enable = "avx512bw")]
#[inline]
fn from(bytes: __m512i, low: u8) -> u64 {
    _mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8(low.cast_signed()))
}

#[target_feature(enable = "avx512bw")]
#[inline]
fn avx512_ascii(block: &[u8; BLOCK_BYTES]) -> Ascii {
    let bytes = load(block);
    let newline = equal(bytes, b'\n') | equal(bytes, b'\r');
    let space = equal(bytes, b' ');
    Ascii {
        upper: range(bytes, b'A', 26),
        lower: range(bytes, b'a', 26),
        digit: range(bytes, b'0', 10),
        newline,
        blank: range(bytes, b'\t', 5) & !newline | space,
        space,
        apostrophe: equal(bytes, b'\''),
        slash: equal(bytes, b'/'),
        wide: _mm512_movepi8_mask(bytes),
    }
}

#[target_feature(enable = "avx512bw")]
#[inline]
fn avx512_wide(block: &[u8; BLOCK_BYTES]) -> Wide {
    let bytes = load(block);
    Wide {
        lead: from(bytes, 0xc0),
        letter: letters(
            range(bytes, 0xe5, 5) | range(bytes, 0xeb, 2),
            equal(bytes, 0xe4) & from(bytes, 0xb8) >> 1,
            equal(bytes, 0xea) & from(bytes, 0xb0) >> 1,
            equal(bytes, 0xed) & range(bytes, 0x80, 0x1e) >> 1,
        ),
        punctuation: equal(bytes, 0xe2) & equal(bytes, 0x80) >> 1 & range(bytes, 0x90, 24) >> 2,
    }
}

/// Bits of pairs of which both words are equal.
#[inline(always)]
fn both(words: u32) -> u32 {
    words & words >> 1 & 0b0101_0101
}

#[target_feature(enable = "avx2")]
#[inline]
fn twice(pair: [u64; 2]) -> __m256i {
    let [low, high] = pair.map(u64::cast_signed);
    _mm256_set_epi64x(high, low, high, low)
}

#[target_feature(enable = "avx2")]
#[inline]
fn avx2_equal(pairs: &[u64; 8], key: [u64; 2], mask: [u64; 2]) -> u32 {
    let (halves, _) = pairs.as_chunks::<4>();
    let [low, high] = [halves[0].as_ptr(), halves[1].as_ptr()];
    // SAFETY: there are twice 32 bytes, and the loads ask for no alignment.
    let halves = unsafe {
        [
            _mm256_loadu_si256(low.cast()),
            _mm256_loadu_si256(high.cast()),
        ]
    };
    let (key, mask) = (twice(key), twice(mask));
    let [low, high] = halves.map(|half| {
        let different = _mm256_and_si256(_mm256_xor_si256(half, key), mask);
        let equal = _mm256_cmpeq_epi64(different, _mm256_setzero_si256());
        _mm256_movemask_pd(_mm256_castsi256_pd(equal)).cast_unsigned()
    });
    both(low | high << 4)
}

#[target_feature(enable = "avx512bw,avx512f")]
#[inline]
fn avx512_equal(pairs: &[u64; 8], key: [u64; 2], mask: [u64; 2]) -> u32 {
    // SAFETY: there are 64 bytes, and the load asks for no alignment.
    let words = unsafe { _mm512_loadu_epi64(pairs.as_ptr().cast()) };
    let [low, high] = key.map(u64::cast_signed);
    let key = _mm512_broadcast_i32x4(_mm_set_epi64x(high, low));
    let [low, high] = mask.map(u64::cast_signed);
    let mask = _mm512_broadcast_i32x4(_mm_set_epi64x(high, low));
    both(u32::from(_mm512_testn_epi64_mask(
        _mm512_xor_si512(words, key),
        mask,
    )))
}

/// Stays in a vector register where `avx512_equal` takes the words up again.
#[target_feature(enable = "avx512bw,avx512vl,bmi2")]
#[inline]
fn avx512_head(bytes: &[u8; 16], length: usize) -> [u64; 2] {
    #[allow(clippy::cast_possible_truncation)] // below 16
    let length = length as u32;
    #[allow(clippy::cast_possible_truncation)] // at most fifteen bits
    let kept = _bzhi_u32(u32::MAX, length) as u16;
    // SAFETY: there are sixteen bytes, and the load asks for no alignment.
    let piece = unsafe { _mm_maskz_loadu_epi8(kept, bytes.as_ptr().cast()) };
    let piece = _mm_insert_epi8::<15>(piece, length.cast_signed());
    [_mm_cvtsi128_si64(piece), _mm_extract_epi64::<1>(piece)].map(i64::cast_unsigned)
}
