//! Which texts are equal to one before them.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

/// The kinds of n items: equal ones are of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeats {
    /// Where each kind is first, ascending.
    pub firsts: Vec<usize>,
    /// The kind of each item, as a position in `firsts`.
    pub kinds: Vec<usize>,
}

/// Find equal items, in one pass.
///
/// Items of one hash are compared, so that a bad `hasher` makes it slow and not wrong; one with a
/// secret seed keeps whoever wrote the items from making it slow.
pub fn repeats<T: Copy + Eq + Hash>(items: &[T], hasher: impl BuildHasher) -> Repeats {
    let mut known = HashMap::with_capacity_and_hasher(items.len(), hasher);
    let mut firsts = Vec::with_capacity(items.len());
    let kind_of = |(position, item): (usize, &T)| {
        *known.entry(*item).or_insert_with(|| {
            firsts.push(position);
            firsts.len() - 1
        })
    };
    let kinds = items.iter().enumerate().map(kind_of).collect();
    Repeats { firsts, kinds }
}
