//! Where a request goes, read from an address.

use std::fmt::Write as _;
use std::sync::Arc;

use http::Uri;
use http::uri::PathAndQuery;

use super::connect::{Origin, host_and_port};
use super::failure::Failure;

/// An address taken apart.
pub(super) struct Target {
    pub origin: Arc<Origin>,
    pub uri: Uri,
}

impl Target {
    pub fn parse(url: &str) -> Result<Self, Failure> {
        // The address is not shown: this one may hold anything.
        let wrong =
            || Failure::configuration("a request needs an address such as http://host/path");
        // Most addresses are as they should be, and are looked at once.
        let uri: Uri = if url.bytes().any(is_foreign) {
            escaped(url)?.parse()
        } else {
            url.parse()
        }
        .map_err(|_| wrong())?;
        let is_https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        if uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err(Failure::configuration(
                "an address must not hold a user or password; send them in a header",
            ));
        }
        let default = if is_https { 443 } else { 80 };
        let (host, port) = host_and_port(&uri, default).ok_or_else(wrong)?;
        let origin = Origin {
            is_https,
            host,
            port,
        };
        let origin = Arc::new(origin);
        Ok(Self { origin, uri })
    }

    /// The address without its query, which may hold a key.
    pub fn name(&self) -> String {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let authority = self
            .uri
            .authority()
            .map_or("", http::uri::Authority::as_str);
        format!("{scheme}://{authority}{}", self.uri.path())
    }
}

/// The path and query of an address, as a request to its own server names it.
pub(super) fn path_of(uri: &Uri) -> Result<Uri, Failure> {
    let path = uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|_| Failure::configuration("the address has no proper path"))
}

/// What no address may hold (RFC 3986, appendix A), but for control characters, which are refused.
fn is_foreign(byte: u8) -> bool {
    byte >= 0x7f
        || matches!(
            byte,
            b' ' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'
        )
}

/// An address with percent signs in its path and query where they hold what none may.
fn escaped(url: &str) -> Result<String, Failure> {
    let start = url.find("://").map_or(0, |at| at + 3);
    let path = url[start..].find(['/', '?', '#']);
    let (before, path) = url.split_at(path.map_or(url.len(), |at| start + at));
    if !before.is_ascii() {
        return Err(Failure::configuration(
            "the host of an address must be written in ASCII, as xn--…",
        ));
    }
    let mut escaped = before.to_owned();
    for byte in path.bytes() {
        if is_foreign(byte) {
            write!(escaped, "%{byte:02X}").expect("memory takes whatever is written");
        } else {
            escaped.push(char::from(byte));
        }
    }
    Ok(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_address_may_hold_is_escaped_and_the_rest_is_left() {
        let path = |url: &str| {
            path_of(&Target::parse(url).ok().unwrap().uri)
                .unwrap()
                .to_string()
        };
        for (url, expected) in [
            ("http://h", "/"),
            ("http://h?a=1#b", "/?a=1"),
            (
                "http://h/a%2Fb/../c;d=~e?f=%zz&g",
                "/a%2Fb/../c;d=~e?f=%zz&g",
            ),
            ("http://h/é b?q=\"ü\"", "/%C3%A9%20b?q=%22%C3%BC%22"),
            ("http://h?a=é#ü", "/?a=%C3%A9"),
            ("http://h/<\\^`{|}>\u{7f}", "/%3C%5C%5E%60%7B%7C%7D%3E%7F"),
        ] {
            assert_eq!(path(url), expected, "{url}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_showing_it() {
        for url in [
            "",
            "/secret",
            "secret",
            "é",
            "ftp://secret/",
            "http://",
            "http:///secret",
            "http://h:secret/",
            "http://a:secret@h/",
            "http://h/secret\r\nx: y",
            "http://secret.é/",
            "http://a secret/",
        ] {
            let failure = Target::parse(url).err().expect(url);
            assert!(!failure.message.contains("secret"), "{failure}");
        }
    }
}
