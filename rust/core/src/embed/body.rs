//! The body of an embeddings request, as JSON.

use std::fmt;

/// What a request asks for, beside its texts.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The provider's name of the model.
    pub model: &'a str,
    /// Length of the vectors, where the model leaves a choice.
    pub dimensions: Option<u32>,
    /// Ask for base64 of float32. Otherwise `encoding_format` is left out: lists of numbers are
    /// what every server answers by itself, and some refuse the word `float`.
    pub base64: bool,
    /// More members, as the text of a JSON object.
    pub extra: Option<&'a [u8]>,
}

/// Why no body can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyError {
    /// `extra` is not a JSON object.
    NotObject,
    /// `extra` has a member that is written from an argument of its own.
    Reserved(&'static str),
}

const RESERVED: [&str; 4] = ["model", "input", "dimensions", "encoding_format"];

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotObject => write!(f, "extra is not the text of a JSON object"),
            Self::Reserved(name) => write!(f, "extra may not hold {name:?}: it has its own place"),
        }
    }
}

impl std::error::Error for BodyError {}

/// Write the body of a request for the vectors of some texts.
pub fn embeddings_body<T: AsRef<str>>(
    request: &Request<'_>,
    texts: &[T],
) -> Result<Vec<u8>, BodyError> {
    let length = texts.iter().map(|text| text.as_ref().len()).sum();
    let mut body = BodyWriter::new(request, texts.len(), length)?;
    for text in texts {
        body.text(text.as_ref());
    }
    Ok(body.finish())
}

/// A body that is given its texts one by one, as UTF-8 that need not be kept.
pub struct BodyWriter<'a> {
    request: Request<'a>,
    extra: &'a [u8],
    body: Vec<u8>,
    has_texts: bool,
}

impl<'a> BodyWriter<'a> {
    /// Begin; `texts` and `length` say how many texts there will be, and of how many bytes in all,
    /// so that memory is taken once.
    pub fn new(request: &Request<'a>, texts: usize, length: usize) -> Result<Self, BodyError> {
        let extra = request.extra.map(members).transpose()?.unwrap_or_default();
        let capacity = length + length / 16 + 8 * texts + extra.len() + 128;
        let mut body = Vec::with_capacity(capacity);
        body.extend_from_slice(b"{\"model\":");
        write_string(&mut body, request.model);
        body.extend_from_slice(b",\"input\":[");
        Ok(Self {
            request: *request,
            extra,
            body,
            has_texts: false,
        })
    }

    /// Add the next text.
    pub fn text(&mut self, text: &str) {
        if std::mem::replace(&mut self.has_texts, true) {
            self.body.push(b',');
        }
        write_string(&mut self.body, text);
    }

    /// End, and return the body.
    pub fn finish(self) -> Vec<u8> {
        let mut body = self.body;
        body.push(b']');
        if let Some(dimensions) = self.request.dimensions {
            body.extend_from_slice(format!(",\"dimensions\":{dimensions}").as_bytes());
        }
        if self.request.base64 {
            body.extend_from_slice(b",\"encoding_format\":\"base64\"");
        }
        if !self.extra.is_empty() {
            body.push(b',');
            body.extend_from_slice(self.extra);
        }
        body.push(b'}');
        body
    }
}

/// The text between the braces of an object.
fn members(object: &[u8]) -> Result<&[u8], BodyError> {
    let parsed: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(object).map_err(|_| BodyError::NotObject)?;
    if let Some(name) = RESERVED.into_iter().find(|name| parsed.contains_key(*name)) {
        return Err(BodyError::Reserved(name));
    }
    let object = object.trim_ascii();
    Ok(object[1..object.len() - 1].trim_ascii())
}

/// Bytes looked at together: what stands between two escapes is copied as a whole.
const BLOCK: usize = 32;

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// The first of eight bytes that needs an escape.
fn first_escape(bytes: [u8; 8]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    // The top bit of each byte under `n`, and perhaps of bytes after one: a borrow goes upward, so
    // that the lowest bit is right.
    let under = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGHS;
    let word = u64::from_le_bytes(bytes);
    let quotes = under(word ^ (ONES * u64::from(b'"')), 1);
    let slashes = under(word ^ (ONES * u64::from(b'\\')), 1);
    let found = under(word, 0x20) | quotes | slashes;
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

fn write_string(body: &mut Vec<u8>, text: &str) {
    body.push(b'"');
    let bytes = text.as_bytes();
    let (mut at, mut plain) = (0, 0);
    let mut escape = |at: usize| {
        body.extend_from_slice(&bytes[plain..at]);
        write_escape(body, bytes[at]);
        plain = at + 1;
    };
    while let Some(block) = bytes[at..].first_chunk::<BLOCK>() {
        // No early exit, so that the loop becomes a few SIMD instructions.
        let any = block
            .iter()
            .fold(false, |any, &byte| any | needs_escape(byte));
        let (words, _) = block.as_chunks::<8>();
        let mut words = words.iter().enumerate();
        let place = |(word, &bytes): (usize, &[u8; 8])| Some(8 * word + first_escape(bytes)?);
        match any.then(|| words.find_map(place)).flatten() {
            None => at += BLOCK,
            Some(found) => {
                escape(at + found);
                at += found + 1;
            }
        }
    }
    for (i, &byte) in bytes[at..].iter().enumerate() {
        if needs_escape(byte) {
            escape(at + i);
        }
    }
    body.extend_from_slice(&bytes[plain..]);
    body.push(b'"');
}

fn write_escape(body: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
            body.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            return;
        }
    };
    body.extend_from_slice(&[b'\\', short]);
}
