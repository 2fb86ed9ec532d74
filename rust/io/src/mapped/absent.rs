//! Systems on which no memory is shared by name: opening a directory of it says so.

use std::fmt;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::LazyLock;
use std::time::Instant;

/// The variable that names the directory elsewhere.
pub const DIRECTORY_VARIABLE: &str = "TOLLWAY_LIMITS_DIR";

/// How many can take part elsewhere.
pub const SLOTS: usize = 96;

/// The only error there is.
#[derive(Debug)]
pub struct Error;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("limiters are shared between processes on Linux and macOS only")
    }
}

impl std::error::Error for Error {}

/// As on systems that share memory.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Wanted<'a> {
    pub bytes: usize,
    pub layout: u64,
    pub limits: &'a str,
}

/// As on systems that share memory.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Blank {
    pub memory: NonNull<u8>,
    pub follows: bool,
}

/// As on systems that share memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Member {
    pub slot: usize,
    pub entry: u32,
}

/// As on systems that share memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Participant {
    pub slot: usize,
    pub process: u32,
}

/// Never there.
#[derive(Debug)]
pub enum Directory {}
/// Never there.
#[derive(Debug)]
pub enum Mapped {}
/// Never there.
#[derive(Debug)]
pub enum Glance {}

/// Nanoseconds of the monotonic clock.
pub fn monotonic_nanos() -> u64 {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(ORIGIN.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[allow(missing_docs)]
impl Directory {
    pub fn of_user() -> Result<Self, Error> {
        Err(Error)
    }

    pub fn at(_path: PathBuf) -> Result<Self, Error> {
        Err(Error)
    }

    pub fn names(&self) -> Result<Vec<String>, Error> {
        match *self {}
    }
}

#[allow(missing_docs)]
impl Mapped {
    pub fn open(
        directory: &Directory,
        _name: &str,
        _wanted: &Wanted<'_>,
        _prepare: impl FnMut(&Blank),
    ) -> Result<Self, Error> {
        match *directory {}
    }

    pub fn memory(&self) -> NonNull<u8> {
        match *self {}
    }

    pub fn epoch(&self) -> u64 {
        match *self {}
    }

    pub fn member(&self) -> Member {
        match *self {}
    }

    pub fn is_alive(&self, _member: Member) -> bool {
        match *self {}
    }

    pub fn disown(&self) {
        match *self {}
    }

    pub fn is_disowned(&self) -> bool {
        match *self {}
    }
}

#[allow(missing_docs)]
impl Glance {
    pub fn at(directory: &Directory, _name: &str) -> Result<Option<Self>, Error> {
        match *directory {}
    }

    pub fn memory(&self) -> NonNull<u8> {
        match *self {}
    }

    pub fn bytes(&self) -> usize {
        match *self {}
    }

    pub fn layout(&self) -> u64 {
        match *self {}
    }

    pub fn limits(&self) -> &str {
        match *self {}
    }

    pub fn epoch(&self) -> u64 {
        match *self {}
    }

    pub fn is_alive(&self, _member: Member) -> bool {
        match *self {}
    }

    pub fn participants(&self) -> Vec<Participant> {
        match *self {}
    }
}
