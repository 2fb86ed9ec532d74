//! The kinds of characters in a block without vector instructions: eight bytes a word.

use super::masks::{Ascii, BLOCK_BYTES, Machine, Wide};

/// For any machine, and the truth that the vector code is tested against.
#[derive(Clone, Copy)]
pub struct Portable;

const UPPER: u8 = 1;
const LOWER: u8 = 2;
const DIGIT: u8 = 4;
const NEWLINE: u8 = 8;
const BLANK: u8 = 16;
const SPACE: u8 = 32;
const APOSTROPHE: u8 = 64;
const SLASH: u8 = 128;

static KINDS: [u8; 256] = kinds();

const fn kinds() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        #[allow(clippy::cast_possible_truncation)] // below 128
        let kind = match byte as u8 {
            b'A'..=b'Z' => UPPER,
            b'a'..=b'z' => LOWER,
            b'0'..=b'9' => DIGIT,
            b'\r' | b'\n' => NEWLINE,
            b' ' => BLANK | SPACE,
            b'\t' | 0x0b | 0x0c => BLANK,
            b'\'' => APOSTROPHE,
            b'/' => SLASH,
            _ => 0,
        };
        table[byte] = kind;
        byte += 1;
    }
    table
}

/// The bytes of two words that belong to a piece of so many.
pub static KEPT: [(u64, u64); 17] = {
    let mut kept = [(0, 0); 17];
    let mut length = 1;
    while length <= 16 {
        kept[length] = if length <= 8 {
            (u64::MAX >> (64 - 8 * length), 0)
        } else {
            (u64::MAX, u64::MAX >> (128 - 8 * length))
        };
        length += 1;
    }
    kept
};

/// The lowest bit of each byte, as eight bits.
#[inline]
fn gather(word: u64) -> u64 {
    (word & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

#[inline]
fn set(block: &[u8; BLOCK_BYTES], is_in: impl Fn(u8) -> bool) -> u64 {
    let marks = block.map(|byte| u8::from(is_in(byte)));
    let words = marks.as_chunks::<8>().0.iter().enumerate();
    words.fold(0, |set, (at, word)| {
        set | gather(u64::from_le_bytes(*word)) << (8 * at)
    })
}

impl Machine for Portable {
    #[inline]
    fn ascii(self, block: &[u8; BLOCK_BYTES]) -> Ascii {
        let kinds = block.map(|byte| KINDS[usize::from(byte)]);
        let (words, _) = kinds.as_chunks::<8>();
        let of = |kind: u8| {
            let shift = kind.trailing_zeros();
            words.iter().enumerate().fold(0, |set, (at, word)| {
                set | gather(u64::from_le_bytes(*word) >> shift) << (8 * at)
            })
        };
        Ascii {
            upper: of(UPPER),
            lower: of(LOWER),
            digit: of(DIGIT),
            newline: of(NEWLINE),
            blank: of(BLANK),
            space: of(SPACE),
            apostrophe: of(APOSTROPHE),
            slash: of(SLASH),
            wide: set(block, |byte| byte >= 0x80),
        }
    }

    #[inline]
    fn wide(self, block: &[u8; BLOCK_BYTES]) -> Wide {
        let first = |from, to| set(block, move |byte| (from..=to).contains(&byte));
        let next_from = |from| set(block, move |byte| byte >= from) >> 1;
        let ideograph = first(0xe5, 0xe9) | first(0xe4, 0xe4) & next_from(0xb8);
        // The second byte of a character never has its upper two bits set.
        let until_d77f = first(0xed, 0xed) & !next_from(0x9e) & first(0x80, 0xbf) >> 1;
        let syllable = first(0xeb, 0xec) | first(0xea, 0xea) & next_from(0xb0) | until_d77f;
        Wide {
            lead: set(block, |byte| byte >= 0xc0),
            letter: ideograph | syllable,
            punctuation: first(0xe2, 0xe2) & first(0x80, 0x80) >> 1 & first(0x90, 0xa7) >> 2,
        }
    }

    #[inline(always)]
    fn head(self, bytes: &[u8; 16], length: usize) -> [u64; 2] {
        let (words, _) = bytes.as_chunks::<8>();
        let (low, high) = KEPT[length];
        [
            u64::from_le_bytes(words[0]) & low,
            u64::from_le_bytes(words[1]) & high | (length as u64) << 56,
        ]
    }

    #[inline]
    fn equal(self, pairs: &[u64; 8], key: [u64; 2], mask: [u64; 2]) -> u32 {
        let (pairs, _) = pairs.as_chunks::<2>();
        pairs.iter().enumerate().fold(0, |found, (at, pair)| {
            let different = (pair[0] ^ key[0]) & mask[0] | (pair[1] ^ key[1]) & mask[1];
            found | u32::from(different == 0) << (2 * at)
        })
    }
}
