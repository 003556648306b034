//! A gateway on the memory backend: two interfaces, a pool, a rule, and workers that take turns.

use std::sync::Arc;

use conntrack::{Endpoint, Pool, PoolId, Secret, Timestamp};
use crossbeam::channel::{self, Receiver, Sender};
use crossbeam::utils::CachePadded;
use dataplane::counters::{AllCounters, WorkerCounters};
use dataplane::forward::Forwards;
use dataplane::hand_off::HandOff;
use dataplane::home::Homes;
use dataplane::interface::{Interface, InterfaceId, Mac, Roles};
use dataplane::memory::MemoryIo;
use dataplane::request::{Notice, Request, SessionFilter, SessionRow};
use dataplane::roads::{Adjacency, AdjacencyId, Roads, Route};
use dataplane::rule::{Action, Rule, RuleSet};
use dataplane::snapshot::{Answers, Policy, Published, Snapshot};
use dataplane::worker::{Clock, Shared};
use dataplane::{DropReason, PacketIo, Worker};

use crate::frames::GATE;

pub const INSIDE: InterfaceId = InterfaceId(0);
pub const OUTSIDE: InterfaceId = InterfaceId(1);
const FRAMES: usize = 32;

pub struct Gateway {
    workers: Vec<Worker<MemoryIo>>,
    requests: Vec<Sender<Request>>,
    notices: Receiver<Notice>,
    counters: Arc<AllCounters>,
    dropped: Vec<u64>,
    arrivals: usize,
}

fn interface(name: &str, internal: bool) -> Interface {
    Interface {
        name: name.into(),
        ifindex: 1,
        mac: Mac(GATE),
        address: None,
        mtu: 1500,
        roles: Roles { internal, external: !internal },
        repair_checksums: false,
        overlay: 0,
        underlay: false,
        tunnel: None,
    }
}

fn roads() -> Roads {
    let adjacency = |interface, address: [u8; 4], last| {
        Adjacency::new(interface, address.into(), Some(Mac([2, 0, 0, 0, 0, last])))
    };
    let route = |net: &str, id| (net.parse().unwrap(), Route::Via(AdjacencyId(id)));
    Roads::new(
        [route("10.244.0.0/16", 0), route("0.0.0.0/0", 1)],
        vec![adjacency(INSIDE, [10, 0, 0, 1], 1), adjacency(OUTSIDE, [198, 51, 100, 1], 2)],
    )
}

fn policy(pool: &Arc<Pool>) -> Policy {
    let rule = Rule {
        name: "all".into(),
        priority: 1,
        from: vec!["10.244.0.0/16".parse().unwrap()],
        to: vec!["0.0.0.0/0".parse().unwrap()],
        except: vec![],
        services: vec![],
        action: Action::Pool(PoolId(0)),
    };
    let pools = vec![Arc::clone(pool)];
    Policy::new(1, pools, RuleSet::new(vec![rule]), Forwards::default(), Answers::default())
}

impl Gateway {
    pub fn new(workers: u16, pool: &Arc<Pool>, secret: Secret, now: Timestamp) -> Self {
        let snapshot = Arc::new(Published::new(Snapshot {
            interfaces: vec![interface("in0", true), interface("out0", false)],
            policy: Arc::new(policy(pool)),
            roads: Arc::new(roads()),
        }));
        let counters = (0..workers).map(|_| CachePadded::new(WorkerCounters::default()));
        let counters: Arc<AllCounters> = Arc::new(counters.collect());
        let (notices_tx, notices) = channel::bounded(64);
        let shared = Shared {
            snapshot,
            counters: Arc::clone(&counters),
            secret,
            homes: Homes::by_hash(),
            notices: notices_tx,
            clock: Clock::start(),
            sessions_per_worker: 1_000,
        };
        let ios: Vec<_> = (0..workers).map(|_| MemoryIo::new(FRAMES).unwrap()).collect();
        let wakers: Vec<_> = ios.iter().map(|io| io.waker().clone()).collect();
        let (requests, inboxes): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| channel::bounded(4)).unzip();
        let parts = ios.into_iter().zip(HandOff::between(&wakers)).zip(inboxes);
        let workers = (0..).zip(parts).map(|(id, ((io, hand_off), inbox))| {
            Worker::new(id, io, hand_off, inbox, shared.clone(), now)
        });
        let dropped = vec![0; DropReason::ALL.len()];
        Self { workers: workers.collect(), requests, notices, counters, dropped, arrivals: 0 }
    }

    /// Lets every worker take turns; what is sent.
    pub fn run(&mut self, now: Timestamp) -> Vec<(InterfaceId, Vec<u8>)> {
        let mut sent = Vec::new();
        for _ in 0..3 {
            for worker in &mut self.workers {
                worker.turn(now);
                while let Some(packet) = worker.io_mut().take_sent() {
                    sent.push(packet);
                }
            }
        }
        while self.notices.try_recv().is_ok() {}
        sent
    }

    /// Lets a frame arrive, at each worker in turn. Frames stay with the worker that sent them, so that one
    /// may have none left.
    pub fn inject(&mut self, interface: InterfaceId, frame: &[u8]) {
        self.arrivals += 1;
        let count = self.workers.len();
        let mut turns = (0..count).map(|i| (self.arrivals + i) % count);
        let arrived = turns.any(|n| self.workers[n].io_mut().inject(interface, frame));
        assert!(arrived, "a frame is free");
    }

    /// Why packets were dropped since this was last asked.
    pub fn take_drops(&mut self) -> Vec<DropReason> {
        let mut drops = Vec::new();
        for (&reason, known) in DropReason::ALL.iter().zip(&mut self.dropped) {
            let now: u64 = self.counters.iter().map(|c| c.drops[reason.index()].get()).sum();
            drops.extend((*known..now).map(|_| reason));
            *known = now;
        }
        drops
    }

    /// Whether every frame and every packet is accounted for.
    pub fn balances(&mut self) -> bool {
        let sum = |of: fn(&WorkerCounters) -> u64| self.counters.iter().map(|c| of(c)).sum::<u64>();
        let received = sum(|c| c.interfaces.iter().map(|i| i.received_packets.get()).sum());
        let ended = sum(|c| c.forwarded.get() + c.answered.get() + c.held.get());
        let dropped: u64 = self.dropped.iter().sum();
        let frames = self.workers.iter_mut().map(|worker| worker.io_mut().frames());
        let (here, made) = frames.fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
        received == ended + dropped && here == made
    }

    pub fn sessions(&mut self, now: Timestamp) -> Vec<SessionRow> {
        let (tx, rx) = channel::unbounded();
        for worker in &self.requests {
            let filter = SessionFilter::default();
            worker.send(Request::Sessions(filter, tx.clone())).unwrap();
        }
        drop(tx);
        let mut rows = Vec::new();
        loop {
            assert!(self.run(now).is_empty(), "a question makes no packets");
            loop {
                match rx.try_recv() {
                    Ok(slice) => rows.extend(slice),
                    Err(channel::TryRecvError::Empty) => break,
                    Err(channel::TryRecvError::Disconnected) => return rows,
                }
            }
        }
    }

    /// The public endpoint of a session from inside.
    pub fn public_of(
        &mut self,
        internal: Endpoint,
        remote: Endpoint,
        now: Timestamp,
    ) -> Option<Endpoint> {
        let rows = self.sessions(now);
        rows.iter().find(|r| (r.internal, r.remote) == (internal, remote)).map(|r| r.public)
    }
}
