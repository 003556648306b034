//! Which identification does a DF-clear packet leave with (RFC 6864 section 5.3.1)?
//!
//! A NAT is the source of what it rewrites: packets of many pods leave with one address, and nobody else
//! can see to it that two of their datagrams don't carry one identification to the same remote.
//!
//! The identifications are split between the workers by their remainder, so that no two workers ever give
//! out the same one. Each worker counts up, from a random start, in one of a few thousand counters that a keyed
//! hash of addresses and protocol chooses. Flows that share a counter share its identifications: they
//! repeat sooner, but never by chance.
//!
//! RFC 6864 section 4.1: nothing else in natgate looks at the identification, but to tell fragments of
//! different datagrams apart.

use conntrack::{Secret, Timestamp};

/// Counters of one worker: a power of two.
const BUCKETS: usize = 4096;
/// Parts of a counter's cycle for which it is known when they were used last.
const SEGMENTS: u32 = 16;
/// Seconds in which no identification should repeat (RFC 6864 section 4.3: the maximum lifetime of a
/// datagram), and one more because times are cut to seconds.
const LIFETIME: u32 = 120 + 1;

/// An identification for one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FreshId {
    pub(crate) id: u16,
    /// It may have been given out less than 120 s ago.
    pub(crate) reused: bool,
}

/// One counter.
#[derive(Clone, Debug, Default)]
struct Bucket {
    /// Identifications given out, modulo how many there are.
    next: u16,
    /// When the counter last left each segment, in seconds, plus one.
    left: [u32; SEGMENTS as usize],
}

/// The identifications that one worker gives out.
#[derive(Debug)]
pub(crate) struct IpIds {
    worker: u16,
    workers: u16,
    /// How many identifications this worker has for each counter.
    span: u32,
    buckets: Vec<Bucket>,
}

impl IpIds {
    /// The identifications of `worker`, which is one of `workers`.
    pub(crate) fn new(worker: u16, workers: u16) -> Self {
        let workers = workers.max(1);
        let span = (1 << 16) / u32::from(workers);
        Self { worker, workers, span, buckets: vec![Bucket::default(); BUCKETS] }
    }

    /// The next identification for datagrams of one kind: `flow` is what they must differ in. `None` if
    /// every one may be in use and `strict` forbids to repeat any.
    pub(crate) fn issue(
        &mut self,
        secret: &Secret,
        flow: impl std::hash::Hash,
        strict: bool,
        now: Timestamp,
    ) -> Option<FreshId> {
        let index = secret.scramble(flow) as usize % BUCKETS;
        let start = secret.scramble((self.worker, index)) as u32 % self.span;
        let now = now.as_secs() as u32 + 1;
        let (span, bucket) = (self.span, &mut self.buckets[index]);
        let counter = u32::from(bucket.next);
        let segment = |counter: u32| (counter * SEGMENTS / span) as usize;
        let left = bucket.left[segment(counter)];
        let reused = left != 0 && now.saturating_sub(left) < LIFETIME;
        if reused && strict {
            return None;
        }
        let next = (counter + 1) % span;
        if segment(next) != segment(counter) {
            bucket.left[segment(counter)] = now;
        }
        bucket.next = next as u16;
        let number = (start + counter) % span;
        let id = (number * u32::from(self.workers) + u32::from(self.worker)) as u16;
        Some(FreshId { id, reused })
    }
}
