//! The vocabularies, as tables that the build script wrote and the program uses where they lie.

use super::hash::{ID_BITS, fingerprint, hash};
use super::rank_file::push_line;

/// No token of any vocabulary is longer.
pub const MAX_TOKEN_BYTES: usize = 128;

/// One vocabulary. Words are little-endian bytes, so that they can lie unaligned in the binary;
/// reading one is a plain load.
pub struct Vocab {
    /// All tokens' bytes, in the order of their ids.
    bytes: &'static [u8],
    /// Where token `id` begins in `bytes`; one more entry than there are ids. A rank without a
    /// token is empty.
    starts: &'static [[u8; 4]],
    /// Open addressing with linear probing: `fingerprint | id + 1`, 0 when empty. A power of two,
    /// and never full.
    slots: &'static [[u8; 4]],
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
        let slots = self.vocab.slots;
        let hash = hash(token);
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
                if self.vocab.token(id) == token {
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
    #[inline]
    fn token(&self, id: u32) -> &'static [u8] {
        let at = id as usize;
        let start = u32::from_le_bytes(self.starts[at]) as usize;
        let end = u32::from_le_bytes(self.starts[at + 1]) as usize;
        &self.bytes[start..end]
    }
}
