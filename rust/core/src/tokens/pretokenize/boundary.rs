//! Places where every pattern ends a piece, whatever stands before: reading may begin there.

use super::class::class;
use super::flags::{LETTER, LOWER, NEWLINE, NUMBER, SPACE, UPPER};

/// The last safe boundary of `text` at or before byte `at`; 0 where there is none.
///
/// The pieces of any ending of `text` that holds a safe boundary end there too.
pub fn boundary_before(text: &[u8], mut at: usize) -> usize {
    while at > 0 && !is_boundary(text, at) {
        at -= 1;
    }
    at
}

/// Whether every pattern ends a piece at byte `at`, which is neither the start nor the end.
///
/// Looks at the characters on both sides alone; each case holds for all patterns:
/// - a space that is no line break only begins a piece or continues white space;
/// - a letter is only followed, in its piece, by letters, marks or a contraction;
/// - a number is only followed by numbers.
fn is_boundary(text: &[u8], at: usize) -> bool {
    if at >= text.len() || is_tail(text[at]) {
        return false;
    }
    let mut start = at - 1;
    while is_tail(text[start]) {
        start -= 1;
    }
    let (before, _) = class(text, start);
    let (after, _) = class(text, at);
    (before & SPACE == 0 && after & SPACE != 0 && after & NEWLINE == 0)
        || (before & LETTER != 0 && after & (LETTER | UPPER | LOWER) == 0 && text[at] != b'\'')
        || (before & NUMBER != 0 && after & NUMBER == 0)
}

/// Whether a byte of UTF-8 continues a character.
fn is_tail(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Pattern;
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn pieces_end_there_wherever_reading_began(
            text in "(\\PC|[ \t\r\n'a-zA-Zſ0-9가漢ⅷ\u{301}\u{2b0}\u{1c5}\u{3000}/.]|'ll|'S|  ){0,24}"
        ) {
            let bytes = text.as_bytes();
            for at in (1..bytes.len()).filter(|&at| is_boundary(bytes, at)) {
                prop_assert!(text.is_char_boundary(at));
                prop_assert_eq!(boundary_before(bytes, at), at);
                for start in (0..at).filter(|&start| text.is_char_boundary(start)) {
                    for pattern in [Pattern::Gpt2, Pattern::Cl100k, Pattern::O200k] {
                        let mut end = start;
                        while end < at {
                            end = pattern.piece_end(bytes, end);
                        }
                        prop_assert_eq!(end, at, "{:?} from {}", pattern, start);
                    }
                }
            }
        }
    }

    #[test]
    fn words_and_sentences_have_boundaries() {
        let text = "one two, 한국어 漢字。漢字 12 3";
        let found: Vec<usize> = (1..text.len())
            .filter(|&at| is_boundary(text.as_bytes(), at))
            .collect();
        let expected = [" two", ", ", " 한국어", " 漢字。", "。", " 12", " 3"];
        assert_eq!(found, expected.map(|part| text.find(part).unwrap()));
        assert_eq!(boundary_before(b"no", 2), 0);
    }
}
