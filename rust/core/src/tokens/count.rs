//! Counting without ids.

use std::sync::atomic::AtomicUsize;

use super::cache::{Cache, Held};
use super::encoding::Encoding;
use super::entry::{Long, Short};
use super::merge::merge_with;
use super::pretokenize::{Machine, Portable, REACH, Sink, Whole, Window, walk};
use super::vocab::TOGETHER;

impl Encoding {
    /// The number of tokens of `text`; special tokens are ordinary text.
    pub fn count(&self, text: &str) -> usize {
        let Some(mut held) = self.lanes.hold() else {
            return self
                .pattern
                .pieces(text)
                .map(|piece| self.count_piece(piece))
                .sum();
        };
        let mut total = Total {
            counter: Counter::new(self, &mut held),
            tokens: 0,
        };
        walk(self.pattern, text.as_bytes(), &mut total);
        total.tokens + total.counter.settle()
    }
}

/// Adds the tokens of pieces up.
struct Total<'a> {
    counter: Counter<'a>,
    tokens: usize,
}

impl Sink for Total<'_> {
    #[inline(always)]
    fn block(&mut self, machine: impl Machine, window: &Window, pieces: Whole) {
        self.tokens += self.counter.block(machine, window, pieces);
    }

    fn piece(&mut self, piece: &[u8]) {
        self.tokens += self.counter.piece(piece);
    }
}

/// Pieces that are not remembered, until there are enough of them to look for together.
pub struct Waiting {
    pieces: [[u8; PUT_OFF]; TOGETHER],
    lengths: [usize; TOGETHER],
    count: usize,
}

/// The longest piece that may wait.
const PUT_OFF: usize = Long::<4>::MAX;

impl Waiting {
    pub const fn new() -> Self {
        Self {
            pieces: [[0; PUT_OFF]; TOGETHER],
            lengths: [0; TOGETHER],
            count: 0,
        }
    }
}

/// Counts the tokens of pieces, and remembers. Tokens of pieces that are not remembered are counted
/// by a later call, the last of them by `settle`.
pub struct Counter<'a> {
    encoding: &'a Encoding,
    cache: &'a mut Cache,
    /// What the cache has of the budget.
    bytes: &'a AtomicUsize,
}

impl<'a> Counter<'a> {
    pub fn new(encoding: &'a Encoding, held: &'a mut Held) -> Self {
        let (cache, bytes) = held.cache();
        cache.waiting.count = 0;
        Self {
            encoding,
            cache,
            bytes,
        }
    }

    /// The tokens of some pieces of a window.
    #[inline(always)]
    pub fn block(&mut self, machine: impl Machine, window: &Window, pieces: Whole) -> usize {
        let mut tokens = pieces.single.count_ones() as usize;
        let mut left = pieces.starts & !pieces.single;
        while left != 0 {
            let start = left.trailing_zeros() as usize;
            left &= left - 1;
            // The next end: the bit of this piece's start may be the end of another.
            let length = (pieces.ends >> start & !1).trailing_zeros() as usize;
            tokens += self.near(machine, window, start, length);
        }
        tokens
    }

    /// The tokens of a piece of any length.
    pub fn piece(&mut self, piece: &[u8]) -> usize {
        if piece.len() <= Long::<8>::MAX {
            let mut window = [0; size_of::<Window>()];
            window[..piece.len()].copy_from_slice(piece);
            self.near(Portable, &window, 0, piece.len())
        } else {
            self.count_piece(piece)
        }
    }

    /// Calls `part` with the end of each token of a piece that is none itself.
    pub fn merge(&mut self, piece: &[u8], part: impl FnMut(usize, u32)) {
        let pairs = &mut self.cache.pairs;
        pairs.make_room(self.bytes);
        merge_with(self.encoding.ranks, pairs, piece, part);
    }

    fn count_piece(&mut self, piece: &[u8]) -> usize {
        if self.encoding.ranks.find(piece).is_some() {
            return 1;
        }
        let mut tokens = 0;
        self.merge(piece, |_, _| tokens += 1);
        tokens
    }

    /// The tokens of the piece of `length` bytes at `at`, both below 64.
    #[inline(always)]
    fn near(&mut self, machine: impl Machine, window: &Window, at: usize, length: usize) -> usize {
        let Some(bytes) = window[at..].first_chunk::<REACH>() else {
            return 0;
        };
        if length <= Short::MAX {
            let key = Short::key(machine, bytes, length);
            match self.cache.short.find(machine, &key) {
                Some(count) => count,
                None => self.put_off(bytes, length),
            }
        } else if length <= Long::<4>::MAX {
            let key = Long::key(bytes, length);
            match self.cache.long.find(machine, &key) {
                Some(count) => count,
                None => self.put_off(bytes, length),
            }
        } else {
            self.longer(bytes, length)
        }
    }

    /// Lets a piece wait; where too many do, counts them all.
    #[cold]
    #[inline(never)]
    fn put_off(&mut self, bytes: &[u8; REACH], length: usize) -> usize {
        let waiting = &mut self.cache.waiting;
        waiting.pieces[waiting.count].copy_from_slice(&bytes[..PUT_OFF]);
        waiting.lengths[waiting.count] = length;
        waiting.count += 1;
        if waiting.count == TOGETHER {
            self.settle_all()
        } else {
            0
        }
    }

    /// The tokens of the pieces that wait.
    #[inline(always)]
    pub fn settle(&mut self) -> usize {
        if self.cache.waiting.count == 0 {
            0
        } else {
            self.settle_all()
        }
    }

    #[cold]
    #[inline(never)]
    fn settle_all(&mut self) -> usize {
        let Waiting {
            pieces,
            lengths,
            count,
        } = self.cache.waiting;
        self.cache.waiting.count = 0;
        let pieces: [&[u8]; TOGETHER] = std::array::from_fn(|at| &pieces[at][..lengths[at]]);
        let pieces = &pieces[..count];
        let are_tokens = self.encoding.ranks.are_tokens(pieces);
        let mut all = 0;
        for (piece, is_token) in pieces.iter().zip(are_tokens) {
            let count = if is_token {
                1
            } else {
                let mut tokens = 0;
                self.merge(piece, |_, _| tokens += 1);
                tokens
            };
            self.remember(piece, count);
            all += count;
        }
        all
    }

    fn remember(&mut self, piece: &[u8], count: usize) {
        let mut bytes = [0; REACH];
        bytes[..piece.len()].copy_from_slice(piece);
        let cache = &mut self.cache;
        if piece.len() <= Short::MAX {
            let entry = Short::key(Portable, &bytes, piece.len()).with_count(count);
            cache.short.insert(entry, (), self.bytes);
        } else {
            let entry = Long::key(&bytes, piece.len()).with_count(count);
            cache.long.insert(entry, (), self.bytes);
        }
    }

    #[inline(never)]
    fn longer(&mut self, bytes: &[u8; REACH], length: usize) -> usize {
        let piece = &bytes[..length];
        if length > Long::<8>::MAX {
            return self.count_piece(piece);
        }
        let key = Long::key(bytes, length);
        if let Some(count) = self.cache.longer.find(Portable, &key) {
            return count;
        }
        let count = self.count_piece(piece);
        let entry = key.with_count(count);
        self.cache.longer.insert(entry, (), self.bytes);
        count
    }
}
