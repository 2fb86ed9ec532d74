//! Taking tokens out of a text at its end, its start or its middle, with a marker in their place.

use super::encoding::Encoding;
use super::truncate::Truncated;

/// Where a text loses what is over the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The beginning is kept.
    End,
    /// The ending is kept.
    Start,
    /// Both are kept, the beginning with the odd token.
    Middle,
}

/// As much of a text as has been read.
#[derive(Clone, Copy)]
pub struct Ends<'a> {
    beginning: &'a str,
    ending: &'a str,
    /// Whether both are the whole text.
    whole: bool,
}

impl<'a> Ends<'a> {
    /// The whole text.
    pub fn whole(text: &'a str) -> Self {
        Self {
            beginning: text,
            ending: text,
            whole: true,
        }
    }

    /// A beginning and an ending that do not overlap. [`Side::End`] looks at the first alone,
    /// [`Side::Start`] at the second.
    pub fn parts(beginning: &'a str, ending: &'a str) -> Self {
        Self {
            beginning,
            ending,
            whole: false,
        }
    }
}

/// What [`Encoding::shorten`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortened {
    /// The text has at most so many tokens.
    Fits,
    /// `beginning[..head]`, the marker if `with_marker`, and `ending[tail..]` together do.
    Cut {
        /// Bytes kept of the beginning.
        head: usize,
        /// Where what is kept of the ending begins.
        tail: usize,
        /// False for a marker that alone is over the budget.
        with_marker: bool,
    },
    /// More of the text must be seen: only where it was not the whole.
    MoreNeeded,
}

impl Encoding {
    /// Shortens a text to at most `max_tokens` tokens; what is put together is counted again.
    pub fn shorten(
        &self,
        text: Ends<'_>,
        max_tokens: usize,
        side: Side,
        marker: &str,
    ) -> Shortened {
        let Ends {
            beginning, ending, ..
        } = text;
        let only = match side {
            Side::Start => self.truncate_start(ending, max_tokens, !text.whole),
            Side::End | Side::Middle => self.truncate(beginning, max_tokens, !text.whole),
        };
        match (only, side) {
            (Truncated::Fits, _) => return Shortened::Fits,
            (Truncated::MoreNeeded, _) => return Shortened::MoreNeeded,
            (Truncated::Cut(head), Side::End) if marker.is_empty() => {
                return Shortened::Cut {
                    head,
                    tail: ending.len(),
                    with_marker: true,
                };
            }
            (Truncated::Cut(tail), Side::Start) if marker.is_empty() => {
                return Shortened::Cut {
                    head: 0,
                    tail,
                    with_marker: true,
                };
            }
            (Truncated::Cut(_), _) => {}
        }
        let with_marker = self.count(marker) <= max_tokens;
        let marker = if with_marker { marker } else { "" };
        let room = max_tokens - self.count(marker);
        let mut spare = 0;
        loop {
            let budget = room.saturating_sub(spare);
            let (first, last) = match side {
                Side::End => (budget, 0),
                Side::Start => (0, budget),
                Side::Middle => (budget.div_ceil(2), budget / 2),
            };
            // A side that keeps nothing may not have been read. The text does not fit in
            // `max_tokens`, so neither cut finds that it does.
            let (mut head, mut tail) = (0, ending.len());
            if first > 0 {
                let Truncated::Cut(cut) = self.truncate(beginning, first, !text.whole) else {
                    return Shortened::MoreNeeded;
                };
                head = cut;
            }
            if last > 0 {
                let Truncated::Cut(cut) = self.truncate_start(ending, last, !text.whole) else {
                    return Shortened::MoreNeeded;
                };
                tail = cut;
            }
            let joined = [&beginning[..head], marker, &ending[tail..]].concat();
            let tokens = self.count(&joined);
            if tokens <= max_tokens && (!text.whole || head <= tail) {
                return Shortened::Cut {
                    head,
                    tail,
                    with_marker,
                };
            }
            // At the seams pieces may be cut otherwise. Steps that double end the search after
            // log n counts; at a budget of 0 the marker stands alone, and it fits.
            spare += spare.max(tokens.saturating_sub(max_tokens)).max(1);
        }
    }
}
