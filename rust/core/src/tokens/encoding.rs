//! The encodings by name, and what each can do with a text.

use std::borrow::Cow;

use super::cache::Lanes;
use super::merge::merge;
use super::pretokenize::Pattern;
use super::special::Specials;
use super::vocab::{CL100K, MAX_TOKEN_BYTES, O200K, P50K, Ranks};

/// One of the published encodings. All of them are static: nothing is loaded or built.
pub struct Encoding {
    name: &'static str,
    pub(super) ranks: Ranks,
    pub(super) pattern: Pattern,
    /// Encodings that cut and merge alike share what they remember.
    pub(super) lanes: &'static Lanes,
    specials: Specials,
}

static R50K_LANES: Lanes = Lanes::new();
static P50K_LANES: Lanes = Lanes::new();
static CL100K_LANES: Lanes = Lanes::new();
static O200K_LANES: Lanes = Lanes::new();

const ENDOFTEXT: &str = "<|endoftext|>";
const R50K_RANKS: Ranks = Ranks {
    vocab: &P50K,
    limit: 50_256,
};
const P50K_RANKS: Ranks = Ranks {
    vocab: &P50K,
    limit: 50_281,
};
const O200K_RANKS: Ranks = Ranks {
    vocab: &O200K,
    limit: 199_998,
};

/// Every encoding; names, patterns and special tokens are those of `tiktoken_ext/openai_public.py`.
pub static ENCODINGS: [Encoding; 7] = [
    Encoding {
        name: "cl100k_base",
        ranks: Ranks {
            vocab: &CL100K,
            limit: 100_256,
        },
        pattern: Pattern::Cl100k,
        lanes: &CL100K_LANES,
        specials: Specials {
            named: &[
                (ENDOFTEXT, 100_257),
                ("<|fim_prefix|>", 100_258),
                ("<|fim_middle|>", 100_259),
                ("<|fim_suffix|>", 100_260),
                ("<|endofprompt|>", 100_276),
            ],
            reserved: 0..0,
        },
    },
    Encoding {
        name: "o200k_base",
        ranks: O200K_RANKS,
        pattern: Pattern::O200k,
        lanes: &O200K_LANES,
        specials: Specials {
            named: &[(ENDOFTEXT, 199_999), ("<|endofprompt|>", 200_018)],
            reserved: 0..0,
        },
    },
    Encoding {
        name: "o200k_harmony",
        ranks: O200K_RANKS,
        pattern: Pattern::O200k,
        lanes: &O200K_LANES,
        specials: Specials {
            named: &[
                ("<|startoftext|>", 199_998),
                (ENDOFTEXT, 199_999),
                ("<|reserved_200000|>", 200_000),
                ("<|reserved_200001|>", 200_001),
                ("<|return|>", 200_002),
                ("<|constrain|>", 200_003),
                ("<|reserved_200004|>", 200_004),
                ("<|channel|>", 200_005),
                ("<|start|>", 200_006),
                ("<|end|>", 200_007),
                ("<|message|>", 200_008),
                ("<|reserved_200009|>", 200_009),
                ("<|reserved_200010|>", 200_010),
                ("<|reserved_200011|>", 200_011),
                ("<|call|>", 200_012),
                ("<|endofprompt|>", 200_018),
            ],
            reserved: 200_013..201_088,
        },
    },
    Encoding {
        name: "p50k_base",
        ranks: P50K_RANKS,
        pattern: Pattern::Gpt2,
        lanes: &P50K_LANES,
        specials: Specials {
            named: &[(ENDOFTEXT, 50_256)],
            reserved: 0..0,
        },
    },
    Encoding {
        name: "p50k_edit",
        ranks: P50K_RANKS,
        pattern: Pattern::Gpt2,
        lanes: &P50K_LANES,
        specials: Specials {
            named: &[
                (ENDOFTEXT, 50_256),
                ("<|fim_prefix|>", 50_281),
                ("<|fim_middle|>", 50_282),
                ("<|fim_suffix|>", 50_283),
            ],
            reserved: 0..0,
        },
    },
    Encoding {
        name: "r50k_base",
        ranks: R50K_RANKS,
        pattern: Pattern::Gpt2,
        lanes: &R50K_LANES,
        specials: Specials {
            named: &[(ENDOFTEXT, 50_256)],
            reserved: 0..0,
        },
    },
    Encoding {
        name: "gpt2",
        ranks: R50K_RANKS,
        pattern: Pattern::Gpt2,
        lanes: &R50K_LANES,
        specials: Specials {
            named: &[(ENDOFTEXT, 50_256)],
            reserved: 0..0,
        },
    },
];

impl Encoding {
    /// The encoding of this name, or `None`.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        ENCODINGS.iter().find(|encoding| encoding.name == name)
    }

    /// Its published name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its special tokens.
    pub fn specials(&self) -> &Specials {
        &self.specials
    }

    /// The highest id; some ids below it may have no token.
    pub fn max_id(&self) -> u32 {
        self.specials.max_id().max(self.ranks.limit - 1)
    }

    /// The vocabulary as the file that is published for it, `base64(token) rank` a line.
    pub fn rank_file(&self) -> Vec<u8> {
        self.ranks.to_file()
    }

    /// Appends the ids of `text`, with special tokens that `allowed` accepts as one id each.
    pub fn encode_with_specials(
        &self,
        text: &str,
        mut allowed: impl FnMut(&str) -> bool,
        ids: &mut Vec<u32>,
    ) {
        let mut from = 0;
        while let Some(special) = self.specials.find(text, from, &mut allowed) {
            self.encode(&text[from..special.bytes.start], ids);
            ids.push(special.id);
            from = special.bytes.end;
        }
        self.encode(&text[from..], ids);
    }

    /// The bytes of a token or special token, or `None` where the id stands for nothing.
    pub fn token(&self, id: u32) -> Option<Cow<'static, [u8]>> {
        if let Some(token) = self.ranks.token(id) {
            return Some(Cow::Borrowed(token));
        }
        Some(match self.specials.text(id)? {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        })
    }

    /// The id of these bytes if they are one token or special token.
    pub fn id(&self, token: &[u8]) -> Option<u32> {
        let special = || self.specials.id(std::str::from_utf8(token).ok()?);
        self.ranks.find(token).or_else(special)
    }

    /// Appends the bytes of all tokens, or returns the first id that stands for nothing; `bytes`
    /// then ends before it.
    pub fn decode(&self, ids: &[u32], bytes: &mut Vec<u8>) -> Result<(), u32> {
        for &id in ids {
            if let Some(token) = self.ranks.token(id) {
                bytes.extend_from_slice(token);
            } else {
                bytes.extend_from_slice(&self.token(id).ok_or(id)?);
            }
        }
        Ok(())
    }

    /// The tokens of one piece.
    #[inline]
    pub(super) fn count_piece(&self, piece: &[u8]) -> usize {
        if piece.len() <= MAX_TOKEN_BYTES && self.ranks.find(piece).is_some() {
            return 1;
        }
        let mut tokens = 0;
        merge(self.ranks, piece, |_| tokens += 1);
        tokens
    }
}
