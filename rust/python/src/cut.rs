//! Shortening a `str` to a number of tokens, and splitting one into chunks.

use std::ops::Range;

use pyo3::prelude::*;
use pyo3::types::PyString;
use tollway_core::tokens::{Encoding, Ends, Prefer, Shortened, Side};

use crate::batch::Batch;
use crate::errors;
use crate::text::{Text, substring, with_buffer};

/// A single text of more bytes is worked on with the thread detached.
pub const DETACH_BYTES: usize = 16 << 10;

/// How a call wants its texts shortened.
pub struct Shortening<'a, 'py> {
    encoding: &'static Encoding,
    max_tokens: usize,
    side: Side,
    marker: &'a Bound<'py, PyString>,
}

/// The code points that a text keeps, the marker between them if `with_marker`.
#[derive(Clone, Copy)]
struct Kept {
    head: usize,
    tail: usize,
    with_marker: bool,
}

impl<'a, 'py> Shortening<'a, 'py> {
    pub fn new(
        encoding: &'static Encoding,
        max_tokens: i64,
        side: &str,
        marker: &'a Bound<'py, PyString>,
    ) -> PyResult<Self> {
        let side = match side {
            "end" => Side::End,
            "start" => Side::Start,
            "middle" => Side::Middle,
            _ => {
                return Err(errors::configuration(format!(
                    "side must be 'end', 'start' or 'middle', not '{side}'"
                )));
            }
        };
        Ok(Self {
            encoding,
            max_tokens: budget("max_tokens", max_tokens)?,
            side,
            marker,
        })
    }

    /// One text; the same object where it fits.
    pub fn apply(&self, string: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        let text = Text::new(string)?;
        let kept = detached(string.py(), text, self.work(Text::new(self.marker)?));
        self.build(string, kept)
    }

    /// Many texts, in order.
    pub fn apply_batch(&self, texts: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let batch = Batch::new(texts)?;
        let kept = batch.map(texts.py(), self.work(Text::new(self.marker)?))?;
        let strings = batch.strings()?.into_iter();
        strings
            .zip(kept)
            .map(|(string, kept)| self.build(string, kept))
            .collect()
    }

    /// What finds the code points to keep, without the interpreter.
    fn work(&self, marker: Text<'a>) -> impl Fn(&mut Vec<u8>, Text<'_>) -> Option<Kept> + Sync {
        let (encoding, max_tokens, side) = (self.encoding, self.max_tokens, self.side);
        move |buffer, text| keep(encoding, text, max_tokens, side, marker, buffer)
    }

    /// The string that keeps these code points.
    fn build(
        &self,
        string: &Bound<'py, PyString>,
        mut kept: Option<Kept>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let text = Text::new(string)?;
        let mut max_tokens = self.max_tokens;
        while let Some(Kept {
            head,
            tail,
            with_marker,
        }) = kept
        {
            let mut joined = substring(string, 0..head)?;
            let mut seamless = true;
            let tail = substring(string, tail..text.len())?;
            for part in [with_marker.then(|| self.marker.as_any()), Some(&tail)] {
                let Some(part) = part.filter(|part| !part.is_empty().unwrap_or(true)) else {
                    continue;
                };
                let (left, right) = (Text::new(joined.cast()?)?, Text::new(part.cast()?)?);
                seamless &= !pairs(left, right);
                joined = if left.len() == 0 {
                    part.clone()
                } else {
                    joined.add(part)?
                };
            }
            // Halves of a surrogate pair that meet are a character nobody counted.
            if seamless
                || self
                    .encoding
                    .count(Text::new(joined.cast()?)?.utf8(&mut Vec::new()))
                    <= self.max_tokens
            {
                return Ok(joined);
            }
            // A text cut to no token has no seam, so this ends.
            max_tokens = max_tokens.saturating_sub(1);
            let marker = Text::new(self.marker)?;
            kept = keep(
                self.encoding,
                text,
                max_tokens,
                self.side,
                marker,
                &mut Vec::new(),
            );
        }
        Ok(string.clone().into_any())
    }
}

/// The code points to keep, or `None` where the text fits.
fn keep(
    encoding: &Encoding,
    text: Text<'_>,
    max_tokens: usize,
    side: Side,
    marker: Text<'_>,
    buffer: &mut Vec<u8>,
) -> Option<Kept> {
    let (mut second, mut third) = (Vec::new(), Vec::new());
    let marker = marker.utf8(&mut third);
    // Text that must be transcoded is looked at in growing parts, the first with 5 characters a
    // token: prose has 4.5. ASCII is looked at as it is.
    let mut points = match text {
        Text::Ascii(_) => usize::MAX,
        _ => max_tokens.saturating_mul(5).saturating_add(256),
    };
    loop {
        // Both ends must leave something between them.
        let parts = match side {
            Side::End | Side::Start => points < text.len(),
            Side::Middle => points < text.len() / 2,
        };
        let (beginning, ending) = if parts {
            (text.prefix(points), suffix(text, points))
        } else {
            (text, text)
        };
        let ends = match (parts, side) {
            (false, _) => Ends::whole(text.utf8(buffer)),
            (true, Side::End) => Ends::parts(beginning.utf8(buffer), ""),
            (true, Side::Start) => Ends::parts("", ending.utf8(buffer)),
            (true, Side::Middle) => Ends::parts(beginning.utf8(buffer), ending.utf8(&mut second)),
        };
        match encoding.shorten(ends, max_tokens, side, marker) {
            Shortened::Fits => return None,
            Shortened::MoreNeeded => points = points.saturating_mul(2),
            Shortened::Cut {
                head,
                tail,
                with_marker,
            } => {
                return Some(Kept {
                    head: beginning.points_in(head),
                    tail: match (parts, side) {
                        (true, Side::End) => text.len(),
                        _ => text.len() - ending.len() + ending.points_in(tail),
                    },
                    with_marker,
                });
            }
        }
    }
}

/// Where the chunks of a text begin and end, in code points.
pub fn chunks(
    encoding: &'static Encoding,
    string: &Bound<'_, PyString>,
    max_tokens: i64,
    overlap: i64,
    prefer: Option<&str>,
) -> PyResult<Vec<Range<usize>>> {
    let (max_tokens, overlap) = (
        budget("max_tokens", max_tokens)?,
        budget("overlap", overlap)?,
    );
    if overlap >= max_tokens.max(1) {
        return Err(errors::configuration(format!(
            "overlap must be less than max_tokens, and {overlap} is not less than {max_tokens}"
        )));
    }
    let prefer = match prefer {
        None => None,
        Some("sentence") => Some(Prefer::Sentence),
        Some("line") => Some(Prefer::Line),
        Some(other) => {
            return Err(errors::configuration(format!(
                "prefer must be None, 'sentence' or 'line', not '{other}'"
            )));
        }
    };
    let text = Text::new(string)?;
    let split = |buffer: &mut Vec<u8>, text: Text<'_>| {
        encoding
            .chunks(text.utf8(buffer), max_tokens, overlap, prefer)
            .map(|chunks| in_points(text, &chunks))
            .map_err(|character| (text.points_in(character.at), character.tokens))
    };
    detached(string.py(), text, split).map_err(|(at, tokens)| {
        errors::configuration(format!(
            "max_tokens={max_tokens} is less than the {tokens} tokens of the character at {at}"
        ))
    })
}

/// Ranges of bytes, whose starts and ends both grow, in code points of the text.
fn in_points(text: Text<'_>, chunks: &[Range<usize>]) -> Vec<Range<usize>> {
    let convert = |offsets: &mut dyn Iterator<Item = usize>| -> Vec<usize> {
        let (mut bytes, mut points) = (0, 0);
        let step = |offset| {
            points += suffix(text, text.len() - points).points_in(offset - bytes);
            bytes = offset;
            points
        };
        offsets.map(step).collect()
    };
    let starts = convert(&mut chunks.iter().map(|chunk| chunk.start));
    let ends = convert(&mut chunks.iter().map(|chunk| chunk.end));
    starts
        .into_iter()
        .zip(ends)
        .map(|(start, end)| start..end)
        .collect()
}

/// Runs `work` detached where the text is long enough for other threads to notice.
fn detached<T: Send>(
    py: Python<'_>,
    text: Text<'_>,
    work: impl FnOnce(&mut Vec<u8>, Text<'_>) -> T + Send,
) -> T {
    if text.size() > DETACH_BYTES {
        py.detach(|| with_buffer(|buffer| work(buffer, text)))
    } else {
        with_buffer(|buffer| work(buffer, text))
    }
}

fn budget(name: &str, tokens: i64) -> PyResult<usize> {
    usize::try_from(tokens)
        .map_err(|_| errors::configuration(format!("{name} must be 0 or more, not {tokens}")))
}

/// At least the last `points` code points; one more rather than half a surrogate pair.
fn suffix(text: Text<'_>, points: usize) -> Text<'_> {
    let start = text.len() - points.min(text.len());
    let split = start > 0 && pair(point(text, start - 1), point(text, start));
    let start = start - usize::from(split);
    match text {
        Text::Ascii(text) => Text::Ascii(&text[start..]),
        Text::Latin1(points) => Text::Latin1(&points[start..]),
        Text::Ucs2(points) => Text::Ucs2(&points[start..]),
        Text::Ucs4(points) => Text::Ucs4(&points[start..]),
    }
}

/// Whether the last code point of one text and the first of another are a surrogate pair.
fn pairs(left: Text<'_>, right: Text<'_>) -> bool {
    left.len() > 0 && pair(point(left, left.len() - 1), point(right, 0))
}

fn pair(high: Option<u32>, low: Option<u32>) -> bool {
    matches!((high, low), (Some(0xd800..0xdc00), Some(0xdc00..0xe000)))
}

fn point(text: Text<'_>, at: usize) -> Option<u32> {
    match text {
        Text::Ascii(_) | Text::Latin1(_) => None,
        Text::Ucs2(points) => points.get(at).map(|&point| point.into()),
        Text::Ucs4(points) => points.get(at).copied(),
    }
}
