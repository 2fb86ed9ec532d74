//! Equal items are found whatever the hasher does.

use std::hash::{BuildHasherDefault, Hasher, RandomState};

use proptest::prelude::{prop, prop_assert_eq, proptest};
use tollway_core::embed::repeats;

/// Says the same of everything.
#[derive(Default)]
struct Blind;

impl Hasher for Blind {
    fn write(&mut self, _: &[u8]) {}

    fn finish(&self) -> u64 {
        7
    }
}

proptest! {
    #[test]
    fn each_item_is_of_the_kind_of_its_first(items in prop::collection::vec(0..9_u8, 0..30)) {
        let found = repeats(&items, RandomState::new());
        for (item, kind) in items.iter().zip(&found.kinds) {
            let first = items.iter().position(|other| other == item);
            prop_assert_eq!(Some(found.firsts[*kind]), first);
        }
        prop_assert_eq!(found.kinds.len(), items.len());
        prop_assert_eq!(found, repeats(&items, BuildHasherDefault::<Blind>::default()));
    }
}
