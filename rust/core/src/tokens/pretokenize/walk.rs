//! Hands the pieces of a text to a sink, a block of them at a time.

use super::Pattern;
use super::blocks::ends;
use super::masks::{BLOCK_BYTES, Machine};
use super::portable::Portable;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

/// Bytes that can be read from the start of a piece in a window, whatever its length.
pub const REACH: usize = 64;
/// A block and what can be read beyond it.
pub type Window = [u8; BLOCK_BYTES + REACH];

/// What is done with the pieces.
pub trait Sink {
    /// Pieces side by side, the first at 0: `ends` has one or more positions, all below 64.
    fn block(&mut self, machine: impl Machine, window: &Window, ends: u64);
    /// One piece of any length.
    fn piece(&mut self, piece: &[u8]);
}

/// Hands all pieces of `text` to `sink`, in order, by the best means that this machine has.
#[inline]
pub fn walk(pattern: Pattern, text: &[u8], sink: &mut impl Sink) {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("bmi2")
            && std::arch::is_x86_feature_detected!("lzcnt")
        {
            // SAFETY: these are the features that it asks for.
            return unsafe { avx512(pattern, text, sink) };
        }
        if std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("bmi2")
            && std::arch::is_x86_feature_detected!("lzcnt")
        {
            // SAFETY: as above.
            return unsafe { avx2(pattern, text, sink) };
        }
    }
    by_pattern(pattern, Portable, text, sink);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512bw,bmi1,bmi2,lzcnt,popcnt")]
fn avx512(pattern: Pattern, text: &[u8], sink: &mut impl Sink) {
    by_pattern(pattern, Avx512::new(), text, sink);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn avx2(pattern: Pattern, text: &[u8], sink: &mut impl Sink) {
    by_pattern(pattern, Avx2::new(), text, sink);
}

/// The pattern becomes a constant of each loop.
#[inline(always)]
fn by_pattern(pattern: Pattern, machine: impl Machine, text: &[u8], sink: &mut impl Sink) {
    match pattern {
        Pattern::Gpt2 => blocks(Pattern::Gpt2, machine, text, sink),
        Pattern::Cl100k => blocks(Pattern::Cl100k, machine, text, sink),
        Pattern::O200k => blocks(Pattern::O200k, machine, text, sink),
    }
}

#[inline(always)]
fn blocks(pattern: Pattern, machine: impl Machine, text: &[u8], sink: &mut impl Sink) {
    let mut at = 0;
    while let Some(window) = text[at..].first_chunk::<{ size_of::<Window>() }>() {
        let step = block(pattern, machine, window, BLOCK_BYTES, false, sink);
        at += if step > 0 {
            step
        } else {
            scalar(pattern, &text[at..], sink)
        };
    }
    // What is left is copied to where a whole window can be read at every byte of it.
    let rest = &text[at..];
    let mut buffer = [0; 2 * size_of::<Window>()];
    buffer[..rest.len()].copy_from_slice(rest);
    let mut at = 0;
    while at < rest.len() {
        let Some(window) = buffer[at..].first_chunk() else {
            return;
        };
        let left = rest.len() - at;
        let length = left.min(BLOCK_BYTES);
        let step = block(pattern, machine, window, length, length == left, sink);
        at += if step > 0 {
            step
        } else {
            scalar(pattern, &rest[at..], sink)
        };
    }
}

/// Hands over the pieces that a block knows whole; returns where they end.
#[inline(always)]
fn block(
    pattern: Pattern,
    machine: impl Machine,
    window: &Window,
    length: usize,
    last: bool,
    sink: &mut impl Sink,
) -> usize {
    let Some(block) = window.first_chunk() else {
        return 0;
    };
    let ends = ends(pattern, machine, block, length, last);
    if ends == 0 {
        return 0;
    }
    sink.block(machine, window, ends);
    BLOCK_BYTES - 1 - ends.leading_zeros() as usize
}

/// Hands over at least one piece, and then more until a block has passed: where one block fails
/// the next would too. Returns where they end.
#[inline(never)]
fn scalar(pattern: Pattern, text: &[u8], sink: &mut impl Sink) -> usize {
    let mut at = 0;
    while at < BLOCK_BYTES.min(text.len()) {
        let end = pattern.piece_end(text, at);
        sink.piece(&text[at..end]);
        at = end;
    }
    at
}
