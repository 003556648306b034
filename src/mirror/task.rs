//! The task behind the mirror: listen, apply, read again what is uncertain, publish.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dataplane::interface::InterfaceId;
use dataplane::roads::Roads;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::atlas::{Atlas, Stale};
use super::dump::{Dump, Kernel, Question};
use super::events::{Event, EventSocket};
use super::neighbours::Key;
use super::path_mtu::PathMtus;
use super::served::Served;
use super::{MirrorError, MirrorState};

/// Changes are collected for this long.
const COLLECT: Duration = Duration::from_millis(3);
/// After it published, or read, the task rests this many times as long as that took.
const REST_FACTOR: u32 = 4;
/// After an error the tables are read again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// How often neighbours that do not answer are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often everything is read, to be sure.
const AUDIT: Duration = Duration::from_secs(60);

/// Datagrams that are read before a dump is taken over, at most.
const DRAIN: usize = 10_000;

/// A dump on its way.
struct Reading {
    dump: Pin<Box<dyn Future<Output = Result<Dump, MirrorError>> + Send>>,
    begun: Instant,
    /// What happened meanwhile.
    since: Vec<Event>,
    /// Nobody said that anything changed.
    audit: bool,
}

pub(super) struct Task {
    events: EventSocket,
    buffer: usize,
    kernel: Kernel,
    requests: mpsc::Receiver<(InterfaceId, std::net::Ipv4Addr)>,
    publish: watch::Sender<Arc<MirrorState>>,
    served: Served,
    atlas: Atlas,
    stale: Stale,
    reading: Option<Reading>,
    /// What the kernel was asked about the ways of tunnels.
    asking: Option<Pin<Box<dyn Future<Output = PathMtus> + Send>>>,
    /// When reading may begin, and when publishing.
    read_at: Instant,
    /// When the first change was noticed that is not published yet.
    changed_at: Option<std::time::Instant>,
    publish_at: Option<Instant>,
    rested: Instant,
    audit_at: Instant,
}

impl Task {
    /// Subscribes, reads everything once, and only then returns. `buffer`: bytes of messages that may wait.
    pub(super) async fn start(
        served: Served,
        requests: mpsc::Receiver<Key>,
        buffer: usize,
    ) -> Result<(Self, watch::Receiver<Arc<MirrorState>>), MirrorError> {
        let (publish, states) = watch::channel(Arc::new(MirrorState::default()));
        let now = Instant::now();
        let mut task = Self {
            // First subscribe, then read: what changes in between is heard.
            events: EventSocket::subscribe(buffer)?,
            buffer,
            kernel: Kernel::connect()?,
            requests,
            publish,
            atlas: Atlas::new(served.ids()),
            served,
            stale: Stale::default(),
            reading: None,
            asking: None,
            read_at: now,
            changed_at: None,
            publish_at: None,
            rested: now,
            audit_at: now + AUDIT,
        };
        let dump = task.kernel.read(Stale::ALL).await?;
        task.adopt(dump, &[]);
        task.publish();
        let state = Arc::clone(&task.publish.borrow());
        if let Some(index) = state.links.iter().position(|link| link.name.is_empty()) {
            let ifindex = task.served.ifindex(InterfaceId(index as u8)).unwrap_or_default();
            return Err(MirrorError::LinkGone(ifindex));
        }
        task.ask_due();
        Ok((task, states))
    }

    pub(super) async fn run(mut self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.begin_reading();
            let publish_at = self.publish_at;
            let publish = async move {
                match publish_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let due = self.stale.is_any() && self.reading.is_none();
            let read_at = self.read_at;
            let dump = async {
                match &mut self.reading {
                    Some(reading) => reading.dump.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            let path_mtus = async {
                match &mut self.asking {
                    Some(asking) => asking.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = publish => self.publish(),
                events = self.events.next() => match events {
                    Ok(events) => self.take_all(events),
                    Err(error) => self.reconnect(&error).await,
                },
                request = self.requests.recv() => match request {
                    Some(key) => self.want(key),
                    None => return,
                },
                dump = dump => self.finish_reading(dump),
                learned = path_mtus => {
                    self.asking = None;
                    for (remote, mtu) in self.atlas.follow_path_mtus(learned) {
                        tracing::info!(%remote, mtu, "a smaller link on the way of a tunnel was learned");
                    }
                    self.schedule();
                }
                _ = tick.tick() => {
                    self.ask_due();
                    self.ask_path_mtus();
                }
                () = sleep_until(read_at), if due => {}
            }
        }
    }

    fn take_all(&mut self, events: Vec<Event>) {
        for event in events {
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        if event == Event::Lost {
            tracing::warn!("netlink messages were lost; reading the kernel's tables anew");
            self.count_resync();
        }
        let stale = self.atlas.apply(&event);
        self.mark_stale(stale, COLLECT);
        if let Some(reading) = &mut self.reading {
            reading.since.push(event);
        }
        self.schedule();
    }

    fn count_resync(&self) {
        self.publish.send_if_modified(|state| {
            Arc::make_mut(state).resyncs += 1;
            false
        });
    }

    fn mark_stale(&mut self, stale: Stale, after: Duration) {
        if stale.is_any() {
            self.stale = self.stale.and(stale);
            self.read_at = self.read_at.max(Instant::now() + after);
        }
    }

    /// Sees that what has changed is published.
    fn schedule(&mut self) {
        let gateways = self.atlas.take_new_gateways();
        if !gateways.is_empty() {
            self.ask_due();
        }
        if self.publish_at.is_none() && self.atlas.take_changed() {
            self.changed_at = Some(std::time::Instant::now());
            self.publish_at = Some(self.rested.max(Instant::now() + COLLECT));
        }
    }

    fn begin_reading(&mut self) {
        let now = Instant::now();
        if self.reading.is_some() || now < self.read_at {
            return;
        }
        let audit = !self.stale.is_any();
        if audit && now < self.audit_at {
            return;
        }
        let what = if audit { Stale::ALL } else { std::mem::take(&mut self.stale) };
        let kernel = self.kernel.clone();
        self.audit_at = now + AUDIT;
        self.reading = Some(Reading {
            dump: Box::pin(async move { kernel.read(what).await }),
            begun: now,
            since: Vec::new(),
            audit,
        });
    }

    fn finish_reading(&mut self, dump: Result<Dump, MirrorError>) {
        // What was said before the dump's end belongs to its log.
        for _ in 0..DRAIN {
            let Some(Ok(events)) = self.events.next_waiting() else { break };
            self.take_all(events);
        }
        let Some(reading) = self.reading.take() else { return };
        match dump {
            Ok(dump) => {
                let different = self.adopt(dump, &reading.since);
                if reading.audit && different > 0 {
                    tracing::warn!(
                        routes = different,
                        "the kernel's routes had changed without a message; they are followed again"
                    );
                    self.count_resync();
                }
                self.read_at = Instant::now() + reading.begun.elapsed() * REST_FACTOR;
            }
            Err(error) => {
                tracing::error!("{error}; trying again");
                if let Ok(kernel) = Kernel::connect() {
                    self.kernel = kernel;
                }
                self.mark_stale(Stale::ALL, RETRY);
            }
        }
        self.schedule();
    }

    /// After an error of the socket: new sockets, and everything read anew.
    async fn reconnect(&mut self, error: &std::io::Error) {
        tracing::warn!(%error, "the netlink socket failed; opening a new one");
        tokio::time::sleep(RETRY).await;
        let events = EventSocket::subscribe(self.buffer);
        match events.and_then(|events| Ok((events, Kernel::connect()?))) {
            Ok((events, kernel)) => (self.events, self.kernel) = (events, kernel),
            Err(error) => tracing::error!("{error}"),
        }
        self.count_resync();
        self.mark_stale(Stale::ALL, Duration::ZERO);
    }

    /// Takes over a dump and what happened since it was begun. Returns how many routes were not as they were known.
    fn adopt(&mut self, mut dump: Dump, since: &[Event]) -> usize {
        if let Some((links, addresses)) = &mut dump.links {
            for link in links.iter_mut() {
                // The kernel's first is its own choice for what it sends there.
                let first = addresses.iter().find(|(ifindex, _)| *ifindex == link.ifindex);
                link.address = first.map(|(_, net)| net.addr());
            }
            let mut hosts: Vec<_> = addresses.iter().map(|(_, net)| *net).collect();
            hosts.sort_unstable();
            hosts.dedup();
            let state = Arc::clone(&self.publish.borrow());
            let refused = self.served.refused().to_vec();
            let served = self.served.follow(links, addresses, &state.links);
            let above = self.served.above(links);
            let links = served;
            if self.served.refused() != refused {
                self.atlas.note_links();
            }
            if self.atlas.serve(self.served.ids(), &links) {
                // What was said about those that are new was not for us.
                self.stale = self.stale.and(Stale { neighbours: true, ..Stale::default() });
            }
            if links != state.links || hosts != state.host_addresses || above != state.above {
                self.publish.send_if_modified(|state| {
                    let state = Arc::make_mut(state);
                    (state.links, state.host_addresses, state.above) = (links, hosts, above);
                    false
                });
                self.atlas.note_links();
            }
        }
        self.atlas.adopt(dump, since)
    }

    fn publish(&mut self) {
        let begin = Instant::now();
        self.publish_at = None;
        self.atlas.take_changed();
        let roads = Arc::new(Roads::clone(self.atlas.roads()));
        if !self.atlas.take_new_gateways().is_empty() {
            self.ask_due();
        }
        let refused = [&self.atlas.refused(), self.served.refused()].concat();
        let overlays = self.atlas.overlays();
        let changed_at = self.changed_at.take();
        self.publish.send_modify(|state| {
            let state = Arc::make_mut(state);
            state.changed_at = changed_at;
            (state.roads, state.refused, state.overlays) = (roads, refused, overlays);
            state.rebuilds += 1;
        });
        self.rested = Instant::now() + begin.elapsed() * REST_FACTOR;
    }

    fn want(&mut self, first: Key) {
        let now = std::time::Instant::now();
        let mut keys = vec![first];
        while let Ok(key) = self.requests.try_recv() {
            keys.push(key);
        }
        keys.retain(|key| self.atlas.neighbours().want(*key, now));
        self.ask(keys);
    }

    /// Asks what path MTU discovery has found on the ways of tunnels.
    fn ask_path_mtus(&mut self) {
        let ends = self.atlas.whole_tunnels();
        if self.asking.is_none() && !ends.is_empty() {
            let kernel = self.kernel.clone();
            self.asking = Some(Box::pin(async move { kernel.path_mtus(ends).await }));
        }
    }

    /// Asks for the neighbours that are needed and not fresh.
    fn ask_due(&mut self) {
        let due = self.atlas.neighbours().due(std::time::Instant::now());
        self.ask(due);
    }

    /// Asks on the side: thousands of questions take a while.
    fn ask(&mut self, keys: Vec<Key>) {
        let neighbours = self.atlas.neighbours();
        let question = |key: Key| {
            let (ifindex, address) = (self.served.ifindex(key.0)?, key.1);
            Some(Question { ifindex, address, known: neighbours.is_known(key) })
        };
        let wanted: Vec<_> = keys.into_iter().filter_map(question).collect();
        if !wanted.is_empty() {
            let kernel = self.kernel.clone();
            tokio::spawn(async move { kernel.resolve(&wanted).await });
        }
    }
}
