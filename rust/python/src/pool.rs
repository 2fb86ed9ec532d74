//! The threads that batches are spread over: started with the first large batch and kept.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Below this many bytes of text, handing work to threads costs more than it gains.
const PARALLEL_BYTES: usize = 64 << 10;

struct Owned {
    process: u32,
    pool: ThreadPool,
}

/// The pool and the process it runs in. Never freed: threads may be using it.
static CURRENT: AtomicPtr<Owned> = AtomicPtr::new(ptr::null_mut());

/// This process's pool, or `None` where no thread can be started.
///
/// After a fork the child finds its parent's pool, whose threads it does not have, and builds its
/// own. There is no lock that another thread could have held at the fork.
fn pool() -> Option<&'static ThreadPool> {
    let process = std::process::id();
    let seen = CURRENT.load(Ordering::Acquire);
    // SAFETY: a pointer that was stored is valid for ever.
    if let Some(owned) = unsafe { seen.as_ref() }
        && owned.process == process
    {
        return Some(&owned.pool);
    }
    let name = |thread| format!("tollway-{thread}");
    let pool = ThreadPoolBuilder::new().thread_name(name).build().ok()?;
    let built = Box::into_raw(Box::new(Owned { process, pool }));
    let current = match CURRENT.compare_exchange(seen, built, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => built,
        Err(other) => {
            // SAFETY: `built` was not shared; another thread of this process was first.
            drop(unsafe { Box::from_raw(built) });
            other
        }
    };
    // SAFETY: as above; both pointers are of this process.
    unsafe { current.as_ref() }.map(|owned| &owned.pool)
}

/// Applies `work` to every item, in order of the items; `bytes` is the size of them all. Each
/// thread passes a buffer from call to call.
pub fn map<I: Sync, O: Send>(
    items: &[I],
    bytes: usize,
    work: impl Fn(&mut Vec<u8>, &I) -> O + Sync,
) -> Vec<O> {
    if items.len() > 1
        && bytes >= PARALLEL_BYTES
        && let Some(pool) = pool()
        && pool.current_num_threads() > 1
    {
        return pool.install(|| items.par_iter().map_init(Vec::new, &work).collect());
    }
    let mut buffer = Vec::new();
    items.iter().map(|item| work(&mut buffer, item)).collect()
}

/// What the child of a fork must know before it counts or connects; see
/// `tollway_core::tokens::forked` and `tollway_io::fork`.
#[pyfunction]
fn after_fork() {
    tollway_core::tokens::forked();
    tollway_io::fork::forked();
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let os = py.import("os")?;
    // Where processes do not fork there is nothing to register with.
    if let Some(register) = os.getattr_opt("register_at_fork")? {
        let hooks = PyDict::new(py);
        hooks.set_item("after_in_child", wrap_pyfunction!(after_fork, module)?)?;
        register.call((), Some(&hooks))?;
    }
    Ok(())
}
