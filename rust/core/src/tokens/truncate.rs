//! Cutting a text to a number of tokens, at its end or its start.

use super::encoding::Encoding;
use super::merge::merge;
use super::pretokenize::boundary::boundary_before;
use super::vocab::MAX_TOKEN_BYTES;

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

/// Where reading a text token by token arrives at the budget.
struct Walk {
    /// The byte after the last token that fits; inside a character perhaps.
    cut: usize,
    /// Where to count again from when the text ends at the cut.
    anchors: Anchors,
    /// Whether text that follows could still change the pieces up to the cut.
    unsettled: bool,
}

/// The last two places where the pieces before stay as they are if the text is cut anywhere after.
///
/// Only a run of white space is cut into other pieces when the text ends in it or right after it,
/// so a place inside such a run is none.
#[derive(Clone, Copy)]
struct Anchors {
    last: Anchor,
    previous: Anchor,
}

#[derive(Clone, Copy)]
struct Anchor {
    at: usize,
    /// Tokens left of the budget here.
    left: usize,
}

impl Anchors {
    fn before(&self, cut: usize) -> Anchor {
        if self.last.at < cut {
            self.last
        } else {
            self.previous
        }
    }
}

impl Encoding {
    /// Cuts `text` so that what remains from its start has at most `max_tokens` tokens.
    ///
    /// Reads no further than the budget and the piece after it. `more_follows` says that `text`
    /// is only the beginning of the text to cut.
    pub fn truncate(&self, text: &str, max_tokens: usize, more_follows: bool) -> Truncated {
        let mut budget = max_tokens;
        let mut step = 1;
        while let Some(walk) = self.walk(text, budget) {
            if more_follows && walk.unsettled {
                return Truncated::MoreNeeded;
            }
            let cut = whole_characters(text, walk.cut);
            let anchor = walk.anchors.before(cut);
            if self.fits(&text[anchor.at..cut], anchor.left) {
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
            let tokens = kept + self.count_pieces(bytes, start, from);
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
    fn drop_tokens(&self, text: &str, mut start: usize, mut excess: usize) -> usize {
        let bytes = text.as_bytes();
        loop {
            let end = self.pattern.piece_end(bytes, start);
            let piece = &bytes[start..end];
            let (mut cut, tokens) = match self.spend(piece, excess) {
                Ok(0) => return end,
                Ok(rest) => {
                    excess = rest;
                    start = end;
                    continue;
                }
                Err(over) => over,
            };
            // A piece never depends on what stands before it, so that cutting between two pieces
            // frees exactly the tokens before. Inside one, what is left is counted again.
            let left = (tokens - excess).cast_signed();
            let mut step = 1;
            let mut dropped = excess;
            loop {
                let at = next_character(text, start + cut);
                if at >= end || self.more_tokens(bytes, at, end) <= left {
                    return at.min(end);
                }
                dropped += step;
                step *= 2;
                if dropped >= tokens {
                    return end;
                }
                cut = self.end_of_token(piece, dropped);
            }
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

    /// The tokens of the pieces from `start` up to `end`, both boundaries of pieces.
    fn count_pieces(&self, bytes: &[u8], mut start: usize, end: usize) -> usize {
        let mut tokens = 0;
        while start < end {
            let next = self.pattern.piece_end(bytes, start);
            tokens += self.count_piece(&bytes[start..next]);
            start = next;
        }
        tokens
    }

    /// `None` where the text fits.
    fn walk(&self, text: &str, budget: usize) -> Option<Walk> {
        let bytes = text.as_bytes();
        let mut left = budget;
        let origin = Anchor { at: 0, left };
        let mut anchors = Anchors {
            last: origin,
            previous: origin,
        };
        let mut start = 0;
        while start < bytes.len() {
            let end = self.pattern.piece_end(bytes, start);
            let piece = &bytes[start..end];
            if !(text[..start].ends_with(char::is_whitespace)
                && text[start..].starts_with(char::is_whitespace))
            {
                anchors = Anchors {
                    last: Anchor { at: start, left },
                    previous: anchors.last,
                };
            }
            match self.spend(piece, left) {
                Ok(rest) => left = rest,
                Err((cut, _)) => {
                    return Some(Walk {
                        cut: start + cut,
                        anchors,
                        unsettled: end == bytes.len()
                            || self.pattern.piece_end(bytes, end) == bytes.len(),
                    });
                }
            }
            start = end;
        }
        None
    }

    /// What is left of `budget` after a piece; or, for a piece of more tokens, the end of the last
    /// one that it pays for and the tokens of the piece.
    fn spend(&self, piece: &[u8], budget: usize) -> Result<usize, (usize, usize)> {
        if piece.len() <= MAX_TOKEN_BYTES {
            let tokens = self.count_piece(piece);
            let rest = budget.checked_sub(tokens);
            return rest.ok_or_else(|| (self.end_of_token(piece, budget), tokens));
        }
        // A long piece is no token, and merging it is the most of the work: once is enough.
        let (mut tokens, mut cut) = (0, 0);
        merge(self.ranks, piece, |end| {
            tokens += 1;
            if tokens <= budget {
                cut = end;
            }
        });
        budget.checked_sub(tokens).ok_or((cut, tokens))
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
