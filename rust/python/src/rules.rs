//! Which special tokens `encode` takes and which it refuses, as tiktoken's arguments say it.

use std::collections::HashSet;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use tollway_core::tokens::Encoding;

use crate::text::as_str;

/// Which special tokens a call names.
enum Special {
    All,
    These(HashSet<String>),
}

impl Special {
    fn read(argument: Option<&Bound<'_, PyAny>>, default: Self) -> PyResult<Self> {
        let Some(argument) = argument else {
            return Ok(default);
        };
        match as_str(argument) {
            Some(word) if word == "all" => Ok(Self::All),
            _ => argument
                .try_iter()?
                .map(|item| item?.extract())
                .collect::<PyResult<_>>()
                .map(Self::These),
        }
    }

    fn holds(&self, token: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(tokens) => tokens.contains(token),
        }
    }
}

/// How `encode` treats special tokens in a text.
pub struct Rules {
    allowed: Special,
    disallowed: Special,
}

impl Rules {
    pub fn read(
        allowed: Option<&Bound<'_, PyAny>>,
        disallowed: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let allowed = Special::read(allowed, Special::These(HashSet::new()))?;
        Ok(Self {
            allowed,
            disallowed: Special::read(disallowed, Special::All)?,
        })
    }

    /// The ids, or the disallowed token that the text holds.
    pub fn encode(&self, encoding: &Encoding, text: &str) -> Result<Vec<u32>, String> {
        let specials = encoding.specials();
        let refused = match &self.disallowed {
            Special::All => specials
                .find(text, 0, |token| !self.allowed.holds(token))
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
        encoding.encode_with_specials(text, |token| self.allowed.holds(token), &mut ids);
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
