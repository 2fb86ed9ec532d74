//! One pass over an embeddings answer in the shape of `OpenAI`'s, into rows of float32.

use super::json::Cursor;
use super::problem::{DecodeError, Problem};
use super::vector::{BadRow, Vector};

/// Longest vector taken where the caller names no dimension; no model in use has a fifth of it.
const LONGEST: usize = 1 << 16;

/// What an answer held beside its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Length of a row; None where it was not given and no row was of use.
    pub dimension: Option<usize>,
    /// The rows of no use, in order; each is NaN throughout.
    pub bad_rows: Vec<(usize, BadRow)>,
    /// Tokens the provider charged, where it says so.
    pub prompt_tokens: Option<u64>,
}

/// Decode an answer to n texts into n rows, each at its `index`.
///
/// `allocate` is called once at most, with the dimension, and gives the place for n rows of it,
/// or None when there is none; what the place holds before does not matter. The dimension is the
/// one given or that of the first usable row. Numbers are read leniently (`+1`, `.5`, `NaN`),
/// and rows that have no index at all, one for each text, are taken in order. An answer of several
/// vectors that all have the same other length than the one given is an error: asked again, the
/// model would say the same. (One alone may be cut short by a mishap.)
pub fn decode<'v>(
    body: &[u8],
    n: usize,
    dimension: Option<usize>,
    allocate: impl FnOnce(usize) -> Option<&'v mut [f32]>,
) -> Result<Decoded, DecodeError> {
    let mut answer = Answer {
        rows: Rows {
            n,
            allocate: Some(allocate),
            place: None,
            seen: Vec::new(),
        },
        items: 0,
        indexed: 0,
        unindexed: 0,
        has_data: false,
        refusal: None,
        prompt_tokens: None,
        total_tokens: None,
    };
    let outcome = answer
        .rows
        .open(dimension)
        .and_then(|()| answer.read(body))
        .and_then(|()| answer.rows.check_dimension());
    match outcome {
        Ok(()) => Ok(answer.finish()),
        Err(problem) => Err(DecodeError::new(problem, body, answer.refusal)),
    }
}

/// Decode as [`decode`] does, into a new vector of n rows; it is empty where the dimension stays
/// unknown.
pub fn decode_new(
    body: &[u8],
    n: usize,
    dimension: Option<usize>,
) -> Result<(Vec<f32>, Decoded), DecodeError> {
    let mut vectors = Vec::new();
    let place = &mut vectors;
    let decoded = decode(body, n, dimension, |dimension| {
        let length = n.checked_mul(dimension)?;
        // Asked for first because a refused vec! aborts, and given up again because vec! gets
        // zero pages from the system without writing them.
        Vec::<f32>::new().try_reserve_exact(length).ok()?;
        *place = vec![0.0; length];
        Some(place.as_mut_slice())
    })?;
    Ok((vectors, decoded))
}

struct Answer<'a, 'v, A> {
    rows: Rows<'v, A>,
    items: usize,
    indexed: usize,
    unindexed: usize,
    has_data: bool,
    /// The provider's message, where the answer is an error.
    refusal: Option<&'a [u8]>,
    prompt_tokens: Option<u64>,
    total_tokens: Option<u64>,
}

impl<'a, 'v, A: FnOnce(usize) -> Option<&'v mut [f32]>> Answer<'a, 'v, A> {
    fn read(&mut self, body: &'a [u8]) -> Result<(), Problem> {
        let mut cursor = Cursor::new(body);
        cursor.object(|cursor, key| match (key, cursor.peek("a value")?) {
            (b"data", b'[') => {
                self.has_data = true;
                cursor.array(|cursor| self.item(cursor))
            }
            (b"usage", b'{') => self.usage(cursor),
            (b"error", _) => {
                let error = cursor.skip()?;
                if !matches!(error, b"null" | b"false" | b"{}" | b"[]" | b"\"\"") {
                    self.refusal = Some(error);
                }
                Ok(())
            }
            _ => Ok(cursor.skip().map(drop)?),
        })?;
        cursor.end()?;
        if self.refusal.is_some() {
            Err(Problem::Refused)
        } else if !self.has_data || (self.items == 0 && self.rows.n > 0) {
            Err(Problem::NoData)
        } else if self.unindexed > 0 && (self.indexed > 0 || self.items != self.rows.n) {
            Err(Problem::NoIndex { texts: self.rows.n })
        } else {
            Ok(())
        }
    }

    fn item(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Problem> {
        let texts = self.rows.n;
        let position = self.items;
        self.items += 1;
        if self.items > texts {
            return Err(Problem::TooManyRows { texts });
        }
        if cursor.peek("an object")? == b'n' {
            cursor.skip()?;
            return Ok(());
        }
        let (mut index, mut vector) = (None, Vector::Null);
        cursor.object(|cursor, key| match key {
            b"index" => {
                let given = whole(cursor.skip()?).and_then(|index| usize::try_from(index).ok());
                index = Some(
                    given
                        .filter(|i| *i < texts)
                        .ok_or(Problem::Index { texts })?,
                );
                Ok(())
            }
            b"embedding" => {
                vector = Vector::find(cursor)?;
                Ok::<_, Problem>(())
            }
            _ => Ok(cursor.skip().map(drop)?),
        })?;
        self.indexed += usize::from(index.is_some());
        self.unindexed += usize::from(index.is_none());
        self.rows.put(index.unwrap_or(position), &vector)
    }

    fn usage(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Problem> {
        cursor.object(|cursor, key| {
            let value = whole(cursor.skip()?);
            match key {
                b"prompt_tokens" => self.prompt_tokens = value,
                b"total_tokens" => self.total_tokens = value,
                _ => {}
            }
            Ok(())
        })
    }

    fn finish(self) -> Decoded {
        let (dimension, bad_rows) = self.rows.finish();
        Decoded {
            dimension,
            bad_rows,
            prompt_tokens: self.prompt_tokens.or(self.total_tokens),
        }
    }
}

fn whole(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

struct Rows<'v, A> {
    n: usize,
    allocate: Option<A>,
    /// The dimension and n rows of it, once the dimension is known.
    place: Option<(usize, &'v mut [f32])>,
    /// What became of each row.
    seen: Vec<Result<(), BadRow>>,
}

impl<'v, A: FnOnce(usize) -> Option<&'v mut [f32]>> Rows<'v, A> {
    fn open(&mut self, dimension: Option<usize>) -> Result<(), Problem> {
        let too_large = Problem::TooLarge {
            texts: self.n,
            dimension: dimension.unwrap_or(0),
        };
        self.seen.try_reserve_exact(self.n).map_err(|_| too_large)?;
        self.seen.resize(self.n, Err(BadRow::Missing));
        dimension.map_or(Ok(()), |dimension| self.allocate(dimension))
    }

    fn allocate(&mut self, dimension: usize) -> Result<(), Problem> {
        let length = self.n.checked_mul(dimension);
        let place = self
            .allocate
            .take()
            .and_then(|allocate| allocate(dimension));
        match place {
            Some(rows) if Some(rows.len()) == length => {
                self.place = Some((dimension, rows));
                Ok(())
            }
            _ => Err(Problem::TooLarge {
                texts: self.n,
                dimension,
            }),
        }
    }

    fn put(&mut self, index: usize, vector: &Vector<'_>) -> Result<(), Problem> {
        self.seen[index] = if self.seen[index] != Err(BadRow::Missing) {
            Err(BadRow::Duplicate)
        } else if let Some((dimension, rows)) = &mut self.place {
            vector.write(&mut rows[index * *dimension..][..*dimension])?
        } else {
            self.put_first(index, vector)?
        };
        Ok(())
    }

    /// Learn the dimension from a row, if it is of use.
    fn put_first(
        &mut self,
        index: usize,
        vector: &Vector<'_>,
    ) -> Result<Result<(), BadRow>, Problem> {
        let dimension = match vector.dimension() {
            Ok(dimension) if dimension <= LONGEST => dimension,
            Ok(dimension) => {
                return Err(Problem::TooLarge {
                    texts: self.n,
                    dimension,
                });
            }
            Err(bad) => return Ok(Err(bad)),
        };
        let mut first = vec![0.0; dimension];
        let written = vector.write(&mut first)?;
        if written.is_ok() {
            self.allocate(dimension)?;
            if let Some((_, rows)) = &mut self.place {
                rows[index * dimension..][..dimension].copy_from_slice(&first);
            }
        }
        Ok(written)
    }

    /// Refuses rows that are of no use for one reason: the model's vectors are of another length.
    fn check_dimension(&self) -> Result<(), Problem> {
        match self.seen.first() {
            Some(&first @ Err(BadRow::Dimension { found, expected }))
                if self.n > 1 && self.seen.iter().all(|row| *row == first) =>
            {
                Err(Problem::Dimension { found, expected })
            }
            _ => Ok(()),
        }
    }

    fn finish(self) -> (Option<usize>, Vec<(usize, BadRow)>) {
        let bad = self.seen.into_iter().enumerate();
        let bad: Vec<_> = bad
            .filter_map(|(row, seen)| Some((row, seen.err()?)))
            .collect();
        let Some((dimension, rows)) = self.place else {
            return (None, bad);
        };
        for (row, _) in &bad {
            rows[row * dimension..][..dimension].fill(f32::NAN);
        }
        (Some(dimension), bad)
    }
}
