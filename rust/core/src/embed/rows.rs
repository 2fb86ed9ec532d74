//! Which row a text has: a map from its digest to a number, small enough for 10⁹ texts.

/// The first 16 bytes of a cryptographic hash of a text.
pub type Digest = [u8; 16];

/// Segments grow one by one, so that growing needs 1/64 more memory for a moment, not twice.
const SEGMENTS: usize = 64;
const SMALLEST: usize = 16;

/// A map from digests to numbers under `u32::MAX`.
///
/// Open addressing at 75–85 % load in one flat array: 18.8–21.3 bytes an entry from about 10,000
/// entries on, growth included. There is no removal.
///
/// 12 of a digest's 16 bytes are kept: the chance that any two of n distinct texts share them is
/// n² ÷ 2⁹⁷, 6 in 10¹² for 10⁹ texts.
#[derive(Debug)]
pub struct RowTable {
    segments: Vec<Segment>,
    len: usize,
}

/// At least one slot in seven is free once there are slots, so that a probe ends.
#[derive(Debug, Default)]
struct Segment {
    slots: Vec<Slot>,
    len: usize,
}

/// A digest's key and its number, `FREE` where there is none.
#[derive(Debug, Clone, Copy)]
struct Slot {
    key: Key,
    row: u32,
}

type Key = [u32; 3];

const FREE: u32 = u32::MAX;
const EMPTY: Slot = Slot {
    key: [0; 3],
    row: FREE,
};

impl Default for RowTable {
    fn default() -> Self {
        let segments = (0..SEGMENTS).map(|_| Segment::default()).collect();
        Self { segments, len: 0 }
    }
}

impl RowTable {
    /// Number of digests held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the arrays.
    pub fn nbytes(&self) -> usize {
        let slots = self.segments.iter().map(|segment| segment.slots.capacity());
        slots.sum::<usize>() * size_of::<Slot>()
    }

    /// The number of a digest.
    pub fn get(&self, digest: &Digest) -> Option<u32> {
        let key = key_of(digest);
        self.segments[segment_of(key)].get(key)
    }

    /// Give a digest a number and return the one it had.
    ///
    /// # Panics
    /// If the number is `u32::MAX`.
    pub fn insert(&mut self, digest: &Digest, row: u32) -> Option<u32> {
        assert!(row != FREE, "a row number is under u32::MAX");
        let key = key_of(digest);
        let segment = &mut self.segments[segment_of(key)];
        match segment.find(key) {
            Ok(slot) => Some(std::mem::replace(&mut segment.slots[slot].row, row)),
            Err(slot) => {
                segment.add(slot, key, row);
                self.len += 1;
                None
            }
        }
    }

    /// The number of a digest, and whether it is new: a new one gets the number of digests held
    /// so far. None, and nothing changed, when there is no number left.
    pub fn insert_new(&mut self, digest: &Digest) -> Option<(u32, bool)> {
        let key = key_of(digest);
        let segment = &mut self.segments[segment_of(key)];
        match segment.find(key) {
            Ok(slot) => Some((segment.slots[slot].row, false)),
            Err(slot) => {
                let row = u32::try_from(self.len).ok().filter(|row| *row != FREE)?;
                segment.add(slot, key, row);
                self.len += 1;
                Some((row, true))
            }
        }
    }
}

impl Segment {
    fn get(&self, key: Key) -> Option<u32> {
        self.find(key).ok().map(|slot| self.slots[slot].row)
    }

    /// The slot of a key, or the free one where it belongs (any number when there are no slots).
    fn find(&self, key: Key) -> Result<usize, usize> {
        let slots = self.slots.len();
        if slots == 0 {
            return Err(0);
        }
        let mut slot = home(key, slots);
        while self.slots[slot].row != FREE {
            if self.slots[slot].key == key {
                return Ok(slot);
            }
            slot += 1;
            if slot == slots {
                slot = 0;
            }
        }
        Err(slot)
    }

    fn add(&mut self, slot: usize, key: Key, row: u32) {
        let full = (self.len + 1) * 20 > self.slots.len() * 17;
        let slot = if full { self.grow(key) } else { slot };
        self.slots[slot] = Slot { key, row };
        self.len += 1;
    }

    /// Grow by an eighth and return the slot that is now the key's.
    fn grow(&mut self, key: Key) -> usize {
        let slots = (self.slots.len() + self.slots.len() / 8).max(SMALLEST);
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; slots]);
        for slot in old.into_iter().filter(|slot| slot.row != FREE) {
            let (Ok(place) | Err(place)) = self.find(slot.key);
            self.slots[place] = slot;
        }
        let (Ok(slot) | Err(slot)) = self.find(key);
        slot
    }
}

fn key_of(digest: &Digest) -> Key {
    let (words, _) = digest.as_chunks::<4>();
    [words[0], words[1], words[2]].map(u32::from_le_bytes)
}

// A digest is uniform, so its bits serve as the hash; segment and slot take different ones.
fn segment_of(key: Key) -> usize {
    key[0] as usize % SEGMENTS
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "hash < 2⁶⁴, so the result is under `slots`"
)]
fn home(key: Key, slots: usize) -> usize {
    let hash = u64::from(key[2]) << 32 | u64::from(key[1]);
    ((u128::from(hash) * slots as u128) >> 64) as usize
}
