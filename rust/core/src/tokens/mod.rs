//! Tokens: the published encodings, with ids identical to tiktoken's.
//!
//! A text is cut into pieces (`pretokenize`), each piece looked up (`vocab`) and, where it is no
//! token itself, merged (`merge`). Everything works on tables in the binary.

mod chunk;
mod count;
mod encoding;
mod hash;
mod merge;
mod pretokenize;
mod rank_file;
mod shorten;
mod special;
mod truncate;
mod vocab;

pub use chunk::{Prefer, TooSmall};
pub use encoding::{ENCODINGS, Encoding};
pub use pretokenize::{Pattern, Pieces};
pub use shorten::{Ends, Shortened, Side};
pub use special::{Found, Specials};
pub use truncate::Truncated;
