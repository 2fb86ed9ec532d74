//! Those who wait: by priority, which grows with waiting, then by arrival. Behind a lock: nobody on
//! the fast path comes here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
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
pub(super) type Rank = (i64, Ticket);

#[derive(Default)]
pub(super) struct Waiters {
    order: BTreeMap<Rank, Request>,
    ranks: HashMap<Ticket, Rank>,
    /// Tokens, weighted, and rank of everybody: who may pass is looked for among the smallest.
    sizes: BTreeSet<(u32, Rank)>,
    output_weight: u32,
    last: Ticket,
    latest: u64,
    /// Who is first, and since when in ticks.
    pub headed: Option<(Ticket, u64)>,
}

impl Waiters {
    pub fn first(&self) -> Option<(Rank, Request)> {
        let (rank, request) = self.order.first_key_value()?;
        Some((*rank, *request))
    }

    /// Who comes after `rank`.
    pub fn after(&self, rank: Rank) -> Option<(Rank, Request)> {
        let behind = (Bound::Excluded(rank), Bound::Unbounded);
        let (rank, request) = self.order.range(behind).next()?;
        Some((*rank, *request))
    }

    /// The smallest, of several the one that comes first.
    pub fn smallest(&self) -> Option<(Rank, Request)> {
        let (_, rank) = self.sizes.first()?;
        Some((*rank, self.order[rank]))
    }

    fn insert(&mut self, rank: Rank, request: Request) {
        self.order.insert(rank, request);
        self.ranks.insert(rank.1, rank);
        let size = request.cost.weighted(self.output_weight);
        self.sizes.insert((size, rank));
    }

    pub fn remove(&mut self, ticket: Ticket) -> bool {
        let Some(rank) = self.ranks.remove(&ticket) else {
            return false;
        };
        if let Some(request) = self.order.remove(&rank) {
            let size = request.cost.weighted(self.output_weight);
            self.sizes.remove(&(size, rank));
        }
        true
    }
}

pub(super) struct Queue {
    waiters: Mutex<Waiters>,
    /// How many wait, readable without the lock.
    length: AtomicUsize,
}

impl Queue {
    pub fn new(output_weight: u32) -> Self {
        let waiters = Waiters {
            output_weight,
            ..Waiters::default()
        };
        Self {
            waiters: Mutex::new(waiters),
            length: AtomicUsize::new(0),
        }
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

    /// Join; whether the place is the first, too.
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
            waiters.insert(rank, request);
            let is_first = waiters.order.keys().next() == Some(&rank);
            (waiters.last, is_first)
        })
    }

    pub fn cancel(&self, ticket: Ticket) -> bool {
        self.change(|waiters| waiters.remove(ticket))
    }

    pub fn clear(&self) {
        self.change(|waiters| {
            waiters.order.clear();
            waiters.ranks.clear();
            waiters.sizes.clear();
            waiters.headed = None;
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
