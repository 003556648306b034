//! The rig with tunnels, and an end of them that shares no code with what it tests.
//!
//! ```text
//! pods 10.244.1.0/24 ── 10.244.1.0 ══ vxlan1, VNI 1 ══ 10.0.0.1 ── [0] natgate
//! pods 10.244.2.0/24 ── 10.244.2.0 ══ vxlan2, VNI 2 ══ 10.0.0.1 ── [0]
//! ```

use super::icmp::change;
use super::*;
use crate::interface::{Interface, InterfaceId, OuterDf, Tunnel};
use crate::roads::TunnelTo;

pub(super) const VXLAN_1: InterfaceId = InterfaceId(2);
pub(super) const VXLAN_2: InterfaceId = InterfaceId(3);
pub(super) const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Of natgate's devices, and of the node's.
pub(super) const OWN_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 9], [2, 0, 0, 0, 2, 9]];
pub(super) const PEER_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 2, 1]];
pub(super) const PORTS: (u16, u16) = (32_768, 60_999);
const PORT: u16 = 8472;
const FLAGS: [u8; 4] = [8, 0, 0, 0];

pub(super) fn tunnel(vni: u32) -> Tunnel {
    Tunnel {
        vni,
        port: PORT,
        local: LOCAL,
        source_ports: PORTS,
        ttl: Some(64),
        tos: None,
        df: OuterDf::Unset,
        checksum: false,
    }
}

fn device(vni: u32) -> Interface {
    let index = vni as usize - 1;
    Interface {
        mac: Mac(OWN_MACS[index]),
        address: Some(Ipv4Addr::new(10, 244, 1 + index as u8, 255)),
        mtu: 1450,
        tunnel: Some(tunnel(vni)),
        ..interface(&format!("vxlan{vni}"), true)
    }
}

/// Adjacencies 2 and 3 are the node's ends of the tunnels, as flannel has them.
pub(super) fn overlays(workers: u16) -> Rig {
    let rig = Rig::new(workers);
    change(&rig, |snapshot| {
        snapshot.interfaces[0].underlay = true;
        snapshot.interfaces.extend([1, 2].map(device));
        let roads = Arc::make_mut(&mut snapshot.roads);
        for (index, interface) in [VXLAN_1, VXLAN_2].into_iter().enumerate() {
            let net = Ipv4Addr::new(10, 244, 1 + index as u8, 0);
            let mut there = Adjacency::new(interface, net, Some(Mac(PEER_MACS[index])));
            let outer = AdjacencyId(0);
            there.tunnel = Some(TunnelTo { remote: NODE, outer, path_mtu: None });
            Arc::make_mut(&mut roads.adjacencies).push(there);
            let id = AdjacencyId(2 + index as u32);
            Arc::make_mut(&mut roads.neighbours).insert((interface, net), id);
            let prefix = ipnet::Ipv4Net::new(net, 24).unwrap();
            roads.tables[0].insert(prefix, Route::Via(id));
        }
        roads.note_change(ipnet::Ipv4Net::default());
    });
    rig
}

/// Both tunnels have pods with the same addresses.
pub(super) fn overlapping(workers: u16) -> Rig {
    let rig = overlays(workers);
    change(&rig, |snapshot| {
        let roads = Arc::make_mut(&mut snapshot.roads);
        for (index, overlay) in [(2, 11), (3, 22)] {
            snapshot.interfaces[index].overlay = overlay;
            let route = Route::Via(AdjacencyId(index as u32));
            roads.tables.push([("10.244.1.0/24".parse().unwrap(), route)].into_iter().collect());
        }
        roads.overlays = [(11, 1), (22, 2)].into();
        roads.note_change(ipnet::Ipv4Net::default());
    });
    rig
}

/// Changes the tunnel of VNI 1.
pub(super) fn set_tunnel(rig: &Rig, set: impl FnOnce(&mut Tunnel)) {
    change(rig, |snapshot| set(snapshot.interfaces[2].tunnel.as_mut().unwrap()));
}

/// Changes the way to the node by VNI 1.
pub(super) fn set_way(rig: &Rig, set: impl FnOnce(&mut Adjacency)) {
    change(rig, |snapshot| {
        let roads = Arc::make_mut(&mut snapshot.roads);
        set(&mut Arc::make_mut(&mut roads.adjacencies)[2]);
    });
}

/// `frame` as the node's device sends it to natgate's.
pub(super) fn inner(vni: u32, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..6].copy_from_slice(&OWN_MACS[vni as usize - 1]);
    frame[6..12].copy_from_slice(&PEER_MACS[vni as usize - 1]);
    frame
}

/// What stands in the outer headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outer {
    pub(super) macs: ([u8; 6], [u8; 6]),
    pub(super) src: Ipv4Addr,
    pub(super) dst: Ipv4Addr,
    pub(super) tos: u8,
    pub(super) ttl: u8,
    pub(super) df: bool,
    pub(super) id: u16,
    pub(super) port: u16,
    pub(super) checksum: bool,
    pub(super) vni: u32,
}

impl Outer {
    /// From the node to natgate.
    pub(super) fn arriving(vni: u32) -> Self {
        Self {
            macs: (NODE_MAC, GATE_MAC),
            src: NODE,
            dst: LOCAL,
            tos: 0,
            ttl: 64,
            df: false,
            id: 77,
            port: 40_000,
            checksum: false,
            vni,
        }
    }

    /// From natgate to the node, but for identification and port.
    pub(super) fn leaving(vni: u32) -> Self {
        Self { macs: (GATE_MAC, NODE_MAC), src: LOCAL, dst: NODE, ..Self::arriving(vni) }
    }

    /// The whole packet around `frame`.
    pub(super) fn around(&self, frame: &[u8]) -> Vec<u8> {
        let mut ip = etherparse::Ipv4Header::new(
            0,
            self.ttl,
            etherparse::IpNumber::UDP,
            self.src.octets(),
            self.dst.octets(),
        )
        .unwrap();
        ip.dscp = etherparse::IpDscp::try_new(self.tos >> 2).unwrap();
        ip.ecn = etherparse::IpEcn::try_new(self.tos & 3).unwrap();
        (ip.dont_fragment, ip.identification) = (self.df, self.id);
        let mut payload = FLAGS.to_vec();
        payload.extend((self.vni << 8).to_be_bytes());
        payload.extend(frame);
        let udp = if self.checksum {
            ip.set_payload_len(8 + payload.len()).unwrap();
            etherparse::UdpHeader::with_ipv4_checksum(self.port, PORT, &ip, &payload).unwrap()
        } else {
            etherparse::UdpHeader::without_ipv4_checksum(self.port, PORT, payload.len()).unwrap()
        };
        ip.set_payload_len(8 + payload.len()).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        let mut packet = [self.macs.1, self.macs.0].concat();
        packet.extend([8, 0]);
        ip.write(&mut packet).unwrap();
        udp.write(&mut packet).unwrap();
        packet.extend(payload);
        packet
    }

    /// The outer headers of a packet, and the frame within. Every byte of `packet` is accounted for.
    pub(super) fn of(packet: &[u8]) -> (Self, Vec<u8>) {
        let sliced = SlicedPacket::from_ethernet(packet).unwrap();
        let Some(etherparse::LinkSlice::Ethernet2(link)) = &sliced.link else { panic!("no link") };
        let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4") };
        let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("not UDP") };
        let (header, payload) = (ip.header(), udp.payload());
        let outer = Self {
            macs: (link.source(), link.destination()),
            src: header.source_addr(),
            dst: header.destination_addr(),
            tos: header.dcp().value() << 2 | header.ecn().value(),
            ttl: header.ttl(),
            df: header.dont_fragment(),
            id: header.identification(),
            port: udp.source_port(),
            checksum: udp.checksum() != 0,
            vni: u32::from_be_bytes([0, payload[4], payload[5], payload[6]]),
        };
        let frame = payload[8..].to_vec();
        assert_eq!(outer.around(&frame), packet, "every byte is as the other end would write it");
        (outer, frame)
    }
}

/// `frame` in a tunnel, as it arrives at natgate.
pub(super) fn arriving(vni: u32, frame: &[u8]) -> Vec<u8> {
    Outer::arriving(vni).around(&inner(vni, frame))
}

/// What leaves when `frame` arrives by VNI `vni`: plain, outside.
pub(super) fn out(rig: &mut Rig, vni: u32, frame: &[u8]) -> Option<Vec<u8>> {
    let (interface, out) = rig.one(INSIDE, &arriving(vni, frame))?;
    assert_eq!(interface, OUTSIDE);
    Some(out)
}

/// What leaves into a tunnel when `frame` arrives from outside: outer headers and the frame within.
pub(super) fn back(rig: &mut Rig, frame: &[u8]) -> Option<(Outer, Vec<u8>)> {
    let (interface, back) = rig.one(OUTSIDE, frame)?;
    assert_eq!(interface, INSIDE, "by the underlay");
    Some(Outer::of(&back))
}
