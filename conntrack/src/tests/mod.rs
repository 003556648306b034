//! The NAT as a whole, on warped time.

mod attack;
mod blocks;
mod classes;
mod directory;
mod filtering;
mod fixed;
mod lifetime;
mod limits;
mod mapping;
mod overlay;
mod portless;
mod ports;
mod prospect;
mod quotas;
mod random;
mod records;
mod reload;
mod restore;
mod rests;
mod scatter;
mod tcp;
mod tcp_hosts;
mod timers;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use crate::{
    Admission, Behavior, BlockNumber, BlockState, Direction, Directory, Endpoint, Event, EventKind,
    FixedMapping, FlowKey, HoldDown, Holder, InboundRefresh, Limit, MAX_WORKERS, Nat, Overlap,
    Pool, PoolId, PoolSettings, Pooling, Protocol, Quota, Realm, Refusal, Scatter, Secret, Segment,
    SessionView, State, TcpFlags, Timestamp,
};

const POOL: Admission = Admission { pool: PoolId(0), rule: 7 };
const SYN: Option<&Segment> = Some(&Segment::bare(TcpFlags::SYN));
const SYN_ACK: Option<&Segment> = Some(&numbered(TcpFlags::SYN | TcpFlags::ACK, 0));
const ACK: Option<&Segment> = Some(&numbered(TcpFlags::ACK, 1));
const RST: Option<&Segment> = Some(&numbered(TcpFlags::RST, 1));

/// A segment of connections that begin with sequence number 0 and carry no data.
const fn numbered(flags: u8, seq: u32) -> Segment {
    Segment { seq, ack: 1, ..Segment::bare(flags) }
}

fn secs(s: u64) -> Timestamp {
    Timestamp::from_millis(s * 1000)
}

fn pod(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, n)
}

fn remote(n: u8, port: u16) -> Endpoint {
    Endpoint::new(Ipv4Addr::new(192, 0, 2, n), port)
}

fn key(protocol: Protocol, src: (Ipv4Addr, u16), dst: Endpoint) -> FlowKey {
    FlowKey { src: Endpoint::new(src.0, src.1), dst, protocol, realm: Realm::Internal, overlay: 0 }
}

/// One address with ports 1024 to 1151: two blocks of 64.
fn quota(blocks: u32, sessions: u32) -> Quota {
    Quota { blocks, sessions, ..PoolSettings::default().quota }
}

fn tiny_settings() -> PoolSettings {
    PoolSettings { ports: 1024..=1151, ..PoolSettings::default() }
}

fn nat_with(settings: PoolSettings, addresses: u8, max: usize) -> (Nat, Arc<Pool>) {
    let addresses = (0..addresses).map(|n| Ipv4Addr::new(203, 0, 113, 10 + n));
    let pool = Arc::new(Pool::new(PoolId(0), "p", settings, addresses));
    let mut nat = Nat::new(0, max, Secret::from_seed(1), secs(0));
    nat.adopt(&[Arc::clone(&pool)]);
    (nat, pool)
}

fn all_sessions(nat: &Nat, now: Timestamp) -> Vec<SessionView> {
    let (mut cursor, mut all) = (0, Vec::new());
    while let Some(slice) = nat.sessions(&mut cursor, 100, now) {
        all.extend(slice);
    }
    all
}

fn reply_to(nat: &Nat, key: &FlowKey) -> FlowKey {
    let slot = nat.find(key).unwrap();
    let rewrite = nat.rewrite(slot);
    FlowKey {
        src: key.dst,
        dst: rewrite.src,
        protocol: key.protocol,
        realm: Realm::External,
        overlay: 0,
    }
}

const CLASSES: [Behavior; 3] =
    [Behavior::EndpointIndependent, Behavior::AddressDependent, Behavior::AddressAndPortDependent];

/// Settings of this mapping and this filter: one address with two blocks of 64 ports.
fn class(mapping: Behavior, filtering: Behavior) -> PoolSettings {
    PoolSettings { mapping, filtering_tcp: filtering, filtering_udp: filtering, ..tiny_settings() }
}

/// What comes from `remote` to `public`.
fn inbound(protocol: Protocol, remote: Endpoint, public: Endpoint) -> FlowKey {
    FlowKey { src: remote, dst: public, protocol, realm: Realm::External, overlay: 0 }
}

/// The first segment of a connection, where there are connections.
fn opening(protocol: Protocol) -> Option<&'static Segment> {
    if protocol == Protocol::Tcp { SYN } else { None }
}

/// The public endpoint of `flow`, whose first packet is sent if it has no session.
fn send(nat: &mut Nat, flow: &FlowKey, now: Timestamp) -> Result<Endpoint, Refusal> {
    let first = opening(flow.protocol);
    let slot = match nat.find(flow) {
        Some(slot) => slot,
        None => nat.open(flow, POOL, first, now)?,
    };
    nat.commit(slot, now, 100, first);
    Ok(nat.rewrite(slot).src)
}

/// What becomes of the first packet from outside: the internal endpoint that gets it.
fn receive(nat: &mut Nat, key: &FlowKey, now: Timestamp) -> Result<Endpoint, Refusal> {
    let first = opening(key.protocol);
    let slot = match nat.find(key) {
        Some(slot) => slot,
        None => nat.open_inbound(key, first, now)?,
    };
    nat.commit(slot, now, 100, first);
    Ok(nat.rewrite(slot).dst)
}
