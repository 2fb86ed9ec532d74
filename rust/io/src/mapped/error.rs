//! Why memory cannot be shared.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a shared limiter cannot be opened. Nothing was changed.
#[derive(Debug)]
pub enum Error {
    /// Not a name: 1 to 64 of `A-Z a-z 0-9 . _ -`, the first not a dot.
    Name(String),
    /// A file or directory that is not trusted.
    Refused {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Processes that live hold other limits on this name.
    OtherLimits {
        /// The file.
        path: PathBuf,
        /// Theirs, as they wrote them.
        theirs: String,
        /// What was asked for.
        ours: String,
    },
    /// Processes that live hold the same limits in another form: that of another version.
    OtherLayout(PathBuf),
    /// As many hold this file as it has places for.
    Crowded(PathBuf),
    /// The limits take more bytes than the file has for them.
    TooLong(usize),
    /// The system refused.
    System {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl Error {
    pub(super) fn system(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::System {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(
                f,
                "{name:?} cannot name a shared limiter: 1 to 64 letters, digits and . _ - are \
                 taken, not a dot in front"
            ),
            Self::Refused { path, why } => {
                write!(
                    f,
                    "{} is not used: {why}; nothing was changed",
                    path.display()
                )
            }
            Self::OtherLimits { path, theirs, ours } => write!(
                f,
                "processes that run now hold {} with {theirs}, not with {ours}; give the same \
                 limits, another name, or end them first",
                path.display()
            ),
            Self::OtherLayout(path) => write!(
                f,
                "processes that run now hold {} with another version of tollway; end them first, \
                 or use another name",
                path.display()
            ),
            Self::Crowded(path) => write!(
                f,
                "{} is held by {} limiters, which is as many as can share it",
                path.display(),
                super::register::SLOTS
            ),
            Self::TooLong(bytes) => write!(
                f,
                "limits that take {bytes} bytes cannot be shared: at most {}",
                super::region::LONGEST_LIMITS
            ),
            Self::System {
                doing,
                path,
                source,
            } => write!(f, "cannot {doing} {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System { source, .. } => Some(source),
            _ => None,
        }
    }
}
