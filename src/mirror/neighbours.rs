//! Which neighbours do we know, which do we need, and which must the kernel be asked for?
//!
//! Pure state: time is a parameter. natgate's packets bypass the kernel, so the kernel does not notice
//! that a neighbour is in use; it has to be told, or its entry goes stale and stays so.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use dataplane::interface::{InterfaceId, Mac};
use dataplane::roads::{Adjacency, AdjacencyId, NeighbourIds, TunnelTo};
use rtnetlink::packet_route::neighbour::NeighbourState;

/// A neighbour: the link, and the address on it.
pub(super) type Key = (InterfaceId, Ipv4Addr);

/// A neighbour that does not answer is asked for again after this time.
const RETRY: Duration = Duration::from_secs(5);
/// Requests of workers for the same neighbour are passed on at most this often.
const WORKER_RETRY: Duration = Duration::from_secs(1);
/// How long after the last request of a worker a neighbour that does not answer is asked for.
const INTEREST: Duration = Duration::from_secs(30);
/// Neighbours that workers may have asked for at any time; more are resolved, but not kept fresh.
const MAX_WANTED: usize = 1 << 16;

/// What the kernel says about a neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) ifindex: u32,
    pub(super) address: Ipv4Addr,
    /// [`NeighbourState::None`]: there is no entry any more.
    pub(super) state: NeighbourState,
    pub(super) mac: Option<Mac>,
}

#[derive(Debug, Default)]
struct Need {
    /// How many routes lead by it.
    routes: u32,
    wanted_at: Option<Instant>,
    asked_at: Option<Instant>,
}

/// What a worker would notice of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noticed {
    Nothing,
    /// Its Ethernet address.
    Address(AdjacencyId),
    /// That it failed, or no longer does: ways may be others.
    Life(AdjacencyId),
}

/// All neighbours on the gateway's links.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    states: HashMap<Key, NeighbourState, RandomState>,
    needs: HashMap<Key, Need, RandomState>,
    adjacencies: Arc<Vec<Adjacency>>,
    ids: Arc<NeighbourIds>,
    /// Further numbers of a neighbour, for routes with an `mtu`.
    narrow: HashMap<Key, Vec<(u16, AdjacencyId)>, RandomState>,
}

impl Neighbours {
    pub(super) fn adjacencies(&self) -> &Arc<Vec<Adjacency>> {
        &self.adjacencies
    }

    pub(super) fn ids(&self) -> &Arc<NeighbourIds> {
        &self.ids
    }

    /// The number of a neighbour, a new one if it has none yet.
    pub(super) fn id(&mut self, key: Key) -> AdjacencyId {
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        let (interface, address) = key;
        let adjacencies = Arc::make_mut(&mut self.adjacencies);
        adjacencies.push(Adjacency::new(interface, address, None));
        let id = AdjacencyId(adjacencies.len() as u32 - 1);
        Arc::make_mut(&mut self.ids).insert(key, id);
        id
    }

    /// The number of a neighbour for routes with this `mtu`, a new one if it has none yet.
    pub(super) fn id_within(&mut self, key: Key, mtu: Option<u16>) -> AdjacencyId {
        let id = self.id(key);
        let Some(mtu) = mtu else { return id };
        let narrow = self.narrow.entry(key).or_default();
        if let Some((_, id)) = narrow.iter().find(|(it, _)| *it == mtu) {
            return *id;
        }
        let adjacencies = Arc::make_mut(&mut self.adjacencies);
        let like = adjacencies[id.0 as usize];
        adjacencies.push(Adjacency { mtu: Some(mtu), ..like });
        let id = AdjacencyId(adjacencies.len() as u32 - 1);
        narrow.push((mtu, id));
        id
    }

    /// Whether any neighbour has numbers for routes with an `mtu`.
    pub(super) fn any_narrow(&self) -> bool {
        !self.narrow.is_empty()
    }

    /// Whether the kernel has an entry, as far as we know.
    pub(super) fn is_known(&self, key: Key) -> bool {
        self.states.contains_key(&key)
    }

    /// Notes where packets to a neighbour behind a tunnel go. Whether that is new.
    pub(super) fn set_tunnel(&mut self, id: AdjacencyId, tunnel: Option<TunnelTo>) -> bool {
        let known = self.adjacencies.get(id.0 as usize).is_none_or(|it| it.tunnel == tunnel);
        if !known {
            Arc::make_mut(&mut self.adjacencies)[id.0 as usize].tunnel = tunnel;
        }
        !known
    }

    /// Takes over what the kernel says about one neighbour.
    pub(super) fn apply(&mut self, key: Key, state: NeighbourState, mac: Option<Mac>) -> Noticed {
        let usable = matches!(
            state,
            NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
                | NeighbourState::Noarp
        );
        let failed = state == NeighbourState::Failed;
        if state == NeighbourState::None {
            self.states.remove(&key);
        } else {
            self.states.insert(key, state);
        }
        let need = self.needs.get_mut(&key);
        let needed = need.is_some();
        if matches!(state, NeighbourState::Reachable | NeighbourState::Permanent)
            && let Some(need) = need
        {
            need.asked_at = None;
        }
        let mac = mac.filter(|_| usable);
        // Workers learn of those that they could use, and of those that they wait for.
        if mac.is_none() && !(failed && needed) && !self.ids.contains_key(&key) {
            return Noticed::Nothing;
        }
        let id = self.id(key);
        let old = self.adjacencies[id.0 as usize];
        // Only an answer ends a failure: the kernel forgets entries, and tries again, in silence.
        let failed = failed || old.failed && mac.is_none();
        let failures = old.failures.wrapping_add(u32::from(state == NeighbourState::Failed));
        let new = Adjacency { mac, failed, failures, ..old };
        if new == old {
            return Noticed::Nothing;
        }
        let adjacencies = Arc::make_mut(&mut self.adjacencies);
        adjacencies[id.0 as usize] = new;
        for (mtu, id) in self.narrow.get(&key).into_iter().flatten() {
            let narrow = &mut adjacencies[id.0 as usize];
            *narrow = Adjacency { mtu: Some(*mtu), tunnel: narrow.tunnel, ..new };
        }
        if new.failed == old.failed { Noticed::Address(id) } else { Noticed::Life(id) }
    }

    /// Takes over a whole dump: what is not in it does not exist.
    pub(super) fn replace(
        &mut self,
        dump: Vec<(Key, NeighbourState, Option<Mac>)>,
    ) -> Vec<Noticed> {
        let present: HashSet<Key> = dump.iter().map(|(key, ..)| *key).collect();
        let resolved = self.adjacencies.iter().filter(|adjacency| adjacency.mac.is_some());
        let known = resolved.map(|adjacency| (adjacency.interface, adjacency.address));
        let mut gone: HashSet<Key> = known.filter(|key| !present.contains(key)).collect();
        gone.extend(self.states.keys().filter(|key| !present.contains(*key)));
        let gone = gone.into_iter().map(|key| (key, NeighbourState::None, None));
        let all: Vec<_> = gone.chain(dump).collect();
        // A failure that is known already is no new one.
        let known = |key: &Key, state| {
            state == NeighbourState::Failed && self.states.get(key) == Some(&NeighbourState::Failed)
        };
        let new: Vec<_> = all.into_iter().filter(|(key, state, _)| !known(key, *state)).collect();
        new.into_iter().map(|(key, state, mac)| self.apply(key, state, mac)).collect()
    }

    /// A route leads by this neighbour. True if it is the first.
    pub(super) fn lead_by(&mut self, key: Key) -> bool {
        let need = self.needs.entry(key).or_default();
        need.routes += 1;
        need.routes == 1
    }

    /// A route no longer leads by this neighbour.
    pub(super) fn lead_elsewhere(&mut self, key: Key) {
        let Some(need) = self.needs.get_mut(&key) else { return };
        need.routes = need.routes.saturating_sub(1);
        if need.routes == 0 && need.wanted_at.is_none() {
            self.needs.remove(&key);
        }
    }

    /// Notes that a worker needs this neighbour. True if the kernel should be asked now.
    pub(super) fn want(&mut self, key: Key, now: Instant) -> bool {
        if self.needs.len() >= MAX_WANTED && !self.needs.contains_key(&key) {
            return true;
        }
        let need = self.needs.entry(key).or_default();
        need.wanted_at = Some(now);
        let fresh = !matches!(
            self.states.get(&key),
            None | Some(NeighbourState::Stale | NeighbourState::Failed)
        );
        let recently = need.asked_at.is_some_and(|asked| now.duration_since(asked) < WORKER_RETRY);
        let ask = !fresh && !recently;
        if ask {
            need.asked_at = Some(now);
        }
        ask
    }

    /// The neighbours to ask the kernel for now; they count as asked for.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Key> {
        let states = &self.states;
        let mut due = Vec::new();
        self.needs.retain(|key, need| {
            let interested = need.routes > 0
                || need.wanted_at.is_some_and(|wanted| now.duration_since(wanted) < INTEREST);
            let needed = match states.get(key) {
                // In use as far as we know: keep it fresh.
                Some(NeighbourState::Stale) => true,
                None | Some(NeighbourState::Failed) => interested,
                Some(_) => return true,
            };
            let waited = need.asked_at.is_none_or(|asked| now.duration_since(asked) >= RETRY);
            if needed && waited {
                need.asked_at = Some(now);
                due.push(*key);
            }
            needed || need.routes > 0
        });
        due
    }
}
