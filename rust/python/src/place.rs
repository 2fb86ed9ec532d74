//! Rows of a caller's array that another thread may write to, until they are taken back.

use std::slice;
use std::sync::{Arc, Mutex, PoisonError};

use numpy::{PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::errors;

/// The place of n rows. It is open until the request has ended or is cancelled; the array must be
/// held for as long.
#[derive(Clone)]
pub struct Place(Arc<Mutex<Option<Rows>>>);

/// The array's own memory: C-contiguous, aligned and writable when it was taken.
struct Rows {
    first: *mut f32,
    shape: (usize, usize),
}

// SAFETY: the pointer is used under the mutex only, while `Place` is open.
unsafe impl Send for Rows {}

impl Place {
    /// The rows of an array of shape (n, d).
    pub fn new(array: &Bound<'_, PyArray2<f32>>, n: usize) -> PyResult<Self> {
        let shape = (array.shape()[0], array.shape()[1]);
        if shape.0 != n || shape.1 == 0 || !array.is_c_contiguous() {
            return Err(errors::configuration(format!(
                "out must be a C-contiguous array of {n} rows, not one of shape {shape:?}"
            )));
        }
        // Borrowed for a moment: it says whether the array may be written to.
        let first = array.try_readwrite()?.as_slice_mut()?.as_mut_ptr();
        Ok(Self(Arc::new(Mutex::new(Some(Rows { first, shape })))))
    }

    /// Length of a row, and what `work` makes of the rows; None where the place is closed.
    pub fn write<T>(&self, work: impl FnOnce(usize, &mut [f32]) -> T) -> Option<T> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Rows { first, shape } = rows.as_ref()?;
        // SAFETY: the place is open, so that the array is held (see `Completions::begin`) and its
        // memory is this long; the mutex makes this the only slice of ours. Python code that looks
        // at rows which it asked to be written sees old numbers or new ones.
        let slice = unsafe { slice::from_raw_parts_mut(*first, shape.0 * shape.1) };
        Some(work(shape.1, slice))
    }

    /// Takes the rows back: waits for a write that is under way, and prevents later ones.
    pub fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
