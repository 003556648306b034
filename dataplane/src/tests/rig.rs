//! Interfaces, roads, a pool, rules, and workers whose every packet and frame is counted.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use conntrack::{Pool, PoolId, PoolSettings, Secret, Timestamp};
use crossbeam::channel::{self, Receiver, Sender};
use crossbeam::utils::CachePadded;

use crate::counters::{AllCounters, WorkerCounters};
use crate::drop_reason::DropReason;
use crate::forward::Forwards;
use crate::hand_off::HandOff;
use crate::home::Homes;
use crate::interface::{Interface, InterfaceId, Mac, Roles};
use crate::io::PacketIo;
use crate::memory::MemoryIo;
use crate::request::{Notice, Request};
use crate::roads::{Adjacency, AdjacencyId, Denial, Roads, Route};
use crate::rule::{Action, Rule, RuleSet};
use crate::snapshot::{Answers, Policy, Published, Snapshot};
use crate::waker::Waker;
use crate::worker::{Clock, Shared, Worker};

pub(super) const INSIDE: InterfaceId = InterfaceId(0);
pub(super) const OUTSIDE: InterfaceId = InterfaceId(1);
pub(super) const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(super) const GATE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
pub(super) const EXEMPT_SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 3, 80);
pub(super) const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub(super) const FRAMES: usize = 512;

pub(super) fn pod(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, n)
}

pub(super) struct Rig {
    pub(super) workers: Vec<Worker<MemoryIo>>,
    pub(super) counters: Arc<AllCounters>,
    pub(super) snapshot: Arc<Published<Snapshot>>,
    pub(super) notices: Receiver<Notice>,
    pub(super) requests: Vec<Sender<Request>>,
    pub(super) now: Timestamp,
    /// Which worker a packet arrives at.
    pub(super) arrivals: usize,
}

impl Rig {
    /// The ends of rings for the records of the workers, `size` in each.
    pub(super) fn records(&mut self, size: usize) -> Vec<rtrb::Consumer<conntrack::Record>> {
        let give = |worker: &mut Worker<MemoryIo>| {
            let (ring, end) = rtrb::RingBuffer::new(size);
            worker.record_to(ring);
            end
        };
        self.workers.iter_mut().map(give).collect()
    }
}

pub(super) fn interface(name: &str, internal: bool) -> Interface {
    Interface {
        name: name.into(),
        ifindex: 1,
        mac: Mac(GATE_MAC),
        address: None,
        mtu: 1500,
        roles: Roles { internal, external: !internal },
        repair_checksums: true,
        overlay: 0,
        underlay: false,
        tunnel: None,
    }
}

pub(super) fn roads(router: Option<Mac>) -> Roads {
    let route = |net: &str, route| (net.parse().unwrap(), route);
    Roads::new(
        [
            route("10.244.0.0/16", Route::Via(AdjacencyId(0))),
            route("192.0.2.0/23", Route::Via(AdjacencyId(1))),
            route("203.0.113.0/24", Route::OnLink(OUTSIDE)),
            route("198.51.100.192/26", Route::Denied(Denial::Unreachable)),
            route("198.51.100.64/26", Route::Denied(Denial::Prohibit)),
            route("198.51.100.128/26", Route::Denied(Denial::Blackhole)),
            route("10.0.0.9/32", Route::Local),
        ],
        vec![
            Adjacency::new(INSIDE, [10, 0, 0, 1].into(), Some(Mac(NODE_MAC))),
            Adjacency::new(OUTSIDE, [203, 0, 113, 1].into(), router),
        ],
    )
}

pub(super) fn policy(settings: PoolSettings) -> Policy {
    let pool = Pool::new(PoolId(0), "default", settings, [PUBLIC, Ipv4Addr::new(203, 0, 113, 11)]);
    let rule = |name: &str, to: &str, action| Rule {
        name: name.into(),
        priority: 1000,
        from: vec!["10.244.0.0/16".parse().unwrap()],
        to: vec![to.parse().unwrap()],
        except: vec!["192.0.2.99/32".parse().unwrap()],
        services: vec![],
        action,
    };
    let rules = RuleSet::new(vec![
        rule("default", "0.0.0.0/0", Action::Pool(PoolId(0))),
        rule("exempt", "192.0.3.0/24", Action::Exempt),
    ]);
    Policy::new(1, vec![Arc::new(pool)], rules, Forwards::default(), Answers::default())
}

impl Rig {
    pub(super) fn new(workers: u16) -> Self {
        Self::with(workers, PoolSettings::default(), Some(Mac(ROUTER_MAC)))
    }

    pub(super) fn with(count: u16, settings: PoolSettings, router: Option<Mac>) -> Self {
        let interfaces = vec![interface("in0", true), interface("out0", false)];
        let snapshot = Arc::new(Published::new(Snapshot {
            interfaces,
            policy: Arc::new(policy(settings)),
            roads: Arc::new(roads(router)),
        }));
        let counters: Arc<AllCounters> =
            Arc::new((0..count).map(|_| CachePadded::new(WorkerCounters::default())).collect());
        let (notices_tx, notices) = channel::bounded(64);
        let shared = Shared {
            snapshot: Arc::clone(&snapshot),
            counters: Arc::clone(&counters),
            secret: Secret::from_seed(3),
            homes: Homes::by_hash(),
            notices: notices_tx,
            clock: Clock::start(),
            sessions_per_worker: 10_000,
        };
        let ios: Vec<MemoryIo> = (0..count).map(|_| MemoryIo::new(FRAMES).unwrap()).collect();
        let wakers: Vec<Waker> = ios.iter().map(|io| io.waker().clone()).collect();
        let now = Timestamp::from_millis(1_000);
        let mut requests = Vec::new();
        let workers = ios
            .into_iter()
            .zip(HandOff::between(&wakers))
            .enumerate()
            .map(|(id, (io, hand_off))| {
                let (tx, rx) = channel::bounded(16);
                requests.push(tx);
                Worker::new(id as u16, io, hand_off, rx, shared.clone(), now)
            })
            .collect();
        Self { workers, counters, snapshot, notices, requests, now, arrivals: 0 }
    }

    /// Lets a packet arrive, at each worker in turn.
    pub(super) fn inject(&mut self, interface: InterfaceId, packet: &[u8]) {
        self.arrivals += 1;
        let worker = self.arrivals % self.workers.len();
        let (before, rest) = self.workers.split_at_mut(worker);
        if let Some((this, after)) = rest.split_first_mut() {
            for other in before.iter_mut().chain(after) {
                other.io_mut().lend(this.io_mut());
            }
        }
        assert!(self.workers[worker].io_mut().inject(interface, packet));
    }

    /// Lets every worker take two turns, and collects what was sent.
    pub(super) fn run(&mut self) -> Vec<(InterfaceId, Vec<u8>)> {
        let mut sent = Vec::new();
        for _ in 0..3 {
            for worker in &mut self.workers {
                worker.turn(self.now);
                while let Some(packet) = worker.io_mut().take_sent() {
                    sent.push(packet);
                }
            }
        }
        self.balance();
        sent
    }

    pub(super) fn one(
        &mut self,
        interface: InterfaceId,
        packet: &[u8],
    ) -> Option<(InterfaceId, Vec<u8>)> {
        self.inject(interface, packet);
        let mut sent = self.run();
        assert!(sent.len() <= 1, "one packet in, {} out", sent.len());
        sent.pop()
    }

    pub(super) fn advance(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    pub(super) fn sum(&self, counter: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.counters.iter().map(|c| counter(c)).sum()
    }

    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.sum(|c| c.drops[reason.index()].get())
    }

    /// Every packet is in exactly one counter, every frame in exactly one place.
    pub(super) fn balance(&mut self) {
        let received = self.sum(|c| c.interfaces.iter().map(|i| i.received_packets.get()).sum());
        let dropped: u64 = DropReason::ALL.iter().map(|&reason| self.dropped(reason)).sum();
        let ended = self.sum(|c| c.forwarded.get() + c.answered.get() + c.held.get()) + dropped;
        assert_eq!(received, ended, "packets in and packets accounted for");
        assert_eq!(self.sum(|c| c.handed_over.get()), self.sum(|c| c.taken_over.get()));
        let held = self.sum(|c| c.held.get() + c.answers_held.get()) as usize;
        let frames = self.workers.iter_mut().map(|w| w.io_mut().frames());
        let (here, made) = frames.fold((0, 0), |(a, b), (x, y)| (a + x, b + y));
        assert_eq!(here + held, made, "frames conserved");
    }
}
