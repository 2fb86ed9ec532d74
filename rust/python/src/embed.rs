//! Packing, request bodies, answers and the table of rows for Python.
#![allow(
    clippy::needless_pass_by_value,
    reason = "PyO3 hands over what it extracts"
)]

use std::sync::{Mutex, PoisonError};

use foldhash::quality::RandomState;
use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};
use tollway_core::embed::{
    self, BodyError, BodyWriter, Caps, Decoded, Digest, PackError, Problem, Request,
};

use crate::batch::Batch;
use crate::errors;
use crate::text::Text;

type Distinct<'py> = (
    Bound<'py, PyList>,
    Option<(Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i64>>)>,
);

#[pyfunction]
fn distinct<'py>(py: Python<'py>, texts: &Bound<'py, PyAny>) -> PyResult<Distinct<'py>> {
    let batch = Batch::new(texts)?;
    let strings = batch.strings()?;
    let texts = strings.iter().map(|string| Text::new(string));
    let texts = texts.collect::<PyResult<Vec<_>>>()?;
    let repeats = py.detach(|| embed::repeats(&texts, RandomState::default()));
    if repeats.firsts.len() == texts.len() {
        return Ok((PyList::new(py, strings)?, None));
    }
    let firsts = PyList::new(py, repeats.firsts.iter().map(|&first| strings[first]))?;
    Ok((
        firsts,
        Some((places(py, repeats.firsts), places(py, repeats.kinds))),
    ))
}

fn places(py: Python<'_>, places: Vec<usize>) -> Bound<'_, PyArray1<i64>> {
    let places = places
        .into_iter()
        .map(|place| i64::try_from(place).unwrap_or(i64::MAX));
    PyArray1::from_iter(py, places)
}

#[pyfunction]
#[pyo3(signature = (counts, max_texts, max_tokens=None, *, target_tokens=None))]
fn pack<'py>(
    py: Python<'py>,
    counts: PyReadonlyArray1<'py, i64>,
    max_texts: usize,
    max_tokens: Option<u64>,
    target_tokens: Option<u64>,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let caps = Caps {
        texts: max_texts,
        tokens: max_tokens,
        target_tokens,
    };
    // Attached: about a nanosecond a text, and nobody may write to the array meanwhile.
    let offsets = match counts.as_slice() {
        Ok(counts) => embed::pack(counts, caps),
        Err(_) => embed::pack(&counts.as_array().to_vec(), caps),
    };
    Ok(places(py, offsets.map_err(not_packed)?))
}

fn not_packed(error: PackError) -> PyErr {
    match error {
        PackError::TooLarge { .. } => errors::request_too_large(error.to_string()),
        PackError::Negative { .. } => errors::configuration(error.to_string()),
    }
}

#[pyfunction]
#[pyo3(signature = (counts, max_texts, max_tokens=None, *, whole=true))]
fn pack_fewest<'py>(
    py: Python<'py>,
    counts: PyReadonlyArray1<'py, i64>,
    max_texts: usize,
    max_tokens: Option<u64>,
    whole: bool,
) -> PyResult<Vec<Bound<'py, PyArray1<i64>>>> {
    let caps = Caps {
        texts: max_texts,
        tokens: max_tokens,
        target_tokens: None,
    };
    let counts = counts.as_array().to_vec();
    let requests = py
        .detach(|| embed::pack_fewest(&counts, caps, whole))
        .map_err(not_packed)?;
    Ok(requests
        .into_iter()
        .map(|texts| places(py, texts))
        .collect())
}

#[pyfunction]
#[pyo3(signature = (rpm, tpm, *, provider_texts, provider_tokens=None, mean_tokens=None))]
fn request_caps(
    rpm: Option<u64>,
    tpm: Option<u64>,
    provider_texts: usize,
    provider_tokens: Option<u64>,
    mean_tokens: Option<u64>,
) -> (usize, Option<u64>) {
    let caps = embed::request_caps(rpm, tpm, provider_texts, provider_tokens, mean_tokens);
    (caps.texts, caps.target_tokens)
}

/// Below this many bytes of text, detaching costs more than what is done meanwhile.
const DETACHED_BYTES: usize = 8 << 10;

#[pyfunction]
#[pyo3(signature = (model, texts, *, dimensions=None, base64=true, extra=None))]
fn embeddings_body<'py>(
    py: Python<'py>,
    model: &Bound<'py, PyString>,
    texts: &Bound<'py, PyAny>,
    dimensions: Option<u32>,
    base64: bool,
    extra: Option<&[u8]>,
) -> PyResult<Bound<'py, PyBytes>> {
    let (body, _) = write_body(model, texts, dimensions, base64, extra)?;
    Ok(PyBytes::new(py, &body))
}

/// The body of a request, from strings that are read in place, and the number of them.
pub fn write_body(
    model: &Bound<'_, PyString>,
    texts: &Bound<'_, PyAny>,
    dimensions: Option<u32>,
    base64: bool,
    extra: Option<&[u8]>,
) -> PyResult<(Vec<u8>, usize)> {
    let batch = Batch::new(texts)?;
    let strings = batch.strings()?;
    let texts = strings.iter().map(|string| Text::new(string));
    let texts = texts.collect::<PyResult<Vec<_>>>()?;
    let model = Text::new(model)?.read(str::to_owned);
    let size = texts.iter().map(|text| text.size()).sum();
    let write = || {
        let request = Request {
            model: &model,
            dimensions,
            base64,
            extra,
        };
        let mut body = BodyWriter::new(&request, texts.len(), size)?;
        for text in &texts {
            text.read(|text| body.text(text));
        }
        Ok(body.finish())
    };
    let body = if size < DETACHED_BYTES {
        write()
    } else {
        batch.py().detach(write)
    };
    let body = body.map_err(|error: BodyError| errors::configuration(error.to_string()))?;
    Ok((body, texts.len()))
}

#[pyclass(frozen, module = "tollway._core")]
pub struct DecodedEmbeddings {
    #[pyo3(get)]
    vectors: Py<PyArray2<f32>>,
    #[pyo3(get)]
    bad_rows: Vec<(usize, String)>,
    #[pyo3(get)]
    prompt_tokens: Option<u64>,
}

#[pymethods]
impl DecodedEmbeddings {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let shape: (usize, usize) = self.vectors.getattr(py, "shape")?.extract(py)?;
        let (bad, tokens) = (self.bad_rows.len(), self.prompt_tokens);
        let tokens = tokens.map_or("None".to_owned(), |tokens| tokens.to_string());
        Ok(format!(
            "DecodedEmbeddings(vectors={shape:?}, bad_rows={bad}, prompt_tokens={tokens})"
        ))
    }
}

#[pyfunction]
#[pyo3(signature = (body, n, dimensions=None))]
fn decode_embeddings(
    py: Python<'_>,
    body: &[u8],
    n: usize,
    dimensions: Option<usize>,
) -> PyResult<DecodedEmbeddings> {
    if dimensions == Some(0) {
        return Err(errors::configuration("dimensions=0 is not at least 1"));
    }
    let (rows, decoded) = py
        .detach(|| embed::decode_new(body, n, dimensions))
        .map_err(|error| {
            let message = format!("the embeddings answer is of no use: {error}");
            match error.problem {
                Problem::Dimension { .. } => errors::provider(message),
                _ => errors::bad_response(message),
            }
        })?;
    let shape = (n, decoded.dimension.unwrap_or(0));
    let rows = Array2::from_shape_vec(shape, rows)
        .map_err(|error| errors::bad_response(error.to_string()))?;
    Ok(DecodedEmbeddings::new(rows.into_pyarray(py), decoded))
}

impl DecodedEmbeddings {
    pub fn new(vectors: Bound<'_, PyArray2<f32>>, decoded: Decoded) -> Self {
        let bad_rows = decoded
            .bad_rows
            .into_iter()
            .map(|(row, reason)| (row, reason.to_string()));
        Self {
            vectors: vectors.unbind(),
            bad_rows: bad_rows.collect(),
            prompt_tokens: decoded.prompt_tokens,
        }
    }
}

#[pyclass(frozen, module = "tollway._core")]
#[derive(Default)]
struct RowTable {
    table: Mutex<embed::RowTable>,
}

impl RowTable {
    /// A panic inside leaves no half-written entry that a later call could trip over.
    fn with<T>(&self, act: impl FnOnce(&mut embed::RowTable) -> T) -> T {
        act(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[pymethods]
impl RowTable {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    fn __len__(&self) -> usize {
        self.with(|table| table.len())
    }

    fn __contains__(&self, digest: &[u8]) -> PyResult<bool> {
        Ok(self.get(digest)?.is_some())
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.with(|table| table.nbytes())
    }

    fn get(&self, digest: &[u8]) -> PyResult<Option<u32>> {
        let digest = digest_of(digest)?;
        Ok(self.with(|table| table.get(&digest)))
    }

    fn get_batch<'py>(
        &self,
        py: Python<'py>,
        digests: Vec<Bound<'py, PyBytes>>,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let digests = digests_of(&digests)?;
        let rows = py.detach(|| {
            self.with(|table| {
                let row = |digest| table.get(digest).map_or(-1, i64::from);
                digests.iter().map(row).collect::<Vec<i64>>()
            })
        });
        Ok(rows.into_pyarray(py))
    }

    fn insert(&self, digest: &[u8], row: u32) -> PyResult<Option<u32>> {
        let digest = digest_of(digest)?;
        if row == u32::MAX {
            return Err(errors::configuration(format!(
                "row={row} is not under {}",
                u32::MAX
            )));
        }
        Ok(self.with(|table| table.insert(&digest, row)))
    }

    #[allow(clippy::type_complexity, reason = "two arrays are what the stub shows")]
    fn insert_new<'py>(
        &self,
        py: Python<'py>,
        digests: Vec<Bound<'py, PyBytes>>,
    ) -> PyResult<(Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<bool>>)> {
        let digests = digests_of(&digests)?;
        let known = py.detach(|| {
            self.with(|table| {
                let mut insert = |digest| table.insert_new(digest);
                digests
                    .iter()
                    .map(&mut insert)
                    .collect::<Option<Vec<(u32, bool)>>>()
            })
        });
        let known = known.ok_or_else(|| {
            errors::configuration("a table holds fewer than 4,294,967,295 distinct texts")
        })?;
        let (rows, new): (Vec<i64>, Vec<bool>) = known
            .into_iter()
            .map(|(row, new)| (i64::from(row), new))
            .unzip();
        Ok((rows.into_pyarray(py), new.into_pyarray(py)))
    }
}

fn digest_of(bytes: &[u8]) -> PyResult<Digest> {
    bytes.try_into().map_err(|_| {
        errors::configuration(format!("a digest has 16 bytes, this one {}", bytes.len()))
    })
}

fn digests_of(digests: &[Bound<'_, PyBytes>]) -> PyResult<Vec<Digest>> {
    digests
        .iter()
        .map(|digest| digest_of(digest.as_bytes()))
        .collect()
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<DecodedEmbeddings>()?;
    module.add_class::<RowTable>()?;
    module.add_function(wrap_pyfunction!(decode_embeddings, module)?)?;
    module.add_function(wrap_pyfunction!(distinct, module)?)?;
    module.add_function(wrap_pyfunction!(embeddings_body, module)?)?;
    module.add_function(wrap_pyfunction!(pack, module)?)?;
    module.add_function(wrap_pyfunction!(pack_fewest, module)?)?;
    module.add_function(wrap_pyfunction!(request_caps, module)?)
}
