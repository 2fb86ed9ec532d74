//! One connection, driven by the request that uses it.
//!
//! hyper parts a connection into a handle and a future that does its work. Here that future is
//! polled by the request itself and not by a task of its own: nothing is handed between tasks, and
//! a request that is dropped takes its connection with it, which closes the socket.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::connect::{Connected, Stream};
use super::failure::{Failure, root};

type Io = TokioIo<Stream>;
type Message = Request<Full<Bytes>>;

/// Bytes that hyper reads at once at most. What is larger than a processor's nearer cache is slower.
const READ: usize = 128 << 10;

/// HTTP/2 lets a server send so much before it is told to go on.
const WINDOW: u32 = 8 << 20;

pub(super) struct Connection {
    speaker: Speaker,
    /// When it was last used.
    pub since: Instant,
}

enum Speaker {
    /// With a second handle of the driver's socket.
    Http1(http1::SendRequest<Full<Bytes>>, Box<Driver>, TcpStream),
    /// Its work is done by a task, since several requests share it.
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// The work of an HTTP/1.1 connection.
struct Driver {
    work: http1::Connection<Io, Full<Bytes>>,
    has_ended: bool,
}

/// A request that the connection did not take: none of it was sent.
pub(super) enum Unanswered {
    Unsent(Box<Message>),
    Failed(hyper::Error),
}

impl Connection {
    /// Begins to speak HTTP.
    pub async fn new(connected: Connected) -> Result<Self, Failure> {
        let Connected {
            stream,
            socket,
            is_http2,
        } = connected;
        let failed =
            |error: hyper::Error| Failure::connection(format!("no HTTP: {}", root(&error)));
        let io = TokioIo::new(stream);
        let speaker = if is_http2 {
            let (sender, work) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(4 * WINDOW)
                .handshake(io)
                .await
                .map_err(failed)?;
            tokio::spawn(work);
            Speaker::Http2(sender)
        } else {
            let (sender, work) = http1::Builder::new()
                .max_buf_size(READ)
                .handshake(io)
                .await
                .map_err(failed)?;
            let has_ended = false;
            Speaker::Http1(sender, Box::new(Driver { work, has_ended }), socket)
        };
        Ok(Self {
            speaker,
            since: Instant::now(),
        })
    }

    /// Whether several requests may use it at once.
    pub fn is_shared(&self) -> bool {
        matches!(self.speaker, Speaker::Http2(_))
    }

    /// A second handle of a connection that several requests may use at once.
    pub fn share(&self) -> Option<Self> {
        let Speaker::Http2(sender) = &self.speaker else {
            return None;
        };
        Some(Self {
            speaker: Speaker::Http2(sender.clone()),
            since: self.since,
        })
    }

    /// Whether a request may be sent: the peer has neither closed it nor said anything unasked.
    pub fn is_open(&self) -> bool {
        match &self.speaker {
            Speaker::Http1(_, _, socket) => {
                let seen = socket.peek(&mut [0]);
                seen.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            Speaker::Http2(sender) => !sender.is_closed(),
        }
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn send(&mut self, message: Message) -> Result<Response<Incoming>, Unanswered> {
        match &mut self.speaker {
            Speaker::Http1(sender, driver, _) => {
                let answer = sender.try_send_request(message);
                let answer = driver.until(answer).await;
                answer.map_err(|mut error| match error.take_message() {
                    Some(message) => Unanswered::Unsent(Box::new(message)),
                    None => Unanswered::Failed(error.into_error()),
                })
            }
            Speaker::Http2(sender) => {
                let answer = sender.try_send_request(message).await;
                answer.map_err(|mut error| match error.take_message() {
                    Some(message) => Unanswered::Unsent(Box::new(message)),
                    None => Unanswered::Failed(error.into_error()),
                })
            }
        }
    }

    /// Does the connection's work until `wanted` is there.
    pub async fn until<T>(&mut self, wanted: impl Future<Output = T>) -> T {
        match &mut self.speaker {
            Speaker::Http1(_, driver, _) => driver.until(wanted).await,
            Speaker::Http2(_) => wanted.await,
        }
    }

    /// Whether another request may follow the one that was answered.
    pub async fn is_ready(&mut self) -> bool {
        match &mut self.speaker {
            Speaker::Http1(sender, driver, _) => {
                poll_fn(|cx| {
                    driver.poll(cx);
                    let ready = matches!(sender.poll_ready(cx), Poll::Ready(Ok(())));
                    Poll::Ready(ready && !driver.has_ended)
                })
                .await
            }
            Speaker::Http2(sender) => !sender.is_closed(),
        }
    }
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) {
        if !self.has_ended {
            // What went wrong is told to the request too.
            self.has_ended = Pin::new(&mut self.work).poll(cx).is_ready();
        }
    }

    async fn until<T>(&mut self, wanted: impl Future<Output = T>) -> T {
        let mut wanted = pin!(wanted);
        poll_fn(|cx| {
            if let Poll::Ready(value) = wanted.as_mut().poll(cx) {
                return Poll::Ready(value);
            }
            self.poll(cx);
            wanted.as_mut().poll(cx)
        })
        .await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Speaker::Http1(_, _, socket) = &self.speaker {
            // A forked child may hold the socket too, and would keep it open.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
