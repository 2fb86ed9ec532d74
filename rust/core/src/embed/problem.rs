//! What is wrong with an answer as a whole, in words for whoever reads the log.

use std::borrow::Cow;
use std::fmt;

use super::json::{Cursor, Fault};

/// Characters of a body that an error may show.
const SHOWN: usize = 200;

/// Why a whole answer is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// What was found.
    pub problem: Problem,
    /// At most 200 characters of the body, from about where the problem is.
    pub excerpt: String,
}

/// What is wrong with an answer as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// It ends before it is complete.
    CutShort {
        /// Bytes there are.
        length: usize,
    },
    /// It is not JSON, or not of the expected shape.
    Unexpected {
        /// Byte offset.
        at: usize,
        /// What should be there.
        expected: &'static str,
    },
    /// It reports an error; the excerpt is the provider's message.
    Refused,
    /// It has no `data`.
    NoData,
    /// It has more rows than texts were sent.
    TooManyRows {
        /// Texts sent.
        texts: usize,
    },
    /// An index is not a number under the number of texts.
    Index {
        /// Texts sent.
        texts: usize,
    },
    /// Not every row has an index, and position does not tell which row is which.
    NoIndex {
        /// Texts sent.
        texts: usize,
    },
    /// All of several vectors have the same other length than was asked for.
    Dimension {
        /// Their length.
        found: usize,
        /// The right one.
        expected: usize,
    },
    /// The rows would not fit into memory, or not into the place given for them.
    TooLarge {
        /// Texts sent.
        texts: usize,
        /// Length of a row.
        dimension: usize,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problem {
            Problem::CutShort { length } => write!(f, "it is cut short after {length} bytes")?,
            Problem::Unexpected { at, expected } => {
                write!(f, "at byte {at} there is something else than {expected}")?;
            }
            Problem::Refused => write!(f, "it reports an error")?,
            Problem::NoData => write!(f, "it has no data")?,
            Problem::TooManyRows { texts } => write!(f, "it has more rows than the {texts} texts")?,
            Problem::Index { texts } => write!(f, "an index is not one of the {texts} texts'")?,
            Problem::NoIndex { texts } => {
                write!(
                    f,
                    "rows have no index, and they are not one for each of {texts} texts"
                )?;
            }
            Problem::Dimension { found, expected } => {
                write!(
                    f,
                    "its vectors are of dimension {found} instead of {expected}"
                )?;
            }
            Problem::TooLarge { texts, dimension } => {
                write!(
                    f,
                    "there is no room for {texts} rows of dimension {dimension}"
                )?;
            }
        }
        if self.excerpt.is_empty() {
            Ok(())
        } else {
            write!(f, ": {}", self.excerpt)
        }
    }
}

impl std::error::Error for DecodeError {}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Self::Unexpected {
            at: fault.at,
            expected: fault.expected,
        }
    }
}

impl DecodeError {
    /// Describe a problem of a body, whose error member is `refusal` if it has one.
    pub(super) fn new(problem: Problem, body: &[u8], refusal: Option<&[u8]>) -> Self {
        let (problem, from) = match problem {
            Problem::Unexpected { at, .. } if at >= body.len() => {
                (Problem::CutShort { length: body.len() }, at)
            }
            Problem::Unexpected { at, .. } => (problem, at),
            _ => (problem, 0),
        };
        let message = refusal.map(message_of);
        let shown = match &message {
            Some(message) if problem == Problem::Refused => message,
            // Numbers say nothing more.
            _ if matches!(problem, Problem::Dimension { .. }) => &[][..],
            _ => &body[from.min(body.len()).saturating_sub(SHOWN / 2)..],
        };
        // No character is longer than four bytes, so the rest need not be looked at.
        let shown = String::from_utf8_lossy(&shown[..shown.len().min(4 * SHOWN)]);
        let shown = shown.chars().take(SHOWN);
        let excerpt: String = shown
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        DecodeError {
            problem,
            excerpt: excerpt.trim().to_owned(),
        }
    }
}

/// The `message` of an error object, or the whole value where it has none.
fn message_of(refusal: &[u8]) -> Cow<'_, [u8]> {
    let mut message = None;
    let read = Cursor::new(refusal).object(|cursor, key| {
        if key == b"message" && cursor.peek("a value")? == b'"' {
            message = Some(cursor.string()?.bytes());
            Ok(())
        } else {
            cursor.skip().map(drop)
        }
    });
    read.ok().and(message).unwrap_or(Cow::Borrowed(refusal))
}
