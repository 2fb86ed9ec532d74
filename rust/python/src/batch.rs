//! Many texts at once: checked and borrowed attached, worked on detached.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::pool;
use crate::text::{Text, as_str};

/// Between slabs of this many bytes a batch looks for Ctrl-C: some tenths of a second.
const SLAB_BYTES: usize = 16 << 20;

/// The texts of a batch, held by a tuple so that nothing can drop them while the thread is detached.
pub struct Batch<'py> {
    held: Bound<'py, PyTuple>,
}

impl<'py> Batch<'py> {
    pub fn new(texts: &Bound<'py, PyAny>) -> PyResult<Self> {
        if as_str(texts).is_some() {
            return Err(PyTypeError::new_err(
                "texts must be a list of str, not one str: each letter would be taken for a text",
            ));
        }
        let held = texts
            .py()
            .get_type::<PyTuple>()
            .call1((texts,))?
            .cast_into()?;
        Ok(Self { held })
    }

    pub fn py(&self) -> Python<'py> {
        self.held.py()
    }

    /// The texts, or an error that names the first item that is none.
    pub fn strings(&self) -> PyResult<Vec<&Bound<'py, PyString>>> {
        let wrong = |index: usize, item: &Bound<'py, PyAny>| {
            let kind = item
                .get_type()
                .name()
                .map_or_else(|_| "?".to_owned(), |name| name.to_string());
            PyTypeError::new_err(format!("texts[{index}] must be a str, not {kind}"))
        };
        let items = self.held.as_slice().iter().enumerate();
        items
            .map(|(index, item)| as_str(item).ok_or_else(|| wrong(index, item)))
            .collect()
    }

    /// Applies `work` to every text, detached and on all cores where there is enough to do.
    pub fn map<T: Send>(
        &self,
        py: Python<'py>,
        work: impl Fn(&mut Vec<u8>, Text<'_>) -> T + Sync,
    ) -> PyResult<Vec<T>> {
        let strings = self.strings()?;
        let texts = strings
            .iter()
            .map(|string| Text::new(string))
            .collect::<PyResult<Vec<_>>>()?;
        let mut results = Vec::with_capacity(texts.len());
        let mut rest = texts.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let full = rest.iter().position(|text| {
                bytes += text.size();
                bytes >= SLAB_BYTES
            });
            let (slab, after) = rest.split_at(full.map_or(rest.len(), |last| last + 1));
            results
                .extend(py.detach(|| pool::map(slab, bytes, |buffer, text| work(buffer, *text))));
            rest = after;
            py.check_signals()?;
        }
        Ok(results)
    }
}
