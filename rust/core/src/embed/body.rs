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
    let extra = request.extra.map(members).transpose()?.unwrap_or_default();
    let length: usize = texts.iter().map(|text| text.as_ref().len() + 8).sum();
    let mut body = Vec::with_capacity(length + length / 16 + extra.len() + 128);
    body.extend_from_slice(b"{\"model\":");
    write_string(&mut body, request.model);
    body.extend_from_slice(b",\"input\":[");
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        write_string(&mut body, text.as_ref());
    }
    body.push(b']');
    if let Some(dimensions) = request.dimensions {
        body.extend_from_slice(format!(",\"dimensions\":{dimensions}").as_bytes());
    }
    if request.base64 {
        body.extend_from_slice(b",\"encoding_format\":\"base64\"");
    }
    if !extra.is_empty() {
        body.push(b',');
        body.extend_from_slice(extra);
    }
    body.push(b'}');
    Ok(body)
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

fn write_string(body: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(body, text).expect("a string is JSON and a Vec takes any of it");
}
