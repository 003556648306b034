//! Which subscriber talks to a remote in a protocol that has no ports?
//!
//! Only addresses tell such flows apart, so each (protocol, public address, remote) is one subscriber's.
//! This is shared by all workers, and off the packet path: sessions claim and release, and packets from
//! outside are looked up by hosts that speak such protocols only.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::PoisonError;

use ahash::RandomState;

use crate::sync::{AtomicUsize, Ordering, RwLock};

/// The claims on one public address.
#[derive(Debug, Default)]
pub struct Claims {
    workers: RwLock<HashMap<(u8, Ipv4Addr), u16, RandomState>>,
    /// How many there are, so that where there are none no lock is taken.
    count: AtomicUsize,
}

impl Claims {
    /// Claims `remote` in the protocol of this number for a session of `worker`, if nobody has it.
    pub(crate) fn claim(&self, protocol: u8, remote: Ipv4Addr, worker: u16) -> bool {
        let mut workers = self.workers.write().unwrap_or_else(PoisonError::into_inner);
        let free = !workers.contains_key(&(protocol, remote));
        if free {
            workers.insert((protocol, remote), worker);
            self.count.store(workers.len(), Ordering::Release);
        }
        free
    }

    /// Gives a claim back.
    pub(crate) fn release(&self, protocol: u8, remote: Ipv4Addr) {
        let mut workers = self.workers.write().unwrap_or_else(PoisonError::into_inner);
        workers.remove(&(protocol, remote));
        self.count.store(workers.len(), Ordering::Release);
    }

    /// The worker whose session a packet from `remote` in this protocol belongs to.
    pub fn worker_of(&self, protocol: u8, remote: Ipv4Addr) -> Option<u16> {
        if self.is_empty() {
            return None;
        }
        let workers = self.workers.read().unwrap_or_else(PoisonError::into_inner);
        workers.get(&(protocol, remote)).copied()
    }

    /// Whether there is no claim.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }
}
