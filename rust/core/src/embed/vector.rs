//! One vector of an answer: found first, and written to its row once its index is known.

use std::fmt;

use base64_simd::{Base64, Out, STANDARD, STANDARD_NO_PAD};

use super::json::{Cursor, Fault, Raw};

/// Why a row is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRow {
    /// The answer has no such row.
    Missing,
    /// The vector is absent or null.
    Null,
    /// The vector has no numbers.
    Empty,
    /// The vector has another length than the others, or than was asked for.
    Dimension {
        /// Its length.
        found: usize,
        /// The right one.
        expected: usize,
    },
    /// It holds NaN or infinity, or a number too large for a float32.
    NotFinite,
    /// It is neither a list of numbers nor base64 of float32.
    NotVector,
    /// Its index came twice, so that neither can be trusted.
    Duplicate,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "missing from the answer"),
            Self::Null => write!(f, "null instead of a vector"),
            Self::Empty => write!(f, "an empty vector"),
            Self::Dimension { found, expected } => {
                write!(f, "dimension {found} instead of {expected}")
            }
            Self::NotFinite => write!(f, "holds NaN or infinity"),
            Self::NotVector => write!(f, "neither a list of numbers nor base64 of float32"),
            Self::Duplicate => write!(f, "its index came twice"),
        }
    }
}

/// Where a vector stands in the body, and in which form.
#[derive(Debug)]
pub(super) enum Vector<'a> {
    Null,
    Base64(Raw<'a>),
    Numbers(Cursor<'a>),
    Other,
}

impl<'a> Vector<'a> {
    /// Pass the next value and remember where it is.
    pub fn find(cursor: &mut Cursor<'a>) -> Result<Self, Fault> {
        match cursor.peek("a vector")? {
            b'"' => return Ok(Self::Base64(cursor.string()?)),
            b'[' => {
                if let Some(numbers) = cursor.flat_array()? {
                    return Ok(Self::Numbers(numbers));
                }
                cursor.skip()?;
            }
            b'n' => {
                cursor.skip()?;
                return Ok(Self::Null);
            }
            b'N' | b'I' | b'-' => {
                cursor.number()?;
            }
            _ => {
                cursor.skip()?;
            }
        }
        Ok(Self::Other)
    }

    /// The length it claims to have, at least 1.
    pub fn dimension(&self) -> Result<usize, BadRow> {
        match self {
            Self::Null => Err(BadRow::Null),
            Self::Other => Err(BadRow::NotVector),
            Self::Base64(raw) => match float_count(&raw.bytes())? {
                0 => Err(BadRow::Empty),
                count => Ok(count),
            },
            Self::Numbers(cursor) => match cursor.clone().count_items() {
                0 => Err(BadRow::Empty),
                count => Ok(count),
            },
        }
    }

    /// Write it to a row of the right dimension; a row of no use is left in any state.
    pub fn write(&self, row: &mut [f32]) -> Result<Result<(), BadRow>, Fault> {
        let found = match self {
            Self::Null => return Ok(Err(BadRow::Null)),
            Self::Other => return Ok(Err(BadRow::NotVector)),
            Self::Base64(raw) => decode_base64(&raw.bytes(), row),
            Self::Numbers(cursor) => read_numbers(cursor.clone(), row)?,
        };
        Ok(found.and_then(|found| {
            if found != row.len() {
                let expected = row.len();
                return Err(if found == 0 {
                    BadRow::Empty
                } else {
                    BadRow::Dimension { found, expected }
                });
            }
            // No early exit: the loop runs over whole SIMD registers.
            let finite = row.iter().fold(true, |finite, x| finite & x.is_finite());
            if finite {
                Ok(())
            } else {
                Err(BadRow::NotFinite)
            }
        }))
    }
}

fn alphabet(text: &[u8]) -> &'static Base64 {
    if text.ends_with(b"=") {
        &STANDARD
    } else {
        &STANDARD_NO_PAD
    }
}

fn float_count(text: &[u8]) -> Result<usize, BadRow> {
    match alphabet(text).decoded_length(text) {
        Ok(bytes) if bytes % size_of::<f32>() == 0 => Ok(bytes / size_of::<f32>()),
        _ => Err(BadRow::NotVector),
    }
}

/// Decode where the length is right; the number of floats in either case.
fn decode_base64(text: &[u8], row: &mut [f32]) -> Result<usize, BadRow> {
    let found = float_count(text)?;
    if found == row.len() {
        let bytes = Out::from_slice(bytemuck::cast_slice_mut(row));
        alphabet(text)
            .decode(text, bytes)
            .map_err(|_| BadRow::NotVector)?;
        if cfg!(target_endian = "big") {
            for value in row {
                *value = f32::from_bits(value.to_bits().swap_bytes());
            }
        }
    }
    Ok(found)
}

/// Read numbers as far as the row goes; the number of them in any case.
fn read_numbers(mut cursor: Cursor<'_>, row: &mut [f32]) -> Result<Result<usize, BadRow>, Fault> {
    let (mut found, mut all_numbers) = (0, true);
    cursor.array(|cursor| {
        match (cursor.number()?, row.get_mut(found)) {
            (Some(value), Some(place)) => *place = value,
            (Some(_), None) => {}
            (None, _) => all_numbers = false,
        }
        found += 1;
        Ok::<_, Fault>(())
    })?;
    Ok(if all_numbers {
        Ok(found)
    } else {
        Err(BadRow::NotVector)
    })
}
