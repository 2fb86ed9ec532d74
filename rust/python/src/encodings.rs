//! The encodings by name: one object each.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use tollway_core::tokens::{self, ENCODINGS};

use crate::tokens::PyEncoding;

/// For the life of the interpreter.
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
    module.add_function(wrap_pyfunction!(find_encoding, module)?)?;
    module.add_function(wrap_pyfunction!(encoding_names, module)?)
}
