//! Memory for bodies, used again: fresh pages for a megabyte cost as much as decoding it.

use std::cell::RefCell;
use std::ops::Deref;

/// Bytes in all that a thread keeps for later bodies.
const KEPT: usize = 8 << 20;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The bytes of a body.
#[derive(Debug, Default)]
pub struct Body(Vec<u8>);

impl Body {
    /// Empty, with room for about `capacity` bytes.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        let mut bytes = FREE
            .with_borrow_mut(|free| {
                // The smallest that is large enough, else none: growing one would copy it.
                let fits = free.iter().enumerate();
                let fits = fits.filter(|(_, bytes)| bytes.capacity() >= capacity);
                let best = fits.min_by_key(|(_, bytes)| bytes.capacity())?.0;
                Some(free.swap_remove(best))
            })
            .unwrap_or_default();
        bytes.reserve(capacity);
        Self(bytes)
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The bytes, for whoever keeps them.
    pub fn into_vec(mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0);
        bytes.clear();
        // At the end of a thread there is nothing to give it back to.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            let kept: usize = free.iter().map(Vec::capacity).sum();
            if bytes.capacity() > 0 && kept + bytes.capacity() <= KEPT {
                free.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_where_it_is_large_enough() {
        let mut body = Body::with_capacity(1000);
        body.extend(b"first");
        let place = body.0.as_ptr();
        drop(body);
        let larger = Body::with_capacity(5000);
        assert_ne!(larger.0.as_ptr(), place);
        let again = Body::with_capacity(900);
        assert_eq!(again.0.as_ptr(), place);
        assert!(again.is_empty());
    }

    #[test]
    fn what_is_too_large_or_taken_is_not_kept() {
        drop(Body::with_capacity(KEPT + 1));
        drop(Body::with_capacity(10).into_vec());
        FREE.with_borrow(|free| assert!(free.is_empty()));
    }
}
