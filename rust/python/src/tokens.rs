//! `tollway.Encoding`: tiktoken's methods, and counting and cutting in batches.

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList, PySet, PyString};
use tollway_core::tokens::{self, ENCODINGS, Truncated};

use crate::batch::Batch;
use crate::errors;
use crate::rules::{Rules, refused};
use crate::text::{Text, as_str, substring};

/// A single text of more bytes is worked on with the thread detached.
const DETACH_BYTES: usize = 16 << 10;

type IdsAndOffsets<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<i64>>);

#[pyclass(frozen, name = "Encoding", module = "tollway")]
pub struct PyEncoding(&'static tokens::Encoding);

/// Runs `work` detached where the text is long enough for other threads to notice.
fn run<T: Send>(py: Python<'_>, text: Text<'_>, work: impl FnOnce(&str) -> T + Send) -> T {
    if text.size() > DETACH_BYTES {
        py.detach(|| text.read(work))
    } else {
        text.read(work)
    }
}

/// How many code points of the text to keep, or `None` where it fits.
fn keep(
    encoding: &tokens::Encoding,
    text: Text<'_>,
    max_tokens: usize,
    buffer: &mut Vec<u8>,
) -> Option<usize> {
    // Text that must be transcoded is looked at in growing beginnings; ASCII as it is.
    let mut points = match text {
        Text::Ascii(_) => usize::MAX,
        _ => max_tokens.saturating_mul(4).saturating_add(256),
    };
    loop {
        let seen = text.prefix(points);
        match encoding.truncate(seen.utf8(buffer), max_tokens, seen.len() < text.len()) {
            Truncated::Fits => return None,
            Truncated::Cut(bytes) => return Some(seen.points_in(bytes)),
            Truncated::MoreNeeded => points = points.saturating_mul(2),
        }
    }
}

fn token_budget(max_tokens: i64) -> PyResult<usize> {
    usize::try_from(max_tokens).map_err(|_| {
        errors::configuration(format!("max_tokens must be 0 or more, not {max_tokens}"))
    })
}

fn ids(tokens: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    if !tokens.is_instance_of::<PyList>()
        && let Ok(array) = tokens.extract::<PyReadonlyArray1<'_, u32>>()
        && let Ok(slice) = array.as_slice()
    {
        return Ok(slice.to_vec());
    }
    tokens.try_iter()?.map(|id| id?.extract()).collect()
}

impl PyEncoding {
    fn bytes_of(&self, tokens: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
        let mut bytes = Vec::new();
        self.0.decode(&ids(tokens)?, &mut bytes).map_err(|id| {
            PyKeyError::new_err(format!("No token of {} has id {id}", self.0.name()))
        })?;
        Ok(bytes)
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
        signature = (text, *, allowed_special=None, disallowed_special=None),
        text_signature = "($self, text, *, allowed_special=..., disallowed_special='all')"
    )]
    fn encode(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyString>,
        allowed_special: Option<&Bound<'_, PyAny>>,
        disallowed_special: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Vec<u32>> {
        let rules = Rules::read(allowed_special, disallowed_special)?;
        run(py, Text::new(text)?, |text| rules.encode(self.0, text))
            .map_err(|token| refused(&token))
    }

    fn encode_ordinary(&self, py: Python<'_>, text: &Bound<'_, PyString>) -> PyResult<Vec<u32>> {
        Ok(run(py, Text::new(text)?, |text| self.ordinary(text)))
    }

    #[pyo3(
        signature = (text, *, num_threads=8, allowed_special=None, disallowed_special=None),
        text_signature = "($self, text, *, num_threads=8, allowed_special=..., disallowed_special='all')"
    )]
    fn encode_batch(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyAny>,
        num_threads: usize,
        allowed_special: Option<&Bound<'_, PyAny>>,
        disallowed_special: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Vec<Vec<u32>>> {
        let _ = num_threads; // the pool has as many as there are cores
        let rules = Rules::read(allowed_special, disallowed_special)?;
        let encode = |buffer: &mut Vec<u8>, text: Text<'_>| rules.encode(self.0, text.utf8(buffer));
        let results = Batch::new(text)?.map(py, encode)?;
        results
            .into_iter()
            .map(|ids| ids.map_err(|token| refused(&token)))
            .collect()
    }

    #[pyo3(signature = (text, *, num_threads=8))]
    fn encode_ordinary_batch(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyAny>,
        num_threads: usize,
    ) -> PyResult<Vec<Vec<u32>>> {
        let _ = num_threads; // as in `encode_batch`
        Batch::new(text)?.map(py, |buffer, text| self.ordinary(text.utf8(buffer)))
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
        Ok(PyBytes::new(tokens.py(), &self.bytes_of(tokens)?))
    }

    #[pyo3(signature = (tokens, errors="replace"))]
    fn decode<'py>(&self, tokens: &Bound<'py, PyAny>, errors: &str) -> PyResult<Bound<'py, PyAny>> {
        let bytes = self.bytes_of(tokens)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(PyString::new(tokens.py(), text).into_any()),
            Err(_) => PyBytes::new(tokens.py(), &bytes).call_method1("decode", ("utf-8", errors)),
        }
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
        let bytes = self
            .0
            .token(token)
            .ok_or_else(|| PyKeyError::new_err(token.to_string()))?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn truncate<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'py, PyString>,
        max_tokens: i64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let max_tokens = token_budget(max_tokens)?;
        let read = Text::new(text)?;
        let work = || keep(self.0, read, max_tokens, &mut Vec::new());
        let points = if read.size() > DETACH_BYTES {
            py.detach(work)
        } else {
            work()
        };
        points.map_or_else(
            || Ok(text.clone().into_any()),
            |points| substring(text, points),
        )
    }

    fn truncate_batch<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        max_tokens: i64,
    ) -> PyResult<Bound<'py, PyList>> {
        let max_tokens = token_budget(max_tokens)?;
        let batch = Batch::new(texts)?;
        let kept = batch.map(py, |buffer, text| keep(self.0, text, max_tokens, buffer))?;
        let cut = |(text, points): (&Bound<'py, PyString>, Option<usize>)| match points {
            None => Ok(text.clone().into_any()),
            Some(points) => substring(text, points),
        };
        let cuts = batch
            .strings()?
            .into_iter()
            .zip(kept)
            .map(cut)
            .collect::<PyResult<Vec<_>>>()?;
        PyList::new(py, cuts)
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

/// One object an encoding, for the life of the interpreter.
static OBJECTS: PyOnceLock<Vec<Py<PyEncoding>>> = PyOnceLock::new();

#[pyfunction]
fn find_encoding(py: Python<'_>, name: &str) -> PyResult<Option<Py<PyEncoding>>> {
    let objects = OBJECTS.get_or_try_init(py, || {
        ENCODINGS
            .iter()
            .map(|encoding| Py::new(py, PyEncoding(encoding)))
            .collect::<PyResult<_>>()
    })?;
    let found = ENCODINGS
        .iter()
        .position(|encoding| encoding.name() == name);
    Ok(found.map(|at| objects[at].clone_ref(py)))
}

#[pyfunction]
fn encoding_names() -> Vec<&'static str> {
    ENCODINGS.iter().map(tokens::Encoding::name).collect()
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyEncoding>()?;
    module.add_function(wrap_pyfunction!(find_encoding, module)?)?;
    module.add_function(wrap_pyfunction!(encoding_names, module)?)
}
