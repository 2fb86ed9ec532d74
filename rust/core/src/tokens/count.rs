//! Counting without ids.

use super::encoding::Encoding;

impl Encoding {
    /// The number of tokens of `text`; special tokens are ordinary text.
    pub fn count(&self, text: &str) -> usize {
        self.pattern
            .pieces(text)
            .map(|piece| self.count_piece(piece))
            .sum()
    }

    /// Whether `text` has at most `budget` tokens; stops at the piece that has more.
    pub(super) fn fits(&self, text: &str, budget: usize) -> bool {
        let mut left = budget;
        for piece in self.pattern.pieces(text) {
            match left.checked_sub(self.count_piece(piece)) {
                Some(rest) => left = rest,
                None => return false,
            }
        }
        true
    }
}
