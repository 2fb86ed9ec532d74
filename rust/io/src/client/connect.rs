//! From an address to a connection that HTTP can be spoken on.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Uri};
use rustls::client::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::failure::{Failure, root};
use super::proxy::Proxy;

/// The next address is tried beside one that has not answered for so long (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// A peer that is gone without a word while an answer is computed, or that a router on the way has
/// forgotten, is asked after so long ...
const ALIVE_AFTER: Duration = Duration::from_secs(60);
/// ... and again so often, 8 to 10 times by the system. Its own 75 s would take longer than the
/// whole request may.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// rustls itself reads 4 KB at a time, which is a system call for each.
const TLS_READ: usize = 64 << 10;

/// Longest head of a proxy's answer.
const LONGEST_HEAD: usize = 16 << 10;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub is_https: bool,
    pub host: String,
    pub port: u16,
}

/// A connection, in plain text or not.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<BufReader<TcpStream>>>),
}

/// A connection and what is known of it.
pub(super) struct Connected {
    pub stream: Stream,
    /// The same socket: to see whether the peer has closed it, and to close it for certain.
    pub socket: std::net::TcpStream,
    pub is_http2: bool,
}

/// Connects to an origin, through a proxy if one is given.
pub(super) async fn connect(
    origin: &Origin,
    proxy: Option<&Proxy>,
    tls: impl FnOnce() -> Result<Arc<ClientConfig>, Failure>,
) -> Result<Connected, Failure> {
    let (host, port) = proxy.map_or((origin.host.as_str(), origin.port), |proxy| {
        (proxy.host.as_str(), proxy.port)
    });
    let what = if proxy.is_some() { "the proxy " } else { "" };
    let unreachable = |error: io::Error| {
        Failure::connection(format!(
            "{what}{host}:{port} could not be reached: {}",
            root(&error)
        ))
    };
    let tcp = reach(host, port).await.map_err(unreachable)?;
    let (tcp, socket) = duplicate(tcp).map_err(unreachable)?;
    if !origin.is_https {
        let stream = Stream::Plain(tcp);
        return Ok(Connected {
            stream,
            socket,
            is_http2: false,
        });
    }
    let mut tcp = tcp;
    if let Some(proxy) = proxy {
        tunnel(&mut tcp, origin, proxy.authorization.as_ref()).await?;
    }
    let host = &origin.host;
    let name = ServerName::try_from(host.clone())
        .map_err(|_| Failure::configuration(format!("{host} is no name of a server")))?;
    let tcp = BufReader::with_capacity(TLS_READ, tcp);
    let stream = TlsConnector::from(tls()?)
        .connect(name, tcp)
        .await
        .map_err(|error| untrusted(origin, &error))?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(Connected {
        stream: Stream::Tls(Box::new(stream)),
        socket,
        is_http2,
    })
}

/// A socket and a second handle of it.
fn duplicate(tcp: TcpStream) -> io::Result<(TcpStream, std::net::TcpStream)> {
    let socket = SockRef::from(&tcp).try_clone()?;
    socket.set_nonblocking(true)?;
    Ok((tcp, socket.into()))
}

/// Connects to the first of a name's addresses that answers.
async fn reach(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => tokio::net::lookup_host((host, port)).await?.collect(),
    };
    let mut rest = interleave(addresses).into_iter();
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if let Some(address) = rest.next() {
            attempts.spawn(TcpStream::connect(address));
        }
        let next = async {
            let left = attempts.join_next().await;
            left.map(|ended| ended.unwrap_or_else(|error| Err(io::Error::other(error))))
        };
        let ended = if rest.len() > 0 {
            match tokio::time::timeout(STAGGER, next).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        } else {
            next.await
        };
        match ended {
            None => return Err(failure),
            Some(Err(error)) => failure = error,
            Some(Ok(tcp)) => {
                tcp.set_nodelay(true)?;
                let alive = TcpKeepalive::new()
                    .with_time(ALIVE_AFTER)
                    .with_interval(ALIVE_EVERY);
                SockRef::from(&tcp).set_tcp_keepalive(&alive)?;
                return Ok(tcp);
            }
        }
    }
}

/// In turn of each family, so that a family that does not work costs one wait only.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut mixed = Vec::new();
    for address in first {
        mixed.push(address);
        mixed.extend(second.next());
    }
    mixed.extend(second);
    mixed
}

/// Asks a proxy for a connection to the origin.
async fn tunnel(
    tcp: &mut TcpStream,
    origin: &Origin,
    authorization: Option<&HeaderValue>,
) -> Result<(), Failure> {
    let target = origin.authority();
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n").into_bytes();
    if let Some(value) = authorization {
        head.extend_from_slice(b"proxy-authorization: ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    let broken =
        |error: io::Error| Failure::connection(format!("the proxy broke off: {}", root(&error)));
    tcp.write_all(&head).await.map_err(broken)?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the head belongs to the origin's own conversation.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == LONGEST_HEAD {
            return Err(Failure::connection("the proxy's answer is not HTTP"));
        }
        answer.push(tcp.read_u8().await.map_err(broken)?);
    }
    let status = answer.strip_prefix(b"HTTP/1.").and_then(|rest| {
        std::str::from_utf8(rest.get(2..5)?)
            .ok()?
            .parse::<u16>()
            .ok()
    });
    match status {
        Some(200..=299) => Ok(()),
        Some(407) => Err(Failure::connection(
            "the proxy asks for a user and password (407): give \
             proxy=\"http://user:password@host:port\"",
        )),
        Some(status) => Err(Failure::connection(format!(
            "the proxy refuses a connection to {target} ({status})"
        ))),
        None => Err(Failure::connection("the proxy's answer is not HTTP")),
    }
}

fn untrusted(origin: &Origin, error: &io::Error) -> Failure {
    let reason = root(error);
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let hint = match inner {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            " (its authority is not trusted: name its certificate with ca_bundle or SSL_CERT_FILE)"
        }
        // The error is one of a crate that rustls keeps to itself.
        _ if reason.contains("CaUsedAsEndEntity") => {
            " (its certificate is an authority's, as `openssl req -x509` makes it unless told \
             -addext basicConstraints=CA:FALSE: give it another, or give \
             http_client=httpx.AsyncClient(verify=…), which takes it)"
        }
        Some(rustls::Error::AlertReceived(_)) => {
            " (the server ended the handshake; does it ask for a client_cert?)"
        }
        _ => "",
    };
    let target = origin.authority();
    Failure::connection(format!(
        "no secure connection to {target} could be made: {reason}{hint}"
    ))
}

/// The host of an address, without brackets, and its port.
pub(super) fn host_and_port(uri: &Uri, default: u16) -> Option<(String, u16)> {
    let host = uri.host().filter(|host| !host.is_empty())?;
    let port = match uri.authority()?.as_str().strip_prefix(host)? {
        "" | ":" => default,
        port => port.strip_prefix(':')?.parse().ok()?,
    };
    Some((host.trim_matches(['[', ']']).to_owned(), port))
}

impl Origin {
    /// `host:port`, an address of version 6 in brackets.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Windows does not say what was set.
    #[cfg(not(windows))]
    #[test]
    fn a_peer_that_is_gone_is_noticed_before_the_request_has_timed_out() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let tcp = runtime.unwrap().block_on(reach("127.0.0.1", port)).unwrap();
        let socket = SockRef::from(&tcp);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), ALIVE_AFTER);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), ALIVE_EVERY);
    }

    #[test]
    fn families_take_turns() {
        let of = |text: &str| SocketAddr::new(text.parse().unwrap(), 1);
        let mixed = interleave(["::1", "::2", "::3", "1.1.1.1"].map(of).to_vec());
        assert_eq!(mixed, ["::1", "1.1.1.1", "::2", "::3"].map(of));
        assert!(interleave(Vec::new()).is_empty());
    }
}
