//! `tollway._core`: converts, detaches, calls the core, converts back.

mod batch;
mod bucket;
mod cut;
mod decode;
mod embed;
mod encodings;
mod errors;
mod limiter;
mod pool;
mod retry;
mod rules;
mod text;
mod tokens;

use pyo3::prelude::*;

/// The compiled core of tollway.
#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    bucket::register(module)?;
    embed::register(module)?;
    limiter::register(module)?;
    pool::register(module)?;
    retry::register(module)?;
    encodings::register(module)?;
    tokens::register(module)
}
