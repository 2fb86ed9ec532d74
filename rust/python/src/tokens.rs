//! `tollway.Encoding`: tiktoken's methods, and counting and cutting in batches.

#![expect(
    clippy::doc_markdown,
    reason = "they are docstrings, which `help` shows: as in the stub"
)]

use numpy::{IntoPyArray, PyArray1};
use pyo3::exceptions::{PyKeyError, PyNotImplementedError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PySet, PyString, PyTuple};
use tollway_core::tokens;

use crate::batch::Batch;
use crate::cut::{DETACH_BYTES, Shortening, chunks};
use crate::decode;
use crate::ids::Ids;
use crate::rules::{Allowed, Disallowed, Rules, refused};
use crate::text::{Text, as_str, substring};

type IdsAndOffsets<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<i64>>);

/// One of the published encodings, made with `tollway.get_encoding`.
///
/// Ids are tiktoken's on every input. `encode`, `encode_batch` and `encode_to_numpy` treat special
/// tokens as tiktoken does; all other methods take them as ordinary text. A pair of surrogates is
/// the character it stands for, a lone one U+FFFD. Any number of threads may use an object. Batches
/// of 64 KB and more use all cores, with the interpreter free for other threads; `num_threads` is
/// taken for compatibility and not used. A batch that is one str, or has an item that is none,
/// raises TypeError with the item's index, and an id that stands for nothing KeyError.
#[pyclass(frozen, name = "Encoding", module = "tollway")]
pub struct PyEncoding(pub &'static tokens::Encoding);

/// Runs `work` detached where the text is long.
fn run<T: Send>(py: Python<'_>, text: Text<'_>, work: impl FnOnce(&str) -> T + Send) -> T {
    if text.size() > DETACH_BYTES {
        py.detach(|| text.read(work))
    } else {
        text.read(work)
    }
}

#[pymethods]
impl PyEncoding {
    /// Its published name, such as `o200k_base`.
    #[getter]
    fn name(&self) -> &'static str {
        self.0.name()
    }

    /// `max_token_value` + 1; some ids below it may stand for nothing.
    #[getter]
    fn n_vocab(&self) -> u32 {
        self.0.max_id() + 1
    }

    /// The highest id, special tokens included.
    #[getter]
    fn max_token_value(&self) -> u32 {
        self.0.max_id()
    }

    /// The id of `<|endoftext|>`.
    #[getter]
    fn eot_token(&self) -> Option<u32> {
        self.0.specials().id("<|endoftext|>")
    }

    /// The text of every special token; a new set each time.
    #[getter]
    fn special_tokens_set<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PySet>> {
        PySet::new(py, self.0.specials().iter().map(|(token, _)| token))
    }

    /// Return the number of tokens of a text.
    fn count(&self, py: Python<'_>, text: &Bound<'_, PyString>) -> PyResult<usize> {
        Ok(run(py, Text::new(text)?, |text| self.0.count(text)))
    }

    /// Count the tokens of n texts: shape (n,), int64, entry i for text i.
    fn count_batch<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let count = |buffer: &mut Vec<u8>, text: Text<'_>| {
            // At most one token a byte, and no text has 2⁶³ bytes.
            self.0.count(text.utf8(buffer)).cast_signed() as i64
        };
        Ok(Batch::new(texts)?.map(py, count)?.into_pyarray(py))
    }

    /// Return the ids of a text.
    ///
    /// Each string of `allowed_special` becomes one id. One of `disallowed_special`, by default
    /// every other special token, raises ValueError with its name; `()` disallows none. TypeError
    /// where `allowed_special` is one str other than "all".
    #[pyo3(
        signature = (text, *, allowed_special=Allowed::none(), disallowed_special=Disallowed::all()),
        text_signature = "($self, text, *, allowed_special=..., disallowed_special='all')"
    )]
    fn encode(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyString>,
        allowed_special: Allowed,
        disallowed_special: Disallowed,
    ) -> PyResult<Ids> {
        let rules = Rules {
            allowed: allowed_special,
            disallowed: disallowed_special,
        };
        run(py, Text::new(text)?, |text| rules.encode(self.0, text))
            .map(Ids)
            .map_err(|token| refused(&token))
    }

    /// Return the ids of a text as an array of shape (n,); see `encode`.
    #[pyo3(
        signature = (text, *, allowed_special=Allowed::none(), disallowed_special=Disallowed::all()),
        text_signature = "($self, text, *, allowed_special=..., disallowed_special='all')"
    )]
    fn encode_to_numpy<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'py, PyString>,
        allowed_special: Allowed,
        disallowed_special: Disallowed,
    ) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let Ids(ids) = self.encode(py, text, allowed_special, disallowed_special)?;
        Ok(ids.into_pyarray(py))
    }

    /// Raise NotImplementedError: tiktoken calls it unstable, and no pipeline needs it.
    #[pyo3(
        signature = (text, *, allowed_special=Allowed::none(), disallowed_special=Disallowed::all()),
        text_signature = "($self, text, *, allowed_special=..., disallowed_special='all')"
    )]
    #[allow(unused_variables, clippy::needless_pass_by_value, clippy::unused_self)] // tiktoken's
    fn encode_with_unstable(
        &self,
        text: &Bound<'_, PyString>,
        allowed_special: Allowed,
        disallowed_special: Disallowed,
    ) -> PyResult<(Vec<u32>, Vec<Vec<u32>>)> {
        Err(PyNotImplementedError::new_err(
            "encode_with_unstable is an experiment of tiktoken's whose answer no caller should \
             depend on; tollway leaves it out",
        ))
    }

    /// Return the ids of a text; special tokens are ordinary text.
    fn encode_ordinary(&self, py: Python<'_>, text: &Bound<'_, PyString>) -> PyResult<Ids> {
        Ok(Ids(run(py, Text::new(text)?, |text| self.ordinary(text))))
    }

    /// Return the ids of each text; arguments and errors as in `encode`.
    #[pyo3(
        signature = (text, *, num_threads=8, allowed_special=Allowed::none(), disallowed_special=Disallowed::all()),
        text_signature = "($self, text, *, num_threads=8, allowed_special=..., disallowed_special='all')"
    )]
    fn encode_batch(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyAny>,
        num_threads: usize,
        allowed_special: Allowed,
        disallowed_special: Disallowed,
    ) -> PyResult<Vec<Ids>> {
        let _ = num_threads; // the pool has as many as there are cores
        let rules = Rules {
            allowed: allowed_special,
            disallowed: disallowed_special,
        };
        let encode = |buffer: &mut Vec<u8>, text: Text<'_>| rules.encode(self.0, text.utf8(buffer));
        let results = Batch::new(text)?.map(py, encode)?;
        results
            .into_iter()
            .map(|ids| ids.map(Ids).map_err(|token| refused(&token)))
            .collect()
    }

    /// Return the ids of each text; special tokens are ordinary text.
    #[pyo3(signature = (text, *, num_threads=8))]
    fn encode_ordinary_batch(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyAny>,
        num_threads: usize,
    ) -> PyResult<Vec<Ids>> {
        let _ = num_threads; // as in `encode_batch`
        Batch::new(text)?.map(py, |buffer, text| Ids(self.ordinary(text.utf8(buffer))))
    }

    /// Encode n texts into one array: (ids, offsets), uint32 and int64 of shape (n + 1,).
    ///
    /// The ids of text i are `ids[offsets[i]:offsets[i + 1]]`.
    fn encode_array<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
    ) -> PyResult<IdsAndOffsets<'py>> {
        let encode = |buffer: &mut Vec<u8>, text: Text<'_>| self.ordinary(text.utf8(buffer));
        let encoded = Batch::new(texts)?.map(py, encode)?;
        let mut offsets = Vec::with_capacity(encoded.len() + 1);
        offsets.push(0);
        let mut end = 0;
        for ids in &encoded {
            end += ids.len().cast_signed() as i64;
            offsets.push(end);
        }
        let ids = py.detach(|| encoded.concat());
        Ok((ids.into_pyarray(py), offsets.into_pyarray(py)))
    }

    /// Return the id of a token or special token; KeyError where it is not one.
    fn encode_single_token(&self, text_or_bytes: &Bound<'_, PyAny>) -> PyResult<u32> {
        let mut buffer = Vec::new();
        let token = match as_str(text_or_bytes) {
            Some(string) => Text::new(string)?.utf8(&mut buffer).as_bytes(),
            None => text_or_bytes.extract()?,
        };
        let missing = || PyKeyError::new_err(PyBytes::new(text_or_bytes.py(), token).unbind());
        self.0.id(token).ok_or_else(missing)
    }

    /// Return the UTF-8 bytes of the ids.
    fn decode_bytes<'py>(&self, tokens: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        decode::bytes(self.0, tokens)
    }

    /// Return the text of the ids; `errors` is `bytes.decode`'s, for ids that cut characters.
    #[pyo3(signature = (tokens, errors="replace"))]
    fn decode<'py>(&self, tokens: &Bound<'py, PyAny>, errors: &str) -> PyResult<Bound<'py, PyAny>> {
        decode::text(self.0, tokens, errors)
    }

    /// Return the bytes of each id.
    fn decode_tokens_bytes<'py>(
        &self,
        tokens: &Bound<'py, PyAny>,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        decode::tokens(self.0, tokens)
    }

    /// Return the text of the ids and, for each, the index of the character it begins in.
    ///
    /// UnicodeDecodeError where the bytes of the ids are no UTF-8.
    // The iterable may be one that can be read once.
    fn decode_with_offsets<'py>(
        &self,
        tokens: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyAny>, Vec<usize>)> {
        let tokens = PyTuple::new(
            tokens.py(),
            tokens.try_iter()?.collect::<PyResult<Vec<_>>>()?,
        )?;
        let text = decode::text(self.0, &tokens, "strict")?;
        Ok((text, decode::offsets(self.0, &tokens)?))
    }

    /// Return the bytes of each sequence of ids.
    #[pyo3(signature = (batch, *, num_threads=8))]
    fn decode_bytes_batch<'py>(
        &self,
        batch: &Bound<'py, PyAny>,
        num_threads: usize,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let _ = num_threads; // as in `decode_batch`
        batch
            .try_iter()?
            .map(|tokens| decode::bytes(self.0, &tokens?))
            .collect()
    }

    /// Return the bytes of every token but the special ones, sorted.
    fn token_byte_values<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        let specials = self.0.specials();
        let mut tokens: Vec<_> = (0..=self.0.max_id())
            .filter(|&id| specials.text(id).is_none())
            .filter_map(|id| self.0.token(id))
            .collect();
        tokens.sort_unstable();
        tokens.iter().map(|token| PyBytes::new(py, token)).collect()
    }

    /// Tell whether an id is that of a special token; False for one that stands for nothing.
    fn is_special_token(&self, token: &Bound<'_, PyInt>) -> bool {
        // What is no u32 is no token.
        token
            .extract()
            .is_ok_and(|id| self.0.specials().text(id).is_some())
    }

    /// Return the text of each sequence of ids; see `decode`.
    #[pyo3(signature = (batch, *, errors="replace", num_threads=8))]
    fn decode_batch<'py>(
        &self,
        batch: &Bound<'py, PyAny>,
        errors: &str,
        num_threads: usize,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let _ = num_threads; // making str objects is the most of the work, and that is serial
        batch
            .try_iter()?
            .map(|tokens| self.decode(&tokens?, errors))
            .collect()
    }

    /// Return the bytes of one id.
    fn decode_single_token_bytes<'py>(
        &self,
        py: Python<'py>,
        token: u32,
    ) -> PyResult<Bound<'py, PyBytes>> {
        decode::token(py, self.0, token)
    }

    /// Return the text where it fits, the same object; else t with `count(t) <= max_tokens`.
    ///
    /// Reads about as much of the text as it keeps, and never splits a character.
    ///
    /// Args:
    ///     text: Any string.
    ///     max_tokens: The most tokens, those of the marker included.
    ///     side: Where tokens are taken out. `end` keeps the beginning, `start` the ending,
    ///         `middle` half of each.
    ///     marker: Stands where text was taken out; left out where it alone is over `max_tokens`.
    ///
    /// Raises:
    ///     ConfigurationError: `max_tokens` is negative, or there is no such side.
    #[pyo3(signature = (text, max_tokens, side="end", marker=None))]
    #[pyo3(text_signature = "($self, text, max_tokens, side='end', marker='')")]
    fn truncate<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'py, PyString>,
        max_tokens: i64,
        side: &str,
        marker: Option<Bound<'py, PyString>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let marker = marker.unwrap_or_else(|| PyString::new(py, ""));
        Shortening::new(self.0, max_tokens, side, &marker)?.apply(text)
    }

    /// Truncate each text; see `truncate`.
    #[pyo3(signature = (texts, max_tokens, side="end", marker=None))]
    #[pyo3(text_signature = "($self, texts, max_tokens, side='end', marker='')")]
    fn truncate_batch<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        max_tokens: i64,
        side: &str,
        marker: Option<Bound<'py, PyString>>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let marker = marker.unwrap_or_else(|| PyString::new(py, ""));
        Shortening::new(self.0, max_tokens, side, &marker)?.apply_batch(texts)
    }

    /// Split a text into chunks of at most `max_tokens` tokens each.
    ///
    /// Without overlap the chunks are the text, in order and whole. With it a chunk begins with
    /// `truncate(before, overlap, side="start")` of the chunk before; where that is all of it, or
    /// leaves no room for a character more, half of `overlap` is tried, and so on: each chunk
    /// begins and ends later than the one before.
    ///
    /// Args:
    ///     text: Any string; "" has no chunks. One that fits is returned as the same object.
    ///     max_tokens: The most tokens a chunk.
    ///     overlap: The most tokens that a chunk repeats of the one before.
    ///     prefer: Where a chunk ends, if there is such a place in the second half of what it
    ///         adds: `line` after a line break; `sentence` after `.`, `!`, `?` or `…` and white
    ///         space, after their wide forms, or after a blank line, else as `line`.
    ///
    /// Raises:
    ///     ConfigurationError: `max_tokens` is less than a character of the text has (4 at most),
    ///         `overlap` is not from 0 to `max_tokens` - 1, or no such preference.
    #[pyo3(signature = (text, max_tokens, overlap=0, prefer=None))]
    fn chunk<'py>(
        &self,
        text: &Bound<'py, PyString>,
        max_tokens: i64,
        overlap: i64,
        prefer: Option<&str>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let chunks = chunks(self.0, text, max_tokens, overlap, prefer)?;
        if chunks.len() == 1 {
            return Ok(vec![text.clone().into_any()]);
        }
        chunks
            .into_iter()
            .map(|chunk| substring(text, chunk))
            .collect()
    }

    /// Return where the chunks of `chunk` begin and end in the text; errors as there.
    #[pyo3(signature = (text, max_tokens, overlap=0, prefer=None))]
    fn chunk_spans(
        &self,
        text: &Bound<'_, PyString>,
        max_tokens: i64,
        overlap: i64,
        prefer: Option<&str>,
    ) -> PyResult<Vec<(usize, usize)>> {
        let chunks = chunks(self.0, text, max_tokens, overlap, prefer)?;
        Ok(chunks
            .into_iter()
            .map(|span| (span.start, span.end))
            .collect())
    }

    /// Return the vocabulary as published, or as its equal `r50k_base` for `gpt2`.
    fn rank_file<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| self.0.rank_file()))
    }

    fn __repr__(&self) -> String {
        format!("<Encoding '{}'>", self.0.name())
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (&'static str,))> {
        let get_encoding = py.import("tollway.tokens")?.getattr("get_encoding")?;
        Ok((get_encoding, (self.0.name(),)))
    }
}

impl PyEncoding {
    fn ordinary(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.0.encode(text, &mut ids);
        ids
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyEncoding>()
}
