//! From ids back to bytes and text.

use numpy::PyReadonlyArray1;
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};
use tollway_core::tokens::Encoding;

/// The ids of any sequence or array.
fn ids(tokens: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    if !tokens.is_instance_of::<PyList>()
        && let Ok(array) = tokens.extract::<PyReadonlyArray1<'_, u32>>()
        && let Ok(slice) = array.as_slice()
    {
        return Ok(slice.to_vec());
    }
    tokens.try_iter()?.map(|id| id?.extract()).collect()
}

fn unknown(id: u32) -> PyErr {
    PyKeyError::new_err(format!("No token has id {id}"))
}

/// The bytes of one id.
pub fn token<'py>(py: Python<'py>, encoding: &Encoding, id: u32) -> PyResult<Bound<'py, PyBytes>> {
    let bytes = encoding.token(id).ok_or_else(|| unknown(id))?;
    Ok(PyBytes::new(py, &bytes))
}

/// The bytes of each id.
pub fn tokens<'py>(
    encoding: &Encoding,
    tokens: &Bound<'py, PyAny>,
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    ids(tokens)?
        .into_iter()
        .map(|id| token(tokens.py(), encoding, id))
        .collect()
}

/// The bytes of all ids.
pub fn bytes<'py>(
    encoding: &Encoding,
    tokens: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    Ok(PyBytes::new(tokens.py(), &joined(encoding, tokens)?))
}

/// The text of all ids.
pub fn text<'py>(
    encoding: &Encoding,
    tokens: &Bound<'py, PyAny>,
    errors: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let bytes = joined(encoding, tokens)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(PyString::new(tokens.py(), text).into_any()),
        Err(_) => PyBytes::new(tokens.py(), &bytes).call_method1("decode", ("utf-8", errors)),
    }
}

/// For each id the character in which its token begins.
pub fn offsets(encoding: &Encoding, tokens: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    let continues = |byte: u8| byte & 0xc0 == 0x80;
    let mut characters = 0_usize;
    let mut offsets = Vec::new();
    for id in ids(tokens)? {
        let token = encoding.token(id).ok_or_else(|| unknown(id))?;
        let inside = token.first().is_some_and(|&byte| continues(byte));
        offsets.push(characters.saturating_sub(inside.into()));
        characters += token.iter().filter(|&&byte| !continues(byte)).count();
    }
    Ok(offsets)
}

fn joined(encoding: &Encoding, tokens: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let mut bytes = Vec::new();
    encoding
        .decode(&ids(tokens)?, &mut bytes)
        .map_err(unknown)?;
    Ok(bytes)
}
