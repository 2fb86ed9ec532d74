//! Where pieces begin in a block, by arithmetic on sets of positions.
//!
//! A block begins where a piece begins, so nothing is carried from one block to the next: what the
//! end of a block leaves undecided is looked at again at the start of another.

use super::Pattern;
use super::masks::{BLOCK_BYTES, Machine, Masks, first};

/// What `(?i:'s|'t|'re|'ve|'m|'ll|'d)` takes at an apostrophe, by the two bytes after it.
#[inline(always)]
fn contraction(block: &[u8; BLOCK_BYTES], at: usize, fold: u8) -> usize {
    let letter = |offset: usize| block.get(at + offset).map_or(0, |byte| byte | fold);
    match (letter(1), letter(2)) {
        (b's' | b't' | b'm' | b'd', _) => 2,
        (b'r' | b'v', b'e') | (b'l', b'l') => 3,
        _ => 0,
    }
}

/// Case folding of ASCII letters; what is no letter stays none of those that are asked for.
const FOLD: u8 = 0x20;

/// What is known of the pieces of a block.
#[derive(Clone, Copy)]
struct Pieces {
    /// Where pieces begin, as far as the known bytes tell.
    starts: u64,
    white: u64,
    /// Bytes that count.
    known: usize,
    /// Of these, how many of the last ones may turn out otherwise when more follows.
    open: usize,
}

/// The pieces that a block holds whole, side by side from 0.
#[derive(Clone, Copy)]
pub struct Whole {
    /// Where they begin; none where the block cannot tell.
    pub starts: u64,
    /// Where they end, as positions below 64.
    pub ends: u64,
    /// The starts of those that are one token whatever they are: a byte, or a number of at most
    /// three digits where numbers are cut so.
    pub single: u64,
}

/// The pieces that the first `length` bytes of a block hold whole. `last` says that the text ends
/// after them.
#[inline(always)]
pub fn whole(
    pattern: Pattern,
    machine: impl Machine,
    block: &[u8; BLOCK_BYTES],
    length: usize,
    last: bool,
) -> Whole {
    let masks = Masks::new(machine, block, length, pattern == Pattern::O200k);
    let pieces = match pattern {
        Pattern::Gpt2 => gpt2(&masks, block),
        Pattern::Cl100k => cl100k(&masks, block),
        Pattern::O200k => o200k(&masks, block),
    };
    let Pieces {
        starts,
        white,
        known,
        open,
    } = pieces;
    let complete = last && known == length && length < BLOCK_BYTES;
    let ends = if complete && white & 1 << (length - 1) == 0 {
        starts & first(known) | 1 << length
    } else {
        starts & decided(white, known) & first(known.saturating_sub(open))
    };
    let ends = ends & !1;
    let starts = (ends | 1) & first(BLOCK_BYTES - 1 - (ends | 1).leading_zeros() as usize);
    let number = match pattern {
        Pattern::Gpt2 => 0,
        Pattern::Cl100k | Pattern::O200k => masks.digit,
    };
    Whole {
        starts,
        ends,
        single: starts & (ends >> 1 | number),
    }
}

#[inline(always)]
fn run_starts(set: u64) -> u64 {
    set & !(set << 1)
}

/// The positions up to which nothing depends on what follows the known bytes. A run of white space
/// that may go on is one piece or several.
#[inline(always)]
fn decided(white: u64, known: usize) -> u64 {
    // All bits above `known` are set too, so that the leading ones are the run and what follows.
    let open = (white | !first(known)).leading_ones() as usize;
    let run = BLOCK_BYTES - open;
    first(if run < known { run + 1 } else { known })
}

/// Calls `found` with the start and end of each contraction at `candidates` that is known whole.
#[inline(always)]
fn contractions(
    mut candidates: u64,
    block: &[u8; BLOCK_BYTES],
    known: usize,
    fold: u8,
    mut found: impl FnMut(usize, usize),
) {
    while candidates != 0 {
        let at = candidates.trailing_zeros() as usize;
        candidates &= candidates - 1;
        let length = contraction(block, at, fold);
        if length > 0 && at + length <= known {
            found(at, at + length);
        }
    }
}

#[inline(always)]
fn bit(at: usize) -> u64 {
    if at < BLOCK_BYTES { 1 << at } else { 0 }
}

#[inline(always)]
fn gpt2(masks: &Masks, block: &[u8; BLOCK_BYTES]) -> Pieces {
    let letter = masks.upper | masks.lower | masks.uncased;
    let white = masks.blank | masks.newline;
    // A space belongs to what follows it.
    let after_space = masks.space << 1;
    let symbols = run_starts(masks.symbol) & !after_space;
    let mut starts = run_starts(letter) & !after_space
        | run_starts(masks.digit) & !after_space
        | symbols
        | run_starts(white)
        | white & !(white >> 1);
    let candidates = masks.apostrophe & symbols & letter >> 1;
    contractions(candidates, block, masks.known, 0, |at, end| {
        starts &= !bit(at + 1);
        starts |= bit(end) & letter;
    });
    Pieces {
        starts,
        white,
        known: masks.known,
        // A letter after an apostrophe is judged by the byte after it.
        open: 1,
    }
}

/// What cl100k and o200k share: where symbols, numbers and white space begin, and where letters do
/// that no prefix precedes.
struct Common {
    starts: u64,
    /// Starts of runs of symbols that no space belongs to.
    symbols: u64,
}

#[inline(always)]
fn common(masks: &Masks, letter: u64) -> Common {
    let white = masks.blank | masks.newline;
    let symbols = run_starts(masks.symbol) & !(masks.space << 1);
    // A single symbol is the prefix of letters that follow it.
    let mut prefix = symbols;
    if masks.tail != 0 {
        for _ in 0..3 {
            prefix |= prefix << 1 & masks.tail;
        }
    }
    let letters = run_starts(letter) & !((masks.blank | prefix) << 1);
    // Line breaks after symbols belong to them.
    let after_symbol = masks.newline & masks.symbol << 1;
    let taken = (masks.newline.wrapping_add(after_symbol) ^ masks.newline) & masks.newline;
    let white_left = white & !taken;
    // The last blank of a run belongs to what follows, or stands alone.
    let last_blank = masks.blank & !(white >> 1);
    Common {
        starts: letters
            | symbols
            | numbers(masks.digit)
            | run_starts(white_left)
            | last_blank
            | after_newline(masks, taken),
        symbols,
    }
}

/// Blanks between the last line break of a run and what follows begin a piece.
#[inline(always)]
fn after_newline(masks: &Masks, taken: u64) -> u64 {
    let mut runs = masks.blank & (masks.newline & !taken) << 1;
    let ends = masks.blank.wrapping_add(runs) & !masks.blank;
    if ends & masks.newline != 0 {
        // A line of blanks alone: rare enough for a loop.
        let mut left = runs;
        while left != 0 {
            let run = left & left.wrapping_neg();
            left ^= run;
            if masks.blank.wrapping_add(run) & !masks.blank & masks.newline != 0 {
                runs ^= run;
            }
        }
    }
    runs
}

/// Every third digit of a run.
#[inline(always)]
fn numbers(digit: u64) -> u64 {
    let mut starts = run_starts(digit);
    let goes_on = digit & digit << 1 & digit << 2 & digit << 3;
    let mut next = starts << 3 & goes_on;
    while next != 0 {
        // Four steps a turn: the length of a number is not guessed well, and most have fewer.
        for _ in 0..4 {
            starts |= next;
            next = next << 3 & goes_on;
        }
    }
    starts
}

#[inline(always)]
fn cl100k(masks: &Masks, block: &[u8; BLOCK_BYTES]) -> Pieces {
    let letter = masks.upper | masks.lower | masks.uncased;
    let Common {
        mut starts,
        symbols,
    } = common(masks, letter);
    let candidates = masks.apostrophe & symbols & letter >> 1;
    contractions(candidates, block, masks.known, FOLD, |_, end| {
        starts |= bit(end) & letter;
    });
    Pieces {
        starts,
        white: masks.blank | masks.newline,
        known: masks.known,
        open: 0,
    }
}

#[inline(always)]
fn o200k(masks: &Masks, block: &[u8; BLOCK_BYTES]) -> Pieces {
    let letter = masks.upper | masks.lower | masks.uncased;
    let mut starts = common(masks, letter).starts;
    // A capital after a small letter begins a word.
    starts |= masks.upper & masks.lower << 1;
    let candidates = masks.apostrophe & letter << 1 & letter >> 1;
    let mut last_end = 0;
    contractions(candidates, block, masks.known, FOLD, |at, end| {
        // What a contraction ends cannot take another.
        if at != last_end {
            starts &= first(at) | !first(end);
            starts |= bit(end) & letter;
            last_end = end;
        }
    });
    // Left to the scalar scanner: capitals after letters without case, which those may belong to,
    // and a slash after a line break, which belongs to the symbols before.
    let hard = masks.upper & masks.uncased << 1 | masks.slash & masks.newline << 1;
    let known = masks.known.min(hard.trailing_zeros() as usize);
    Pieces {
        starts,
        white: (masks.blank | masks.newline) & first(known),
        known,
        // An apostrophe is judged by the two bytes after it.
        open: 2,
    }
}
