//! A limiter's shared memory as the tests open it.

use std::sync::atomic::AtomicU64;

use tempfile::TempDir;
use tollway_io::mapped::{Directory, Error, Mapped, Wanted};

pub const NAME: &str = "openai.tier-1";
pub const BYTES: usize = 20_000;

pub fn private() -> (TempDir, Directory) {
    let folder = TempDir::new().expect("a temporary directory");
    let directory = Directory::at(folder.path().join("limits")).expect("a private directory");
    (folder, directory)
}

pub fn wanted(limits: &str) -> Wanted<'_> {
    Wanted {
        bytes: BYTES,
        layout: 7,
        limits,
    }
}

pub fn open(directory: &Directory, limits: &str) -> Result<Mapped, Error> {
    Mapped::open(directory, NAME, &wanted(limits), |_| {})
}

pub fn cell(mapped: &Mapped) -> &AtomicU64 {
    // SAFETY: aligned to a page, longer than eight bytes, and alive as long as `mapped`.
    unsafe { mapped.memory().cast::<AtomicU64>().as_ref() }
}
