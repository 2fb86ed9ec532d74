//! The ids of ordinary text.

use std::sync::atomic::AtomicUsize;

use super::cache::Cache;
use super::encoding::Encoding;
use super::entry::{Long, Short};
use super::merge::merge_with;
use super::pairs::Pairs;
use super::pretokenize::{Machine, Portable, REACH, Sink, Whole, Window, walk};

/// As few as text usually has; a list of ids rarely grows more than once.
const BYTES_A_TOKEN: usize = 4;

impl Encoding {
    /// Appends the ids of `text`; special tokens are ordinary text.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        ids.reserve(text.len() / BYTES_A_TOKEN);
        let Some(mut held) = self.lanes.hold() else {
            for piece in self.pattern.pieces(text) {
                self.encode_piece(&mut Pairs::none(), piece, ids);
            }
            return;
        };
        let (cache, bytes) = held.cache();
        let mut encoder = Encoder {
            encoding: self,
            cache,
            bytes,
            ids,
        };
        walk(self.pattern, text.as_bytes(), &mut encoder);
    }

    fn encode_piece(&self, pairs: &mut Pairs, piece: &[u8], ids: &mut Vec<u32>) {
        match self.ranks.find(piece) {
            Some(id) => ids.push(id),
            None => merge_with(self.ranks, pairs, piece, |_, id| ids.push(id)),
        }
    }
}

/// Collects the ids of pieces.
struct Encoder<'a> {
    encoding: &'a Encoding,
    cache: &'a mut Cache,
    /// What the cache has of the budget.
    bytes: &'a AtomicUsize,
    ids: &'a mut Vec<u32>,
}

impl Sink for Encoder<'_> {
    #[inline(always)]
    fn block(&mut self, machine: impl Machine, window: &Window, pieces: Whole) {
        let mut ends = pieces.ends;
        let mut at = 0;
        while ends != 0 {
            let end = ends.trailing_zeros() as usize;
            ends &= ends - 1;
            self.near(machine, window, at, end - at);
            at = end;
        }
    }

    fn piece(&mut self, piece: &[u8]) {
        if piece.len() <= Long::<4>::MAX {
            let mut window = [0; size_of::<Window>()];
            window[..piece.len()].copy_from_slice(piece);
            self.near(Portable, &window, 0, piece.len());
        } else {
            self.encode_piece(piece);
        }
    }
}

impl Encoder<'_> {
    fn encode_piece(&mut self, piece: &[u8]) {
        let pairs = &mut self.cache.pairs;
        pairs.make_room(self.bytes);
        self.encoding.encode_piece(pairs, piece, self.ids);
    }

    /// Appends the ids of the piece of `length` bytes at `at`, both below 64.
    #[inline(always)]
    fn near(&mut self, machine: impl Machine, window: &Window, at: usize, length: usize) {
        let Some(bytes) = window[at..].first_chunk::<REACH>() else {
            return;
        };
        if length <= Short::MAX {
            let key = Short::key(machine, bytes, length);
            match self.cache.short_ids.get(machine, &key) {
                Some((1, ids)) => self.ids.push(ids[0]),
                Some((count, ids)) => self.ids.extend_from_slice(&ids[..count]),
                None => self.learn_short(key, &bytes[..length]),
            }
        } else if length <= Long::<4>::MAX {
            let key = Long::key(bytes, length);
            match self.cache.long_ids.get(machine, &key) {
                Some((1, ids)) => self.ids.push(ids[0]),
                Some((count, ids)) => self.ids.extend_from_slice(&ids[..count]),
                None => self.learn_long(key, &bytes[..length]),
            }
        } else {
            self.encode_piece(&bytes[..length]);
        }
    }

    #[cold]
    #[inline(never)]
    fn learn_short(&mut self, key: Short, piece: &[u8]) {
        let from = self.ids.len();
        self.encode_piece(piece);
        if let Some((count, ids)) = few(&self.ids[from..]) {
            let entry = key.with_count(count);
            self.cache.short_ids.insert(entry, ids, self.bytes);
        }
    }

    #[cold]
    #[inline(never)]
    fn learn_long(&mut self, key: Long<4>, piece: &[u8]) {
        let from = self.ids.len();
        self.encode_piece(piece);
        if let Some((count, ids)) = few(&self.ids[from..]) {
            let entry = key.with_count(count);
            self.cache.long_ids.insert(entry, ids, self.bytes);
        }
    }
}

/// How many ids there are and they themselves, if an entry has room for them.
fn few<const N: usize>(ids: &[u32]) -> Option<(usize, [u32; N])> {
    let mut all = [0; N];
    all.get_mut(..ids.len())?.copy_from_slice(ids);
    Some((ids.len(), all))
}
