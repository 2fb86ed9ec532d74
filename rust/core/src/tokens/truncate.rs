//! Cutting a text to a number of tokens.

use super::encoding::Encoding;
use super::merge::merge;

/// What [`Encoding::truncate`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncated {
    /// The text has at most so many tokens.
    Fits,
    /// The text cut after this many bytes does, and ends with a whole character.
    Cut(usize),
    /// More of the text must be seen: only where it was said that more follows.
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
            let tokens = self.count_piece(piece);
            if tokens > left {
                return Some(Walk {
                    cut: start + self.end_of_token(piece, left),
                    anchors,
                    unsettled: end == bytes.len()
                        || self.pattern.piece_end(bytes, end) == bytes.len(),
                });
            }
            left -= tokens;
            start = end;
        }
        None
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
fn whole_characters(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encoding::ENCODINGS;
    use super::*;

    fn text() -> impl Strategy<Value = String> {
        let atoms = [
            " ",
            "  ",
            "\n",
            "\t",
            "\u{3000}",
            "a",
            "Word",
            "'ll",
            "漢",
            "가나",
            "🙂",
            "e\u{301}",
            "12",
            "!",
            "<|endoftext|>",
            "ſ",
            "\r\n",
            "zqxj",
            "𝔘",
        ];
        prop::collection::vec(prop::sample::select(atoms.to_vec()), 0..40)
            .prop_map(|atoms| atoms.concat())
    }

    proptest! {
        #[test]
        fn what_remains_has_at_most_so_many_tokens(text in text(), max_tokens in 0usize..40) {
            for encoding in &ENCODINGS {
                match encoding.truncate(&text, max_tokens, false) {
                    Truncated::Fits => prop_assert!(encoding.count(&text) <= max_tokens),
                    Truncated::Cut(cut) => {
                        prop_assert!(encoding.count(&text) > max_tokens);
                        prop_assert!(encoding.count(&text[..cut]) <= max_tokens);
                    }
                    Truncated::MoreNeeded => prop_assert!(false, "nothing follows"),
                }
            }
        }

        #[test]
        fn the_beginning_of_a_text_is_cut_as_the_text(
            text in text(), max_tokens in 0usize..12, seen in 0usize..80,
        ) {
            let seen = whole_characters(&text, seen.min(text.len()));
            for encoding in &ENCODINGS {
                let whole = encoding.truncate(&text, max_tokens, false);
                match encoding.truncate(&text[..seen], max_tokens, seen < text.len()) {
                    Truncated::MoreNeeded => {}
                    answer => prop_assert_eq!(answer, whole),
                }
            }
        }
    }

    #[test]
    fn a_long_text_is_cut_where_the_budget_ends() {
        let text = "one two three ".repeat(10_000);
        for encoding in &ENCODINGS {
            assert_eq!(
                encoding.truncate(&text, 3, false),
                Truncated::Cut("one two three".len())
            );
            assert_eq!(encoding.truncate(&text, 0, false), Truncated::Cut(0));
            assert_eq!(encoding.truncate("", 0, false), Truncated::Fits);
            assert_eq!(encoding.truncate("a", 1, true), Truncated::MoreNeeded);
        }
    }
}
