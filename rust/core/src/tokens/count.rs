//! Counting without ids.

use std::sync::atomic::AtomicUsize;

use super::cache::{Cache, Held};
use super::encoding::Encoding;
use super::entry::{Long, Short};
use super::merge::merge_with;
use super::pretokenize::{Machine, Portable, REACH, Sink, Whole, Window, walk};

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
        total.tokens
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

/// Counts the tokens of pieces, and remembers.
pub struct Counter<'a> {
    encoding: &'a Encoding,
    cache: &'a mut Cache,
    /// What the cache has of the budget.
    bytes: &'a AtomicUsize,
}

impl<'a> Counter<'a> {
    pub fn new(encoding: &'a Encoding, held: &'a mut Held) -> Self {
        let (cache, bytes) = held.cache();
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
                None => self.learn_short(key, bytes, length),
            }
        } else if length <= Long::<4>::MAX {
            let key = Long::key(bytes, length);
            match self.cache.long.find(machine, &key) {
                Some(count) => count,
                None => self.learn_long(key, bytes, length),
            }
        } else {
            self.longer(bytes, length)
        }
    }

    #[cold]
    #[inline(never)]
    fn learn_short(&mut self, key: Short, bytes: &[u8; REACH], length: usize) -> usize {
        let count = self.count_piece(&bytes[..length]);
        self.cache
            .short
            .insert(key.with_count(count), (), self.bytes);
        count
    }

    #[cold]
    #[inline(never)]
    fn learn_long(&mut self, key: Long<4>, bytes: &[u8; REACH], length: usize) -> usize {
        let count = self.count_piece(&bytes[..length]);
        self.cache
            .long
            .insert(key.with_count(count), (), self.bytes);
        count
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
