//! The thread that all connections of a process live on.
//!
//! One thread: it carries over 100,000 vectors a second, and a request that stays on one thread is
//! never handed from core to core.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;

use super::Failure;
use crate::fork::PerProcess;

struct Runtime {
    handle: Handle,
    stop: Arc<Notify>,
    is_stopped: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

static RUNTIME: PerProcess<Runtime> = PerProcess::new();

impl Runtime {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("tollway-http".to_owned())
            .spawn(move || {
                runtime.block_on(stopped.notified());
                // A name that is still being looked up is not waited for.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            handle,
            stop,
            is_stopped: AtomicBool::new(false),
            thread: Mutex::new(Some(thread)),
        })
    }

    fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.stop.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = { thread }.take() {
            // A panic in it was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The handle of this process's thread, started now if need be.
pub(super) fn handle() -> Result<&'static Handle, Failure> {
    if is_stopped() {
        return Err(Failure::connection(
            "the process is ending, and sends no more requests",
        ));
    }
    let started = RUNTIME.get_or_make(Runtime::start);
    started.map(|runtime| &runtime.handle).map_err(|error| {
        Failure::connection(format!("the thread for HTTP could not be started: {error}"))
    })
}

/// Closes every connection of this process and ends the thread. Requests under way end without a
/// word, and later ones fail.
pub fn stop() {
    if let Some(runtime) = RUNTIME.get() {
        runtime.stop();
    }
}

pub(super) fn is_stopped() -> bool {
    RUNTIME
        .get()
        .is_some_and(|runtime| runtime.is_stopped.load(Ordering::Acquire))
}
