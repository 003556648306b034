//! Which neighbours do we know, which do we need, and which must the kernel be asked for?
//!
//! Pure state: time is a parameter. natgate's packets bypass the kernel, so the kernel does not notice
//! that a neighbour is in use; it has to be told, or its entry goes stale and stays so.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ahash::RandomState;
use dataplane::interface::{InterfaceId, Mac};
use dataplane::roads::{Adjacency, AdjacencyId};
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
    gateway: bool,
    wanted_at: Option<Instant>,
    asked_at: Option<Instant>,
}

/// All neighbours on the gateway's links.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    states: HashMap<Key, NeighbourState, RandomState>,
    needs: HashMap<Key, Need, RandomState>,
    adjacencies: Vec<Adjacency>,
    ids: HashMap<Key, AdjacencyId, RandomState>,
}

impl Neighbours {
    pub(super) fn adjacencies(&self) -> &Vec<Adjacency> {
        &self.adjacencies
    }

    pub(super) fn ids(&self) -> &HashMap<Key, AdjacencyId, RandomState> {
        &self.ids
    }

    /// The number of a neighbour, a new one if it has none yet.
    pub(super) fn id(&mut self, key: Key) -> AdjacencyId {
        let (interface, address) = key;
        *self.ids.entry(key).or_insert_with(|| {
            self.adjacencies.push(Adjacency { interface, address, mac: None });
            AdjacencyId(self.adjacencies.len() as u32 - 1)
        })
    }

    /// Takes over what the kernel says about one neighbour. True if workers would notice.
    pub(super) fn apply(&mut self, key: Key, state: NeighbourState, mac: Option<Mac>) -> bool {
        let usable = matches!(
            state,
            NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
                | NeighbourState::Noarp
        );
        if state == NeighbourState::None {
            self.states.remove(&key);
        } else {
            self.states.insert(key, state);
        }
        if matches!(state, NeighbourState::Reachable | NeighbourState::Permanent)
            && let Some(need) = self.needs.get_mut(&key)
        {
            need.asked_at = None;
        }
        let mac = mac.filter(|_| usable);
        if mac.is_none() && !self.ids.contains_key(&key) {
            return false;
        }
        let id = self.id(key);
        let adjacency = &mut self.adjacencies[id.0 as usize];
        std::mem::replace(&mut adjacency.mac, mac) != mac
    }

    /// Takes over a whole dump: what is not in it does not exist. True if workers would notice.
    pub(super) fn replace(&mut self, dump: Vec<(Key, NeighbourState, Option<Mac>)>) -> bool {
        let present: HashSet<Key> = dump.iter().map(|(key, ..)| *key).collect();
        let resolved = self.adjacencies.iter().filter(|adjacency| adjacency.mac.is_some());
        let known = resolved.map(|adjacency| (adjacency.interface, adjacency.address));
        let mut gone: HashSet<Key> = known.filter(|key| !present.contains(key)).collect();
        gone.extend(self.states.keys().filter(|key| !present.contains(*key)));
        let mut changed = false;
        for key in gone {
            changed |= self.apply(key, NeighbourState::None, None);
        }
        for (key, state, mac) in dump {
            changed |= self.apply(key, state, mac);
        }
        changed
    }

    /// Says which neighbours are gateways of routes now.
    pub(super) fn set_gateways(&mut self, gateways: &HashSet<Key>) {
        for need in self.needs.values_mut() {
            need.gateway = false;
        }
        for key in gateways {
            self.needs.entry(*key).or_default().gateway = true;
        }
        self.needs.retain(|_, need| need.gateway || need.wanted_at.is_some());
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
            let interested = need.gateway
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
            needed
        });
        due
    }
}
