//! Why a request has no answer, in words for whoever reads the log; no header, key or body in them.

use std::error::Error;
use std::fmt;
use std::time::Duration;

/// What sort of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One of the times ran out.
    Timeout,
    /// No connection, or it broke.
    Connection,
    /// What came is not to be taken: too long, or in a form that was not asked for.
    Answer,
    /// An argument that cannot work; nothing was sent.
    Configuration,
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What sort of failure it is.
    pub kind: Kind,
    /// What happened, and what to do.
    pub message: String,
}

impl Failure {
    pub(super) fn connection(message: impl Into<String>) -> Self {
        Self::new(Kind::Connection, message)
    }

    pub(super) fn answer(message: impl Into<String>) -> Self {
        Self::new(Kind::Answer, message)
    }

    pub(super) fn configuration(message: impl Into<String>) -> Self {
        Self::new(Kind::Configuration, message)
    }

    /// `what` did not happen within the time that is called `name`.
    pub(super) fn timeout(what: &str, name: &str, time: Duration) -> Self {
        let seconds = time.as_secs_f64();
        Self::new(
            Kind::Timeout,
            format!("{what} within {seconds} s ({name} timeout)"),
        )
    }

    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}

/// The innermost of an error's sources, which says most: `Connection refused (os error 111)`.
pub(super) fn root(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
