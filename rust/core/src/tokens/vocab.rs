//! The vocabularies, as tables that the build script wrote and the program uses where they lie.

use super::hash::{ID_BITS, filter_bits, fingerprint, hash, hash_word};
use super::pretokenize::KEPT;
use super::rank_file::push_line;

/// Pieces that are looked for at the same time.
pub const TOGETHER: usize = 16;
/// No token of any vocabulary is longer.
pub const MAX_TOKEN_BYTES: usize = 128;

/// One vocabulary. Words are little-endian bytes, so that they can lie unaligned in the binary;
/// reading one is a plain load.
pub struct Vocab {
    /// All tokens' bytes, in the order of their ids, and eight more.
    bytes: &'static [u8],
    /// Where token `id` begins in `bytes`; one more entry than there are ids. A rank without a
    /// token is empty.
    starts: &'static [[u8; 4]],
    /// Open addressing with linear probing: `fingerprint | id + 1`, 0 when empty. A power of two,
    /// and never full.
    slots: &'static [[u8; 4]],
    /// What `filter_bits` says of every token: where it says no, the slots need not be read. An
    /// eighth of their size, it stays in a core's own cache.
    filter: &'static [[u8; 8]],
    /// `id + 1` of the token of two bytes, first byte high; 0 where there is none.
    pairs: &'static [[u8; 4]],
    /// The id of the token of each byte.
    singles: &'static [[u8; 4]],
}

macro_rules! vocab {
    ($name:literal) => {
        Vocab {
            bytes: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".bytes")),
            starts: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".starts"))
                .as_chunks()
                .0,
            slots: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".slots"))
                .as_chunks()
                .0,
            filter: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".filter"))
                .as_chunks()
                .0,
            pairs: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".pairs"))
                .as_chunks()
                .0,
            singles: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".singles"))
                .as_chunks()
                .0,
        }
    };
}

pub static P50K: Vocab = vocab!("p50k_base");
pub static CL100K: Vocab = vocab!("cl100k_base");
pub static O200K: Vocab = vocab!("o200k_base");

/// The first `length` ≤ 8 of these bytes, as a word of which the others are 0.
#[inline]
pub fn lowest(bytes: [u8; 8], length: usize) -> u64 {
    let (kept, _) = KEPT[length];
    u64::from_le_bytes(bytes) & kept
}

/// A vocabulary of which only the ids below `limit` exist: r50k is the beginning of p50k.
#[derive(Clone, Copy)]
pub struct Ranks {
    pub vocab: &'static Vocab,
    pub limit: u32,
}

impl Ranks {
    /// The id (which is also the rank) of the token with these bytes.
    #[inline]
    pub fn find(&self, token: &[u8]) -> Option<u32> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        self.find_where(hash(token), |id| self.vocab.token(id) == token)
    }

    /// The id of the token of the first `length` ≤ 8 bytes of a word, of which the others are 0.
    #[inline]
    pub fn find_word(&self, word: u64, length: usize) -> Option<u32> {
        self.find_where(hash_word(word, length), |id| {
            let (start, end) = self.vocab.span(id);
            let bytes = self.vocab.bytes[start..].first_chunk();
            end - start == length && bytes.is_some_and(|bytes| lowest(*bytes, length) == word)
        })
    }

    /// Which of at most `TOGETHER` pieces are tokens. Each look-up waits for memory three times, one
    /// load after the other; here each load is made for all pieces before the next.
    pub fn are_tokens(&self, pieces: &[&[u8]]) -> [bool; TOGETHER] {
        let vocab = self.vocab;
        let mut hashes = [0; TOGETHER];
        let mut slots = [0; TOGETHER];
        for ((piece, known), slot) in pieces.iter().zip(&mut hashes).zip(&mut slots) {
            *known = hash(piece);
            if vocab.may_have(*known) {
                #[allow(clippy::cast_possible_truncation)] // masked to the table
                let at = *known as usize & (vocab.slots.len() - 1);
                *slot = u32::from_le_bytes(vocab.slots[at]);
            }
        }
        let id = |at: usize| {
            let slot: u32 = slots[at];
            let same = slot != 0 && slot & (u32::MAX << ID_BITS) == fingerprint(hashes[at]);
            same.then(|| (slot & !(u32::MAX << ID_BITS)) - 1)
        };
        let spans: [_; TOGETHER] =
            std::array::from_fn(|at| id(at).map_or((0, 0), |id| vocab.span(id)));
        std::array::from_fn(|at| {
            let Some(&piece) = pieces.get(at).filter(|_| slots[at] != 0) else {
                return false;
            };
            let (start, end) = spans[at];
            match id(at) {
                Some(id) if vocab.bytes[start..end] == *piece => id < self.limit,
                _ => self.find(piece).is_some(),
            }
        })
    }

    /// The id of the token of this hash that `is_it` knows.
    #[inline(always)]
    fn find_where(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        if !self.vocab.may_have(hash) {
            return None;
        }
        let slots = self.vocab.slots;
        let wanted = fingerprint(hash);
        #[allow(clippy::cast_possible_truncation)] // masked to the table
        let mut at = hash as usize & (slots.len() - 1);
        loop {
            let slot = u32::from_le_bytes(slots[at]);
            if slot == 0 {
                return None;
            }
            if slot & (u32::MAX << ID_BITS) == wanted {
                let id = (slot & !(u32::MAX << ID_BITS)) - 1;
                if is_it(id) {
                    return (id < self.limit).then_some(id);
                }
            }
            at = (at + 1) & (slots.len() - 1);
        }
    }

    /// The id of the token of this byte: every byte is one.
    #[inline]
    pub fn byte(&self, byte: u8) -> u32 {
        u32::from_le_bytes(self.vocab.singles[usize::from(byte)])
    }

    /// The id of the token of these two bytes.
    #[inline]
    pub fn find_pair(&self, first: u8, second: u8) -> Option<u32> {
        let pair =
            u32::from_le_bytes(self.vocab.pairs[usize::from(first) << 8 | usize::from(second)]);
        (pair.wrapping_sub(1) < self.limit).then(|| pair - 1)
    }

    /// The bytes of a token, or `None` where the id has none.
    pub fn token(&self, id: u32) -> Option<&'static [u8]> {
        (id < self.limit)
            .then(|| self.vocab.token(id))
            .filter(|token| !token.is_empty())
    }

    /// The vocabulary as the file that is published for it.
    pub fn to_file(self) -> Vec<u8> {
        let mut file = Vec::new();
        for id in 0..self.limit {
            if let Some(token) = self.token(id) {
                push_line(&mut file, token, id);
            }
        }
        file
    }
}

impl Vocab {
    /// Whether there may be a token of this hash: one in thirty that there is not passes.
    #[inline]
    fn may_have(&self, hash: u64) -> bool {
        let (word, bits) = filter_bits(hash, self.filter.len());
        u64::from_le_bytes(self.filter[word]) & bits == bits
    }

    #[inline]
    fn span(&self, id: u32) -> (usize, usize) {
        let at = id as usize;
        let start = |at: usize| u32::from_le_bytes(self.starts[at]) as usize;
        (start(at), start(at + 1))
    }

    #[inline]
    fn token(&self, id: u32) -> &'static [u8] {
        let (start, end) = self.span(id);
        &self.bytes[start..end]
    }
}
