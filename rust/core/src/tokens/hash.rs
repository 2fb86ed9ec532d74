//! The hash of a token's bytes. The build script fills the tables with it, the lookup probes them
//! with it, so both compile this file.

const K0: u64 = 0x9E37_79B9_7F4A_7C15;
const K1: u64 = 0xD6E8_FEB8_6659_FD93;

/// Bits of a slot that hold `id + 1`; the rest holds the top bits of the hash.
pub const ID_BITS: u32 = 18;

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[allow(clippy::cast_possible_truncation)] // both halves are wanted
    let (low, high) = (product as u64, (product >> 64) as u64);
    low ^ high
}

#[inline]
fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

#[inline]
fn half(bytes: &[u8], at: usize) -> u64 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |chunk| u64::from(u32::from_le_bytes(*chunk)))
}

/// Hash of a token's bytes; overlapping loads instead of a byte loop, since most are short.
#[inline]
pub fn hash(bytes: &[u8]) -> u64 {
    let n = bytes.len();
    match n {
        0 => hash_word(0, 0),
        1..4 => {
            let byte = |at: usize| u64::from(bytes[at]) << (8 * at);
            hash_word(byte(0) | byte(n / 2) | byte(n - 1), n)
        }
        4..=8 => hash_word(half(bytes, 0) | half(bytes, n - 4) << (8 * (n - 4)), n),
        9..=16 => finish(word(bytes, 0), word(bytes, n - 8), n),
        _ => {
            let mut state = K0;
            for at in (0..n - 16).step_by(8) {
                state = fold(state ^ word(bytes, at), K1);
            }
            finish(state ^ word(bytes, n - 16), word(bytes, n - 8), n)
        }
    }
}

/// Hash of the first `n` ≤ 8 bytes of a word, of which the others are 0.
#[inline]
pub fn hash_word(word: u64, n: usize) -> u64 {
    finish(word, 0, n)
}

#[inline]
fn finish(low: u64, high: u64, n: usize) -> u64 {
    fold(low ^ K0, high ^ K1 ^ (n as u64).rotate_left(56))
}

/// What a slot keeps of the hash beside the id; the slot's index uses the low bits.
#[inline]
pub const fn fingerprint(hash: u64) -> u32 {
    #[allow(clippy::cast_possible_truncation)] // the high half only
    let high = (hash >> 32) as u32;
    high & (u32::MAX << ID_BITS)
}

/// Words of the filter of so many tokens: four to eight tokens a word.
#[allow(dead_code)] // only the build script sizes it
pub const fn filter_words(tokens: usize) -> usize {
    tokens.next_power_of_two() / 8
}

/// The word of a filter of so many that says whether there is a token of this hash, and its bits:
/// all are set where there is one. Bits of the hash that a slot does not use.
pub const fn filter_bits(hash: u64, words: usize) -> (usize, u64) {
    #[allow(clippy::cast_possible_truncation)] // masked to the filter
    let word = (hash >> 20) as usize & (words - 1);
    let bits = 1 << (hash >> 35 & 63) | 1 << (hash >> 41 & 63);
    (word, bits)
}
