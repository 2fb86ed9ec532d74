//! Sums kept by period: refunds, and the checkpoints of a day.
//!
//! A cell is one word: the number of its period and three sums; where periods are short, their
//! numbers are long, and take the place of the tokens. Cell `period mod N` belongs to the newest
//! period that wrote it; who comes for an older one is too late, which only counts more.

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

/// What a cell's word consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Requests and tokens, beside a number of 28 bits: eight years of seconds.
    Sums,
    /// Requests alone, beside a number of 64 bits: of short periods it would come again in weeks.
    Requests,
}

impl Format {
    fn mask(self) -> u64 {
        match self {
            Self::Sums => PERIOD_MASK,
            Self::Requests => u64::MAX >> (64 - (PERIOD_BITS + TOKEN_BITS)),
        }
    }

    fn pack(self, period: u64, sums: Sums) -> Word {
        let input = match self {
            Self::Sums => sums.input,
            Self::Requests => period >> PERIOD_BITS,
        };
        let mut word = Word::from(period & PERIOD_MASK);
        word = word << REQUEST_BITS | Word::from(sums.requests & REQUEST_MASK);
        word = word << TOKEN_BITS | Word::from(input & TOKEN_MASK);
        word << TOKEN_BITS | Word::from(sums.output & TOKEN_MASK)
    }

    #[allow(clippy::cast_possible_truncation)]
    fn unpack(self, word: Word) -> (u64, Sums) {
        let period = (word >> (REQUEST_BITS + 2 * TOKEN_BITS)) as u64 & PERIOD_MASK;
        let requests = (word >> (2 * TOKEN_BITS)) as u64 & REQUEST_MASK;
        let input = (word >> TOKEN_BITS) as u64 & TOKEN_MASK;
        let output = word as u64 & TOKEN_MASK;
        match self {
            Self::Sums => (
                period,
                Sums {
                    requests,
                    input,
                    output,
                },
            ),
            Self::Requests => (
                input << PERIOD_BITS | period,
                Sums {
                    requests,
                    input: 0,
                    output: 0,
                },
            ),
        }
    }

    /// Whether one number of a period comes after another, as far as their bits tell.
    fn is_later(self, period: u64, other: u64) -> bool {
        let ahead = period.wrapping_sub(other) & self.mask();
        ahead != 0 && ahead <= self.mask() / 2
    }
}

/// A ring of cells.
pub(super) struct Cells {
    cells: Array<AtomicWord>,
    format: Format,
}

impl Cells {
    pub fn new(cells: Array<AtomicWord>) -> Self {
        Self {
            cells,
            format: Format::Sums,
        }
    }

    /// Of requests alone, by short periods.
    pub fn of_requests(cells: Array<AtomicWord>) -> Self {
        Self {
            cells,
            format: Format::Requests,
        }
    }

    pub fn len(&self) -> u64 {
        self.cells.len() as u64
    }

    fn cell(&self, period: u64) -> &AtomicWord {
        let index = period % self.len();
        &self.cells[usize::try_from(index).expect("an index of the array")]
    }

    fn load(&self, period: u64) -> (u64, Sums) {
        self.format
            .unpack(self.cell(period).load(Ordering::Acquire))
    }

    /// The sums of a period; `None` where its cell belongs to another.
    pub fn get(&self, period: u64) -> Option<Sums> {
        let (held, sums) = self.load(period);
        (held == period & self.format.mask()).then_some(sums)
    }

    /// What the cell of a period holds, whether for it or for a later one.
    pub fn get_or_later(&self, period: u64) -> Option<Sums> {
        let (held, sums) = self.load(period);
        (!self.format.is_later(period, held)).then_some(sums)
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
            let (held, sums) = self.format.unpack(word);
            let is_own = held == period & self.format.mask();
            if self.format.is_later(held, period) {
                return false;
            }
            let Some(changed) = change(is_own.then_some(sums)) else {
                return true;
            };
            match cell.compare_exchange(
                word,
                self.format.pack(period, changed),
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
        let (period, sums) = Format::Sums.unpack(Format::Sums.pack(PERIOD_MASK + 4, last));
        assert_eq!((period, sums), (3, last));
        assert!(Format::Sums.is_later(3, PERIOD_MASK) && !Format::Sums.is_later(PERIOD_MASK, 3));
    }

    #[test]
    fn short_periods_never_come_again() {
        let format = Format::Requests;
        let two = Sums {
            requests: 2,
            ..Sums::default()
        };
        for period in [3, PERIOD_MASK + 4, u64::MAX] {
            assert_eq!(format.unpack(format.pack(period, two)), (period, two));
        }
        assert!(format.is_later(PERIOD_MASK + 4, 3) && format.is_later(PERIOD_MASK, 0));
    }
}
