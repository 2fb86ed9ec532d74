//! State that a forked child must not share with its parent.
//!
//! A child has a copy of its parent's memory but only one of its threads: a lock may be held by a
//! thread that is not there, and a socket is still the parent's. What is kept here is rebuilt in
//! the child, and what the parent had stays where it is, untouched.

use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Tells that this process is the child of a fork. Called in it before anything else.
pub fn forked() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// How many forks lie between the first process and this one.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

struct Owned<T> {
    generation: u64,
    value: T,
}

/// A value made on first use in each process. There is no lock that a fork could leave held.
pub struct PerProcess<T> {
    /// Null, or from `Box::into_raw`. It is replaced in a child only, where the parent's is leaked,
    /// and freed with `self` only.
    current: AtomicPtr<Owned<T>>,
    held: PhantomData<T>,
}

impl<T> PerProcess<T> {
    /// Holds nothing yet.
    pub const fn new() -> Self {
        Self {
            current: AtomicPtr::new(ptr::null_mut()),
            held: PhantomData,
        }
    }

    /// This process's value, if it was made.
    pub fn get(&self) -> Option<&T> {
        // SAFETY: what was stored is valid for as long as `self` is.
        let owned = unsafe { self.current.load(Ordering::Acquire).as_ref() }?;
        (owned.generation == generation()).then_some(&owned.value)
    }

    /// This process's value, made now if need be; of threads that make it at the same time all but
    /// one drop theirs.
    pub fn get_or_make<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        if let Some(value) = self.get() {
            return Ok(value);
        }
        let seen = self.current.load(Ordering::Acquire);
        let built = Box::into_raw(Box::new(Owned {
            generation: generation(),
            value: make()?,
        }));
        let stored =
            self.current
                .compare_exchange(seen, built, Ordering::AcqRel, Ordering::Acquire);
        let current = match stored {
            Ok(_) => built,
            Err(other) => {
                // SAFETY: `built` was not shared; another thread of this process was first.
                drop(unsafe { Box::from_raw(built) });
                other
            }
        };
        // SAFETY: as above: `built`, or what another thread of this process stored.
        Ok(unsafe { &(*current).value })
    }
}

impl<T> Default for PerProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        if self.get().is_some() {
            // SAFETY: it came from `Box::into_raw`, and nobody has `self` any more.
            drop(unsafe { Box::from_raw(*self.current.get_mut()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_child_makes_its_own_and_leaves_the_parents() {
        let (first, second) = (Arc::new(()), Arc::new(()));
        let state = PerProcess::new();
        assert!(state.get().is_none());
        let Ok(value) = state.get_or_make(|| Ok::<_, Infallible>(first.clone()));
        assert!(Arc::ptr_eq(value, &first));
        let Ok(value) = state.get_or_make(|| Ok::<_, Infallible>(second.clone()));
        assert!(Arc::ptr_eq(value, &first));
        forked();
        assert!(state.get().is_none());
        let Ok(value) = state.get_or_make(|| Ok::<_, Infallible>(second.clone()));
        assert!(Arc::ptr_eq(value, &second));
        drop(state);
        assert_eq!(Arc::strong_count(&first), 2, "the parent's is left alone");
        assert_eq!(Arc::strong_count(&second), 1);
    }

    #[test]
    fn what_cannot_be_made_is_tried_again() {
        let state = PerProcess::new();
        assert_eq!(state.get_or_make(|| Err("no")), Err("no"));
        assert_eq!(state.get_or_make(|| Ok::<_, ()>(1)), Ok(&1));
    }
}
