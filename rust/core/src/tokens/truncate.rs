//! Cutting a text to a number of tokens, at its end or its start.

use super::encoding::Encoding;
use super::merge::merge;
use super::pretokenize::boundary::boundary_before;

/// What [`Encoding::truncate`] and [`Encoding::truncate_start`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncated {
    /// The text has at most so many tokens.
    Fits,
    /// The text cut at this byte does, and the cut splits no character.
    Cut(usize),
    /// More of the text must be seen: only where it was said that there is more.
    MoreNeeded,
}

impl Encoding {
    /// Cuts `text` so that what remains from its start has at most `max_tokens` tokens.
    ///
    /// Reads no further than the budget and the piece after it. `more_follows` says that `text`
    /// is only the beginning of the text to cut.
    pub fn truncate(&self, text: &str, max_tokens: usize, more_follows: bool) -> Truncated {
        let mut budget = max_tokens;
        let mut step = 1;
        while let Some(spent) = self.spend(text, budget) {
            // Text that follows could still change this piece or, being white space, the next.
            if more_follows && self.ends_at_or_after(text, spent.end) {
                return Truncated::MoreNeeded;
            }
            let cut = whole_characters(text, spent.cut);
            let anchor = spent.anchors.before(cut);
            if self.count(&text[anchor.at..cut]) <= anchor.left {
                return Truncated::Cut(cut);
            }
            // Half a character dropped, or white space that now ends the text, can need more
            // tokens than were freed. Steps that double keep the worst case n log n.
            budget = budget.saturating_sub(step);
            step *= 2;
        }
        if more_follows {
            Truncated::MoreNeeded
        } else {
            Truncated::Fits
        }
    }

    /// Cuts `text` so that what remains up to its end has at most `max_tokens` tokens; the answer
    /// is where that begins.
    ///
    /// Reads back from the end, no further than the budget and the safe boundary before it.
    /// `more_precedes` says that `text` is only the ending of the text to cut.
    pub fn truncate_start(&self, text: &str, max_tokens: usize, more_precedes: bool) -> Truncated {
        let bytes = text.as_bytes();
        // `text[from..]` has `kept` tokens, and a piece begins at `from`.
        let mut from = bytes.len();
        let mut kept = 0;
        let mut step = max_tokens.saturating_mul(4).saturating_add(256);
        let (start, excess) = loop {
            let start = boundary_before(bytes, from.saturating_sub(step));
            if start == 0 && more_precedes {
                return Truncated::MoreNeeded;
            }
            // No white space ends at a safe boundary, so what follows changes no piece before it.
            let tokens = kept + self.count(&text[start..from]);
            if tokens > max_tokens {
                break (start, tokens - max_tokens);
            }
            if start == 0 {
                return Truncated::Fits;
            }
            from = start;
            kept = tokens;
            // As many bytes as the missing tokens have by what was seen, and an eighth more.
            let seen = bytes.len() - from;
            step = (max_tokens - kept).saturating_mul(seen) / kept.max(1);
            step = step.saturating_add(step / 8 + 64);
        };
        Truncated::Cut(self.drop_tokens(text, start, excess))
    }

    /// Where `text`, whose pieces begin at `start`, begins with at least `excess` tokens fewer.
    fn drop_tokens(&self, text: &str, start: usize, excess: usize) -> usize {
        let bytes = text.as_bytes();
        let Some(spent) = self.spend(&text[start..], excess) else {
            return text.len();
        };
        let (end, mut cut) = (start + spent.end, start + spent.cut);
        let (start, tokens) = (start + spent.start, spent.tokens);
        let piece = &bytes[start..end];
        // A piece never depends on what stands before it, so that cutting between two pieces frees
        // exactly the tokens before. Inside one, what is left is counted again.
        let left = (tokens - spent.left).cast_signed();
        let mut step = 1;
        let mut dropped = spent.left;
        loop {
            let at = next_character(text, cut);
            if at >= end || self.more_tokens(bytes, at, end) <= left {
                return at.min(end);
            }
            dropped += step;
            step *= 2;
            if dropped >= tokens {
                return end;
            }
            cut = start + self.end_of_token(piece, dropped);
        }
    }

    /// How many tokens more `text[at..]` has than `text[boundary..]`, where a piece begins at
    /// `boundary`. Reads only until both have a piece that begins at the same byte.
    fn more_tokens(&self, bytes: &[u8], mut at: usize, mut boundary: usize) -> isize {
        let mut more = 0;
        while at != boundary {
            let start = at.min(boundary);
            let end = self.pattern.piece_end(bytes, start);
            let tokens = self.count_piece(&bytes[start..end]).cast_signed();
            if at < boundary {
                more += tokens;
                at = end;
            } else {
                more -= tokens;
                boundary = end;
            }
        }
        more
    }

    /// Whether the piece that begins at `at`, or none, ends with the text.
    fn ends_at_or_after(&self, text: &str, at: usize) -> bool {
        at == text.len() || self.pattern.piece_end(text.as_bytes(), at) == text.len()
    }

    /// The end of the `count`-th token of a piece of more tokens; 0 for none.
    fn end_of_token(&self, piece: &[u8], count: usize) -> usize {
        let mut tokens = 0;
        let mut cut = 0;
        merge(self.ranks, piece, |end| {
            tokens += 1;
            if tokens <= count {
                cut = end;
            }
        });
        cut
    }
}

/// The last character boundary at or before `at`.
pub(super) fn whole_characters(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The first character boundary at or after `at`.
fn next_character(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}
