//! Chunks cover the text, fit, overlap as stated, and end where they are asked to.

use proptest::prelude::*;
use tollway_core::tokens::{ENCODINGS, Encoding, Prefer, TooSmall, Truncated};

fn o200k() -> &'static Encoding {
    Encoding::by_name("o200k_base").unwrap()
}

fn prose() -> impl Strategy<Value = String> {
    let atoms = [
        "One two. ",
        "Is it? ",
        "\"Yes!\" ",
        "word ",
        "two words ",
        "\n",
        "\n\n",
        "\r\n",
        "漢字。",
        "한국어 ",
        "🙂",
        "뷁",
        "   ",
        "...",
        "e.g. ",
        "3.14 ",
        ")",
        "zqxjvkw",
        "'ll",
        "\u{301}",
    ];
    prop::collection::vec(prop::sample::select(atoms.to_vec()), 0..60)
        .prop_map(|atoms| atoms.concat())
}

#[test]
fn what_fits_is_one_chunk() {
    // Of o200k's tokens one is 83 spaces, and none is 80.
    for spaces in 1..400 {
        let text = " ".repeat(spaces);
        for encoding in &ENCODINGS {
            let chunks = encoding
                .chunks(&text, encoding.count(&text), 0, None)
                .unwrap();
            assert_eq!(chunks.len(), 1, "{} spaces, {}", spaces, encoding.name());
        }
    }
}

#[test]
fn no_token_is_longer_than_128_bytes() {
    for encoding in &ENCODINGS {
        for id in 0..=encoding.max_id() {
            let token = encoding.token(id);
            assert!(
                token.is_none_or(|token| token.len() <= 128),
                "{} {id}",
                encoding.name()
            );
        }
    }
}

proptest! {
    #[test]
    fn chunks_cover_the_text_and_fit(
        text in prose(),
        max_tokens in 4usize..30,
        overlap in 0usize..30,
        prefer in prop::sample::select(vec![None, Some(Prefer::Sentence), Some(Prefer::Line)]),
    ) {
        for encoding in &ENCODINGS {
            let chunks = encoding.chunks(&text, max_tokens, overlap, prefer).unwrap();
            prop_assert_eq!(chunks.first().map_or(0, |chunk| chunk.start), 0);
            prop_assert_eq!(chunks.last().map_or(0, |chunk| chunk.end), text.len());
            for chunk in &chunks {
                prop_assert!(encoding.count(&text[chunk.clone()]) <= max_tokens);
            }
            for pair in chunks.windows(2) {
                let (this, next) = (&pair[0], &pair[1]);
                prop_assert!(this.start < next.start && this.end < next.end);
                prop_assert!(next.start <= this.end);
                let shared = &text[next.start..this.end];
                prop_assert!(encoding.count(shared) <= overlap);
                // It is what one of the halves of `overlap` keeps of the chunk before.
                let halves = std::iter::successors(Some(overlap), |half| Some(half / 2));
                let kept = |half| match encoding.truncate_start(&text[this.clone()], half, false) {
                    Truncated::Cut(cut) => this.start + cut == next.start,
                    _ => false,
                };
                prop_assert!(halves.take(6).any(kept));
            }
        }
    }

    #[test]
    fn without_a_preference_a_chunk_is_what_fits(words in 1usize..400, max_tokens in 4usize..60) {
        let text = "one two three ".repeat(words);
        for encoding in &ENCODINGS {
            let chunks = encoding.chunks(&text, max_tokens, 0, None).unwrap();
            for chunk in &chunks[..chunks.len() - 1] {
                prop_assert_eq!(encoding.count(&text[chunk.clone()]), max_tokens);
            }
        }
    }
}

#[test]
fn sentences_and_lines_end_chunks() {
    let cut = |text: &'static str, max_tokens, prefer| -> Vec<&str> {
        let chunks = o200k().chunks(text, max_tokens, 0, Some(prefer)).unwrap();
        chunks.into_iter().map(|chunk| &text[chunk]).collect()
    };
    assert_eq!(
        cut(
            "It rained all day. \"Really?\" she asked him. Yes, it did.",
            9,
            Prefer::Sentence
        ),
        [
            "It rained all day. \"Really?\"",
            " she asked him. Yes, it did."
        ]
    );
    // A number's point ends nothing, and without a line break either the tokens decide.
    assert_eq!(
        cut("Pi is 3.14159 or so we say here", 8, Prefer::Sentence),
        cut("Pi is 3.14159 or so we say here", 8, Prefer::Line)
    );
    assert_eq!(
        cut("a b c d\ne f g h\ni j k l\n", 12, Prefer::Line),
        ["a b c d\ne f g h\n", "i j k l\n"]
    );
    assert_eq!(
        cut("漢字を読む。漢字を書く。漢字", 10, Prefer::Sentence),
        ["漢字を読む。漢字を書く。", "漢字"]
    );
    assert_eq!(
        cut(
            "A heading of five words\n\nand then more words",
            8,
            Prefer::Sentence
        )[0],
        "A heading of five words\n\n"
    );
}

#[test]
fn a_character_that_no_chunk_can_hold_is_named() {
    let tokens = o200k().count("𓀀");
    assert!(tokens > 2);
    assert_eq!(
        o200k().chunks("ab 𓀀", 2, 1, None),
        Err(TooSmall { at: 3, tokens })
    );
    assert_eq!(o200k().chunks("", 0, 0, None), Ok(vec![]));
}

#[test]
fn a_megabyte_of_one_piece_ends() {
    for unit in ["a", " ", "뷁", "\n", "?", "zqxjvkw"] {
        let text = unit.repeat(1_000_000 / unit.len());
        for prefer in [None, Some(Prefer::Sentence)] {
            let chunks = o200k().chunks(&text, 256, 32, prefer).unwrap();
            assert!(chunks.len() > 10);
            assert_eq!(chunks.last().unwrap().end, text.len());
        }
    }
}
