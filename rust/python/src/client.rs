//! The HTTP client for Python.
#![allow(
    clippy::needless_pass_by_value,
    reason = "PyO3 hands over what it extracts"
)]

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use numpy::PyArray2;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use tollway_core::embed;
use tollway_io::client::{
    self, Answer, Certificates, Client, Failure, Options, ProxyChoice, Request, Times,
};

use crate::completions::{self, Completions, Done, Outcome, Payload};
use crate::embed::write_body;
use crate::errors;
use crate::place::Place;

#[pyclass(frozen, module = "tollway._core")]
struct HTTPClient {
    client: Client,
    /// Sent with every request, in place of its own of the same name.
    headers: HeaderMap,
    times: Times,
}

#[pymethods]
impl HTTPClient {
    #[new]
    #[allow(clippy::too_many_arguments, reason = "what the stub shows")]
    #[pyo3(signature = (
        *, headers, connect, first_byte, idle, total, max_answer,
        ca_bundle=None, client_cert=None, client_key=None, proxy=None, http2=false
    ))]
    fn new(
        headers: &Bound<'_, PyDict>,
        connect: f64,
        first_byte: f64,
        idle: f64,
        total: f64,
        max_answer: usize,
        ca_bundle: Option<PathBuf>,
        client_cert: Option<PathBuf>,
        client_key: Option<PathBuf>,
        proxy: Option<String>,
        http2: bool,
    ) -> PyResult<Self> {
        let options = Options {
            certificates: Certificates {
                ca_bundle,
                client: client_cert.map(|certificate| (certificate, client_key)),
            },
            proxy: match proxy {
                None => ProxyChoice::Environment,
                Some(address) if address.is_empty() => ProxyChoice::None,
                Some(address) => ProxyChoice::Address(address),
            },
            http2,
            max_body: max_answer,
        };
        Ok(Self {
            client: Client::new(&options).map_err(errors::no_answer)?,
            headers: header_map(headers)?,
            times: Times {
                connect: seconds("connect", connect)?,
                first_byte: seconds("first_byte", first_byte)?,
                idle: seconds("idle", idle)?,
                total: seconds("total", total)?,
            },
        })
    }

    fn prepare(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.client.prepare())
            .map_err(errors::no_answer)
    }

    #[allow(clippy::too_many_arguments, reason = "what a request is made of")]
    fn send(
        &self,
        completions: &Completions,
        future: Py<PyAny>,
        method: &str,
        url: &str,
        headers: &Bound<'_, PyDict>,
        body: &[u8],
        timeout: Option<f64>,
    ) -> PyResult<u64> {
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| errors::configuration("a request needs a method such as POST"))?;
        let body = Bytes::copy_from_slice(body);
        let request = self.request(method, url, headers, body, timeout)?;
        completions.begin(future, None, |queue, id| {
            self.client.start(request, move |answer| {
                queue.push(id, answer.map(whole));
            })
        })
    }

    #[allow(clippy::too_many_arguments, reason = "what a request is made of")]
    #[pyo3(signature = (
        completions, future, url, headers, model, texts, timeout,
        *, dimensions=None, base64=true, extra=None, length=None, out=None
    ))]
    fn embed(
        &self,
        completions: &Completions,
        future: Py<PyAny>,
        url: &str,
        headers: &Bound<'_, PyDict>,
        model: &Bound<'_, PyString>,
        texts: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        dimensions: Option<u32>,
        base64: bool,
        extra: Option<&[u8]>,
        length: Option<usize>,
        out: Option<Bound<'_, PyArray2<f32>>>,
    ) -> PyResult<u64> {
        let (body, n) = write_body(model, texts, dimensions, base64, extra)?;
        let request = self.request(Method::POST, url, headers, body.into(), timeout)?;
        let place = out.as_ref().map(|out| Place::new(out, n)).transpose()?;
        let held = place.clone().zip(out.map(Bound::unbind));
        completions.begin(future, held, |queue, id| {
            self.client.start(request, move |answer| {
                queue.push(id, decode(answer, n, length, place.as_ref()));
            })
        })
    }

    fn close_idle(&self, py: Python<'_>) {
        py.detach(|| self.client.close_idle());
    }
}

impl HTTPClient {
    fn request(
        &self,
        method: Method,
        url: &str,
        headers: &Bound<'_, PyDict>,
        body: Bytes,
        timeout: Option<f64>,
    ) -> PyResult<Request> {
        let mut headers = header_map(headers)?;
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        // Firewalls of web applications refuse what does not say who it is.
        headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(concat!(
                "tollway/",
                env!("CARGO_PKG_VERSION")
            )));
        let total = match timeout {
            None => self.times.total,
            Some(timeout) => self.times.total.min(seconds("timeout", timeout)?),
        };
        Ok(Request {
            method,
            url: url.to_owned(),
            headers,
            body,
            times: Times {
                total,
                ..self.times
            },
        })
    }
}

fn whole(answer: Answer) -> Done {
    Done {
        status: answer.status,
        headers: answer.headers,
        payload: Payload::Body(answer.body.into_vec()),
    }
}

/// The rows of an answer; the answer itself where it has none that can be used, so that whoever
/// reports it sees what came.
fn decode(
    answer: Result<Answer, Failure>,
    n: usize,
    length: Option<usize>,
    place: Option<&Place>,
) -> Outcome {
    let answer = answer?;
    if answer.status != 200 {
        return Ok(whole(answer));
    }
    let payload = match place {
        None => embed::decode_new(&answer.body, n, length)
            .ok()
            .map(|(rows, decoded)| Payload::Rows(rows, n, decoded)),
        Some(place) => place
            .write(|length, rows| {
                let decoded = embed::decode(&answer.body, n, Some(length), |_| Some(&mut *rows));
                if decoded.is_err() {
                    rows.fill(f32::NAN);
                }
                decoded.ok()
            })
            .flatten()
            .map(Payload::Placed),
    };
    Ok(match payload {
        Some(payload) => Done {
            status: answer.status,
            headers: answer.headers,
            payload,
        },
        None => whole(answer),
    })
}

/// Headers that a request may have; their values are not shown by anything.
fn header_map(headers: &Bound<'_, PyDict>) -> PyResult<HeaderMap> {
    let mut map = HeaderMap::with_capacity(headers.len() + 4);
    for (name, value) in headers {
        let (name, value) = (name.extract::<String>()?, value.extract::<String>()?);
        let wrong = || {
            errors::configuration(format!(
                "the header {name:?} or its value holds a character that no header may hold"
            ))
        };
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(&value).map_err(|_| wrong())?;
        value.set_sensitive(true);
        map.insert(key, value);
    }
    Ok(map)
}

fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    if value.is_nan() || value <= 0.0 {
        return Err(errors::configuration(format!(
            "{name} must be a number of seconds over 0, not {value}"
        )));
    }
    Ok(Duration::try_from_secs_f64(value).unwrap_or(Duration::MAX))
}

#[pyfunction]
fn stop(py: Python<'_>) {
    py.detach(client::stop);
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    completions::register(module)?;
    module.add_class::<HTTPClient>()?;
    // Before the interpreter frees what requests under way write to.
    let atexit = module.py().import("atexit")?;
    let stop = wrap_pyfunction!(stop, module)?;
    atexit.call_method1("register", (stop,)).map(drop)
}
