//! Cuts text into the pieces that tiktoken's patterns match, without a regex engine.
//!
//! Each scanner answers where the piece that begins at a position ends; the patterns match at
//! every position, so pieces cover the text without gap or overlap. The comments quote the
//! alternatives of the pattern in the order in which they are tried.

mod blocks;
pub(super) mod boundary;
mod class;
pub(super) mod flags;
mod masks;
mod portable;
mod walk;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use blocks::Whole;
pub(super) use masks::Machine;
pub(super) use portable::{KEPT, Portable};
pub(super) use walk::{REACH, Sink, Window, Work, walk, widened};

use class::{class, run};
use flags::{LETTER, LOWER, NEWLINE, NUMBER, PREFIX, SPACE, SYMBOL, UPPER};

/// Which of the published patterns cuts the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// gpt2, r50k and p50k.
    Gpt2,
    /// `cl100k_base`.
    Cl100k,
    /// `o200k_base` and `o200k_harmony`.
    O200k,
}

impl Pattern {
    /// The end of the piece that begins at `start`, a character boundary before the end of `text`.
    #[inline]
    pub fn piece_end(self, text: &[u8], start: usize) -> usize {
        match self {
            Self::Gpt2 => gpt2(text, start),
            Self::Cl100k => cl100k(text, start),
            Self::O200k => o200k(text, start),
        }
    }

    /// The pieces of `text`, in order.
    pub fn pieces(self, text: &str) -> Pieces<'_> {
        Pieces {
            pattern: self,
            text: text.as_bytes(),
            at: 0,
        }
    }
}

/// The pieces of a text, in order; see [`Pattern::pieces`].
pub struct Pieces<'a> {
    pattern: Pattern,
    text: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.at == self.text.len() {
            return None;
        }
        let start = self.at;
        self.at = self.pattern.piece_end(self.text, start);
        Some(&self.text[start..self.at])
    }
}

fn gpt2(text: &[u8], start: usize) -> usize {
    // '(?:[sdmt]|ll|ve|re)
    if text[start] == b'\'' {
        match text.get(start + 1..) {
            Some([b's' | b'd' | b'm' | b't', ..]) => return start + 2,
            Some([b'l', b'l', ..] | [b'v' | b'r', b'e', ..]) => return start + 3,
            _ => {}
        }
    }
    //  ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++
    let body = start + usize::from(text[start] == b' ');
    let (found, length) = class(text, body);
    if found & (LETTER | NUMBER | SYMBOL) != 0 {
        return run(text, body + length, found & (LETTER | NUMBER | SYMBOL));
    }
    // \s++$|\s+(?!\S)|\s
    let space = Space::scan(text, start);
    if space.end == text.len() {
        space.end
    } else {
        space.but_the_last(start)
    }
}

fn cl100k(text: &[u8], start: usize) -> usize {
    // '(?i:[sdmt]|ll|ve|re)
    let end = contraction(text, start);
    if end > start {
        return end;
    }
    let (found, length) = class(text, start);
    // [^\r\n\p{L}\p{N}]?+\p{L}++
    let body = if found & PREFIX == 0 {
        start
    } else {
        start + length
    };
    let end = run(text, body, LETTER);
    if end > body {
        return end;
    }
    // \p{N}{1,3}+
    if found & NUMBER != 0 {
        return up_to_three_numbers(text, start + length);
    }
    //  ?[^\s\p{L}\p{N}]++[\r\n]*+
    let body = start + usize::from(text[start] == b' ');
    let end = run(text, body, SYMBOL);
    if end > body {
        return run(text, end, NEWLINE);
    }
    // \s++$|\s*[\r\n]|\s+(?!\S)|\s
    let space = Space::scan(text, start);
    match space.newline_end {
        _ if space.end == text.len() => space.end,
        Some(end) => end,
        None => space.but_the_last(start),
    }
}

fn o200k(text: &[u8], start: usize) -> usize {
    let (found, length) = class(text, start);
    // [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|…)?
    // [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|…)?
    let body = if found & PREFIX == 0 {
        start
    } else {
        start + length
    };
    let word = Word::scan(text, body);
    if let Some(end) = word.with_lower {
        return contraction(text, end);
    }
    if found & LOWER != 0 {
        // A mark before capitals: as a prefix it leaves no small letter for the first
        // alternative, which then takes the mark alone before the second is tried.
        return contraction(text, start + length);
    }
    if word.upper_end > body {
        return contraction(text, word.upper_end);
    }
    // \p{N}{1,3}
    if found & NUMBER != 0 {
        return up_to_three_numbers(text, start + length);
    }
    //  ?[^\s\p{L}\p{N}]+[\r\n/]*
    let body = start + usize::from(text[start] == b' ');
    let end = run(text, body, SYMBOL);
    if end > body {
        let tail = text[end..]
            .iter()
            .take_while(|byte| matches!(byte, b'\r' | b'\n' | b'/'));
        return end + tail.count();
    }
    // \s*[\r\n]+|\s+(?!\S)|\s+
    let space = Space::scan(text, start);
    match space.newline_end {
        Some(end) => end,
        None if space.end == text.len() => space.end,
        None => space.but_the_last(start),
    }
}

/// What o200k's two word alternatives can match, the prefix apart.
struct Word {
    /// End of the longest `UPPER* LOWER+` as backtracking finds it.
    with_lower: Option<usize>,
    /// End of `UPPER*`.
    upper_end: usize,
}

impl Word {
    #[inline]
    fn scan(text: &[u8], start: usize) -> Self {
        let mut with_lower = None;
        let mut at = start;
        loop {
            let (found, length) = class(text, at);
            if found & UPPER == 0 {
                if found & LOWER != 0 {
                    with_lower = Some(run(text, at + length, LOWER));
                }
                return Self {
                    with_lower,
                    upper_end: at,
                };
            }
            at += length;
            // A letter without case is both: giving it back lets LOWER+ match it, and only it,
            // because what follows in the run is upper case alone.
            if found & LOWER != 0 {
                with_lower = Some(at);
            }
        }
    }
}

/// A run of white space.
struct Space {
    end: usize,
    /// Start of the last character.
    last: usize,
    /// End of the last line break.
    newline_end: Option<usize>,
}

impl Space {
    fn scan(text: &[u8], start: usize) -> Self {
        let mut space = Self {
            end: start,
            last: start,
            newline_end: None,
        };
        loop {
            let (found, length) = class(text, space.end);
            if found & SPACE == 0 {
                return space;
            }
            space.last = space.end;
            space.end += length;
            if found & NEWLINE != 0 {
                space.newline_end = Some(space.end);
            }
        }
    }

    /// `\s+(?!\S)|\s` where something follows the run: all but its last character, or the only one.
    fn but_the_last(&self, start: usize) -> usize {
        if self.last > start {
            self.last
        } else {
            self.end
        }
    }
}

/// The end of `(?i:'s|'t|'re|'ve|'m|'ll|'d)` if it matches at `at`, otherwise `at`.
#[inline]
fn contraction(text: &[u8], at: usize) -> usize {
    if text.get(at) != Some(&b'\'') {
        return at;
    }
    match text[at + 1..] {
        [b's' | b't' | b'm' | b'd' | b'S' | b'T' | b'M' | b'D', ..] => at + 2,
        // The last of these is U+017F, the long s, which folds to s.
        [b'r' | b'v' | b'R' | b'V', b'e' | b'E', ..]
        | [b'l' | b'L', b'l' | b'L', ..]
        | [0xc5, 0xbf, ..] => at + 3,
        _ => at,
    }
}

/// The end of at most two more numbers after the first.
#[inline]
fn up_to_three_numbers(text: &[u8], mut at: usize) -> usize {
    for _ in 0..2 {
        let (found, length) = class(text, at);
        if found & NUMBER == 0 {
            break;
        }
        at += length;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Pattern; 3] = [Pattern::Gpt2, Pattern::Cl100k, Pattern::O200k];

    fn cut(pattern: Pattern, text: &str) -> Vec<String> {
        let own = |piece: &[u8]| String::from_utf8_lossy(piece).into_owned();
        pattern.pieces(text).map(own).collect()
    }

    #[test]
    fn words_contractions_and_numbers() {
        let text = "I'LL say: don't 12345";
        assert_eq!(
            cut(Pattern::Gpt2, text),
            ["I", "'", "LL", " say", ":", " don", "'t", " 12345"]
        );
        assert_eq!(
            cut(Pattern::Cl100k, text),
            ["I", "'LL", " say", ":", " don", "'t", " ", "123", "45"]
        );
        assert_eq!(
            cut(Pattern::O200k, text),
            ["I'LL", " say", ":", " don't", " ", "123", "45"]
        );
    }

    #[test]
    fn case_changes_and_marks_in_o200k() {
        assert_eq!(cut(Pattern::O200k, "HTTPServer"), ["HTTPServer"]);
        assert_eq!(cut(Pattern::O200k, "getHTTP"), ["get", "HTTP"]);
        assert_eq!(cut(Pattern::O200k, "漢字ABC"), ["漢字", "ABC"]);
        assert_eq!(cut(Pattern::O200k, "漢字ABCd"), ["漢字ABCd"]);
        assert_eq!(cut(Pattern::O200k, "\u{301}ABC"), ["\u{301}", "ABC"]);
        assert_eq!(cut(Pattern::O200k, "a!\n/\n/b"), ["a", "!\n/\n/", "b"]);
    }

    #[test]
    fn white_space() {
        let text = "a  \n \n  b \u{3000} ";
        assert_eq!(
            cut(Pattern::Gpt2, text),
            ["a", "  \n \n ", " b", " \u{3000} "]
        );
        assert_eq!(
            cut(Pattern::Cl100k, text),
            ["a", "  \n \n", " ", " b", " \u{3000} "]
        );
        assert_eq!(cut(Pattern::Cl100k, "a\n  "), ["a", "\n  "]);
        assert_eq!(cut(Pattern::O200k, "a\n  "), ["a", "\n", "  "]);
    }

    proptest! {
        #[test]
        fn pieces_cover_the_text(text in "(\\PC|[ \t\r\n'a-zA-Zſ0-9가\u{301}/]){0,60}") {
            for pattern in ALL {
                let pieces = cut(pattern, &text);
                prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
                prop_assert_eq!(pieces.concat(), text.as_str());
            }
        }
    }
}
