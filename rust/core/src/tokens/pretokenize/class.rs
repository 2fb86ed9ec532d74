//! The class of the character at a position of UTF-8 text.

use super::flags::BLOCK;

static INDEX: &[u8; 0x11_0000 / BLOCK] = include_bytes!(concat!(env!("OUT_DIR"), "/classes.index"));
static BLOCKS: &[[u8; BLOCK]] = include_bytes!(concat!(env!("OUT_DIR"), "/classes.blocks"))
    .as_chunks()
    .0;
/// The first block is ASCII.
static ASCII: &[u8; BLOCK] = &BLOCKS[0];

/// The flags of the character that begins at `at`, and its length; (0, 0) at the end of the text.
#[inline]
pub fn class(text: &[u8], at: usize) -> (u8, usize) {
    match text.get(at) {
        None => (0, 0),
        Some(&byte) if byte < 0x80 => (ASCII[usize::from(byte)], 1),
        Some(&byte) => wide(text, at, byte),
    }
}

#[inline]
fn wide(text: &[u8], at: usize, first: u8) -> (u8, usize) {
    let tail = |i: usize| usize::from(text[at + i] & 0x3f);
    let lead = usize::from(first);
    let (code, length) = match first {
        0..0xe0 => ((lead & 0x1f) << 6 | tail(1), 2),
        0xe0..0xf0 => ((lead & 0x0f) << 12 | tail(1) << 6 | tail(2), 3),
        _ => (
            (lead & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3),
            4,
        ),
    };
    (
        BLOCKS[usize::from(INDEX[code / BLOCK])][code % BLOCK],
        length,
    )
}

/// The end of the run of characters that have one of `flags`.
#[inline]
pub fn run(text: &[u8], mut at: usize, flags: u8) -> usize {
    loop {
        let (found, length) = class(text, at);
        if found & flags == 0 {
            return at;
        }
        at += length;
    }
}
