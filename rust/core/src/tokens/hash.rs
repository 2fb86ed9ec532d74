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
    let (low, high) = match n {
        0 => (0, 0),
        1..4 => {
            let first = u64::from(bytes[0]);
            (
                first << 16 | u64::from(bytes[n / 2]) << 8 | u64::from(bytes[n - 1]),
                0,
            )
        }
        4..8 => (half(bytes, 0), half(bytes, n - 4)),
        8..=16 => (word(bytes, 0), word(bytes, n - 8)),
        _ => {
            let mut state = K0;
            for at in (0..n - 16).step_by(8) {
                state = fold(state ^ word(bytes, at), K1);
            }
            (state ^ word(bytes, n - 16), word(bytes, n - 8))
        }
    };
    fold(low ^ K0, high ^ K1 ^ (n as u64).rotate_left(56))
}

/// What a slot keeps of the hash beside the id; the slot's index uses the low bits.
#[inline]
pub const fn fingerprint(hash: u64) -> u32 {
    #[allow(clippy::cast_possible_truncation)] // the high half only
    let high = (hash >> 32) as u32;
    high & (u32::MAX << ID_BITS)
}
