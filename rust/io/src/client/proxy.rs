//! Which proxy a request goes through, and which goes through none.

use std::fmt;
use std::net::IpAddr;

use base64_simd::STANDARD;
use http::{HeaderValue, Uri};

use super::Failure;
use super::connect::host_and_port;

/// A proxy that speaks HTTP. Its password is not shown.
#[derive(Clone)]
pub(super) struct Proxy {
    pub host: String,
    pub port: u16,
    /// `Basic …`, where the address holds a user.
    pub authorization: Option<HeaderValue>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({}:{})", self.host, self.port)
    }
}

/// What to connect through.
#[derive(Clone, Default)]
pub enum ProxyChoice {
    /// What the environment says: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`.
    #[default]
    Environment,
    /// Nothing.
    None,
    /// This address, always.
    Address(String),
}

/// The proxies of a client.
#[derive(Debug, Clone, Default)]
pub(super) struct Proxies {
    http: Option<Result<Proxy, Failure>>,
    https: Option<Result<Proxy, Failure>>,
    except: Vec<Exception>,
    /// The environment's proxies are for what is far away.
    skips_loopback: bool,
}

/// One entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    All,
    Network(IpAddr, u32),
    /// A name and every name under it, at one port or any.
    Domain(String, Option<u16>),
}

impl Proxies {
    /// What a choice means, with `variable` to look the environment up.
    pub fn new(
        choice: &ProxyChoice,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let address = match choice {
            ProxyChoice::None => return Ok(Self::default()),
            ProxyChoice::Address(address) => Some(Ok(Proxy::parse(address, "proxy")?)),
            ProxyChoice::Environment => return Ok(Self::from_environment(variable)),
        };
        Ok(Self {
            http: address.clone(),
            https: address,
            ..Self::default()
        })
    }

    /// One that cannot be used is an error of the requests that it is for, and of no others.
    fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let find = |name: &'static str| {
            // A CGI server sets HTTP_PROXY from a header that anybody can send.
            let capitals = name != "http_proxy" || variable("REQUEST_METHOD").is_none();
            let value = variable(name)
                .or_else(|| capitals.then(|| variable(&name.to_uppercase())).flatten())?;
            let value = value.trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        let proxy = |name| {
            let value = find(name).map(|value| (name, value));
            let value = value.or_else(|| find("all_proxy").map(|value| ("all_proxy", value)));
            value.map(|(name, value)| Proxy::parse(&value, &name.to_uppercase()))
        };
        let except = find("no_proxy").unwrap_or_default();
        Self {
            http: proxy("http_proxy"),
            https: proxy("https_proxy"),
            except: except.split(',').filter_map(Exception::parse).collect(),
            skips_loopback: true,
        }
    }

    /// The proxy for an address.
    pub fn for_host(
        &self,
        is_https: bool,
        host: &str,
        port: u16,
    ) -> Result<Option<&Proxy>, Failure> {
        let proxy = if is_https { &self.https } else { &self.http };
        let Some(proxy) = proxy else {
            return Ok(None);
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        let is_loopback =
            host == "localhost" || address.is_some_and(|address| address.is_loopback());
        let is_excepted = |exception: &Exception| exception.holds(&host, address, port);
        if self.skips_loopback && is_loopback || self.except.iter().any(is_excepted) {
            return Ok(None);
        }
        proxy.as_ref().map(Some).map_err(Failure::clone)
    }
}

impl Proxy {
    /// Reads `http://user:password@host:port`; `source` is what the value came from.
    fn parse(text: &str, source: &str) -> Result<Self, Failure> {
        // The value is not shown: it may hold a password.
        let wrong = || {
            Failure::configuration(format!(
                "{source} must be an address such as http://user:password@host:8080, of a proxy \
                 that speaks HTTP"
            ))
        };
        let text = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        if scheme.to_ascii_lowercase().starts_with("socks") {
            return Err(Failure::configuration(format!(
                "{source} names a SOCKS proxy, which only an httpx client speaks to: pip install \
                 'httpx[socks]' and give http_client=httpx.AsyncClient(proxy=…), or name a proxy \
                 that speaks HTTP, or none with proxy=''"
            )));
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(wrong());
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        // A password may hold an @ that nobody escaped.
        let (user, host) = match rest[..end].rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, &rest[..end]),
        };
        let uri: Uri = format!("http://{host}/").parse().map_err(|_| wrong())?;
        let (host, port) = host_and_port(&uri, 80).ok_or_else(wrong)?;
        let authorization = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            let mut pair = unescape(name);
            pair.push(b':');
            pair.extend(unescape(password));
            let value = format!("Basic {}", STANDARD.encode_to_string(&pair));
            let mut value = HeaderValue::try_from(value).expect("base64 may stand in a header");
            value.set_sensitive(true);
            value
        });
        Ok(Self {
            host,
            port,
            authorization,
        })
    }
}

/// The bytes that percent signs stand for; one that stands for nothing is itself.
fn unescape(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        if byte == b'%'
            && let (Some(high), Some(low)) = (digit(0), digit(1))
            && let Ok(value) = u8::try_from(16 * high + low)
        {
            bytes.push(value);
            rest = &after[2..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    bytes
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_ascii_lowercase();
        if entry.is_empty() {
            return None;
        }
        if entry == "*" {
            return Some(Self::All);
        }
        let (address, bits) = entry.split_once('/').unwrap_or((&entry, ""));
        if let Ok(address) = address.trim_matches(['[', ']']).parse::<IpAddr>() {
            let whole = if address.is_ipv4() { 32 } else { 128 };
            let bits = if bits.is_empty() {
                Some(whole)
            } else {
                bits.parse().ok()
            };
            return bits
                .filter(|bits| *bits <= whole)
                .map(|bits| Self::Network(address, bits));
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (entry.as_str(), None),
        };
        let name = name.trim_start_matches('*').trim_start_matches('.');
        (!name.is_empty()).then(|| Self::Domain(name.to_owned(), port))
    }

    fn holds(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Network(network, bits) => {
                address.is_some_and(|address| within(address, *network, *bits))
            }
            Self::Domain(name, at) => {
                let under = host.strip_suffix(name.as_str());
                at.is_none_or(|at| at == port)
                    && under.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
        }
    }
}

fn within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (difference, width) = match (address, network) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (u128::from(one.to_bits() ^ other.to_bits()), 32),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits(), 128),
        _ => return false,
    };
    difference.checked_shr(width - bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &'static [(&str, &str)]) -> Proxies {
        let variable = |name: &str| {
            let found = pairs.iter().find(|pair| pair.0 == name)?;
            Some(found.1.to_owned())
        };
        Proxies::new(&ProxyChoice::Environment, variable).expect("nothing is refused yet")
    }

    fn port(proxies: &Proxies, is_https: bool, host: &str) -> Option<u16> {
        let proxy = proxies.for_host(is_https, host, 443).unwrap();
        proxy.map(|proxy| proxy.port)
    }

    #[test]
    fn each_scheme_has_its_variable_and_all_proxy_is_for_the_rest() {
        let proxies = environment(&[("HTTPS_PROXY", "http://secure:1"), ("ALL_PROXY", "any:2/")]);
        assert_eq!(port(&proxies, true, "api.example"), Some(1));
        assert_eq!(port(&proxies, false, "api.example"), Some(2));
        assert_eq!(port(&proxies, true, "localhost"), None);
        assert_eq!(port(&proxies, true, "127.0.0.9"), None);
        let proxies = environment(&[("http_proxy", "a:1"), ("HTTP_PROXY", "b:2")]);
        assert_eq!(port(&proxies, false, "x"), Some(1));
        assert_eq!(port(&proxies, true, "x"), None);
    }

    #[test]
    fn a_cgi_request_cannot_name_a_proxy() {
        let proxies = environment(&[("HTTP_PROXY", "evil:1"), ("REQUEST_METHOD", "GET")]);
        assert_eq!(port(&proxies, false, "x"), None);
    }

    #[test]
    fn what_no_proxy_names_is_reached_directly() {
        let proxies = environment(&[
            ("HTTPS_PROXY", "proxy:1"),
            (
                "NO_PROXY",
                " .corp.example, exact.example:8443 ,10.0.0.0/8,fd00::/8, 192.168.1.7,,bad/99",
            ),
        ]);
        for direct in [
            "corp.example",
            "A.Corp.Example.",
            "10.9.8.7",
            "fd12::1",
            "192.168.1.7",
        ] {
            assert_eq!(port(&proxies, true, direct), None, "{direct}");
        }
        for proxied in [
            "notcorp.example",
            "exact.example",
            "11.0.0.1",
            "fe80::1",
            "192.168.1.8",
        ] {
            assert_eq!(port(&proxies, true, proxied), Some(1), "{proxied}");
        }
        assert!(matches!(
            proxies.for_host(true, "exact.example", 8443),
            Ok(None)
        ));
        let none = environment(&[("HTTPS_PROXY", "proxy:1"), ("NO_PROXY", "*")]);
        assert_eq!(port(&none, true, "anything"), None);
    }

    #[test]
    fn a_user_and_password_become_a_header_and_are_not_shown() {
        let choice = ProxyChoice::Address("http://us%65r:p%40ss:w@[::1]:3128".to_owned());
        let proxies = Proxies::new(&choice, |_| None).unwrap();
        let proxy = proxies
            .for_host(true, "localhost", 443)
            .unwrap()
            .expect("it is for all");
        assert_eq!((proxy.host.as_str(), proxy.port), ("::1", 3128));
        let expected = format!("Basic {}", STANDARD.encode_to_string("user:p@ss:w"));
        assert_eq!(proxy.authorization.as_ref().unwrap(), &expected);
        assert_eq!(format!("{proxy:?}"), "Proxy(::1:3128)");
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_without_its_password() {
        for wrong in [
            "ftp://user:secret@host:1",
            "http://user:secret@",
            "http://secret@h:x",
        ] {
            let choice = ProxyChoice::Address(wrong.to_owned());
            let failure = Proxies::new(&choice, |_| None).unwrap_err();
            assert!(failure.message.starts_with("proxy must be"), "{failure}");
            assert!(!failure.message.contains("secret"));
        }
    }

    #[test]
    fn a_socks_proxy_is_an_error_of_the_requests_that_it_is_for() {
        let choice = ProxyChoice::Address("SOCKS5h://user:secret@host:1".to_owned());
        let failure = Proxies::new(&choice, |_| None).unwrap_err();
        assert!(failure.message.starts_with("proxy names a SOCKS proxy"));
        let proxies = environment(&[
            ("ALL_PROXY", "socks5://user:secret@host:1"),
            ("HTTPS_PROXY", "secure:2"),
            ("NO_PROXY", "near.example"),
        ]);
        assert_eq!(port(&proxies, true, "far.example"), Some(2));
        assert_eq!(port(&proxies, false, "near.example"), None);
        assert_eq!(port(&proxies, false, "127.0.0.1"), None);
        let failure = proxies.for_host(false, "far.example", 80).unwrap_err();
        assert!(failure.message.starts_with("ALL_PROXY names a SOCKS proxy"));
        assert!(failure.message.contains("httpx[socks]"));
        assert!(!failure.message.contains("secret"));
    }
}
