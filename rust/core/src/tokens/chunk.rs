//! Splitting a text into chunks of at most so many tokens, with overlap.

use std::ops::Range;

use super::encoding::Encoding;
use super::truncate::{Truncated, whole_characters};

/// Where a chunk ends rather than at the last token that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefer {
    /// After a sentence, with the white space behind it where that fits, or a blank line; else after
    /// a line.
    Sentence,
    /// After a line break.
    Line,
}

/// The character at byte `at` has more tokens than a chunk may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// Where the character stands.
    pub at: usize,
    /// Its tokens.
    pub tokens: usize,
}

/// Bytes of the longest token of every encoding.
const LONGEST_TOKEN: usize = 128;
/// So many preferred ends that turn out not to fit are passed over before the search is given up:
/// white space at the end of a chunk can have a token of its own.
const TRIES: usize = 4;
/// Marks that end a sentence where white space follows.
const STOPS: [char; 4] = ['.', '!', '?', '…'];
/// Marks that end a sentence wherever they stand.
const WIDE_STOPS: [char; 4] = ['。', '！', '？', '｡'];
/// Marks between the stop and the end of a sentence.
const CLOSERS: [char; 12] = [
    '"', '\'', ')', ']', '}', '”', '’', '»', '」', '』', '）', '】',
];

impl Encoding {
    /// Splits `text` into chunks of at most `max_tokens` tokens each, as ranges of bytes; one that
    /// has no more is one chunk.
    ///
    /// Both the starts and the ends grow from chunk to chunk, the first starts at 0, the last ends
    /// with the text, and none starts behind the end of the one before. What two chunks share is
    /// what [`Self::truncate_start`] keeps of the first in `overlap` tokens; where that is the
    /// whole chunk, or leaves no room for a character more, in half as many, and so on down to
    /// none. With a preference a chunk may end earlier, in the second half of what it has beyond
    /// the chunk before.
    ///
    /// Takes time in proportion to the bytes of all chunks.
    pub fn chunks(
        &self,
        text: &str,
        max_tokens: usize,
        overlap: usize,
        prefer: Option<Prefer>,
    ) -> Result<Vec<Range<usize>>, TooSmall> {
        let mut chunks: Vec<Range<usize>> = Vec::new();
        // The text up to `done` is in chunks; the next one starts at `start`.
        let (mut start, mut done) = (0, 0);
        let mut shared = overlap;
        // A text can fit though a beginning of it does not, so one that may fit is seen whole.
        let mut length = if text.len() <= max_tokens.saturating_mul(LONGEST_TOKEN) {
            text.len()
        } else {
            0
        };
        while done < text.len() {
            length = self.longest_beginning(&text[start..], max_tokens, length);
            let end = start + length;
            if end > done {
                let end = prefer
                    .filter(|_| end < text.len())
                    .and_then(|prefer| {
                        self.preferred_end(text, start, done..end, max_tokens, prefer)
                    })
                    .unwrap_or(end);
                chunks.push(start..end);
                done = end;
                shared = overlap;
            } else if shared == 0 {
                let character = &text[done..][..next_length(&text[done..])];
                return Err(TooSmall {
                    at: done,
                    tokens: self.count(character),
                });
            } else {
                shared /= 2;
            }
            start = chunks.last().map_or(0, |chunk| {
                chunk.start + self.overlap_start(&text[chunk.clone()], &mut shared)
            });
        }
        Ok(chunks)
    }

    /// How much of the beginning of `text` has at most `max_tokens` tokens.
    ///
    /// Looks first at a little more than `expected` bytes, or 8 a token, and never at more than
    /// twice what fits, so that a text of one piece is not merged to its end for each chunk.
    fn longest_beginning(&self, text: &str, max_tokens: usize, expected: usize) -> usize {
        let mut size = max_tokens.saturating_mul(8).max(expected + expected / 8);
        size = size.saturating_add(32);
        loop {
            let seen = whole_characters(text, size.min(text.len()));
            match self.truncate(&text[..seen], max_tokens, false) {
                // Among others a character can have more tokens than it has alone.
                Truncated::Cut(0) => {
                    let alone = next_length(text);
                    return if self.count(&text[..alone]) <= max_tokens {
                        alone
                    } else {
                        0
                    };
                }
                Truncated::Cut(end) => return end,
                _ if seen == text.len() => return seen,
                _ => size = size.saturating_mul(2),
            }
        }
    }

    /// Where the last `shared` tokens of a chunk begin; fewer where that would be all of it.
    fn overlap_start(&self, chunk: &str, shared: &mut usize) -> usize {
        while *shared > 0 {
            match self.truncate_start(chunk, *shared, false) {
                Truncated::Cut(start) => return start,
                _ => *shared /= 2,
            }
        }
        chunk.len()
    }

    /// The last preferred end in the second half of `new` with which the chunk still fits.
    fn preferred_end(
        &self,
        text: &str,
        start: usize,
        new: Range<usize>,
        max_tokens: usize,
        prefer: Prefer,
    ) -> Option<usize> {
        let middle = new.start + new.len() / 2;
        let ends = |is_end: fn(&str, usize) -> bool| {
            (middle + 1..=new.end)
                .rev()
                .filter(move |&at| text.is_char_boundary(at) && is_end(text, at))
                .take(TRIES)
                .find(|&at| self.count(&text[start..at]) <= max_tokens)
        };
        match prefer {
            Prefer::Sentence => ends(ends_sentence).or_else(|| ends(ends_line)),
            Prefer::Line => ends(ends_line),
        }
    }
}

/// Whether a line break ends at byte `at`, which is neither the start nor the end of the text.
fn ends_line(text: &str, at: usize) -> bool {
    match text.as_bytes()[at - 1] {
        b'\n' => true,
        b'\r' => text.as_bytes()[at] != b'\n',
        _ => false,
    }
}

/// Whether a sentence, with what closes it and the white space behind it, ends at byte `at`, which
/// is neither the start nor the end of the text.
fn ends_sentence(text: &str, at: usize) -> bool {
    let (before, after) = text.split_at(at);
    let to_space = after.starts_with(char::is_whitespace);
    let to_stop = after.starts_with(|c| CLOSERS.contains(&c) || is_stop(c));
    // Only the ends of a run are looked at further, which keeps long runs linear.
    let from_space = before.ends_with(char::is_whitespace);
    if (from_space && to_space) || (!from_space && to_stop) {
        return false;
    }
    let before = before.trim_end();
    let space = &text[before.len()..at];
    let mark = before.trim_end_matches(CLOSERS).chars().next_back();
    match mark.filter(|&c| is_stop(c)) {
        Some(stop) => to_space || !space.is_empty() || WIDE_STOPS.contains(&stop),
        None => space.matches('\n').nth(1).is_some(),
    }
}

fn is_stop(c: char) -> bool {
    STOPS.contains(&c) || WIDE_STOPS.contains(&c)
}

/// The length of the first character.
fn next_length(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}
