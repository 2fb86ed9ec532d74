//! Reads the storage of a Python `str` in place.
//!
//! ASCII is already UTF-8 and is borrowed. Other text is transcoded into a buffer of ours, because
//! the interpreter's own conversion would leave a second copy in the caller's object.

use std::cell::Cell;
use std::ops::Range;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;
use pyo3::types::string::PyStringData;

use tollway_core::tokens::transcode::{Point, is_high, points_in, transcode};

/// The largest buffer that a thread keeps from call to call.
const KEPT_BYTES: usize = 256 << 10;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Calls `work` with this thread's buffer.
pub fn with_buffer<R>(work: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    // Taken, so that `work` may come back here.
    let mut buffer = BUFFER.take();
    let result = work(&mut buffer);
    if buffer.len() <= KEPT_BYTES {
        BUFFER.set(buffer);
    }
    result
}

/// The code points of a `str`, borrowed from the object. They stay as they are for as long as the
/// object lives, with or without the thread attached: a `str` never changes.
///
/// The form is the narrowest that holds the text, so that equal texts are of one form.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Text<'a> {
    Ascii(&'a str),
    Latin1(&'a [u8]),
    Ucs2(&'a [u16]),
    Ucs4(&'a [u32]),
}

impl<'a> Text<'a> {
    pub fn new(string: &'a Bound<'_, PyString>) -> PyResult<Self> {
        // SAFETY: `string` is a str. Its own mark is read, so that no text is looked through.
        let is_ascii = unsafe { ffi::PyUnicode_IS_ASCII(string.as_ptr()) } != 0;
        // SAFETY: PyO3 asks for care because it reads CPython's object layout; it is compiled for
        // this interpreter's version (the wheel is not abi3).
        Ok(match unsafe { string.data() }? {
            PyStringData::Ucs1(bytes) if is_ascii => {
                // SAFETY: ASCII is UTF-8.
                Self::Ascii(unsafe { std::str::from_utf8_unchecked(bytes) })
            }
            PyStringData::Ucs1(points) => Self::Latin1(points),
            PyStringData::Ucs2(points) => Self::Ucs2(points),
            PyStringData::Ucs4(points) => Self::Ucs4(points),
        })
    }

    /// Code points.
    pub fn len(self) -> usize {
        match self {
            Self::Ascii(text) => text.len(),
            Self::Latin1(points) => points.len(),
            Self::Ucs2(points) => points.len(),
            Self::Ucs4(points) => points.len(),
        }
    }

    /// Bytes of storage.
    pub fn size(self) -> usize {
        match self {
            Self::Ascii(text) => text.len(),
            Self::Latin1(points) => points.len(),
            Self::Ucs2(points) => size_of_val(points),
            Self::Ucs4(points) => size_of_val(points),
        }
    }

    /// At least the first `points` code points; one more rather than half a surrogate pair.
    pub fn prefix(self, points: usize) -> Self {
        let end = points.min(self.len());
        match self {
            Self::Ascii(text) => Self::Ascii(&text[..end]),
            Self::Latin1(points) => Self::Latin1(&points[..end]),
            Self::Ucs2(points) => Self::Ucs2(&points[..whole_pair(points, end)]),
            Self::Ucs4(points) => Self::Ucs4(&points[..whole_pair(points, end)]),
        }
    }

    /// As UTF-8, in `buffer` where it is not ASCII. As with tiktoken, a pair of surrogates is the
    /// character it stands for, and a lone one becomes U+FFFD.
    pub fn utf8<'b>(self, buffer: &'b mut Vec<u8>) -> &'b str
    where
        'a: 'b,
    {
        let length = match self {
            Self::Ascii(text) => return text,
            Self::Latin1(points) => transcode(points, buffer),
            Self::Ucs2(points) => transcode(points, buffer),
            Self::Ucs4(points) => transcode(points, buffer),
        };
        // SAFETY: `transcode` wrote the UTF-8 form of one scalar value after the other.
        unsafe { std::str::from_utf8_unchecked(&buffer[..length]) }
    }

    /// Calls `work` with the text as UTF-8, in this thread's buffer where it is not ASCII.
    pub fn read<R>(self, work: impl FnOnce(&str) -> R) -> R {
        if let Self::Ascii(text) = self {
            return work(text);
        }
        with_buffer(|buffer| work(self.utf8(buffer)))
    }

    /// How many code points the first `bytes` bytes of [`Self::utf8`] came from.
    pub fn points_in(self, bytes: usize) -> usize {
        match self {
            Self::Ascii(_) => bytes,
            Self::Latin1(points) => points_in(points, bytes),
            Self::Ucs2(points) => points_in(points, bytes),
            Self::Ucs4(points) => points_in(points, bytes),
        }
    }
}

/// These code points of `string`, a new object.
pub fn substring<'py>(
    string: &Bound<'py, PyString>,
    points: Range<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let (start, end) = (isize::try_from(points.start)?, isize::try_from(points.end)?);
    // SAFETY: `string` is a str; the result is a new reference, or null with an exception set.
    unsafe {
        let cut = ffi::PyUnicode_Substring(string.as_ptr(), start, end);
        Bound::from_owned_ptr_or_err(string.py(), cut)
    }
}

/// The item as a `str`, or `None`; subclasses are taken.
pub fn as_str<'a, 'py>(item: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, PyString>> {
    item.cast::<PyString>().ok()
}

fn whole_pair<T: Point>(points: &[T], end: usize) -> usize {
    let split = end > 0 && end < points.len() && is_high(points[end - 1].into());
    end + usize::from(split)
}
