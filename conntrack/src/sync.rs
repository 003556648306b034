//! What workers share state through. `conntrack/tests/interleavings.rs` puts loom's in its place, and tries every order in
//! which two of them can take their steps.

pub(crate) use std::sync::RwLock;
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
