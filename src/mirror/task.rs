//! The task behind the mirror: listen, collect, read, publish.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dataplane::interface::{InterfaceId, Mac};
use dataplane::roads::{Roads, Route};
use ipnet::Ipv4Net;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::dump::Kernel;
use super::events::{Event, EventSocket};
use super::link::Link;
use super::neighbours::{Fact, Key, Neighbours};
use super::tables::{Target, merge};
use rtnetlink::packet_route::neighbour::NeighbourState as Nud;

use super::{MirrorError, MirrorState};

/// Changes are collected for this long.
const COLLECT: Duration = Duration::from_millis(3);
/// After a rebuild the task rests this many times as long as the rebuild took.
const REST_FACTOR: u32 = 4;
/// After an error the tables are read again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// How often neighbours that do not answer are looked at.
const TICK: Duration = Duration::from_secs(1);

/// What has to be read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stale {
    tables: bool,
    neighbours: bool,
    /// A neighbour changed; nothing to read, but something to publish.
    publish: bool,
}

pub(super) struct Task {
    events: EventSocket,
    kernel: Kernel,
    requests: mpsc::Receiver<(InterfaceId, Ipv4Addr)>,
    publish: watch::Sender<Arc<MirrorState>>,
    ifindexes: Vec<u32>,
    ids: HashMap<u32, InterfaceId>,
    neighbours: Neighbours,
    stale: Stale,
    rebuild_at: Option<Instant>,
    rested: Instant,
}

impl Task {
    /// Subscribes, reads everything once, and only then returns.
    pub(super) async fn start(
        links: &[(InterfaceId, u32)],
        requests: mpsc::Receiver<(InterfaceId, Ipv4Addr)>,
    ) -> Result<(Self, watch::Receiver<Arc<MirrorState>>), MirrorError> {
        let mut links = links.to_vec();
        links.sort_unstable();
        let ifindexes: Vec<u32> = links.iter().map(|&(_, ifindex)| ifindex).collect();
        let empty = MirrorState {
            roads: Arc::default(),
            routes: Arc::default(),
            links: Vec::new(),
            host_addresses: Vec::new(),
            rebuilds: 0,
            resyncs: 0,
        };
        let (publish, states) = watch::channel(Arc::new(empty));
        let mut task = Self {
            // First subscribe, then read: what changes in between is heard.
            events: EventSocket::subscribe()?,
            kernel: Kernel::connect()?,
            requests,
            publish,
            ids: links.iter().map(|&(id, ifindex)| (ifindex, id)).collect(),
            ifindexes,
            neighbours: Neighbours::default(),
            stale: Stale { tables: true, neighbours: true, publish: true },
            rebuild_at: None,
            rested: Instant::now(),
        };
        task.read_and_publish().await?;
        let state = Arc::clone(&task.publish.borrow());
        if let Some(index) = state.links.iter().position(|link| link.name.is_empty()) {
            return Err(MirrorError::LinkGone(task.ifindexes[index]));
        }
        task.ask_due().await;
        Ok((task, states))
    }

    pub(super) async fn run(mut self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let rebuild_at = self.rebuild_at;
            let rebuild = async move {
                match rebuild_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                events = self.events.next() => match events {
                    Ok(events) => events.into_iter().for_each(|event| self.take(event)),
                    Err(error) => self.reconnect(&error).await,
                },
                request = self.requests.recv() => match request {
                    Some(key) => self.want(key).await,
                    None => return,
                },
                _ = tick.tick() => self.ask_due().await,
                () = rebuild => self.rebuild().await,
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Tables => self.stale.tables = true,
            Event::Neighbour(fact) => {
                let Some((key, state, mac)) = self.ours(&fact) else { return };
                self.stale.publish |= self.neighbours.apply(key, state, mac);
            }
            Event::Lost => {
                tracing::warn!("netlink messages were lost; reading the kernel's tables anew");
                self.count_resync();
            }
        }
        self.schedule(self.rested.max(Instant::now() + COLLECT));
    }

    fn count_resync(&mut self) {
        self.stale = Stale { tables: true, neighbours: true, publish: true };
        self.publish.send_if_modified(|state| {
            Arc::make_mut(state).resyncs += 1;
            false
        });
    }

    fn schedule(&mut self, at: Instant) {
        if self.stale != Stale::default() && self.rebuild_at.is_none() {
            self.rebuild_at = Some(at);
        }
    }

    /// After an error of the socket: new sockets, and everything read anew.
    async fn reconnect(&mut self, error: &std::io::Error) {
        tracing::warn!(%error, "the netlink socket failed; opening a new one");
        tokio::time::sleep(RETRY).await;
        match EventSocket::subscribe().and_then(|events| Ok((events, Kernel::connect()?))) {
            Ok((events, kernel)) => (self.events, self.kernel) = (events, kernel),
            Err(error) => tracing::error!("{error}"),
        }
        self.count_resync();
        self.schedule(Instant::now());
    }

    async fn rebuild(&mut self) {
        let begin = Instant::now();
        self.rebuild_at = None;
        match self.read_and_publish().await {
            Ok(()) => {
                self.rested = Instant::now() + begin.elapsed() * REST_FACTOR;
                self.ask_due().await;
            }
            Err(error) => {
                tracing::error!("{error}; trying again");
                if let Ok(kernel) = Kernel::connect() {
                    self.kernel = kernel;
                }
                self.stale = Stale { tables: true, neighbours: true, publish: true };
                self.schedule(Instant::now() + RETRY);
            }
        }
    }

    /// Reads what is stale and publishes a state if it differs from the last one.
    async fn read_and_publish(&mut self) -> Result<(), MirrorError> {
        let stale = std::mem::take(&mut self.stale);
        let last = Arc::clone(&self.publish.borrow());
        let mut next = MirrorState::clone(&last);
        let mut changed = stale.publish;
        if stale.neighbours {
            let facts = self.kernel.neighbours().await?;
            let dump = facts.iter().filter_map(|fact| self.ours(fact)).collect();
            changed |= self.neighbours.replace(dump);
        }
        let mut roads = Roads::clone(&last.roads);
        if stale.tables {
            next.links = self.read_links(&last.links).await?;
            let addresses = self.kernel.addresses().await?;
            for link in &mut next.links {
                // The kernel's first is its own choice for what it sends there.
                let first = addresses.iter().find(|(ifindex, _)| *ifindex == link.ifindex);
                link.address = first.map(|(_, net)| net.addr());
            }
            next.host_addresses = addresses.into_iter().map(|(_, net)| net).collect();
            next.host_addresses.sort_unstable();
            next.host_addresses.dedup();
            changed |= next.links != last.links || next.host_addresses != last.host_addresses;
            let routes = self.read_routes().await?;
            if routes != *last.routes {
                roads.generation = roads.generation.wrapping_add(1);
                roads.routes = routes.iter().copied().collect();
                next.routes = Arc::new(routes);
                changed = true;
            }
        }
        if changed {
            roads.adjacencies.clone_from(self.neighbours.adjacencies());
            roads.neighbours.clone_from(self.neighbours.ids());
            next.roads = Arc::new(roads);
            next.rebuilds += 1;
            self.publish.send_replace(Arc::new(next));
        }
        Ok(())
    }

    /// The gateway's links; one that is gone keeps its last description, and is down.
    async fn read_links(&self, last: &[Link]) -> Result<Vec<Link>, MirrorError> {
        let links = self.kernel.links().await?;
        let gone =
            |index: usize| Link { up: false, ..last.get(index).cloned().unwrap_or_default() };
        let find = |(index, &ifindex): (usize, &u32)| {
            let found = links.iter().find(|link| link.ifindex == ifindex);
            found.cloned().unwrap_or_else(|| gone(index))
        };
        Ok(self.ifindexes.iter().enumerate().map(find).collect())
    }

    async fn read_routes(&mut self) -> Result<Vec<(Ipv4Net, Route)>, MirrorError> {
        let kernel_routes = self.kernel.routes().await?;
        let merged = merge(&kernel_routes, &|ifindex| self.ids.contains_key(&ifindex));
        let mut gateways: HashSet<Key> = HashSet::new();
        let mut routes = Vec::with_capacity(merged.len());
        for (prefix, target) in merged {
            let route = match target {
                Target::Gateway(ifindex, address) => {
                    let key = (self.ids[&ifindex], address);
                    gateways.insert(key);
                    Route::Via(self.neighbours.id(key))
                }
                Target::OnLink(ifindex) => Route::OnLink(self.ids[&ifindex]),
                Target::Local => Route::Local,
                Target::Unreachable => Route::Unreachable,
                Target::Elsewhere => Route::Elsewhere,
            };
            routes.push((prefix, route));
        }
        self.neighbours.set_gateways(&gateways);
        Ok(routes)
    }

    fn ours(&self, fact: &Fact) -> Option<(Key, Nud, Option<Mac>)> {
        let id = *self.ids.get(&fact.ifindex)?;
        Some(((id, fact.address), fact.state, fact.mac))
    }

    async fn want(&mut self, first: Key) {
        let now = std::time::Instant::now();
        let mut keys = vec![first];
        while let Ok(key) = self.requests.try_recv() {
            keys.push(key);
        }
        keys.retain(|key| self.neighbours.want(*key, now));
        self.ask(&keys).await;
    }

    /// Asks for the neighbours that are needed and not fresh.
    async fn ask_due(&mut self) {
        let due = self.neighbours.due(std::time::Instant::now());
        self.ask(&due).await;
    }

    async fn ask(&self, keys: &[Key]) {
        let with_ifindex = |&(id, address): &Key| Some((*self.ifindexes.get(id.index())?, address));
        let wanted: Vec<_> = keys.iter().filter_map(with_ifindex).collect();
        self.kernel.resolve(&wanted).await;
    }
}
