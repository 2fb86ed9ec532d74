//! Special tokens: text such as `<|endoftext|>` that stands for one id.

use std::borrow::Cow;
use std::ops::Range;

/// The special tokens of one encoding. All begin with `<|` and end with `|>`, and none holds
/// another `<` or `>`.
pub struct Specials {
    /// Tokens by their text.
    pub named: &'static [(&'static str, u32)],
    /// Ids that are also spelled `<|reserved_ID|>`. Where one is named too, decoding gives the name.
    pub reserved: Range<u32>,
}

const RESERVED: &str = "<|reserved_";
const OPEN: &str = "<|";
const CLOSE: &str = "|>";

/// A special token in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it stands.
    pub bytes: Range<usize>,
    /// Its id.
    pub id: u32,
}

impl Specials {
    /// The id of a special token.
    pub fn id(&self, token: &str) -> Option<u32> {
        if let Some((_, id)) = self.named.iter().find(|(name, _)| *name == token) {
            return Some(*id);
        }
        let digits = token.strip_prefix(RESERVED)?.strip_suffix(CLOSE)?;
        let id = digits
            .parse()
            .ok()
            .filter(|id| self.reserved.contains(id))?;
        // `parse` takes a sign and leading zeros too.
        (reserved(id) == token).then_some(id)
    }

    /// The text of a special token.
    pub fn text(&self, id: u32) -> Option<Cow<'static, str>> {
        let named = self.named.iter().find(|(_, named)| *named == id);
        named.map(|(name, _)| Cow::Borrowed(*name)).or_else(|| {
            self.reserved
                .contains(&id)
                .then(|| Cow::Owned(reserved(id)))
        })
    }

    /// All special tokens; an id that has two spellings appears twice.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'static, str>, u32)> + '_ {
        let named = self
            .named
            .iter()
            .map(|(name, id)| (Cow::Borrowed(*name), *id));
        named.chain(
            self.reserved
                .clone()
                .map(|id| (Cow::Owned(reserved(id)), id)),
        )
    }

    /// The highest id.
    pub fn max_id(&self) -> u32 {
        let named = self.named.iter().map(|(_, id)| *id).max().unwrap_or(0);
        named.max(self.reserved.end.saturating_sub(1))
    }

    /// The first special token of `text` at or after byte `from` that `wanted` accepts.
    pub fn find(
        &self,
        text: &str,
        mut from: usize,
        mut wanted: impl FnMut(&str) -> bool,
    ) -> Option<Found> {
        loop {
            let start = from + memchr::memmem::find(&text.as_bytes()[from..], OPEN.as_bytes())?;
            from = start + OPEN.len();
            let mut inside = text.as_bytes()[from..].iter();
            // Stopping at the next `<` keeps a text of many `<|` linear.
            let length = inside.position(|byte| matches!(byte, b'>' | b'<'))?;
            let Some(token) = text.get(start..=from + length) else {
                continue;
            };
            if let Some(id) = self.id(token)
                && wanted(token)
            {
                return Some(Found {
                    bytes: start..start + token.len(),
                    id,
                });
            }
        }
    }
}

fn reserved(id: u32) -> String {
    format!("{RESERVED}{id}{CLOSE}")
}

#[cfg(test)]
mod tests {
    use super::super::encoding::Encoding;

    #[test]
    fn finds_the_first_that_is_wanted() {
        let specials = Encoding::by_name("o200k_harmony").unwrap().specials();
        let text = "<|<|end|>é<|x|> <|reserved_200500|><|reserved_+200501|>";
        let found = |wanted: fn(&str) -> bool| {
            specials
                .find(text, 0, wanted)
                .map(|found| (&text[found.bytes], found.id))
        };
        assert_eq!(found(|_| true), Some(("<|end|>", 200_007)));
        assert_eq!(
            found(|token| token != "<|end|>"),
            Some(("<|reserved_200500|>", 200_500))
        );
        assert_eq!(found(|token| token.contains('+')), None);
        assert_eq!(specials.find(text, 30, |_| true), None);
    }

    #[test]
    fn names_win_over_reserved_spellings() {
        let specials = Encoding::by_name("o200k_harmony").unwrap().specials();
        assert_eq!(specials.iter().count(), 1091);
        assert_eq!(specials.text(200_018).unwrap(), "<|endofprompt|>");
        assert_eq!(specials.id("<|reserved_200018|>"), Some(200_018));
        assert_eq!(specials.max_id(), 201_087);
    }
}
