//! What holds for every encoding through the crate's public face.

use proptest::prelude::*;
use tollway_core::tokens::{ENCODINGS, Encoding, Truncated};

fn ids(encoding: &Encoding, text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    encoding.encode(text, &mut ids);
    ids
}

/// The text of the ids, or the first that stands for nothing.
fn text(encoding: &Encoding, ids: &[u32]) -> Result<String, u32> {
    let mut bytes = Vec::new();
    encoding.decode(ids, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

proptest! {
    #[test]
    fn decoding_gives_the_text_back(given in "(\\PC|[ \t\r\n'a-zA-Z0-9가\u{301}/]|<\\|endoftext\\|>){0,80}") {
        for encoding in &ENCODINGS {
            let ids = ids(encoding, &given);
            prop_assert_eq!(encoding.count(&given), ids.len());
            prop_assert_eq!(text(encoding, &ids), Ok(given.clone()));
        }
    }

    #[test]
    fn long_runs_are_merged_whole(unit in "[ -~가-힣\n\t]{1,3}", times in 1usize..2000) {
        let given = unit.repeat(times);
        for encoding in &ENCODINGS {
            prop_assert_eq!(text(encoding, &ids(encoding, &given)), Ok(given.clone()));
        }
    }

    #[test]
    fn a_prefix_of_the_ids_is_what_a_cut_keeps(given in "[a-z]{1,9}( [a-z]{1,9}){0,30}", budget in 0usize..40) {
        for encoding in &ENCODINGS {
            let ids = ids(encoding, &given);
            match encoding.truncate(&given, budget, false) {
                Truncated::Fits => prop_assert!(ids.len() <= budget),
                Truncated::Cut(cut) => {
                    prop_assert_eq!(text(encoding, &ids[..budget]), Ok(given[..cut].to_owned()));
                }
                Truncated::MoreNeeded => prop_assert!(false, "nothing follows"),
            }
        }
    }
}

#[test]
fn special_tokens_are_one_id_where_they_are_allowed() {
    for encoding in &ENCODINGS {
        let end = encoding.specials().id("<|endoftext|>").unwrap();
        let given = "a<|endoftext|>b<|endoftext|>";
        let mut with = Vec::new();
        encoding.encode_with_specials(given, |_| true, &mut with);
        assert_eq!([with[1], with[3]], [end, end]);
        assert_eq!(text(encoding, &with), Ok(given.to_owned()));
        let mut without = Vec::new();
        encoding.encode_with_specials(given, |_| false, &mut without);
        assert_eq!(without, ids(encoding, given));
    }
}

#[test]
fn an_id_that_stands_for_nothing_is_named() {
    for encoding in &ENCODINGS {
        let unknown = encoding.max_id() + 1;
        assert_eq!(encoding.token(unknown), None);
        assert_eq!(text(encoding, &[0, unknown, 1]), Err(unknown));
        assert_eq!(encoding.token(0).as_deref(), Some(&b"!"[..]));
        assert_eq!(encoding.id(b"!"), Some(0));
    }
    assert!(Encoding::by_name("o300k_base").is_none());
}

#[test]
fn a_vocabulary_is_written_as_it_is_published() {
    let sizes = |name| Encoding::by_name(name).unwrap().rank_file().len();
    assert_eq!(sizes("cl100k_base"), 1_681_126);
    assert_eq!(sizes("o200k_harmony"), 3_613_922);
    assert_eq!(sizes("p50k_edit"), 836_186);
    assert_eq!(sizes("gpt2"), sizes("r50k_base"));
}
