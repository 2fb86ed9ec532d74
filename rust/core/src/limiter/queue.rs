//! Those who wait, first come first served. Behind a lock: nobody on the fast path comes here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::window::Decision;

/// A place in the queue; smaller came earlier.
pub type Ticket = u64;

/// What is left after the queue was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Nobody waits.
    Empty,
    /// The first in the queue can be admitted after this long.
    Wait(Duration),
    /// As many were admitted as asked for; there may be more.
    More,
}

#[derive(Default)]
struct Waiters {
    /// Tokens asked for, in order of arrival.
    waiting: BTreeMap<Ticket, u32>,
    last: Ticket,
}

#[derive(Default)]
pub(super) struct Queue {
    waiters: Mutex<Waiters>,
    /// `waiters.waiting.len()`, readable without the lock.
    length: AtomicUsize,
}

impl Queue {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.length.load(Ordering::Acquire)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        // Nothing below can panic halfway through a change.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tokens that the first in the queue asks for.
    pub fn head(&self) -> Option<u32> {
        self.lock()
            .waiting
            .first_key_value()
            .map(|(_, tokens)| *tokens)
    }

    pub fn push(&self, tokens: u32) -> Ticket {
        let mut waiters = self.lock();
        waiters.last += 1;
        let ticket = waiters.last;
        waiters.waiting.insert(ticket, tokens);
        self.length.store(waiters.waiting.len(), Ordering::Release);
        ticket
    }

    pub fn cancel(&self, ticket: Ticket) -> bool {
        let mut waiters = self.lock();
        let was_waiting = waiters.waiting.remove(&ticket).is_some();
        self.length.store(waiters.waiting.len(), Ordering::Release);
        was_waiting
    }

    pub fn clear(&self) {
        let mut waiters = self.lock();
        waiters.waiting.clear();
        self.length.store(0, Ordering::Release);
    }

    /// Serve from the front while `admit` admits, `most` at the most.
    pub fn poll(
        &self,
        most: usize,
        admitted: &mut Vec<Ticket>,
        admit: impl Fn(u32) -> Decision,
    ) -> Poll {
        let mut waiters = self.lock();
        let mut left = most;
        let outcome = loop {
            let Some(first) = waiters.waiting.first_entry() else {
                break Poll::Empty;
            };
            if left == 0 {
                break Poll::More;
            }
            match admit(*first.get()) {
                Decision::Admitted => admitted.push(first.remove_entry().0),
                Decision::Wait(wait) => break Poll::Wait(wait),
            }
            left -= 1;
        };
        self.length.store(waiters.waiting.len(), Ordering::Release);
        outcome
    }
}
