//! Hands the pieces of a text to a sink, a block of them at a time.

use super::Pattern;
use super::blocks::{Whole, whole};
use super::masks::{BLOCK_BYTES, Machine};
use super::portable::Portable;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

/// Bytes that can be read from the start of a piece in a window, whatever its length.
pub const REACH: usize = 64;
/// A block and what can be read beyond it.
pub type Window = [u8; BLOCK_BYTES + REACH];

/// What is done with the pieces.
pub trait Sink {
    /// One or more pieces side by side.
    fn block(&mut self, machine: impl Machine, window: &Window, pieces: Whole);
    /// One piece of any length.
    fn piece(&mut self, piece: &[u8]);
    /// Whether no more pieces are wanted.
    #[inline(always)]
    fn is_done(&self) -> bool {
        false
    }
}

/// Hands the pieces of `text` to `sink`, in order, by the best means that this machine has.
#[inline]
pub fn walk(pattern: Pattern, text: &[u8], sink: &mut impl Sink) {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("bmi2")
            && std::arch::is_x86_feature_detected!("lzcnt")
        {
            // SAFETY: these are the features that it asks for.
            return unsafe { avx512(pattern, text, sink) };
        }
        if std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("bmi2")
            && std::arch::is_x86_feature_detected!("lzcnt")
        {
            // SAFETY: as above.
            return unsafe { avx2(pattern, text, sink) };
        }
    }
    by_pattern(pattern, Portable, text, sink);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512bw,avx512vl,bmi1,bmi2,lzcnt,popcnt")]
fn avx512(pattern: Pattern, text: &[u8], sink: &mut impl Sink) {
    by_pattern(pattern, Avx512::new(), text, sink);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn avx2(pattern: Pattern, text: &[u8], sink: &mut impl Sink) {
    by_pattern(pattern, Avx2::new(), text, sink);
}

/// Work whose `run` is always inlined: a closure might be compiled apart.
pub trait Work {
    type Result;
    fn run(self) -> Self::Result;
}

/// Runs `work` compiled for AVX2, where there is AVX2.
#[inline]
pub fn widened<W: Work>(work: W) -> W::Result {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("bmi2") {
        // SAFETY: these are the features that it asks for.
        return unsafe { with_avx2(work) };
    }
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn with_avx2<W: Work>(work: W) -> W::Result {
    work.run()
}

/// The pattern becomes a constant of each loop.
#[inline(always)]
fn by_pattern(pattern: Pattern, machine: impl Machine, text: &[u8], sink: &mut impl Sink) {
    match pattern {
        Pattern::Gpt2 => blocks(Pattern::Gpt2, machine, text, sink),
        Pattern::Cl100k => blocks(Pattern::Cl100k, machine, text, sink),
        Pattern::O200k => blocks(Pattern::O200k, machine, text, sink),
    }
}

#[inline(always)]
fn blocks(pattern: Pattern, machine: impl Machine, text: &[u8], sink: &mut impl Sink) {
    let at = stretch::<false>(pattern, machine, text, text.len(), sink);
    // What is left is copied to where a whole window can be read at every byte of it.
    let rest = &text[at..];
    if rest.len() < size_of::<Window>() && !sink.is_done() {
        let mut buffer = [0; 2 * size_of::<Window>()];
        buffer[..rest.len()].copy_from_slice(rest);
        stretch::<true>(pattern, machine, &buffer, rest.len(), sink);
    }
}

/// Hands over the pieces of the first `end` bytes as far as whole windows can be read, or until the
/// sink is done; returns where they end. `LAST` says that the text ends there.
#[inline(always)]
fn stretch<const LAST: bool>(
    pattern: Pattern,
    machine: impl Machine,
    bytes: &[u8],
    end: usize,
    sink: &mut impl Sink,
) -> usize {
    let mut at = 0;
    // A block is handed over when the next one has been looked at: what is done with pieces fills
    // the time that the sets of a block, each made from the one before, wait for each other.
    let mut held: Option<(&Window, Whole)> = None;
    loop {
        let next = look::<LAST>(pattern, machine, bytes, at, end);
        if let Some((window, pieces)) = held.take() {
            sink.block(machine, window, pieces);
            if sink.is_done() {
                return at;
            }
        }
        let Some((window, pieces)) = next else {
            return at;
        };
        if pieces.ends == 0 {
            at += scalar(pattern, &bytes[at..end], sink);
            if sink.is_done() {
                return at;
            }
        } else {
            at += BLOCK_BYTES - 1 - pieces.ends.leading_zeros() as usize;
            held = Some((window, pieces));
        }
    }
}

/// The window at `at` and the pieces that its block holds whole.
#[inline(always)]
fn look<const LAST: bool>(
    pattern: Pattern,
    machine: impl Machine,
    bytes: &[u8],
    at: usize,
    end: usize,
) -> Option<(&Window, Whole)> {
    let window: &Window = bytes[at..].first_chunk().filter(|_| at < end)?;
    let left = end - at;
    let length = if LAST {
        left.min(BLOCK_BYTES)
    } else {
        BLOCK_BYTES
    };
    let pieces = whole(
        pattern,
        machine,
        window.first_chunk()?,
        length,
        LAST && length == left,
    );
    Some((window, pieces))
}

/// Hands over at least one piece, and then more until a block has passed: where one block fails
/// the next would too. Returns where they end.
#[inline(never)]
fn scalar(pattern: Pattern, text: &[u8], sink: &mut impl Sink) -> usize {
    let mut at = 0;
    while at < BLOCK_BYTES.min(text.len()) && !sink.is_done() {
        let end = pattern.piece_end(text, at);
        sink.piece(&text[at..end]);
        at = end;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::masks::{Ascii, Wide};
    use super::*;

    const PATTERNS: [Pattern; 3] = [Pattern::Gpt2, Pattern::Cl100k, Pattern::O200k];

    /// Collects the ends of pieces.
    #[derive(Default)]
    struct Ends(Vec<usize>);

    impl Ends {
        fn push(&mut self, length: usize) {
            self.0.push(self.0.last().unwrap_or(&0) + length);
        }
    }

    impl Sink for Ends {
        fn block(&mut self, _: impl Machine, window: &Window, pieces: Whole) {
            let from = *self.0.last().unwrap_or(&0);
            let mut ends = pieces.ends;
            assert_eq!(pieces.starts.count_ones(), ends.count_ones());
            assert_eq!(pieces.starts & !(ends | 1), 0);
            let mut single = pieces.single;
            while single != 0 {
                let start = single.trailing_zeros() as usize;
                let length = (ends >> start & !1).trailing_zeros() as usize;
                let piece = &window[start..start + length];
                let number = length <= 3 && piece.iter().all(u8::is_ascii_digit);
                assert!(length == 1 || number, "{piece:?}");
                single &= single - 1;
            }
            while ends != 0 {
                self.0.push(from + ends.trailing_zeros() as usize);
                ends &= ends - 1;
            }
        }

        fn piece(&mut self, piece: &[u8]) {
            self.push(piece.len());
        }
    }

    fn found(run: impl FnOnce(&mut Ends)) -> Vec<usize> {
        let mut ends = Ends::default();
        run(&mut ends);
        ends.0
    }

    /// The scalar scanner's answer.
    fn expected(pattern: Pattern, text: &str) -> Vec<usize> {
        found(|ends| {
            pattern
                .pieces(text)
                .for_each(|piece| ends.push(piece.len()));
        })
    }

    fn check(text: &str) -> Result<(), TestCaseError> {
        let bytes = text.as_bytes();
        for pattern in PATTERNS {
            let expected = expected(pattern, text);
            prop_assert_eq!(&found(|ends| walk(pattern, bytes, ends)), &expected);
            let portable = found(|ends| by_pattern(pattern, Portable, bytes, ends));
            prop_assert_eq!(&portable, &expected);
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: all processors with AVX2 have the other features too.
                let avx2 = found(|ends| unsafe { avx2(pattern, bytes, ends) });
                prop_assert_eq!(&avx2, &expected);
            }
        }
        Ok(())
    }

    fn same_sets(machine: impl Machine, block: &[u8; BLOCK_BYTES]) -> Result<(), TestCaseError> {
        let (ascii, wide): (Ascii, Wide) = (machine.ascii(block), machine.wide(block));
        prop_assert_eq!(ascii, Portable.ascii(block));
        prop_assert_eq!(wide, Portable.wide(block));
        Ok(())
    }

    fn same_heads(machine: impl Machine, bytes: &[u8; BLOCK_BYTES]) -> Result<(), TestCaseError> {
        for length in 1..16 {
            let bytes = bytes.first_chunk().unwrap();
            prop_assert_eq!(machine.head(bytes, length), Portable.head(bytes, length));
        }
        Ok(())
    }

    fn same_pairs(
        machine: impl Machine,
        pairs: &[u64; 8],
        key: [u64; 2],
        mask: [u64; 2],
    ) -> Result<(), TestCaseError> {
        let expected = Portable.equal(pairs, key, mask);
        prop_assert_eq!(machine.equal(pairs, key, mask), expected);
        Ok(())
    }

    /// What the patterns tell apart, and what surrounds it.
    const ATOMS: [&str; 58] = [
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\n\n",
        "\u{a0}",
        "\u{3000}",
        "\u{2028}",
        "\u{b}",
        "'",
        "''",
        "'s",
        "'S",
        "'ll",
        "'lL",
        "'re",
        "'v",
        "'ve",
        "'k",
        "'\u{17f}",
        "\u{17f}",
        "\u{212a}",
        "a",
        "Z",
        "word",
        "Word",
        "WORD",
        "camelCase",
        "HTTPServer",
        "ǅ",
        "ʰ",
        "é",
        "É",
        "я",
        "Я",
        "漢字",
        "가나",
        "힣",
        "\u{d7ff}",
        "क",
        "\u{301}",
        "नि",
        "1",
        "12345",
        "½",
        "٣",
        "!",
        "?!",
        "/",
        "//",
        "/\n",
        "“",
        "—",
        "🙂",
        "\u{fe0f}",
        "\0",
        "\u{200d}",
    ];

    fn text() -> impl Strategy<Value = String> {
        let atoms = prop::collection::vec(prop::sample::select(ATOMS.to_vec()), 0..90);
        let runs = prop::collection::vec(
            (
                prop::sample::select(ATOMS.to_vec()),
                prop_oneof![Just(1usize), 1usize..80],
            ),
            0..6,
        );
        let ascii = prop::collection::vec(0u8..128, 0..200);
        prop_oneof![
            4 => atoms.prop_map(|atoms| atoms.concat()),
            2 => runs.prop_map(|runs| runs.iter().map(|(atom, n)| atom.repeat(*n)).collect()),
            1 => ascii.prop_map(|bytes| bytes.into_iter().map(char::from).collect()),
            1 => any::<String>(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn blocks_cut_as_the_scalar_scanner(text in text()) {
            check(&text)?;
        }

        #[test]
        fn every_machine_sees_the_same(
            block in prop::array::uniform32(any::<[u8; 2]>()),
            pairs in any::<[u64; 8]>(),
            mask in any::<[u64; 2]>(),
            at in 0usize..4,
        ) {
            let mut bytes = [0; BLOCK_BYTES];
            bytes.copy_from_slice(block.as_flattened());
            let key = [pairs[2 * at], pairs[2 * at + 1] ^ !mask[1]];
            #[cfg(target_arch = "x86_64")]
            {
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: there is AVX2.
                    let machine = unsafe { Avx2::new() };
                    same_sets(machine, &bytes)?;
                    same_heads(machine, &bytes)?;
                    same_pairs(machine, &pairs, key, mask)?;
                }
                if std::arch::is_x86_feature_detected!("avx512vl") {
                    // SAFETY: processors with AVX-512 VL have BW and BMI2.
                    let machine = unsafe { Avx512::new() };
                    same_sets(machine, &bytes)?;
                    same_heads(machine, &bytes)?;
                    same_pairs(machine, &pairs, key, mask)?;
                }
            }
        }
    }

    #[test]
    fn every_atom_at_every_place_of_a_block() {
        for atom in ATOMS {
            for other in ATOMS {
                for at in 40..68 {
                    let text = format!(
                        "{}{atom}{other}b c",
                        "a".repeat(at % 7) + &" b".repeat(at / 2)
                    );
                    check(&text).unwrap();
                }
            }
        }
    }
}
