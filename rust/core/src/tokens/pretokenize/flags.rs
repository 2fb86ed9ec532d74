//! What the patterns ask of a character, one bit a question. The build script fills the table of
//! all characters with these bits; 0 stands for the end of the text.

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
pub const UPPER: u8 = 1;
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
pub const LOWER: u8 = 2;
/// `\p{L}`
pub const LETTER: u8 = 4;
/// `\p{N}`
pub const NUMBER: u8 = 8;
/// `\s`
pub const SPACE: u8 = 16;
/// `[\r\n]`
pub const NEWLINE: u8 = 32;
/// `[^\s\p{L}\p{N}]`
pub const SYMBOL: u8 = 64;
/// `[^\r\n\p{L}\p{N}]`
pub const PREFIX: u8 = 128;

/// Characters a block of the two-level table holds.
pub const BLOCK: usize = 128;
