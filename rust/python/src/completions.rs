//! Futures of one event loop, completed together: the loop is woken once for all that are ready.

use std::collections::HashMap;
#[cfg(unix)]
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray2};
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use tollway_core::embed::Decoded;
use tollway_io::client::{Failure, Pending};

use crate::embed::DecodedEmbeddings;
use crate::errors;
use crate::place::Place;

/// What became of a request, as the client's thread leaves it.
pub type Outcome = Result<Done, Failure>;

/// An answer.
pub struct Done {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub payload: Payload,
}

pub enum Payload {
    Body(Vec<u8>),
    /// Rows, where the caller gave no place for them.
    Rows(Vec<f32>, usize, Decoded),
    /// Rows that are in the caller's place.
    Placed(Decoded),
}

/// What the client's thread has done and the loop has not seen. Neither side holds the lock for
/// longer than a push or a swap.
pub struct Queue {
    done: Mutex<Vec<(u64, Outcome)>>,
    wake: Wake,
}

enum Wake {
    /// The loop watches the other end.
    #[cfg(unix)]
    Socket(std::os::unix::net::UnixStream),
    /// For loops that watch no sockets.
    Call(Py<PyAny>),
}

impl Queue {
    /// Leaves an outcome for the loop, and wakes it unless that was done for one before.
    pub fn push(&self, id: u64, outcome: Outcome) {
        let mut done = lock(&self.done);
        let is_first = done.is_empty();
        done.push((id, outcome));
        drop(done);
        if !is_first {
            return;
        }
        match &self.wake {
            // A socket that is full wakes the loop as well; one whose loop is gone has nobody to
            // wake.
            #[cfg(unix)]
            Wake::Socket(socket) => drop((&*socket).write(&[1])),
            Wake::Call(wake) => {
                Python::try_attach(|py| wake.call0(py).map(drop).ok());
            }
        }
    }
}

/// A request that a future waits for.
struct Waiting {
    future: Py<PyAny>,
    request: Pending,
    place: Option<(Place, Py<PyArray2<f32>>)>,
}

#[pyclass(frozen, module = "tollway._core")]
pub struct Completions {
    queue: Arc<Queue>,
    #[cfg(unix)]
    woken: Option<std::os::unix::net::UnixStream>,
    waiting: Mutex<Waitings>,
}

#[derive(Default)]
struct Waitings {
    last: u64,
    by_id: HashMap<u64, Waiting>,
}

impl Completions {
    /// Begins a request that completes `future`; `start` gets the queue and the id of it.
    pub fn begin(
        &self,
        future: Py<PyAny>,
        place: Option<(Place, Py<PyArray2<f32>>)>,
        start: impl FnOnce(Arc<Queue>, u64) -> Result<Pending, Failure>,
    ) -> PyResult<u64> {
        // Held until the future is in the table: the answer may come before `start` returns.
        let mut waiting = lock(&self.waiting);
        waiting.last += 1;
        let id = waiting.last;
        let request = match start(self.queue.clone(), id) {
            Ok(request) => request,
            Err(failure) => {
                // Python makes the exception, and whatever it collects meanwhile may come here too.
                drop(waiting);
                return Err(errors::no_answer(failure));
            }
        };
        let entry = Waiting {
            future,
            request,
            place,
        };
        waiting.by_id.insert(id, entry);
        Ok(id)
    }
}

#[pymethods]
impl Completions {
    #[new]
    #[pyo3(signature = (wake=None))]
    fn new(wake: Option<Py<PyAny>>) -> PyResult<Self> {
        let (ours, theirs) = match wake {
            Some(wake) => (None, Wake::Call(wake)),
            None => pair()?,
        };
        let queue = Queue {
            done: Mutex::default(),
            wake: theirs,
        };
        #[cfg(not(unix))]
        let _: Option<()> = ours;
        Ok(Self {
            queue: Arc::new(queue),
            #[cfg(unix)]
            woken: ours,
            waiting: Mutex::default(),
        })
    }

    #[cfg(unix)]
    fn fileno(&self) -> PyResult<i32> {
        use std::os::fd::AsRawFd;

        let socket = self.woken.as_ref();
        socket.map(AsRawFd::as_raw_fd).ok_or_else(|| {
            PyRuntimeError::new_err("these completions call a function and have no file")
        })
    }

    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        #[cfg(unix)]
        if let Some(mut socket) = self.woken.as_ref() {
            // One byte a wake-up; what is left wakes the loop again.
            match socket.read(&mut [0; 64]) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
                _ => {}
            }
        }
        let done = std::mem::take(&mut *lock(&self.queue.done));
        let mut result = Ok(());
        for (id, outcome) in done {
            // A request that was cancelled is in the table no more.
            let waiting = lock(&self.waiting).by_id.remove(&id);
            if let Some(waiting) = waiting {
                // The others get their answers all the same.
                result = result.and(complete(py, waiting, outcome));
            }
        }
        result
    }

    fn cancel(&self, py: Python<'_>, number: u64) {
        let waiting = lock(&self.waiting).by_id.remove(&number);
        if let Some(waiting) = waiting {
            waiting.end(py);
        }
    }

    fn close(&self, py: Python<'_>) {
        let waiting = std::mem::take(&mut lock(&self.waiting).by_id);
        for waiting in waiting.into_values() {
            waiting.end(py);
        }
    }

    fn __len__(&self) -> usize {
        lock(&self.waiting).by_id.len()
    }
}

impl Drop for Completions {
    fn drop(&mut self) {
        Python::attach(|py| self.close(py));
    }
}

impl Waiting {
    /// Ends the request; afterwards nothing writes to the caller's place.
    fn end(self, py: Python<'_>) {
        if !self.request.cancel() {
            // A parent's, whose thread may have held any lock at the fork.
            std::mem::forget(self);
        } else if let Some((place, _)) = &self.place {
            py.detach(|| place.close());
        }
    }
}

fn complete(py: Python<'_>, waiting: Waiting, outcome: Outcome) -> PyResult<()> {
    let future = waiting.future.bind(py);
    if future.call_method0(intern!(py, "done"))?.is_truthy()? {
        return Ok(());
    }
    let answer = match outcome {
        Ok(done) => answer(py, done, waiting.place.map(|(_, array)| array)),
        Err(failure) => Err(errors::no_answer(failure)),
    };
    match answer {
        Ok(answer) => future.call_method1(intern!(py, "set_result"), (answer,)),
        Err(error) => future.call_method1(intern!(py, "set_exception"), (error,)),
    }?;
    Ok(())
}

fn answer(py: Python<'_>, done: Done, place: Option<Py<PyArray2<f32>>>) -> PyResult<HTTPResponse> {
    let (body, embeddings) = match (done.payload, place) {
        (Payload::Body(body), _) => (PyBytes::new(py, &body), None),
        (Payload::Placed(decoded), Some(array)) => {
            let rows = DecodedEmbeddings::new(array.into_bound(py), decoded);
            (PyBytes::new(py, b""), Some(Py::new(py, rows)?))
        }
        (Payload::Rows(rows, n, decoded), _) => {
            let shape = (n, decoded.dimension.unwrap_or(0));
            let rows = Array2::from_shape_vec(shape, rows)
                .map_err(|error| errors::bad_response(error.to_string()))?;
            let rows = DecodedEmbeddings::new(rows.into_pyarray(py), decoded);
            (PyBytes::new(py, b""), Some(Py::new(py, rows)?))
        }
        (Payload::Placed(_), None) => {
            return Err(PyRuntimeError::new_err("the place of the rows is gone"));
        }
    };
    Ok(HTTPResponse {
        status: done.status,
        headers: done.headers,
        body: body.unbind(),
        embeddings,
    })
}

#[pyclass(frozen, module = "tollway._core")]
pub struct HTTPResponse {
    #[pyo3(get)]
    status: u16,
    headers: http::HeaderMap,
    #[pyo3(get)]
    body: Py<PyBytes>,
    #[pyo3(get)]
    embeddings: Option<Py<DecodedEmbeddings>>,
}

#[pymethods]
impl HTTPResponse {
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let headers = PyDict::new(py);
        for name in self.headers.keys() {
            let values = self.headers.get_all(name).iter();
            // The field's bytes are Latin-1 (RFC 9110, section 5.5).
            let values: Vec<String> = values
                .map(|value| value.as_bytes().iter().copied().map(char::from).collect())
                .collect();
            headers.set_item(name.as_str(), values.join(", "))?;
        }
        Ok(headers)
    }

    fn __repr__(&self) -> String {
        format!("HTTPResponse(status={})", self.status)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(unix)]
fn pair() -> PyResult<(Option<std::os::unix::net::UnixStream>, Wake)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((Some(ours), Wake::Socket(theirs)))
}

#[cfg(not(unix))]
fn pair() -> PyResult<(Option<()>, Wake)> {
    Err(errors::configuration(
        "this system needs a function to call",
    ))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Completions>()?;
    module.add_class::<HTTPResponse>()
}
