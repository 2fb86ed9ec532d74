//! Sums kept by period: refunds, and the checkpoints of a day.
//!
//! A cell is one word: the number of its period and three sums. Cell `period mod N` belongs to the
//! newest period that wrote it; who comes for an older one is too late, which only counts more.

use super::memory::Array;
use super::quota::{Cost, Unit};
use crate::atomics::{AtomicWord, Ordering, PERIOD_BITS, REQUEST_BITS, TOKEN_BITS, Word};

const PERIOD_MASK: u64 = (1 << PERIOD_BITS) - 1;
const REQUEST_MASK: u64 = (1 << REQUEST_BITS) - 1;
const TOKEN_MASK: u64 = (1 << TOKEN_BITS) - 1;

/// Requests, input tokens and output tokens; each modulo its width in a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub requests: u64,
    pub input: u64,
    pub output: u64,
}

impl Sums {
    pub fn of(cost: Cost, requests: u32) -> Self {
        Self {
            requests: requests.into(),
            input: cost.input.into(),
            output: cost.output.into(),
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.wrapping_add(other.requests) & REQUEST_MASK,
            input: self.input.wrapping_add(other.input) & TOKEN_MASK,
            output: self.output.wrapping_add(other.output) & TOKEN_MASK,
        }
    }

    /// What was added after `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            requests: self.requests.wrapping_sub(earlier.requests) & REQUEST_MASK,
            input: self.input.wrapping_sub(earlier.input) & TOKEN_MASK,
            output: self.output.wrapping_sub(earlier.output) & TOKEN_MASK,
        }
    }

    pub fn of_unit(self, unit: Unit, output_weight: u32) -> u64 {
        match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => self.input + self.output * u64::from(output_weight),
            Unit::Input => self.input,
            Unit::Output => self.output,
        }
    }
}

fn pack(period: u64, sums: Sums) -> Word {
    let mut word = Word::from(period & PERIOD_MASK);
    word = word << REQUEST_BITS | Word::from(sums.requests & REQUEST_MASK);
    word = word << TOKEN_BITS | Word::from(sums.input & TOKEN_MASK);
    word << TOKEN_BITS | Word::from(sums.output & TOKEN_MASK)
}

#[allow(clippy::cast_possible_truncation)]
fn unpack(word: Word) -> (u64, Sums) {
    let sums = Sums {
        requests: (word >> (2 * TOKEN_BITS)) as u64 & REQUEST_MASK,
        input: (word >> TOKEN_BITS) as u64 & TOKEN_MASK,
        output: word as u64 & TOKEN_MASK,
    };
    (
        (word >> (REQUEST_BITS + 2 * TOKEN_BITS)) as u64 & PERIOD_MASK,
        sums,
    )
}

/// Whether one number of a period comes after another, as far as their bits tell.
fn is_later(period: u64, other: u64) -> bool {
    let ahead = period.wrapping_sub(other) & PERIOD_MASK;
    ahead != 0 && ahead <= PERIOD_MASK / 2
}

/// A ring of cells.
pub(super) struct Cells(Array<AtomicWord>);

impl Cells {
    pub fn new(cells: Array<AtomicWord>) -> Self {
        Self(cells)
    }

    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn cell(&self, period: u64) -> &AtomicWord {
        let index = period % self.0.len() as u64;
        &self.0[usize::try_from(index).expect("an index of the array")]
    }

    /// The sums of a period; `None` where its cell belongs to another.
    pub fn get(&self, period: u64) -> Option<Sums> {
        let (held, sums) = unpack(self.cell(period).load(Ordering::Acquire));
        (held == period & PERIOD_MASK).then_some(sums)
    }

    /// What the cell of a period holds, whether for it or for a later one.
    pub fn get_or_later(&self, period: u64) -> Option<Sums> {
        let (held, sums) = unpack(self.cell(period).load(Ordering::Acquire));
        (!is_later(period, held)).then_some(sums)
    }

    /// Add to a period, unless a later one has taken its cell; false then.
    pub fn add(&self, period: u64, amount: Sums) -> bool {
        self.update(period, |sums| {
            Some(sums.map_or(amount, |sums| sums.plus(amount)))
        })
    }

    /// Set a period that is not there yet.
    pub fn set_once(&self, period: u64, sums: Sums) {
        self.update(period, |held| held.is_none().then_some(sums));
    }

    fn update(&self, period: u64, change: impl Fn(Option<Sums>) -> Option<Sums>) -> bool {
        let cell = self.cell(period);
        let mut word = cell.load(Ordering::Acquire);
        loop {
            let (held, sums) = unpack(word);
            let is_own = held == period & PERIOD_MASK;
            if is_later(held, period) {
                return false;
            }
            let Some(changed) = change(is_own.then_some(sums)) else {
                return true;
            };
            match cell.compare_exchange(
                word,
                pack(period, changed),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::memory::{Layout, Memory};
    use super::super::quota::{Name, Quota, Quotas};
    use super::*;

    fn cells() -> Cells {
        let quotas = Quotas::of(&[Quota {
            name: Name::Tpm,
            limit: 6,
            window: std::time::Duration::from_secs(60),
        }]);
        let layout = Layout::of(&quotas, 1).expect("the quota is in range");
        Cells::new(Memory::allocate(&layout).refunds)
    }

    #[test]
    fn a_cell_belongs_to_the_newest_period() {
        let cells = cells();
        let some = Sums::of(
            Cost {
                input: 3,
                output: 5,
            },
            1,
        );
        assert!(cells.add(7, some) && cells.add(7, some));
        assert_eq!(cells.get(7), Some(some.plus(some)));
        assert!(cells.add(7 + cells.len(), some));
        assert_eq!(cells.get(7), None);
        assert_eq!(cells.get_or_later(7), Some(some));
        assert!(!cells.add(7, some));
        assert_eq!(cells.get(7 + cells.len()), Some(some));
        cells.set_once(7 + cells.len(), Sums::default());
        assert_eq!(cells.get(7 + cells.len()), Some(some));
    }

    #[test]
    fn sums_that_wrap_differ_by_what_was_added() {
        let last = Sums {
            requests: REQUEST_MASK,
            input: TOKEN_MASK - 1,
            output: 0,
        };
        let more = Sums::of(
            Cost {
                input: 10,
                output: 2,
            },
            1,
        );
        assert_eq!(last.plus(more).since(last), more);
        let (period, sums) = unpack(pack(PERIOD_MASK + 4, last));
        assert_eq!((period, sums), (3, last));
        assert!(is_later(3, PERIOD_MASK) && !is_later(PERIOD_MASK, 3));
    }
}
