//! What is new in a snapshot? Established packets wait while a worker follows it, and the kernel's neighbours change all
//! the time: so it looks at those alone that have changed.

use std::sync::Arc;

use conntrack::Timestamp;

use crate::io::PacketIo;
use crate::roads::{Adjacency, AdjacencyId};
use crate::snapshot::Snapshot;
use crate::worker::Worker;

/// The neighbours to which another way may lead than by the snapshot before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// Maybe all.
    All,
    /// These.
    These(Vec<AdjacencyId>),
}

impl Changed {
    /// Those between two snapshots.
    pub(crate) fn between(before: &Snapshot, after: &Snapshot) -> Self {
        let (old, new) = (&before.roads.adjacencies, &after.roads.adjacencies);
        let narrowed = |it: &Snapshot| it.roads.narrowed;
        if before.interfaces != after.interfaces
            || narrowed(before) != narrowed(after)
            || new.len() < old.len()
        {
            return Self::All;
        }
        if Arc::ptr_eq(old, new) {
            return Self::These(Vec::new());
        }
        let id = |index: usize| AdjacencyId(index as u32);
        let pairs = old.iter().zip(new.iter()).enumerate();
        let other = pairs.filter(|(_, (old, new))| old != new).map(|(index, _)| id(index));
        let mut these: Vec<_> = other.chain((old.len()..new.len()).map(id)).collect();
        // What is behind a tunnel is reached by a neighbour on the underlay.
        let direct = these.len();
        let tunnelled = |it: &Adjacency| it.tunnel.map(|to| to.outer);
        if after.interfaces.iter().any(|it| it.tunnel.is_some()) && direct > 0 {
            for (index, adjacency) in new.iter().enumerate() {
                let outer = tunnelled(adjacency);
                if outer.is_some_and(|outer| these[..direct].binary_search(&outer).is_ok()) {
                    these.push(id(index));
                }
            }
        }
        Self::These(these)
    }
}

impl<I: PacketIo> Worker<I> {
    /// Takes over a snapshot, if there is a new one.
    #[inline]
    pub(crate) fn follow_snapshot(&mut self, now: Timestamp) {
        if self.shared.snapshot.version() != self.snapshot_version {
            self.take_snapshot(now);
        }
    }

    #[cold]
    fn take_snapshot(&mut self, now: Timestamp) {
        // The first one was there before anything was made of it.
        let first = self.snapshot_version == 0;
        let Some(after) = self.shared.snapshot.newer(&mut self.snapshot_version) else { return };
        let before = std::mem::replace(&mut self.snapshot, after);
        let changed = if first { Changed::All } else { Changed::between(&before, &self.snapshot) };
        self.tunnels.follow(&self.snapshot, &changed);
        self.lane.follow(&self.snapshot, &self.tunnels, &changed);
        if first || !Arc::ptr_eq(&before.policy, &self.snapshot.policy) {
            self.follow_policy();
        }
        self.send_ready(now);
    }

    fn follow_policy(&mut self) {
        let policy = &self.snapshot.policy;
        self.nat.adopt(&policy.pools);
        self.nat.record_sessions(policy.record_sessions);
        self.load.set_sample(policy.latency_sample);
        if self.cuts != policy.cuts {
            self.cuts = policy.cuts;
            self.cutting = Some(0);
        }
        self.fragments.set_lifetime(policy.fragment_lifetime());
        let workers = u32::from(self.hand_off.workers().max(1));
        let all = policy.answers.errors_per_second.div_ceil(workers);
        self.error_limits.adopt(all, policy.answers.errors_per_subscriber);
    }
}
