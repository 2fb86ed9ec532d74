//! What is cut fits, splits no character, and is what seeing the whole text would give.

use proptest::prelude::*;
use tollway_core::tokens::{ENCODINGS, Ends, Shortened, Side, Truncated};

fn text() -> impl Strategy<Value = String> {
    let atoms = [
        " ",
        "  ",
        "\n",
        "\t",
        "\u{3000}",
        "a",
        "Word",
        "'ll",
        "漢",
        "가나",
        "🙂",
        "e\u{301}",
        "12",
        "!",
        "<|endoftext|>",
        "ſ",
        "\r\n",
        "zqxj",
        "𝔘",
        "ABC",
        "...",
        "/",
        "뷁",
        "'",
    ];
    prop::collection::vec(prop::sample::select(atoms.to_vec()), 0..40)
        .prop_map(|atoms| atoms.concat())
}

fn whole_characters(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

const SIDES: [Side; 3] = [Side::End, Side::Start, Side::Middle];

proptest! {
    #[test]
    fn what_remains_has_at_most_so_many_tokens(text in text(), max_tokens in 0usize..40) {
        for encoding in &ENCODINGS {
            let fits = encoding.count(&text) <= max_tokens;
            match encoding.truncate(&text, max_tokens, false) {
                Truncated::Fits => prop_assert!(fits),
                Truncated::Cut(cut) => {
                    prop_assert!(!fits);
                    prop_assert!(encoding.count(&text[..cut]) <= max_tokens);
                }
                Truncated::MoreNeeded => prop_assert!(false, "nothing follows"),
            }
            match encoding.truncate_start(&text, max_tokens, false) {
                Truncated::Fits => prop_assert!(fits),
                Truncated::Cut(cut) => {
                    prop_assert!(!fits);
                    prop_assert!(encoding.count(&text[cut..]) <= max_tokens);
                }
                Truncated::MoreNeeded => prop_assert!(false, "nothing precedes"),
            }
        }
    }

    #[test]
    fn a_part_of_a_text_is_cut_as_the_text(
        text in text(), max_tokens in 0usize..12, seen in 0usize..80,
    ) {
        let seen = whole_characters(&text, seen.min(text.len()));
        for encoding in &ENCODINGS {
            let whole = encoding.truncate(&text, max_tokens, false);
            match encoding.truncate(&text[..seen], max_tokens, seen < text.len()) {
                Truncated::MoreNeeded => {}
                answer => prop_assert_eq!(answer, whole),
            }
            let whole = encoding.truncate_start(&text, max_tokens, false);
            match encoding.truncate_start(&text[seen..], max_tokens, seen > 0) {
                Truncated::MoreNeeded => {}
                Truncated::Cut(cut) => prop_assert_eq!(Truncated::Cut(seen + cut), whole),
                Truncated::Fits => prop_assert!(seen == 0 && whole == Truncated::Fits),
            }
        }
    }

    #[test]
    fn what_is_put_together_fits(
        text in text(), max_tokens in 0usize..40, marker in "|…|[.]{3}| \\[cut\\] |'ll|🙂|\n",
    ) {
        for encoding in &ENCODINGS {
            let fits = encoding.count(&text) <= max_tokens;
            for side in SIDES {
                match encoding.shorten(Ends::whole(&text), max_tokens, side, &marker) {
                    Shortened::Fits => prop_assert!(fits),
                    Shortened::MoreNeeded => prop_assert!(false, "this is the whole text"),
                    Shortened::Cut { head, tail, with_marker } => {
                        prop_assert!(!fits);
                        prop_assert!(head <= tail);
                        prop_assert!(side != Side::End || tail == text.len());
                        prop_assert!(side != Side::Start || head == 0);
                        prop_assert_eq!(with_marker, encoding.count(&marker) <= max_tokens);
                        let marker = if with_marker { &*marker } else { "" };
                        let joined = [&text[..head], marker, &text[tail..]].concat();
                        prop_assert!(encoding.count(&joined) <= max_tokens);
                    }
                }
            }
        }
    }

    #[test]
    fn the_ends_of_a_text_are_shortened_as_the_text(
        text in text(), max_tokens in 0usize..10, seen in 0usize..120,
    ) {
        let first = whole_characters(&text, seen.min(text.len() / 2));
        let last = whole_characters(&text, text.len() - first.min(text.len() / 2));
        for encoding in &ENCODINGS {
            for side in SIDES {
                let whole = encoding.shorten(Ends::whole(&text), max_tokens, side, "…");
                let parts = Ends::parts(&text[..first], &text[last..]);
                match encoding.shorten(parts, max_tokens, side, "…") {
                    Shortened::MoreNeeded => {}
                    Shortened::Fits => prop_assert!(false, "more may follow"),
                    Shortened::Cut { head, tail, with_marker } => {
                        prop_assert_eq!(Shortened::Cut { head, tail: last + tail, with_marker }, whole);
                    }
                }
            }
        }
    }
}

#[test]
fn a_long_text_is_cut_where_the_budget_ends() {
    let text = "one two three ".repeat(10_000);
    let end = text.len();
    for encoding in &ENCODINGS {
        let start = |budget| encoding.truncate_start(&text, budget, false);
        assert_eq!(
            encoding.truncate(&text, 3, false),
            Truncated::Cut("one two three".len())
        );
        assert_eq!(encoding.truncate(&text, 0, false), Truncated::Cut(0));
        assert_eq!(start(4), Truncated::Cut(end - " one two three ".len()));
        assert_eq!(start(0), Truncated::Cut(end));
        assert_eq!(start(usize::MAX), Truncated::Fits);
        for side in SIDES {
            let empty = encoding.shorten(Ends::whole(""), 0, side, "…");
            assert_eq!(empty, Shortened::Fits);
        }
        assert_eq!(encoding.truncate("a", 1, true), Truncated::MoreNeeded);
        assert_eq!(encoding.truncate_start("a", 1, true), Truncated::MoreNeeded);
    }
}

#[test]
fn a_text_of_one_piece_keeps_most_of_its_budget() {
    for text in ["zqxjvkw".repeat(2_000), "뷁뺡".repeat(2_000)] {
        for encoding in &ENCODINGS {
            let Truncated::Cut(cut) = encoding.truncate_start(&text, 500, false) else {
                panic!("it does not fit");
            };
            let kept = encoding.count(&text[cut..]);
            assert!((490..=500).contains(&kept), "{}: {kept}", encoding.name());
        }
    }
}
