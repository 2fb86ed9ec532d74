//! UTF-8 of sixteen characters at once by AVX-512 VBMI2.

use std::arch::x86_64::{
    _mm512_and_si512, _mm512_cmplt_epu32_mask, _mm512_loadu_epi32, _mm512_mask_mov_epi32,
    _mm512_maskz_compress_epi8, _mm512_or_si512, _mm512_set1_epi32, _mm512_slli_epi32,
    _mm512_srli_epi32, _mm512_storeu_epi8, _mm512_test_epi8_mask,
};

/// Writes scalar values as UTF-8 to the start of `room`; returns how many bytes count.
#[target_feature(enable = "avx512bw,avx512vbmi2,popcnt")]
#[inline]
pub fn block(points: &[u32; 16], room: &mut [u8; 64]) -> usize {
    // SAFETY: there are sixteen words, and the load asks for no alignment.
    let points = unsafe { _mm512_loadu_epi32(points.as_ptr().cast()) };
    let all = |word: u32| _mm512_set1_epi32(word.cast_signed());
    let or = |a, b| _mm512_or_si512(a, b);
    // The byte at 8 × `byte` takes six bits from `from` up.
    let tail = |moved, byte: u32| _mm512_and_si512(moved, all(0x3f << (8 * byte)));
    let last_of_two = tail(_mm512_slli_epi32::<8>(points), 1);
    let two = or(or(all(0x80c0), _mm512_srli_epi32::<6>(points)), last_of_two);
    let middle = tail(_mm512_slli_epi32::<2>(points), 1);
    let last = tail(_mm512_slli_epi32::<16>(points), 2);
    let first = or(all(0x80_80e0), _mm512_srli_epi32::<12>(points));
    let three = or(or(first, middle), last);
    let second = tail(_mm512_srli_epi32::<4>(points), 1);
    let third = tail(_mm512_slli_epi32::<10>(points), 2);
    let last = tail(_mm512_slli_epi32::<24>(points), 3);
    let first = or(all(0x8080_80f0), _mm512_srli_epi32::<18>(points));
    let four = or(or(first, second), or(third, last));
    let below = |bound: u32| _mm512_cmplt_epu32_mask(points, all(bound));
    let words = _mm512_mask_mov_epi32(four, below(0x1_0000), three);
    let words = _mm512_mask_mov_epi32(words, below(0x800), two);
    let words = _mm512_mask_mov_epi32(words, below(0x80), points);
    // Bytes that a form does not have are zero; the first byte of U+0000 counts.
    let kept = _mm512_test_epi8_mask(words, words) | 0x1111_1111_1111_1111;
    // SAFETY: there are 64 bytes, and the store asks for no alignment.
    unsafe {
        _mm512_storeu_epi8(
            room.as_mut_ptr().cast(),
            _mm512_maskz_compress_epi8(kept, words),
        );
    }
    kept.count_ones() as usize
}
