//! The packets of each kind, and the flows that they belong to.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use super::kind::Kind;
use crate::frame::{Ip, Party, icmp, tcp, udp};
use crate::gateway::{DEVICE_MAC, ENDS, EXEMPT, Gateway, INSIDE, OUTSIDE, OWN_MAC, PODS, TUNNEL};
use dataplane::interface::InterfaceId;

/// Flows of each pod.
const FLOWS_PER_POD: u32 = 50;
/// A prime: flows are visited in steps of it, so that neighbours in time are none in memory.
const STRIDE: usize = 7919;
const PAYLOAD: [u8; 26] = [7; 26];
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A pod's flow to a server, and how the outside sees the pod.
#[derive(Clone, Copy, Debug)]
struct Flow {
    pod: Party,
    server: Party,
    public: Party,
}

impl Flow {
    /// The flow with the number `n`, not opened yet.
    fn new(n: u32) -> Self {
        let pod = Ipv4Addr::from((u32::from(PODS) << 24) + 0x10000 + n / FLOWS_PER_POD);
        let server = Ipv4Addr::new(192, 0, 2, 1 + (n % 200) as u8);
        let port = 20_000 + (n % FLOWS_PER_POD) as u16;
        Self { pod: (pod, port), server: (server, 4433), public: (Ipv4Addr::UNSPECIFIED, 0) }
    }

    fn udp_out(&self, payload: &[u8]) -> Ip {
        udp(self.pod, self.server, payload)
    }

    fn udp_in(&self, payload: &[u8]) -> Ip {
        udp(self.server, self.public, payload)
    }

    fn ping_out(&self) -> Ip {
        let rest = u32::from(self.pod.1) << 16 | 1;
        icmp(self.pod.0, self.server.0, (8, 0), rest, &PAYLOAD)
    }

    fn ping_in(&self) -> Ip {
        let rest = u32::from(self.public.1) << 16 | 1;
        icmp(self.server.0, self.public.0, (0, 0), rest, &PAYLOAD)
    }

    fn tcp_out(&self, flags: u8, numbers: (u32, u32), payload: &[u8]) -> Ip {
        tcp(self.pod, self.server, flags, numbers, payload)
    }

    fn tcp_in(&self, flags: u8, numbers: (u32, u32), payload: &[u8]) -> Ip {
        tcp(self.server, self.public, flags, numbers, payload)
    }
}

/// Packets ready to arrive, in order.
#[derive(Debug)]
pub struct Traffic {
    /// By which interface.
    pub interface: InterfaceId,
    /// The frames.
    pub frames: Vec<Vec<u8>>,
}

/// Opens `flows` flows at `gateway` and makes `count` packets of a kind.
pub fn prepare(gateway: &mut Gateway, kind: Kind, flows: u32, count: usize) -> Result<Traffic> {
    let mut opened = Vec::new();
    for n in 0..flows {
        opened.push(open(gateway, kind, Flow::new(n))?);
    }
    let from_outside = matches!(
        kind,
        Kind::TcpIn
            | Kind::TcpInDf
            | Kind::TunnelOut
            | Kind::UdpIn
            | Kind::PingIn
            | Kind::ExemptIn
            | Kind::ErrorIn
            | Kind::FragmentIn
            | Kind::Scan
    );
    let from = if from_outside { OUTSIDE } else { INSIDE };
    let frames = (0..count).map(|k| {
        // Both halves of a datagram are of one flow.
        let turn = if matches!(kind, Kind::FragmentOut | Kind::FragmentIn) { k / 2 } else { k };
        let flow = &opened[turn * STRIDE % opened.len()];
        let fresh = Flow::new(flows + k as u32);
        let to = if kind == Kind::Foreign { [2, 7, 7, 7, 7, 7] } else { OWN_MAC };
        let other = &opened[(k * STRIDE + STRIDE) % opened.len()];
        arriving(kind, from, &packet(kind, k, flow, other, &fresh), to)
    });
    Ok(Traffic { interface: from, frames: frames.collect() })
}

/// `packet` as it arrives from a side, sent to the Ethernet address `to`: from pods behind a tunnel, in there.
fn arriving(kind: Kind, from: InterfaceId, packet: &Ip, to: [u8; 6]) -> Vec<u8> {
    if !kind.is_tunnelled() || from == OUTSIDE {
        return packet.frame(to);
    }
    let mut inner = vec![8, 0, 0, 0];
    inner.extend((TUNNEL.0 << 8).to_be_bytes());
    inner.extend(packet.frame(DEVICE_MAC));
    udp((ENDS[0], 40_000), (ENDS[1], TUNNEL.1), &inner).frame(to)
}

/// The packet with the number `k`, of `flow`, or the first one of `fresh`.
fn packet(kind: Kind, k: usize, flow: &Flow, other: &Flow, fresh: &Flow) -> Ip {
    let quote = |about: &Ip| about.packet()[..28].to_vec();
    match kind {
        Kind::TcpOut => flow.tcp_out(ACK, (1001, 5001), &PAYLOAD),
        Kind::TcpIn => flow.tcp_in(ACK, (5001, 1001), &PAYLOAD),
        Kind::TcpOutDf | Kind::TunnelIn => with_df(packet(Kind::TcpOut, k, flow, other, fresh)),
        Kind::TcpInDf | Kind::TunnelOut => with_df(packet(Kind::TcpIn, k, flow, other, fresh)),
        Kind::UdpOut | Kind::Foreign => flow.udp_out(&PAYLOAD),
        Kind::UdpIn => flow.udp_in(&PAYLOAD),
        Kind::PingOut => flow.ping_out(),
        Kind::PingIn => flow.ping_in(),
        Kind::NewUdp => fresh.udp_out(&PAYLOAD),
        Kind::NewTcp => fresh.tcp_out(SYN, (1000, 0), &[]),
        Kind::NewPing => fresh.ping_out(),
        Kind::ExemptOut => udp(flow.pod, (EXEMPT, 4433), &PAYLOAD),
        Kind::ExemptIn => udp((EXEMPT, 4433), flow.pod, &PAYLOAD),
        Kind::ErrorIn => {
            let about = quote(&udp(flow.public, flow.server, &PAYLOAD));
            icmp(Ipv4Addr::new(203, 0, 113, 1), flow.public.0, (3, 1), 0, &about)
        }
        Kind::ErrorOut => {
            let about = quote(&udp(flow.server, flow.pod, &PAYLOAD));
            icmp(flow.pod.0, flow.server.0, (3, 3), 0, &about)
        }
        Kind::FragmentOut => half(&flow.udp_out(&[7; 1016]), k),
        Kind::FragmentIn => half(&flow.udp_in(&[7; 1016]), k),
        Kind::Hairpin => udp(flow.pod, other.public, &PAYLOAD),
        Kind::Scan => {
            udp(flow.server, (Ipv4Addr::new(203, 0, 113, 10), 1 + (k % 1000) as u16), &PAYLOAD)
        }
    }
}

fn with_df(packet: Ip) -> Ip {
    Ip { fragment: 0x4000, ..packet }
}

/// The first half of a datagram for an even `k`, the second for an odd one.
fn half(whole: &Ip, k: usize) -> Ip {
    let (pair, middle) = (k / 2, whole.payload.len() / 2);
    Ip { id: pair as u16, ..whole.clone() }.part(k % 2 * middle, middle)
}

/// A packet of an opening, and where it comes from.
type Step = (InterfaceId, fn(&Flow) -> Ip);

/// Opens a flow of the protocol that `kind` needs, with packets from both sides.
fn open(gateway: &mut Gateway, kind: Kind, mut flow: Flow) -> Result<Flow> {
    let steps: Vec<Step> = match kind {
        Kind::TcpOut
        | Kind::TcpIn
        | Kind::TcpOutDf
        | Kind::TcpInDf
        | Kind::TunnelIn
        | Kind::TunnelOut
        | Kind::NewTcp => vec![
            (INSIDE, |flow| flow.tcp_out(SYN, (1000, 0), &[])),
            (OUTSIDE, |flow| flow.tcp_in(SYN | ACK, (5000, 1001), &[])),
            (INSIDE, |flow| flow.tcp_out(ACK, (1001, 5001), &[])),
        ],
        Kind::PingOut | Kind::PingIn | Kind::NewPing => {
            vec![(INSIDE, Flow::ping_out), (OUTSIDE, Flow::ping_in)]
        }
        _ => vec![(INSIDE, |flow| flow.udp_out(&PAYLOAD)), (OUTSIDE, |flow| flow.udp_in(&PAYLOAD))],
    };
    for (from, packet) in steps {
        let frame = arriving(kind, from, &packet(&flow), OWN_MAC);
        anyhow::ensure!(gateway.inject(from, &frame), "no free frame");
        let (_, sent) =
            gateway.settle().pop().context("a packet of an opening was not forwarded")?;
        if from == INSIDE {
            flow.public = source_of(&sent);
        }
    }
    Ok(flow)
}

/// The source address and port, or identifier, of a frame without IPv4 options.
fn source_of(frame: &[u8]) -> Party {
    let at = if frame[23] == 1 { 38 } else { 34 };
    let addr = Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29]);
    (addr, u16::from_be_bytes([frame[at], frame[at + 1]]))
}
