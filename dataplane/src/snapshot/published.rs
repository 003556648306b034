//! How does a value reach those who follow it? `dataplane/tests/shared.rs` includes this, over loom's atomics and locks, and
//! tries every order of its steps.

use std::sync::{Arc, PoisonError};

use super::sync::{AtomicU64, Mutex, Ordering};

/// A value that one thread replaces and many threads follow.
#[derive(Debug)]
pub struct Published<T> {
    version: AtomicU64,
    current: Mutex<Arc<T>>,
}

impl<T> Published<T> {
    /// Publishes a first value.
    pub fn new(value: T) -> Self {
        Self { version: AtomicU64::new(1), current: Mutex::new(Arc::new(value)) }
    }

    /// Replaces the value; followers see it at their next look.
    pub fn publish(&self, value: T) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(value);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The value now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How often a value was published: changes whenever [`get`](Self::get) would return another one.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The value, and in `seen` its version, if that is another than `seen`: 0 before the first.
    pub fn newer(&self, seen: &mut u64) -> Option<Arc<T>> {
        // Looked at before the value is taken: one that is published between is found at the next look.
        let version = self.version();
        if version == *seen {
            return None;
        }
        *seen = version;
        Some(self.get())
    }
}
