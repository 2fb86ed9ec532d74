//! Embedding: texts into requests, answers into rows, and which row a text has.

mod body;
mod decode;
mod fewest;
mod json;
mod pack;
mod problem;
mod repeats;
mod rows;
mod vector;

pub use body::{BodyError, BodyWriter, Request, embeddings_body};
pub use decode::{Decoded, decode, decode_new};
pub use fewest::pack_fewest;
pub use pack::{Caps, PackError, TARGET_TEXTS, pack, request_caps};
pub use problem::{DecodeError, Problem};
pub use repeats::{Repeats, repeats};
pub use rows::{Digest, RowTable};
pub use vector::BadRow;
