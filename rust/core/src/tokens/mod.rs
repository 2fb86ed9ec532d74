//! Tokens: the published encodings, with ids identical to tiktoken's.
//!
//! A text is cut into pieces (`pretokenize`), each piece looked up (`vocab`) and, where it is no
//! token itself, merged (`merge`). Everything works on tables in the binary.

// Only what is inlined is compiled for the features of a function that has some.
#![allow(clippy::inline_always)]

mod cache;
mod chunk;
#[cfg(target_arch = "x86_64")]
mod compress;
mod count;
mod encode;
mod encoding;
mod entry;
mod hash;
mod merge;
mod merge_long;
mod pairs;
mod pretokenize;
mod rank_file;
mod shorten;
mod special;
mod spend;
mod table;
pub mod transcode;
mod truncate;
mod vocab;

pub use cache::forked;
pub use chunk::{Prefer, TooSmall};
pub use encoding::{ENCODINGS, Encoding};
pub use pretokenize::{Pattern, Pieces};
pub use shorten::{Ends, Shortened, Side};
pub use special::{Found, Specials};
pub use table::BUDGET as CACHE_BYTES;
pub use truncate::Truncated;
