//! Sixty-four bytes of text as sets of positions, one bit a byte.

use super::class::class;
use super::flags::{LETTER, LOWER, NUMBER, SPACE, SYMBOL, UPPER};

/// Bytes that are looked at together: one bit each of a `u64`.
pub const BLOCK_BYTES: usize = 64;

/// What a block holds of each kind of ASCII character, and where it is not ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ascii {
    pub upper: u64,
    pub lower: u64,
    pub digit: u64,
    /// `\r` and `\n`.
    pub newline: u64,
    /// White space but line breaks.
    pub blank: u64,
    /// U+0020 alone.
    pub space: u64,
    pub apostrophe: u64,
    pub slash: u64,
    /// Bytes of characters that are not ASCII.
    pub wide: u64,
}

/// Bytes of characters that are not ASCII, where `Ascii::wide` says that there are any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wide {
    /// First bytes.
    pub lead: u64,
    /// First bytes of ideographs (U+4E00 to U+9FFF) and Hangul syllables (U+AC00 to U+D77F), all of
    /// them letters without case.
    pub letter: u64,
    /// First bytes of dashes, quotation marks and bullets (U+2010 to U+2027), all of them symbols.
    pub punctuation: u64,
}

/// Every byte of a block in one of `upper`, `lower`, `uncased`, `digit`, `newline`, `blank` and
/// `symbol`; a character that is not ASCII has all its bytes in the same.
#[derive(Clone, Copy)]
pub struct Masks {
    pub upper: u64,
    pub lower: u64,
    pub uncased: u64,
    pub digit: u64,
    pub newline: u64,
    pub blank: u64,
    pub space: u64,
    pub apostrophe: u64,
    pub slash: u64,
    pub symbol: u64,
    /// Bytes of characters after the first.
    pub tail: u64,
    /// Bytes before the first that the block cannot judge: the end of the text, a character that
    /// is cut off, or one that is left to the scalar scanner.
    pub known: usize,
}

/// What a processor does with many bytes at once.
pub trait Machine: Copy {
    fn ascii(self, block: &[u8; BLOCK_BYTES]) -> Ascii;
    fn wide(self, block: &[u8; BLOCK_BYTES]) -> Wide;
    /// Two words that hold the first `length` ≤ 15 bytes, then zeros, then `length` in the last byte.
    fn head(self, bytes: &[u8; 16], length: usize) -> [u64; 2];
    /// Which of four pairs of words equals `key` in the bits of `mask`: bit 2 × i for pair i.
    fn equal(self, pairs: &[u64; 8], key: [u64; 2], mask: [u64; 2]) -> u32;
}

/// The first `count` ≤ 64 positions.
#[inline(always)]
pub fn first(count: usize) -> u64 {
    if count >= BLOCK_BYTES {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

impl Masks {
    /// The sets of the first `length` ≤ 64 bytes of a block that begins with a character.
    /// `marks_are_letters` says what `\p{M}` belongs to.
    #[inline(always)]
    pub fn new(
        machine: impl Machine,
        block: &[u8; BLOCK_BYTES],
        length: usize,
        marks_are_letters: bool,
    ) -> Self {
        let ascii = machine.ascii(block);
        let within = first(length);
        let mut masks = Self {
            upper: ascii.upper & within,
            lower: ascii.lower & within,
            uncased: 0,
            digit: ascii.digit & within,
            newline: ascii.newline & within,
            blank: ascii.blank & within,
            space: ascii.space & within,
            apostrophe: ascii.apostrophe & within,
            slash: ascii.slash & within,
            symbol: within
                & !(ascii.upper | ascii.lower | ascii.digit | ascii.newline | ascii.blank)
                & !ascii.wide,
            tail: 0,
            known: length,
        };
        if ascii.wide & within != 0 {
            masks.add_wide(
                machine.wide(block),
                ascii.wide & within,
                block,
                marks_are_letters,
            );
        }
        masks
    }

    #[inline(always)]
    fn add_wide(
        &mut self,
        wide: Wide,
        bytes: u64,
        block: &[u8; BLOCK_BYTES],
        marks_are_letters: bool,
    ) {
        self.tail = bytes & !wide.lead;
        // The bytes of characters of three; those that the end cuts off are limited below.
        let three = |lead: u64| (lead | lead << 1 | lead << 2) & bytes;
        self.uncased = three(wide.letter & bytes);
        self.symbol |= three(wide.punctuation & bytes);
        let plain = (wide.letter | wide.punctuation) & bytes;
        let cut = plain & !first(self.known.saturating_sub(2));
        if cut != 0 {
            self.limit(cut.trailing_zeros() as usize);
        }
        let others = wide.lead & bytes & !plain;
        if others != 0 {
            self.add_others(others, block, marks_are_letters);
        }
    }

    /// Adds what the table says of characters one by one.
    fn add_others(&mut self, mut leads: u64, block: &[u8; BLOCK_BYTES], marks_are_letters: bool) {
        while leads != 0 {
            let at = leads.trailing_zeros() as usize;
            leads &= leads - 1;
            if at >= self.known {
                return;
            }
            let length = match block[at] {
                0..0xe0 => 2,
                0xe0..0xf0 => 3,
                _ => 4,
            };
            if at + length > self.known {
                return self.limit(at);
            }
            let bytes = first(length) << at;
            let (found, _) = class(block, at);
            // The long s is part of contractions.
            let long_s = block[at..].starts_with("ſ".as_bytes());
            let letters = (self.upper | self.lower | self.uncased) << 1;
            match found & (LETTER | UPPER | LOWER | SYMBOL) {
                _ if found & (SPACE | NUMBER) != 0 || long_s => return self.limit(at),
                found if found & LETTER != 0 => match found & (UPPER | LOWER) {
                    UPPER => self.upper |= bytes,
                    LOWER => self.lower |= bytes,
                    _ => self.uncased |= bytes,
                },
                SYMBOL => self.symbol |= bytes,
                // A mark inside a word is one of its letters.
                _ if !marks_are_letters => self.symbol |= bytes,
                _ if self.apostrophe == 0 && letters & bytes != 0 => self.uncased |= bytes,
                _ => return self.limit(at),
            }
        }
    }

    /// Forgets the bytes from `at` on.
    fn limit(&mut self, at: usize) {
        let within = first(at);
        for set in [
            &mut self.upper,
            &mut self.lower,
            &mut self.uncased,
            &mut self.digit,
            &mut self.newline,
            &mut self.blank,
            &mut self.space,
            &mut self.apostrophe,
            &mut self.slash,
            &mut self.symbol,
            &mut self.tail,
        ] {
            *set &= within;
        }
        self.known = at;
    }
}
