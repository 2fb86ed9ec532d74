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
    /// Whether there is a task that watches them: one at most, which alone says that it ends.
    is_watched: bool,
}

impl Idle {
    fn close(&mut self, age: Duration) {
        self.connections.retain(|_, connections| {
            connections.retain(|connection| connection.since.elapsed() < age);
            !connections.is_empty()
        });
    }
}

impl Pool {
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to an origin that was used last, if it is open still.
    pub fn take(&self, origin: &Arc<Origin>) -> Option<Connection> {
        let mut idle = self.idle();
        let connections = idle.connections.get_mut(origin)?;
        while let Some(mut connection) = connections.pop() {
            if connection.since.elapsed() < LONGEST_IDLE && connection.is_open() {
                if let Some(shared) = connection.share() {
                    // It never leaves: this is when it is used.
                    connection.since = Instant::now();
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

    /// Closes what has waited for `age` and more.
    pub fn close_idle(&self, age: Duration) {
        self.idle().close(age);
    }

    /// Closes what has waited for too long; whether anything is left to watch.
    fn tend(&self) -> bool {
        let mut idle = self.idle();
        idle.close(LONGEST_IDLE);
        idle.is_watched = !idle.connections.is_empty();
        idle.is_watched
    }
}

/// Closes connections that wait for too long, for as long as there are any.
async fn watch(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(LONGEST_IDLE / 4).await;
        match pool.upgrade() {
            Some(pool) if pool.tend() => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio::runtime::{Builder, Handle};

    use super::*;
    use crate::client::connect::{Connected, Stream};

    async fn connection(listener: &TcpListener, is_http2: bool) -> Connection {
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let tcp = tokio::net::TcpStream::from_std(socket.try_clone().unwrap()).unwrap();
        let stream = Stream::Plain(tcp);
        let connected = Connected {
            stream,
            socket,
            is_http2,
        };
        Connection::new(connected).await.unwrap()
    }

    fn run(test: impl AsyncFnOnce(TcpListener, Arc<Pool>, Arc<Origin>)) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = Origin {
            is_https: false,
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
        };
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(listener, Arc::default(), Arc::new(origin)));
    }

    #[test]
    fn a_connection_that_is_shared_is_used_when_it_is_taken() {
        run(async |listener, pool, origin| {
            pool.put(origin.clone(), connection(&listener, true).await);
            let since = |pool: &Pool| pool.idle().connections[&origin][0].since;
            let before = since(&pool);
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert!(pool.take(&origin).is_some());
            assert!(since(&pool) > before);
        });
    }

    #[test]
    fn one_task_watches_however_often_all_are_closed() {
        run(async |listener, pool, origin| {
            for _ in 0..5 {
                pool.put(origin.clone(), connection(&listener, false).await);
                pool.close_idle(Duration::ZERO);
                assert!(pool.take(&origin).is_none());
            }
            assert_eq!(Handle::current().metrics().num_alive_tasks(), 1);
            assert!(!pool.tend());
            pool.put(origin.clone(), connection(&listener, false).await);
            assert!(pool.tend());
        });
    }
}
