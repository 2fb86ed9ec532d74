//! Those who wait: by priority, which grows with waiting, then by arrival. Behind a lock: nobody on
//! the fast path comes here.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::quota::Cost;

/// A place in the queue; a later one is larger.
pub type Ticket = u64;

/// Whoever waits so long has gained one level of priority.
pub const AGEING: Duration = Duration::from_secs(10);

/// The highest and, with its sign turned, the lowest priority.
pub const MAX_PRIORITY: i32 = 1_000_000;

/// What somebody waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// What it takes.
    pub cost: Cost,
    /// Who is higher comes first; from -[`MAX_PRIORITY`] to [`MAX_PRIORITY`].
    pub priority: i32,
    /// Whether it is one of those under way until it is given back.
    pub is_leased: bool,
}

/// The order of waiting: nanoseconds of arrival, earlier by a level of priority each, then the
/// ticket. It does not change while they wait, because all grow older alike.
type Rank = (i64, Ticket);

#[derive(Default)]
pub(super) struct Waiters {
    order: BTreeMap<Rank, Request>,
    ranks: HashMap<Ticket, Rank>,
    last: Ticket,
    latest: u64,
    /// Who is first, and since when in ticks.
    pub headed: Option<(Ticket, u64)>,
}

impl Waiters {
    pub fn first(&self) -> Option<(Ticket, Request)> {
        let ((_, ticket), request) = self.order.first_key_value()?;
        Some((*ticket, *request))
    }

    /// The one after the first.
    pub fn second(&self) -> Option<(Ticket, Request)> {
        let ((_, ticket), request) = self.order.iter().nth(1)?;
        Some((*ticket, *request))
    }

    pub fn remove(&mut self, ticket: Ticket) -> bool {
        let rank = self.ranks.remove(&ticket);
        rank.is_some_and(|rank| self.order.remove(&rank).is_some())
    }
}

#[derive(Default)]
pub(super) struct Queue {
    waiters: Mutex<Waiters>,
    /// How many wait, readable without the lock.
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

    /// What the first in the queue waits for.
    pub fn first(&self) -> Option<Request> {
        self.lock().first().map(|(_, request)| request)
    }

    /// Join; whether the place is one of the first two, too.
    pub fn push(&self, now: u64, request: Request) -> (Ticket, bool) {
        self.change(|waiters| {
            // Clocks are read before the lock is taken: who comes to it later has come later.
            waiters.latest = waiters.latest.max(now);
            waiters.last += 1;
            let level = i64::try_from(AGEING.as_nanos()).expect("a few seconds");
            let arrival = i64::try_from(waiters.latest).unwrap_or(i64::MAX);
            let priority = request.priority.clamp(-MAX_PRIORITY, MAX_PRIORITY);
            let rank = (
                arrival.saturating_sub(i64::from(priority) * level),
                waiters.last,
            );
            waiters.order.insert(rank, request);
            waiters.ranks.insert(waiters.last, rank);
            let is_near = waiters.order.keys().take(2).any(|place| *place == rank);
            (waiters.last, is_near)
        })
    }

    pub fn cancel(&self, ticket: Ticket) -> bool {
        self.change(|waiters| waiters.remove(ticket))
    }

    pub fn clear(&self) {
        self.change(|waiters| {
            waiters.order.clear();
            waiters.ranks.clear();
        });
    }

    /// Do something to those who wait.
    pub fn change<T>(&self, act: impl FnOnce(&mut Waiters) -> T) -> T {
        let mut waiters = self.lock();
        let result = act(&mut waiters);
        self.length.store(waiters.order.len(), Ordering::Release);
        result
    }
}
