//! Writes the token tables that the crate embeds: the vocabularies, read from tiktoken-rs token by
//! token and checked against the published digests, and the classes of all characters.

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use regex_syntax::hir::{Class, HirKind};
use sha2::{Digest, Sha256};
use tiktoken_rs::CoreBPE;

#[path = "src/tokens/pretokenize/flags.rs"]
mod flags;
#[path = "src/tokens/hash.rs"]
mod hash;
#[path = "src/tokens/rank_file.rs"]
mod rank_file;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Parts of a merge keep their length in a byte, and longer spans are not looked up.
const MAX_TOKEN_BYTES: usize = 128;

struct Source {
    name: &'static str,
    load: fn() -> Result<CoreBPE>,
    /// One more than the highest rank.
    ranks: u32,
    /// Digest and size of the file that `tiktoken_ext/openai_public.py` downloads.
    sha256: &'static str,
    bytes: usize,
}

const SOURCES: [Source; 3] = [
    Source {
        name: "p50k_base",
        load: || Ok(tiktoken_rs::p50k_base()?),
        ranks: 50_281,
        sha256: "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
        bytes: 836_186,
    },
    Source {
        name: "cl100k_base",
        load: || Ok(tiktoken_rs::cl100k_base()?),
        ranks: 100_256,
        sha256: "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        bytes: 1_681_126,
    },
    Source {
        name: "o200k_base",
        load: || Ok(tiktoken_rs::o200k_base()?),
        ranks: 199_998,
        sha256: "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        bytes: 3_613_922,
    },
];

/// p50k's one rank without a token: the id of `<|endoftext|>`.
const P50K_HOLE: u32 = 50_256;
/// r50k and gpt2 are p50k below the hole; their file has its own digest.
const R50K_SHA256: &str = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930";

fn main() -> Result<()> {
    for shared in ["hash.rs", "rank_file.rs", "pretokenize/flags.rs"] {
        println!("cargo::rerun-if-changed=src/tokens/{shared}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    for source in &SOURCES {
        let tokens = read_tokens(source, &(source.load)()?)?;
        write_vocabulary(&out, source.name, &tokens)?;
    }
    write_classes(&out)
}

/// Decodes every rank; an empty entry is a rank without a token.
fn read_tokens(source: &Source, bpe: &CoreBPE) -> Result<Vec<Vec<u8>>> {
    let hole = (source.name == "p50k_base").then_some(P50K_HOLE);
    let mut tokens = Vec::new();
    let mut file = Vec::with_capacity(source.bytes);
    for rank in 0..source.ranks {
        if Some(rank) == hole {
            check("r50k_base", R50K_SHA256, &file)?;
            tokens.push(Vec::new());
            continue;
        }
        let token = bpe.decode_bytes(&[rank])?;
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(format!("{}: rank {rank} has {} bytes", source.name, token.len()).into());
        }
        rank_file::push_line(&mut file, &token, rank);
        tokens.push(token);
    }
    if file.len() != source.bytes {
        return Err(format!(
            "{}: {} bytes, not {}",
            source.name,
            file.len(),
            source.bytes
        )
        .into());
    }
    check(source.name, source.sha256, &file)?;
    Ok(tokens)
}

fn check(name: &str, published: &str, file: &[u8]) -> Result<()> {
    let digest = Sha256::digest(file)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
    if digest == published {
        return Ok(());
    }
    Err(format!("{name}: sha256 {digest} is not the published {published}").into())
}

/// Writes the tokens' bytes, where each starts, the bytes → id slots, and the ids of bytes and of byte pairs.
fn write_vocabulary(out: &Path, name: &str, tokens: &[Vec<u8>]) -> Result<()> {
    let by_bytes: HashMap<&[u8], u32> = (0..)
        .zip(tokens)
        .map(|(id, token)| (token.as_slice(), id))
        .collect();
    let mut starts = vec![0u32];
    for token in tokens {
        starts.push(starts[starts.len() - 1] + u32::try_from(token.len())?);
    }
    // Between a quarter and a half full: a lookup that fails, the usual case in a merge, then
    // reads 1.8 slots on average. Half the size counts English 5 % and Korean 11 % slower; slots of
    // 8 bytes that hold the token's place too, 4 % and 2 % faster for 3.7 MB more.
    let mut slots = vec![0u32; (2 * tokens.len()).next_power_of_two()];
    for (id, token) in (0u32..).zip(tokens).filter(|(_, token)| !token.is_empty()) {
        let hash = hash::hash(token);
        let mut slot = usize::try_from(hash & (slots.len() as u64 - 1))?;
        while slots[slot] != 0 {
            slot = (slot + 1) % slots.len();
        }
        slots[slot] = hash::fingerprint(hash) | (id + 1);
    }
    let mut filter = vec![0u64; hash::filter_words(tokens.len())];
    for token in tokens.iter().filter(|token| !token.is_empty()) {
        let (word, bits) = hash::filter_bits(hash::hash(token), filter.len());
        filter[word] |= bits;
    }
    let filter: Vec<u8> = filter.into_iter().flat_map(u64::to_le_bytes).collect();
    let pairs =
        (0..=u16::MAX).map(|pair| by_bytes.get(&pair.to_be_bytes()[..]).map_or(0, |id| id + 1));
    let singles = (0..=u8::MAX)
        .map(|byte| by_bytes.get(&[byte][..]).copied())
        .collect::<Option<Vec<u32>>>()
        .ok_or_else(|| format!("{name}: a byte is not a token"))?;
    // A word can be read at any byte of a token.
    let bytes = [tokens.concat(), vec![0; 8]].concat();
    fs::write(out.join(format!("{name}.bytes")), bytes)?;
    write_words(out, &format!("{name}.starts"), starts)?;
    write_words(out, &format!("{name}.slots"), slots)?;
    fs::write(out.join(format!("{name}.filter")), filter)?;
    write_words(out, &format!("{name}.singles"), singles)?;
    write_words(out, &format!("{name}.pairs"), pairs)
}

fn write_words(out: &Path, name: &str, words: impl IntoIterator<Item = u32>) -> Result<()> {
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    Ok(fs::write(out.join(name), bytes)?)
}

/// Writes the flags of all characters as a two-level table: block numbers, then blocks.
fn write_classes(out: &Path) -> Result<()> {
    let mut table = vec![0u8; 0x11_0000];
    for (flag, class) in [
        (flags::UPPER, r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"),
        (flags::LOWER, r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"),
        (flags::LETTER, r"\p{L}"),
        (flags::NUMBER, r"\p{N}"),
        (flags::SPACE, r"\s"),
        (flags::NEWLINE, r"[\r\n]"),
        (flags::SYMBOL, r"[^\s\p{L}\p{N}]"),
        (flags::PREFIX, r"[^\r\n\p{L}\p{N}]"),
    ] {
        let parsed = regex_syntax::parse(class)?;
        let HirKind::Class(Class::Unicode(ranges)) = parsed.kind() else {
            return Err(format!("{class} is not a class of characters").into());
        };
        for range in ranges.iter() {
            for code in range.start()..=range.end() {
                table[code as usize] |= flag;
            }
        }
    }
    let mut numbers = HashMap::new();
    let mut index = Vec::new();
    let mut blocks: Vec<u8> = Vec::new();
    for block in table.chunks(flags::BLOCK) {
        let number = *numbers.entry(block).or_insert_with(|| {
            blocks.extend_from_slice(block);
            blocks.len() / flags::BLOCK - 1
        });
        index.push(u8::try_from(number)?);
    }
    fs::write(out.join("classes.index"), index)?;
    Ok(fs::write(out.join("classes.blocks"), blocks)?)
}
