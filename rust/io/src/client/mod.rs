//! An HTTP client on a thread of its own: requests are given to it from any thread, and each ends
//! in a call of a function, on that thread.

mod buffer;
mod connect;
mod connection;
mod exchange;
mod failure;
mod pool;
mod proxy;
mod runtime;
mod target;
mod tls;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use rustls::client::ClientConfig;
use tokio::task::AbortHandle;

pub use buffer::Body;
pub use exchange::Times;
pub use failure::{Failure, Kind};
pub use proxy::ProxyChoice;
pub use runtime::stop;
pub use tls::Certificates;

use crate::fork::PerProcess;
use connect::Origin;
use pool::Pool;
use proxy::{Proxies, Proxy};
use tls::Tls;

/// How a client connects. Not to be shown: the proxy's address may hold a password.
#[derive(Clone, Default)]
pub struct Options {
    /// Whom to trust, and who we are.
    pub certificates: Certificates,
    /// What to connect through.
    pub proxy: ProxyChoice,
    /// Offer HTTP/2 where the connection is encrypted.
    pub http2: bool,
    /// Bytes of the longest answer that is taken.
    pub max_body: usize,
}

/// A request.
#[derive(Debug)]
pub struct Request {
    /// `POST`.
    pub method: Method,
    /// `https://host/path`.
    pub url: String,
    /// Beside `content-length`, and `host` where it is not among them, which are made.
    pub headers: HeaderMap,
    /// As sent.
    pub body: Bytes,
    /// How long its parts may take.
    pub times: Times,
}

/// An answer, whatever its status. A redirect is one: none is followed.
#[derive(Debug)]
pub struct Answer {
    /// Of HTTP.
    pub status: u16,
    /// As they came.
    pub headers: HeaderMap,
    /// Whole and unpacked.
    pub body: Body,
}

/// What ends a request before its time; see [`Pending::cancel`].
#[derive(Debug)]
pub struct Pending {
    task: AbortHandle,
    generation: u64,
}

/// Sends requests. Its connections are its own, one set in each process.
pub struct Client {
    common: Arc<Common>,
    state: PerProcess<Arc<State>>,
}

/// What all processes share: never changed.
struct Common {
    proxies: Proxies,
    tls: Tls,
    max_body: usize,
}

/// What belongs to one process.
struct State {
    common: Arc<Common>,
    pool: Arc<Pool>,
    tls: OnceLock<Result<Arc<ClientConfig>, Failure>>,
}

impl std::ops::Deref for State {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

impl State {
    fn tls(&self) -> Result<Arc<ClientConfig>, Failure> {
        self.tls.get_or_init(|| self.common.tls.config()).clone()
    }

    fn proxy(&self, origin: &Origin) -> Result<Option<&Proxy>, Failure> {
        self.proxies
            .for_host(origin.is_https, &origin.host, origin.port)
    }
}

impl Client {
    /// Reads certificates and the environment; nothing is connected to.
    pub fn new(options: &Options) -> Result<Self, Failure> {
        let proxies = Proxies::new(&options.proxy, |name| std::env::var(name).ok())?;
        let common = Common {
            proxies,
            tls: Tls::new(&options.certificates, options.http2)?,
            max_body: options.max_body,
        };
        Ok(Self {
            common: Arc::new(common),
            state: PerProcess::new(),
        })
    }

    fn state(&self) -> &Arc<State> {
        let Ok(state) = self.state.get_or_make(|| {
            Ok::<_, std::convert::Infallible>(Arc::new(State {
                common: self.common.clone(),
                pool: Arc::default(),
                tls: OnceLock::new(),
            }))
        });
        state
    }

    /// Does what the first request would have to do: starts the thread, and reads the system's
    /// certificates.
    pub fn prepare(&self) -> Result<(), Failure> {
        runtime::handle()?;
        // Whether there are any matters to requests over TLS, and those tell of it.
        let _ = self.state().tls();
        Ok(())
    }

    /// Sends a request. `done` is called once on the client's thread, whatever becomes of the
    /// request, unless [`stop`] ends that.
    pub fn start(
        &self,
        request: Request,
        done: impl FnOnce(Result<Answer, Failure>) + Send + 'static,
    ) -> Result<Pending, Failure> {
        let handle = runtime::handle()?;
        let state = self.state().clone();
        let done = Once(Some(done));
        let task = handle.spawn(async move {
            let mut done = done;
            let result = exchange::exchange(state, request).await;
            done.call(result);
        });
        Ok(Pending {
            task: task.abort_handle(),
            generation: crate::fork::generation(),
        })
    }

    /// Closes the connections that wait for a request.
    pub fn close_idle(&self) {
        if let Some(state) = self.state.get() {
            state.pool.close_idle(Duration::ZERO);
        }
    }
}

impl Pending {
    /// Ends the request and closes its connection; one that is through already is left as it is.
    /// In a child of the process that began it nothing is done, and the answer is false.
    pub fn cancel(&self) -> bool {
        let is_ours = self.generation == crate::fork::generation();
        if is_ours {
            self.task.abort();
        }
        is_ours
    }
}

/// Calls its function when it is dropped, if nobody did before: a request that is cancelled or
/// panics must not be waited for for ever. At the end of the process nobody is told: a thread that
/// wakes up then finds an interpreter that is half gone.
struct Once<F: FnOnce(Result<Answer, Failure>)>(Option<F>);

impl<F: FnOnce(Result<Answer, Failure>)> Once<F> {
    fn call(&mut self, result: Result<Answer, Failure>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl<F: FnOnce(Result<Answer, Failure>)> Drop for Once<F> {
    fn drop(&mut self) {
        if !runtime::is_stopped() {
            self.call(Err(Failure::connection(
                "the request was ended before its answer came",
            )));
        }
    }
}
