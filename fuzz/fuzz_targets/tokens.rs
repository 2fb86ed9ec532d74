//! Ids are those of tiktoken, what is cut fits, and chunks cover the text, on any input.
//!
//! The first three bytes choose the budget, the overlap and the options; the rest is the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tiktoken_rs::CoreBPE;
use tollway_core::tokens::{Encoding, Ends, Prefer, Shortened, Side};

/// An encoding and tiktoken's own of the same pattern and ranks.
fn encodings() -> [(&'static Encoding, &'static CoreBPE); 4] {
    let named = |name| Encoding::by_name(name).expect("a published name");
    [
        (named("cl100k_base"), tiktoken_rs::cl100k_base_singleton()),
        (named("o200k_base"), tiktoken_rs::o200k_base_singleton()),
        (named("p50k_base"), tiktoken_rs::p50k_base_singleton()),
        (named("r50k_base"), tiktoken_rs::r50k_base_singleton()),
    ]
}

fuzz_target!(|data: &[u8]| {
    let [budget, overlap, options, bytes @ ..] = data else {
        return;
    };
    let text = String::from_utf8_lossy(bytes);
    let (budget, overlap) = (usize::from(*budget), usize::from(*overlap));
    for (encoding, theirs) in encodings() {
        let mut ids = Vec::new();
        encoding.encode(&text, &mut ids);
        assert_eq!(ids, theirs.encode_ordinary(&text), "{}", encoding.name());
        assert_eq!(encoding.count(&text), ids.len());
        let mut decoded = Vec::new();
        assert_eq!(encoding.decode(&ids, &mut decoded), Ok(()));
        assert_eq!(decoded, text.as_bytes());
        cut(encoding, &text, budget, *options);
        split(encoding, &text, budget, overlap, *options);
    }
});

fn cut(encoding: &Encoding, text: &str, budget: usize, options: u8) {
    let side = [Side::End, Side::Start, Side::Middle][usize::from(options) % 3];
    let marker = ["", "…", " [cut] ", "\n"][usize::from(options >> 2) % 4];
    match encoding.shorten(Ends::whole(text), budget, side, marker) {
        Shortened::Fits => assert!(encoding.count(text) <= budget),
        Shortened::Cut {
            head,
            tail,
            with_marker,
        } => {
            assert!(encoding.count(text) > budget && head <= tail);
            let marker = if with_marker { marker } else { "" };
            let joined = [&text[..head], marker, &text[tail..]].concat();
            assert!(encoding.count(&joined) <= budget);
        }
        Shortened::MoreNeeded => unreachable!("this is the whole text"),
    }
}

fn split(encoding: &Encoding, text: &str, budget: usize, overlap: usize, options: u8) {
    let prefer = [None, Some(Prefer::Sentence), Some(Prefer::Line)][usize::from(options >> 4) % 3];
    let chunks = match encoding.chunks(text, budget, overlap, prefer) {
        Ok(chunks) => chunks,
        Err(character) => {
            let c = text[character.at..].chars().next().expect("a character");
            assert_eq!(character.tokens, encoding.count(c.encode_utf8(&mut [0; 4])));
            assert!(character.tokens > budget);
            return;
        }
    };
    let (mut start, mut end) = (0, 0);
    for (i, chunk) in chunks.iter().enumerate() {
        assert!(encoding.count(&text[chunk.clone()]) <= budget);
        assert!(chunk.end > end && chunk.start <= end && (i == 0 || chunk.start > start));
        assert!(encoding.count(&text[chunk.start..end]) <= overlap);
        (start, end) = (chunk.start, chunk.end);
    }
    assert_eq!(end, text.len());
}
