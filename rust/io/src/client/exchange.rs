//! One request and its answer.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, HOST, HeaderValue, PROXY_AUTHORIZATION, TRANSFER_ENCODING,
};
use http::{HeaderMap, Method, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout_at;

use super::buffer::Body;
use super::connect::{Origin, connect};
use super::connection::{Connection, Unanswered};
use super::failure::{Failure, root};
use super::proxy::Proxy;
use super::target::{Target, path_of};
use super::{Answer, Request, State};

/// How long each part of an exchange may take; no limit where there is none.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// To look up the name, connect, and agree on how to encrypt.
    pub connect: Duration,
    /// From then to the head of the answer.
    pub first_byte: Duration,
    /// Between two parts of the answer.
    pub idle: Duration,
    /// For everything.
    pub total: Duration,
}

/// A request on its way.
struct Exchange<'a> {
    state: &'a State,
    times: Times,
    /// When all must be over.
    end: tokio::time::Instant,
    /// What to call it in a failure.
    name: String,
}

pub(super) async fn exchange(state: Arc<State>, request: Request) -> Result<Answer, Failure> {
    let target = Target::parse(&request.url)?;
    let exchange = Exchange {
        state: &state,
        times: request.times,
        end: after(Instant::now(), request.times.total),
        name: target.name(),
    };
    exchange.run(target, request).await
}

fn after(start: Instant, time: Duration) -> tokio::time::Instant {
    // Thirty years stand for no limit; more would not fit everywhere.
    tokio::time::Instant::from_std(start + time.min(Duration::from_secs(1_000_000_000)))
}

impl Exchange<'_> {
    async fn run(self, target: Target, request: Request) -> Result<Answer, Failure> {
        let Target { origin, uri } = target;
        let proxy = self.state.proxy(&origin)?;
        // Whole to a proxy that passes the request on, and to HTTP/2, which takes it apart itself.
        let form = if !origin.is_https && proxy.is_some() {
            uri.clone()
        } else {
            path_of(&uri)?
        };
        let mut message = message(proxy.filter(|_| !origin.is_https), &uri, request);
        let (mut connection, answer) = loop {
            let idle = self.state.pool.take(&origin);
            let is_new = idle.is_none();
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.connect(&origin, proxy).await?,
            };
            if is_new && let Some(shared) = connection.share() {
                self.state.pool.put(origin.clone(), shared);
            }
            *message.uri_mut() = if connection.is_shared() { &uri } else { &form }.clone();
            let answer = self
                .within(
                    self.times.first_byte,
                    "first byte",
                    connection.send(message),
                )
                .await
                .map_err(|late| self.late(late, "did not begin to answer"))?;
            match answer {
                Ok(answer) => break (connection, answer),
                // The connection had ended before any of it was written, so that the server cannot
                // have seen it. What was written is never sent again here: it may have been
                // processed, and each attempt takes its own permit.
                Err(Unanswered::Unsent(unsent)) if !is_new => message = *unsent,
                Err(Unanswered::Unsent(_)) => return Err(self.broken("the connection ended")),
                Err(Unanswered::Failed(error)) => return Err(self.broken(&reason(&error))),
            }
        };
        let (head, body) = answer.into_parts();
        let body = self.read(&mut connection, body).await?;
        if connection.is_ready().await && !connection.is_shared() {
            self.state.pool.put(origin, connection);
        }
        let body = self.unpack(&head.headers, body)?;
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }

    async fn connect(
        &self,
        origin: &Arc<Origin>,
        proxy: Option<&Proxy>,
    ) -> Result<Connection, Failure> {
        let connecting = async {
            let connected = connect(origin, proxy, || self.state.tls()).await?;
            Connection::new(connected).await
        };
        self.within(self.times.connect, "connect", connecting)
            .await
            .map_err(|late| self.late(late, "could not be reached"))?
            .map_err(|failure| Failure {
                message: format!("{}: {}", self.name, failure.message),
                ..failure
            })
    }

    /// Waits, but not for longer than `time` nor past the end; else the time that ran out.
    async fn within<T>(
        &self,
        time: Duration,
        name: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, (&'static str, Duration)> {
        let own = after(Instant::now(), time);
        let late = if own < self.end {
            (name, time)
        } else {
            ("total", self.times.total)
        };
        timeout_at(own.min(self.end), work).await.map_err(|_| late)
    }

    /// The whole body.
    async fn read(
        &self,
        connection: &mut Connection,
        mut incoming: Incoming,
    ) -> Result<Body, Failure> {
        let most = self.state.max_body;
        let told = incoming.size_hint().exact();
        let told = told.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        if told.is_some_and(|length| length > most) {
            return Err(self.too_long());
        }
        // What a server says is not reason enough to take memory for it at once.
        let mut body = Body::with_capacity(told.unwrap_or(0).min(32 << 20));
        loop {
            let frame = connection.until(incoming.frame());
            let frame = self
                .within(self.times.idle, "idle", frame)
                .await
                .map_err(|late| self.late(late, "stopped answering"))?;
            let bytes = match frame {
                None => return Ok(body),
                Some(Err(error)) => {
                    let got = body.len();
                    let reason = match told {
                        Some(all) => format!("{} after {got} of {all} bytes", reason(&error)),
                        None => format!("{} after {got} bytes", reason(&error)),
                    };
                    return Err(self.broken(&reason));
                }
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            if body.len() + bytes.len() > most {
                return Err(self.too_long());
            }
            body.extend(&bytes);
        }
    }

    /// The body as it was before it was packed: some servers pack though nobody asked for it.
    fn unpack(&self, headers: &HeaderMap, body: Body) -> Result<Body, Failure> {
        let codings = codings(headers);
        let codings: Vec<&[u8]> = codings.iter().map(Vec::as_slice).collect();
        let source: Box<dyn Read + '_> = match codings[..] {
            [] => return Ok(body),
            // An answer to HEAD says how another one would be packed.
            _ if body.is_empty() => return Ok(body),
            [b"gzip" | b"x-gzip"] => Box::new(MultiGzDecoder::new(&body[..])),
            [b"deflate"] if has_zlib_head(&body) => Box::new(ZlibDecoder::new(&body[..])),
            // Some servers leave the head of zlib away.
            [b"deflate"] => Box::new(DeflateDecoder::new(&body[..])),
            _ => {
                let name = &self.name;
                return Err(Failure::answer(format!(
                    "{name} packed its answer in a form that was not asked for"
                )));
            }
        };
        let mut whole = Vec::new();
        let most = u64::try_from(self.state.max_body).unwrap_or(u64::MAX);
        source
            .take(most.saturating_add(1))
            .read_to_end(&mut whole)
            .map_err(|_| {
                Failure::answer(format!("{}'s answer could not be unpacked", self.name))
            })?;
        if whole.len() > self.state.max_body {
            return Err(self.too_long());
        }
        Ok(whole.into())
    }

    fn late(&self, (name, time): (&'static str, Duration), what: &str) -> Failure {
        Failure::timeout(&format!("{} {what}", self.name), name, time)
    }

    fn broken(&self, reason: &str) -> Failure {
        Failure::connection(format!("{} broke off: {reason}", self.name))
    }

    fn too_long(&self) -> Failure {
        let (name, most) = (&self.name, self.state.max_body);
        Failure::answer(format!(
            "{name}'s answer is longer than {most} bytes (max_answer)"
        ))
    }
}

/// How a body is packed, in small letters; empty for one that is not.
fn codings(headers: &HeaderMap) -> Vec<Vec<u8>> {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let names = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    names
        .map(|name| name.trim_ascii().to_ascii_lowercase())
        .filter(|name| !matches!(&name[..], b"" | b"identity"))
        .collect()
}

/// RFC 1950, section 2.2.
fn has_zlib_head(body: &[u8]) -> bool {
    let &[method, flags, ..] = body else {
        return false;
    };
    method & 0x0f == 8 && u16::from_be_bytes([method, flags]).is_multiple_of(31)
}

fn reason(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        return "the connection was closed before the answer was complete".to_owned();
    }
    root(error)
}

/// What is sent, with the credentials of a proxy that passes it on.
fn message(proxy: Option<&Proxy>, uri: &Uri, request: Request) -> http::Request<Full<Bytes>> {
    let authority = uri.authority().map(http::uri::Authority::as_str);
    let host = authority.and_then(|host| HeaderValue::try_from(host).ok());
    let is_empty = request.body.is_empty();
    let mut message = http::Request::new(Full::new(request.body));
    *message.version_mut() = Version::HTTP_11;
    *message.method_mut() = request.method;
    // hyper says nothing of a body that is empty, and some servers ask for the length (411).
    let is_empty_post = is_empty
        && matches!(
            *message.method(),
            Method::POST | Method::PUT | Method::PATCH
        );
    let headers = message.headers_mut();
    *headers = request.headers;
    // They are of the body that is sent: others would cut it short, or have the server wait for more.
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    if is_empty_post {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    if let (Some(host), false) = (host, headers.contains_key(HOST)) {
        headers.insert(HOST, host);
    }
    if let Some(value) = proxy.and_then(|proxy| proxy.authorization.as_ref()) {
        headers.insert(PROXY_AUTHORIZATION, value.clone());
    }
    message
}
