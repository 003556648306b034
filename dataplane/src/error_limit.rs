//! How many ICMP errors may natgate send (RFC 1812 4.3.2.8)? So many in all, and so many to one sender.

use std::net::Ipv4Addr;

use ahash::RandomState;
use conntrack::{Realm, Timestamp};

use crate::answer::RateLimit;

/// Senders of each side that are told apart at one time. A power of two.
const SENDERS: usize = 512;
/// A sender that got no error for so long has all its tokens back.
const FORGET_MILLIS: u128 = 1_000;

#[derive(Debug)]
struct Sender {
    addr: Ipv4Addr,
    limit: RateLimit,
    last: Timestamp,
}

/// The limits of one worker. Bounded: a sender has one place; who comes to a place that is in use shares its
/// limit, so that a scan with many sources neither takes memory nor gets more answers. Pods have places of their
/// own, and strangers get no more than half of all errors: whoever forges their sources takes nothing from pods.
#[derive(Debug)]
pub(crate) struct ErrorLimits {
    all: RateLimit,
    strangers: RateLimit,
    rates: (u32, u32),
    senders: Vec<Option<Sender>>,
    places: RandomState,
}

impl ErrorLimits {
    /// Limits of `all` errors a second, and `each` to one sender.
    pub(crate) fn new(all: u32, each: u32) -> Self {
        let senders = (0..2 * SENDERS).map(|_| None).collect();
        let [limit, strangers] = [all, all.div_ceil(2)].map(|rate| RateLimit::new(rate.into()));
        Self { all: limit, strangers, rates: (all, each), senders, places: RandomState::new() }
    }

    /// Changes the limits, if they are others.
    pub(crate) fn adopt(&mut self, all: u32, each: u32) {
        if self.rates != (all, each) {
            *self = Self::new(all, each);
        }
    }

    /// Whether an error may be sent to `sender`, on this side, now.
    pub(crate) fn allow(&mut self, side: Realm, sender: Ipv4Addr, now: Timestamp) -> bool {
        let place = side as usize * SENDERS + self.places.hash_one(sender) as usize % SENDERS;
        let entry = &mut self.senders[place];
        let free = entry.as_ref().is_none_or(|held| {
            held.addr != sender && now.since(held.last).as_millis() >= FORGET_MILLIS
        });
        if free {
            let limit = RateLimit::new(self.rates.1.into());
            *entry = Some(Sender { addr: sender, limit, last: now });
        }
        let Some(held) = entry else { return false };
        let allowed = held.limit.allow(now)
            && (side == Realm::Internal || self.strangers.allow(now))
            && self.all.allow(now);
        if allowed {
            held.last = now;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: Realm = Realm::Internal;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn each_sender_and_all_together_are_limited() {
        let mut limits = ErrorLimits::new(100, 10);
        let one = Ipv4Addr::new(10, 0, 0, 1);
        assert_eq!((0..50).filter(|_| limits.allow(SIDE, one, at(5_000))).count(), 10);
        let others = (0..5_000u32).map(Ipv4Addr::from);
        assert_eq!(
            others.filter(|a| limits.allow(SIDE, *a, at(5_000))).count(),
            90,
            "all together"
        );
        assert_eq!(limits.senders.len(), 2 * SENDERS, "no more memory");
        assert_eq!((0..50).filter(|_| limits.allow(SIDE, one, at(6_000))).count(), 10);
        limits.adopt(100, 3);
        assert_eq!((0..50).filter(|_| limits.allow(SIDE, one, at(8_000))).count(), 3);
        limits.adopt(0, 3);
        assert!(!limits.allow(SIDE, one, at(60_000)), "switched off");
    }
}
