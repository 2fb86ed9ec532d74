//! A cursor over JSON text that hands out spans of it and builds nothing.
//!
//! Values nobody asked for are checked and skipped by `serde_json`; strings and number arrays,
//! which are all of an embeddings answer but a few bytes, are found by SIMD search.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter, memchr2, memchr3};
use serde::de::IgnoredAny;

/// Where the text stops being JSON; at its end where it was cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub at: usize,
    pub expected: &'static str,
}

#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

/// A string as it stands between its quotes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<'a> {
    quoted: &'a [u8],
    escaped: bool,
}

impl<'a> Raw<'a> {
    /// The string's bytes; as they stand where an escape in it is not valid.
    pub fn bytes(self) -> Cow<'a, [u8]> {
        if self.escaped
            && let Ok(text) = serde_json::from_slice::<String>(self.quoted)
        {
            return Cow::Owned(text.into_bytes());
        }
        Cow::Borrowed(&self.quoted[1..self.quoted.len() - 1])
    }
}

impl<'a> Cursor<'a> {
    /// Start at the beginning, after a byte order mark if there is one.
    pub fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            at: if text.starts_with(b"\xef\xbb\xbf") {
                3
            } else {
                0
            },
        }
    }

    pub fn fault(&self, expected: &'static str) -> Fault {
        Fault {
            at: self.at,
            expected,
        }
    }

    /// The next byte that is not white space; it stays next.
    pub fn peek(&mut self, expected: &'static str) -> Result<u8, Fault> {
        while let Some(byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Ok(*byte);
            }
            self.at += 1;
        }
        Err(self.fault(expected))
    }

    fn take(&mut self, byte: u8, expected: &'static str) -> Result<(), Fault> {
        if self.peek(expected)? != byte {
            return Err(self.fault(expected));
        }
        self.at += 1;
        Ok(())
    }

    /// Fail unless only white space follows.
    pub fn end(&mut self) -> Result<(), Fault> {
        let expected = "nothing more";
        if self.peek(expected).is_ok() {
            Err(self.fault(expected))
        } else {
            Ok(())
        }
    }

    /// Read an object; `member` gets each key and must consume its value.
    pub fn object<E: From<Fault>>(
        &mut self,
        mut member: impl FnMut(&mut Self, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.take(b'{', "an object")?;
        if self.peek("a key or }")? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            let key = self.string()?.bytes();
            self.take(b':', "a colon")?;
            member(self, &key)?;
            if self.peek("a comma or }")? == b'}' {
                self.at += 1;
                return Ok(());
            }
            self.take(b',', "a comma or }")?;
        }
    }

    /// Read an array; `item` must consume each value.
    pub fn array<E: From<Fault>>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.take(b'[', "a list")?;
        if self.peek("a value or ]")? == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            item(self)?;
            if self.peek("a comma or ]")? == b']' {
                self.at += 1;
                return Ok(());
            }
            self.take(b',', "a comma or ]")?;
        }
    }

    /// Read a string.
    pub fn string(&mut self) -> Result<Raw<'a>, Fault> {
        self.take(b'"', "a string")?;
        let start = self.at - 1;
        let mut escaped = false;
        loop {
            match memchr2(b'"', b'\\', &self.text[self.at..]) {
                Some(found) if self.text[self.at + found] == b'"' => {
                    self.at += found + 1;
                    return Ok(Raw {
                        quoted: &self.text[start..self.at],
                        escaped,
                    });
                }
                Some(found) if self.at + found + 2 <= self.text.len() => {
                    self.at += found + 2;
                    escaped = true;
                }
                _ => {
                    self.at = self.text.len();
                    return Err(self.fault("the end of a string"));
                }
            }
        }
    }

    /// Read any value and return its text.
    pub fn skip(&mut self) -> Result<&'a [u8], Fault> {
        self.peek("a value")?;
        let rest = &self.text[self.at..];
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
        match values.next() {
            Some(Ok(_)) => {
                let length = values.byte_offset();
                self.at += length;
                Ok(&rest[..length])
            }
            Some(Err(error)) if !error.is_eof() => Err(self.fault("a value")),
            _ => {
                self.at = self.text.len();
                Err(self.fault("the end of a value"))
            }
        }
    }

    /// Pass an array without nested values unread and return a cursor at its beginning; where
    /// something is nested in it, the next value is still this one.
    pub fn flat_array(&mut self) -> Result<Option<Self>, Fault> {
        self.peek("a list")?;
        let here = Self {
            text: self.text,
            at: self.at,
        };
        match memchr3(b']', b'[', b'"', &self.text[self.at + 1..]) {
            Some(found) if self.text[self.at + 1 + found] == b']' => {
                self.at += found + 2;
                Ok(Some(here))
            }
            Some(_) => Ok(None),
            None => {
                self.at = self.text.len();
                Err(self.fault("the end of a list"))
            }
        }
    }

    /// Read a number, which may be NaN or infinite, or None for `null`, `true` or `false`.
    pub fn number(&mut self) -> Result<Option<f32>, Fault> {
        let first = self.peek("a number")?;
        let rest = &self.text[self.at..];
        if let Ok((value, length)) = fast_float2::parse_partial::<f32, _>(rest) {
            self.at += length;
            return Ok(Some(value));
        }
        let literal: &[u8] = match first {
            b'n' => b"null",
            b't' => b"true",
            b'f' => b"false",
            _ => return Err(self.fault("a number")),
        };
        if !rest.starts_with(literal) {
            return Err(self.fault("a number"));
        }
        self.at += literal.len();
        Ok(None)
    }

    /// Number of items of the flat array that begins here.
    pub fn count_items(mut self) -> usize {
        let rest = &self.text[self.at + 1..];
        let inner = &rest[..memchr(b']', rest).unwrap_or(rest.len())];
        self.at += 1;
        match self.peek("") {
            Ok(b']') | Err(_) => 0,
            Ok(_) => 1 + memchr_iter(b',', inner).count(),
        }
    }
}
