//! Connections that wait for their next request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::connect::Origin;
use super::connection::Connection;

/// Connections to one origin that are kept.
const MOST_IDLE: usize = 100;

/// How long one is kept. Servers close theirs after 5 s (uvicorn) to some minutes.
const LONGEST_IDLE: Duration = Duration::from_secs(30);

/// The idle connections of a client. Held for the length of a look-up only.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// By when they were last used, the latest last.
    connections: HashMap<Arc<Origin>, Vec<Connection>>,
    is_watched: bool,
}

impl Pool {
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to an origin that was used last, if it is open still.
    pub fn take(&self, origin: &Arc<Origin>) -> Option<Connection> {
        let mut idle = self.idle();
        let connections = idle.connections.get_mut(origin)?;
        while let Some(connection) = connections.pop() {
            if connection.since.elapsed() < LONGEST_IDLE && connection.is_open() {
                if let Some(shared) = connection.share() {
                    connections.push(connection);
                    return Some(shared);
                }
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request to an origin.
    pub fn put(self: &Arc<Self>, origin: Arc<Origin>, mut connection: Connection) {
        connection.since = Instant::now();
        let mut idle = self.idle();
        let connections = idle.connections.entry(origin).or_default();
        if connections.len() < MOST_IDLE {
            connections.push(connection);
        }
        if !std::mem::replace(&mut idle.is_watched, true) {
            tokio::spawn(watch(Arc::downgrade(self)));
        }
    }

    /// Closes what has waited for `age` and more; whether anything is left.
    pub fn close_idle(&self, age: Duration) -> bool {
        let mut idle = self.idle();
        idle.connections.retain(|_, connections| {
            connections.retain(|connection| connection.since.elapsed() < age);
            !connections.is_empty()
        });
        idle.is_watched = idle.is_watched && !idle.connections.is_empty();
        idle.is_watched
    }
}

/// Closes connections that wait for too long, for as long as there are any.
async fn watch(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(LONGEST_IDLE / 4).await;
        match pool.upgrade() {
            Some(pool) if pool.close_idle(LONGEST_IDLE) => {}
            _ => return,
        }
    }
}
