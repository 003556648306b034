//! A gateway in memory: workers, one network inside, one outside; packets are given and taken by hand, time
//! passes when it is told to.
//!
//! ```text
//! pods 10.0.0.0/8 ── node 172.16.0.1 ── [0] natgate [1] ── router 203.0.113.1 ── everything else
//! ```
//!
//! The fuzz targets in `dataplane/fuzz` include this file too.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use conntrack::{Pool, PoolId, PoolSettings, Secret, Timestamp};
use crossbeam::channel::{self, Receiver, Sender};
use crossbeam::utils::CachePadded;
use dataplane::counters::{AllCounters, WorkerCounters};
use dataplane::forward::Forwards;
use dataplane::hand_off::HandOff;
use dataplane::home::Homes;
use dataplane::interface::{Interface, InterfaceId, Mac, OuterDf, Roles, Tunnel};
use dataplane::memory::MemoryIo;
use dataplane::request::{Notice, Request};
use dataplane::roads::{Adjacency, AdjacencyId, Roads, Route, TunnelTo};
use dataplane::rule::{Action, Rule, RuleSet};
use dataplane::snapshot::{Answers, Policy, Published, Snapshot};
use dataplane::waker::Waker;
use dataplane::worker::{Clock, Shared};
use dataplane::{DropReason, PacketIo, Worker};
use ipnet::Ipv4Net;

/// The internal interface.
pub const INSIDE: InterfaceId = InterfaceId(0);
/// The external interface.
pub const OUTSIDE: InterfaceId = InterfaceId(1);
/// Ethernet address of both interfaces.
pub const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Where packets to the pods go.
pub const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Where everything else goes.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Addresses of pods: the upper octet.
pub const PODS: u8 = 10;
/// The tunnel's interface.
const DEVICE: InterfaceId = InterfaceId(2);
/// Ethernet address of its device.
pub const DEVICE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 9];
/// The tunnel's ends: the node's and the gateway's.
pub const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(172, 16, 0, 1), Ipv4Addr::new(172, 16, 0, 9)];
/// The network's number, and the UDP port.
pub const TUNNEL: (u32, u16) = (1, 8472);
/// A server that is reached without translation.
pub const EXEMPT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 80);

/// What a gateway is made with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Workers.
    pub workers: u16,
    /// Sessions that each worker has room for.
    pub sessions: usize,
    /// Frames that each worker has.
    pub frames: usize,
    /// Public addresses: 203.0.113.10 and those that follow.
    pub addresses: u16,
    /// Settings of the one pool.
    pub pool: PoolSettings,
    /// What configuration maps.
    pub forwards: Forwards,
    /// What natgate says by itself.
    pub answers: Answers,
    /// MTU of both interfaces: inside, outside.
    pub mtu: [u16; 2],
    /// Pods are behind a VXLAN tunnel: to [`TUNNEL`] at the inner interface, and back by it.
    pub tunnel: bool,
}

/// Workers on memory backends, and what is around them.
#[derive(Debug)]
pub struct Gateway {
    /// The workers.
    pub workers: Vec<Worker<MemoryIo>>,
    /// The time that is passed to them.
    pub now: Timestamp,
    /// What the workers follow.
    pub snapshot: Arc<Published<Snapshot>>,
    counters: Arc<AllCounters>,
    arrivals: usize,
    /// Kept, because a worker looks at the other end.
    control: (Vec<Sender<Request>>, Receiver<Notice>),
}

impl Gateway {
    /// A gateway without sessions. Its secret is always the same.
    pub fn new(setup: &Setup) -> std::io::Result<Self> {
        let counters: Arc<AllCounters> = (0..setup.workers)
            .map(|_| CachePadded::new(WorkerCounters::default()))
            .collect::<Vec<_>>()
            .into();
        let (notices, notices_end) = channel::bounded(64);
        let snapshot = Arc::new(Published::new(snapshot(setup)));
        let shared = Shared {
            snapshot: Arc::clone(&snapshot),
            counters: Arc::clone(&counters),
            secret: Secret::from_seed(3),
            homes: Homes::by_hash(),
            notices,
            clock: Clock::start(),
            sessions_per_worker: setup.sessions,
        };
        // Later than the time for which a new process keeps quiet.
        let now = Timestamp::from_millis(1_000);
        let ios = (0..setup.workers).map(|_| MemoryIo::new(setup.frames));
        let ios = ios.collect::<std::io::Result<Vec<_>>>()?;
        let wakers: Vec<Waker> = ios.iter().map(|io| io.waker().clone()).collect();
        let mut senders = Vec::new();
        let with_rings = ios.into_iter().zip(HandOff::between(&wakers));
        let workers = with_rings.zip(0..).map(|((io, hand_off), id)| {
            let (sender, requests) = channel::bounded(1);
            senders.push(sender);
            Worker::new(id, io, hand_off, requests, shared.clone(), now)
        });
        let workers = workers.collect();
        // A process answers some things only when it is ten seconds old.
        let now = now + Duration::from_secs(11);
        Ok(Self { workers, now, snapshot, counters, arrivals: 0, control: (senders, notices_end) })
    }

    /// Lets a frame arrive, at each worker in turn that has room; false if none has.
    pub fn inject(&mut self, interface: InterfaceId, frame: &[u8]) -> bool {
        self.arrivals += 1;
        let (first, count) = (self.arrivals, self.workers.len());
        (first..first + count)
            .any(|worker| self.workers[worker % count].io_mut().inject(interface, frame))
    }

    /// Lets every worker take its turns until none has anything to do, and returns what was sent.
    pub fn settle(&mut self) -> Vec<(InterfaceId, Vec<u8>)> {
        let mut sent = Vec::new();
        loop {
            let mut packets = 0;
            for worker in &mut self.workers {
                packets += worker.turn(self.now);
                sent.extend(std::iter::from_fn(|| worker.io_mut().take_sent()));
            }
            if packets == 0 {
                return sent;
            }
        }
    }

    /// Asks a worker something; false: it takes no question now.
    pub fn ask(&self, worker: usize, request: Request) -> bool {
        self.control.0[worker].try_send(request).is_ok()
    }

    /// A counter, summed over the workers.
    pub fn sum(&self, counter: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.counters.iter().map(|counters| counter(counters)).sum()
    }

    /// How many packets ended how: drop reasons by name, and the other ends.
    pub fn ends(&self) -> Vec<(&'static str, u64)> {
        let drops = DropReason::ALL.iter().map(|reason| {
            (reason.name(), self.sum(|counters| counters.drops[reason.index()].get()))
        });
        [
            ("forwarded", self.sum(|counters| counters.forwarded.get())),
            ("answered", self.sum(|counters| counters.answered.get())),
        ]
        .into_iter()
        .chain(drops)
        .collect()
    }

    /// Whether every packet is in exactly one counter and every frame in exactly one place; if not, what is
    /// wrong.
    pub fn balance(&mut self) -> Result<(), String> {
        let received: u64 =
            self.sum(|counters| counters.interfaces.iter().map(|i| i.received_packets.get()).sum());
        let ended: u64 = self.ends().iter().map(|(_, count)| count).sum();
        let held = self.sum(|counters| counters.held.get());
        if received != ended + held {
            return Err(format!("{received} packets came, {ended} ended, {held} wait"));
        }
        let given = self.sum(|counters| counters.handed_over.get());
        let taken = self.sum(|counters| counters.taken_over.get());
        if given != taken {
            return Err(format!("{given} packets were handed over, {taken} taken"));
        }
        let frames = self.workers.iter_mut().map(|worker| worker.io_mut().frames());
        let (here, made) = frames.fold((0, 0), |(a, b), (x, y)| (a + x, b + y));
        if here + held as usize != made {
            return Err(format!("of {made} frames {here} are here, {held} wait"));
        }
        Ok(())
    }
}

fn snapshot(setup: &Setup) -> Snapshot {
    let interface = |index: usize| Interface {
        name: ["in0", "out0"][index].into(),
        ifindex: 1 + index as u32,
        mac: Mac(OWN_MAC),
        mtu: setup.mtu[index],
        roles: Roles { internal: index == 0, external: index == 1 },
        repair_checksums: true,
        overlay: 0,
        underlay: index == 0 && setup.tunnel,
        tunnel: None,
        address: Some([Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(203, 0, 113, 2)][index]),
    };
    let mut interfaces = vec![interface(0), interface(1)];
    if setup.tunnel {
        interfaces.push(device(&interface(0)));
    }
    Snapshot { interfaces, policy: Arc::new(policy(setup)), roads: Arc::new(roads(setup.tunnel)) }
}

/// The tunnel's interface, on the underlay `on`.
fn device(on: &Interface) -> Interface {
    let tunnel = Tunnel {
        vni: TUNNEL.0,
        port: TUNNEL.1,
        local: ENDS[1],
        source_ports: (32_768, 60_999),
        ttl: Some(64),
        tos: None,
        df: OuterDf::Unset,
        checksum: false,
    };
    Interface {
        name: "vxlan1".into(),
        ifindex: 3,
        mac: Mac(DEVICE_MAC),
        mtu: on.mtu.saturating_sub(50),
        underlay: false,
        tunnel: Some(tunnel),
        ..on.clone()
    }
}

fn net(a: u8, b: u8, c: u8, d: u8, len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len)
}

fn policy(setup: &Setup) -> Policy {
    let first = u32::from(Ipv4Addr::new(203, 0, 113, 10));
    let addresses = (0..u32::from(setup.addresses)).map(|n| Ipv4Addr::from(first + n));
    let pool = Pool::new(PoolId(0), "default", setup.pool.clone(), addresses);
    let rule = |name: &str, to, action| Rule {
        name: name.into(),
        priority: 1000,
        from: vec![net(PODS, 0, 0, 0, 8)],
        to: vec![to],
        except: vec![],
        services: vec![],
        action,
    };
    let rules = RuleSet::new(vec![
        rule("default", net(0, 0, 0, 0, 0), Action::Pool(PoolId(0))),
        rule("exempt", net(198, 51, 100, 0, 24), Action::Exempt),
    ]);
    Policy::new(1, vec![Arc::new(pool)], rules, setup.forwards.clone(), setup.answers.clone())
}

fn roads(tunnel: bool) -> Roads {
    let (node, router) = (ENDS[0], Ipv4Addr::new(203, 0, 113, 1));
    let outer = AdjacencyId(0);
    let mut behind = Adjacency::new(DEVICE, Ipv4Addr::new(10, 0, 0, 0), Some(Mac(NODE_MAC)));
    behind.tunnel = Some(TunnelTo { remote: node, outer, path_mtu: None });
    let pods = AdjacencyId(if tunnel { 2 } else { 0 });
    Roads::new(
        [
            (net(0, 0, 0, 0, 0), Route::Via(AdjacencyId(1))),
            (net(PODS, 0, 0, 0, 8), Route::Via(pods)),
        ],
        vec![
            Adjacency::new(INSIDE, node, Some(Mac(NODE_MAC))),
            Adjacency::new(OUTSIDE, router, Some(Mac(ROUTER_MAC))),
            behind,
        ],
    )
}
