//! Which special tokens `encode` takes and which it refuses, as tiktoken's arguments say it.

use std::collections::HashSet;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use tollway_core::tokens::Encoding;

use crate::text::as_str;

/// Which special tokens a call names.
enum Special {
    All,
    These(HashSet<String>),
}

impl Special {
    fn holds(&self, token: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(tokens) => tokens.contains(token),
        }
    }

    /// The strings of a collection, or `None` for the word `all`.
    fn read(argument: &Bound<'_, PyAny>) -> PyResult<Self> {
        if as_str(argument).is_some_and(|word| word == "all") {
            return Ok(Self::All);
        }
        let tokens = argument.try_iter()?.map(|token| token?.extract());
        tokens.collect::<PyResult<_>>().map(Self::These)
    }
}

/// The argument `allowed_special`.
pub struct Allowed(Special);

impl Allowed {
    /// Its default.
    pub fn none() -> Self {
        Self(Special::These(HashSet::new()))
    }
}

impl<'py> FromPyObject<'_, 'py> for Allowed {
    type Error = PyErr;

    fn extract(argument: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match Special::read(&argument)? {
            // A single token not in a set would be read as its letters, and allow nothing.
            Special::These(_) if as_str(&argument).is_some() => Err(PyTypeError::new_err(
                "allowed_special must be 'all' or a set of str",
            )),
            special => Ok(Self(special)),
        }
    }
}

/// The argument `disallowed_special`.
pub struct Disallowed(Special);

impl Disallowed {
    /// Its default: every special token that is not allowed.
    pub fn all() -> Self {
        Self(Special::All)
    }
}

impl<'py> FromPyObject<'_, 'py> for Disallowed {
    type Error = PyErr;

    fn extract(argument: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if argument.is_none() {
            return Ok(Self(Special::These(HashSet::new())));
        }
        Special::read(&argument).map(Self)
    }
}

/// How `encode` treats special tokens in a text.
pub struct Rules {
    pub allowed: Allowed,
    pub disallowed: Disallowed,
}

impl Rules {
    /// The ids, or the disallowed token that the text holds.
    pub fn encode(&self, encoding: &Encoding, text: &str) -> Result<Vec<u32>, String> {
        let specials = encoding.specials();
        let allowed = &self.allowed.0;
        let refused = match &self.disallowed.0 {
            Special::All => specials
                .find(text, 0, |token| !allowed.holds(token))
                .map(|found| text[found.bytes].to_owned()),
            Special::These(tokens) => tokens
                .iter()
                .filter_map(|token| Some((text.find(token.as_str())?, token)))
                .min()
                .map(|(_, token)| token.clone()),
        };
        if let Some(token) = refused {
            return Err(token);
        }
        let mut ids = Vec::new();
        encoding.encode_with_specials(text, |token| allowed.holds(token), &mut ids);
        Ok(ids)
    }
}

/// The error for a disallowed token in a text.
pub fn refused(token: &str) -> PyErr {
    PyValueError::new_err(format!(
        "The text holds the special token {token:?}, which is disallowed. Pass \
         allowed_special={{{token:?}}} to encode it as one id, or disallowed_special=() to encode \
         special tokens as ordinary text."
    ))
}
