//! `tollway.Encoding`: tiktoken's methods, and counting and cutting in batches.

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
    #[getter]
    fn name(&self) -> &'static str {
        self.0.name()
    }

    #[getter]
    fn n_vocab(&self) -> u32 {
        self.0.max_id() + 1
    }

    #[getter]
    fn max_token_value(&self) -> u32 {
        self.0.max_id()
    }

    #[getter]
    fn eot_token(&self) -> Option<u32> {
        self.0.specials().id("<|endoftext|>")
    }

    #[getter]
    fn special_tokens_set<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PySet>> {
        PySet::new(py, self.0.specials().iter().map(|(token, _)| token))
    }

    fn count(&self, py: Python<'_>, text: &Bound<'_, PyString>) -> PyResult<usize> {
        Ok(run(py, Text::new(text)?, |text| self.0.count(text)))
    }

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

    fn encode_ordinary(&self, py: Python<'_>, text: &Bound<'_, PyString>) -> PyResult<Ids> {
        Ok(Ids(run(py, Text::new(text)?, |text| self.ordinary(text))))
    }

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

    fn encode_single_token(&self, text_or_bytes: &Bound<'_, PyAny>) -> PyResult<u32> {
        let mut buffer = Vec::new();
        let token = match as_str(text_or_bytes) {
            Some(string) => Text::new(string)?.utf8(&mut buffer).as_bytes(),
            None => text_or_bytes.extract()?,
        };
        let missing = || PyKeyError::new_err(PyBytes::new(text_or_bytes.py(), token).unbind());
        self.0.id(token).ok_or_else(missing)
    }

    fn decode_bytes<'py>(&self, tokens: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        decode::bytes(self.0, tokens)
    }

    #[pyo3(signature = (tokens, errors="replace"))]
    fn decode<'py>(&self, tokens: &Bound<'py, PyAny>, errors: &str) -> PyResult<Bound<'py, PyAny>> {
        decode::text(self.0, tokens, errors)
    }

    fn decode_tokens_bytes<'py>(
        &self,
        tokens: &Bound<'py, PyAny>,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        decode::tokens(self.0, tokens)
    }

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

    fn token_byte_values<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        let specials = self.0.specials();
        let mut tokens: Vec<_> = (0..=self.0.max_id())
            .filter(|&id| specials.text(id).is_none())
            .filter_map(|id| self.0.token(id))
            .collect();
        tokens.sort_unstable();
        tokens.iter().map(|token| PyBytes::new(py, token)).collect()
    }

    fn is_special_token(&self, token: &Bound<'_, PyInt>) -> bool {
        // What is no u32 is no token.
        token
            .extract()
            .is_ok_and(|id| self.0.specials().text(id).is_some())
    }

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

    fn decode_single_token_bytes<'py>(
        &self,
        py: Python<'py>,
        token: u32,
    ) -> PyResult<Bound<'py, PyBytes>> {
        decode::token(py, self.0, token)
    }

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
