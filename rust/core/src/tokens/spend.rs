//! Going through a text until a budget of tokens is spent.

use super::count::Counter;
use super::encoding::Encoding;
use super::merge::merge_with;
use super::pairs::Pairs;
use super::pretokenize::{Machine, Sink, Whole, Window, walk};
use super::vocab::MAX_TOKEN_BYTES;

/// Where a text has more tokens than the budget: in one of its pieces.
pub struct Spent {
    /// Where that piece begins and ends.
    pub start: usize,
    pub end: usize,
    /// Its tokens, more than `left`.
    pub tokens: usize,
    /// What was left of the budget at its start.
    pub left: usize,
    /// The byte after the last token that was paid for; inside a character perhaps.
    pub cut: usize,
    /// Where to count again from when the text ends there.
    pub anchors: Anchors,
}

/// Two places where the pieces before stay as they are if the text is cut anywhere after, the last
/// ones that were seen.
///
/// Only a run of white space is cut into other pieces when the text ends in it or right after it,
/// so a place inside such a run is none.
#[derive(Clone, Copy)]
pub struct Anchors {
    last: Anchor,
    previous: Anchor,
}

#[derive(Clone, Copy)]
pub struct Anchor {
    pub at: usize,
    /// Tokens left of the budget here.
    pub left: usize,
}

impl Anchors {
    /// The last one before `cut`, or the start of the text.
    pub fn before(&self, cut: usize) -> Anchor {
        if self.last.at < cut {
            self.last
        } else {
            self.previous
        }
    }
}

impl Encoding {
    /// Pays for the pieces of `text` from `budget` tokens; `None` where it has enough for all.
    ///
    /// Reads no further than the piece that it cannot pay for.
    pub(super) fn spend(&self, text: &str, budget: usize) -> Option<Spent> {
        let mut held = self.lanes.hold();
        let start = Anchor {
            at: 0,
            left: budget,
        };
        let mut spender = Spender {
            encoding: self,
            counter: held.as_mut().map(|held| Counter::new(self, held)),
            text,
            now: start,
            anchors: Anchors {
                last: start,
                previous: start,
            },
            spent: None,
        };
        if spender.counter.is_some() {
            walk(self.pattern, text.as_bytes(), &mut spender);
        } else {
            let mut pieces = self.pattern.pieces(text);
            while let Some(piece) = pieces.next().filter(|_| !spender.is_done()) {
                spender.piece(piece);
            }
        }
        spender.spent
    }
}

struct Spender<'a> {
    encoding: &'a Encoding,
    /// `None` where all lanes are in use.
    counter: Option<Counter<'a>>,
    text: &'a str,
    /// Up to here everything is paid for.
    now: Anchor,
    anchors: Anchors,
    spent: Option<Spent>,
}

impl Sink for Spender<'_> {
    #[inline(always)]
    fn block(&mut self, machine: impl Machine, window: &Window, pieces: Whole) {
        // No closure, which might be compiled apart.
        let Some(counter) = &mut self.counter else {
            return self.one_by_one(pieces.ends);
        };
        let tokens = counter.block(machine, window, pieces) + counter.settle();
        match self.now.left.checked_sub(tokens) {
            Some(left) => {
                self.keep_anchor();
                self.now.at += pieces.ends.ilog2() as usize;
                self.now.left = left;
            }
            None => self.one_by_one(pieces.ends),
        }
    }

    fn piece(&mut self, piece: &[u8]) {
        self.keep_anchor();
        let Anchor { at: start, left } = self.now;
        let end = start + piece.len();
        let (tokens, cut) = self.price(piece);
        if tokens <= left {
            let left = left - tokens;
            self.now = Anchor { at: end, left };
        } else {
            self.spent = Some(Spent {
                start,
                end,
                tokens,
                left,
                cut: start + cut,
                anchors: self.anchors,
            });
        }
    }

    #[inline(always)]
    fn is_done(&self) -> bool {
        self.spent.is_some()
    }
}

impl Spender<'_> {
    #[cold]
    #[inline(never)]
    fn one_by_one(&mut self, mut ends: u64) {
        let (text, from) = (self.text.as_bytes(), self.now.at);
        while ends != 0 && !self.is_done() {
            let end = from + ends.trailing_zeros() as usize;
            ends &= ends - 1;
            self.piece(&text[self.now.at..end]);
        }
    }

    #[inline(always)]
    fn keep_anchor(&mut self) {
        let (before, after) = self.text.split_at(self.now.at);
        if !(after.starts_with(char::is_whitespace) && before.ends_with(char::is_whitespace)) {
            self.anchors = Anchors {
                last: self.now,
                previous: self.anchors.last,
            };
        }
    }

    /// The tokens of a piece, and the end of the last that is paid for if not all are.
    fn price(&mut self, piece: &[u8]) -> (usize, usize) {
        let left = self.now.left;
        let whole = (piece.len() <= MAX_TOKEN_BYTES).then(|| match &mut self.counter {
            Some(counter) => counter.piece(piece) + counter.settle(),
            None => self.encoding.count_piece(piece),
        });
        if let Some(tokens) = whole.filter(|&tokens| tokens <= left) {
            return (tokens, piece.len());
        }
        // A longer piece is no token, and merging it is the most of the work: once is enough.
        let (mut tokens, mut cut) = (0, 0);
        let part = |end, _| {
            tokens += 1;
            if tokens <= left {
                cut = end;
            }
        };
        match &mut self.counter {
            Some(counter) => counter.merge(piece, part),
            None => merge_with(self.encoding.ranks, &mut Pairs::none(), piece, part),
        }
        (whole.unwrap_or(tokens), cut)
    }
}
