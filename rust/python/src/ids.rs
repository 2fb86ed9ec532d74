//! Ids as Python lists.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyInt, PyList};

/// Ids below this, which most tokens of any text have, are one `int` object each for the whole
/// process. Making another for each token costs more than finding the ids, and takes 28 bytes.
const SHARED: u32 = 1 << 16;

static INTS: PyOnceLock<Vec<PyOnceLock<Py<PyInt>>>> = PyOnceLock::new();

/// Becomes a `list` of `int`.
pub struct Ids(pub Vec<u32>);

impl<'py> IntoPyObject<'py> for Ids {
    type Target = PyList;
    type Output = Bound<'py, PyList>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let ints = INTS.get_or_init(py, || (0..SHARED).map(|_| PyOnceLock::new()).collect());
        let object = |&id: &u32| match ints.get(id as usize) {
            Some(int) => int
                .get_or_init(py, || PyInt::new(py, id).unbind())
                .bind(py)
                .clone(),
            None => PyInt::new(py, id),
        };
        PyList::new(py, self.0.iter().map(object))
    }
}
