//! Raises the exceptions of `tollway.errors`, which is imported when the first one is raised.

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use tollway_io::client::{Failure, Kind};

fn raise(name: &str, message: String) -> PyErr {
    Python::attach(|py| {
        let built = py
            .import("tollway.errors")
            .and_then(|errors| errors.getattr(name))
            .and_then(|class| class.call1(PyTuple::new(py, [message])?));
        match built {
            Ok(exception) => PyErr::from_value(exception),
            Err(error) => error,
        }
    })
}

/// The caller's arguments cannot work together or are out of range.
pub fn configuration(message: impl Into<String>) -> PyErr {
    raise("ConfigurationError", message.into())
}

/// A request needs more than a whole quota.
pub fn request_too_large(message: impl Into<String>) -> PyErr {
    raise("RequestTooLargeError", message.into())
}

/// A provider's answer cannot be used.
pub fn bad_response(message: impl Into<String>) -> PyErr {
    raise("BadResponseError", message.into())
}

/// A provider's answer cannot be used, and no other one will be better.
pub fn provider(message: impl Into<String>) -> PyErr {
    raise("ProviderError", message.into())
}

/// A request has no answer to give.
pub fn no_answer(failure: Failure) -> PyErr {
    let name = match failure.kind {
        Kind::Timeout => "APITimeoutError",
        Kind::Connection => "APIConnectionError",
        Kind::Answer => "BadResponseError",
        Kind::Configuration => "ConfigurationError",
    };
    raise(name, failure.message)
}
