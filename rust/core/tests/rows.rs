//! The table of rows against the standard library's map, and its size.

use std::collections::HashMap;

use proptest::prelude::{any, prop, prop_assert_eq, proptest};
use tollway_core::embed::{Digest, RowTable};

/// Uniform digests, as a hash function gives: `SplitMix64` twice.
fn digest(serial: u64) -> Digest {
    let mix = |salt: u64| {
        let mut x = (serial * 2 + salt)
            .wrapping_add(1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    (u128::from(mix(0)) << 64 | u128::from(mix(1))).to_le_bytes()
}

#[test]
fn an_entry_takes_at_most_twenty_two_bytes_at_every_size() {
    let mut table = RowTable::default();
    for serial in 0..400_000_u32 {
        assert_eq!(
            table.insert_new(&digest(u64::from(serial))),
            Some((serial, true))
        );
        if serial >= 10_000 {
            assert!(
                table.nbytes() <= 22 * table.len(),
                "{} of {}",
                table.nbytes(),
                table.len()
            );
        }
    }
    for serial in (0..400_000).rev() {
        assert_eq!(table.get(&digest(u64::from(serial))), Some(serial));
    }
    assert_eq!(table.get(&digest(400_000)), None);
    assert_eq!(table.len(), 400_000);
}

#[test]
#[should_panic(expected = "under u32::MAX")]
fn the_mark_of_a_free_slot_is_no_row() {
    RowTable::default().insert(&[0; 16], u32::MAX);
}

proptest! {
    // Few distinct digests that share their bits, so that keys collide and repeat.
    #[test]
    fn it_is_a_map(steps in prop::collection::vec((0_u64..300, any::<bool>(), 0..u32::MAX), 0..600)) {
        let mut table = RowTable::default();
        let mut map: HashMap<u64, u32> = HashMap::new();
        for (key, new, row) in steps {
            let digest = (u128::from(key / 2) << 64 | u128::from(key % 2) << 40).to_le_bytes();
            prop_assert_eq!(table.get(&digest), map.get(&key).copied());
            if new {
                let next = u32::try_from(map.len()).unwrap();
                let known = map.get(&key).copied();
                let expected = (known.unwrap_or(next), known.is_none());
                prop_assert_eq!(table.insert_new(&digest), Some(expected));
                map.insert(key, expected.0);
            } else {
                prop_assert_eq!(table.insert(&digest, row), map.insert(key, row));
            }
            prop_assert_eq!(table.len(), map.len());
        }
    }
}
