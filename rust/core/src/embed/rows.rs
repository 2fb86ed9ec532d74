//! Which row a text has: a map from its digest to a number, small enough for 10⁹ texts.

/// The first 16 bytes of a cryptographic hash of a text.
pub type Digest = [u8; 16];

/// Segments grow one by one, so that growing needs 1/64 more memory for a moment, not twice.
const SEGMENTS: usize = 64;
const SMALLEST: usize = 16;

/// A map from digests to numbers under `u32::MAX`.
///
/// Open addressing at 68–85 % load in two flat arrays: 23.5–29.4 bytes an entry from about
/// 10,000 entries on, growth included. There is no removal.
#[derive(Debug)]
pub struct RowTable {
    segments: Vec<Segment>,
    len: usize,
}

/// `rows[i]` is the number of the digest `keys[i]`, or `FREE`; at least one slot in seven is free
/// once there are slots, so that a probe ends.
#[derive(Debug, Default)]
struct Segment {
    keys: Vec<u128>,
    rows: Vec<u32>,
    len: usize,
}

const FREE: u32 = u32::MAX;

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
        let slots: usize = self
            .segments
            .iter()
            .map(|segment| segment.rows.capacity())
            .sum();
        slots * (size_of::<u128>() + size_of::<u32>())
    }

    /// The number of a digest.
    pub fn get(&self, digest: &Digest) -> Option<u32> {
        let key = u128::from_le_bytes(*digest);
        self.segments[segment_of(key)].get(key)
    }

    /// Give a digest a number and return the one it had.
    ///
    /// # Panics
    /// If the number is `u32::MAX`.
    pub fn insert(&mut self, digest: &Digest, row: u32) -> Option<u32> {
        assert!(row != FREE, "a row number is under u32::MAX");
        let key = u128::from_le_bytes(*digest);
        let segment = &mut self.segments[segment_of(key)];
        match segment.find(key) {
            Ok(slot) => Some(std::mem::replace(&mut segment.rows[slot], row)),
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
        let key = u128::from_le_bytes(*digest);
        let segment = &mut self.segments[segment_of(key)];
        match segment.find(key) {
            Ok(slot) => Some((segment.rows[slot], false)),
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
    fn get(&self, key: u128) -> Option<u32> {
        self.find(key).ok().map(|slot| self.rows[slot])
    }

    /// The slot of a key, or the free one where it belongs (any number when there are no slots).
    fn find(&self, key: u128) -> Result<usize, usize> {
        let slots = self.rows.len();
        if slots == 0 {
            return Err(0);
        }
        let mut slot = home(key, slots);
        while self.rows[slot] != FREE {
            if self.keys[slot] == key {
                return Ok(slot);
            }
            slot += 1;
            if slot == slots {
                slot = 0;
            }
        }
        Err(slot)
    }

    fn add(&mut self, slot: usize, key: u128, row: u32) {
        let full = (self.len + 1) * 20 > self.rows.len() * 17;
        let slot = if full { self.grow(key) } else { slot };
        (self.keys[slot], self.rows[slot]) = (key, row);
        self.len += 1;
    }

    /// Grow by a quarter and return the slot that is now the key's.
    fn grow(&mut self, key: u128) -> usize {
        let slots = (self.rows.len() + self.rows.len() / 4).max(SMALLEST);
        let old = std::mem::replace(
            self,
            Self {
                keys: vec![0; slots],
                rows: vec![FREE; slots],
                len: self.len,
            },
        );
        for (key, row) in old.keys.into_iter().zip(old.rows) {
            if row != FREE {
                let (Ok(slot) | Err(slot)) = self.find(key);
                (self.keys[slot], self.rows[slot]) = (key, row);
            }
        }
        let (Ok(slot) | Err(slot)) = self.find(key);
        slot
    }
}

// A digest is uniform, so its bits serve as the hash; segment and slot take different ones.
fn segment_of(key: u128) -> usize {
    key.to_le_bytes()[0] as usize % SEGMENTS
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "hash < 2⁶⁴, so the result is under `slots`"
)]
fn home(key: u128, slots: usize) -> usize {
    let hash = key >> 64;
    ((hash * slots as u128) >> 64) as usize
}
