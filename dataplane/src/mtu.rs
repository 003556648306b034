//! How long may packets be on their way, and how do the ends of TCP connections learn it beforehand?

use conntrack::{Realm, TcpFlags};

use crate::io::{PacketIo, Received};
use crate::pipeline::Parsed;
use crate::roads::{Adjacency, AdjacencyId, Journey, NextHop};
use crate::snapshot::{MssClamp, Snapshot};
use crate::wire::{Tcp, ipv4, tcp, vxlan};
use crate::worker::Worker;

/// What TCP and IPv4 take of a packet without options (RFC 9293 section 3.7.1).
const HEADERS: u16 = (ipv4::HEADER + tcp::HEADER) as u16;

impl Snapshot {
    /// The longest IP packet that the way by `hop` carries, in bytes, as far as this gateway knows: of a tunnel, the inner
    /// one. `None` where packets don't leave.
    pub fn mtu_of(&self, hop: NextHop) -> Option<u16> {
        let roads = &self.roads;
        let link = self.interfaces.get(roads.interface_of(hop)?.index())?;
        if link.tunnel.is_none() && !roads.narrowed {
            return Some(link.mtu);
        }
        let id = match hop {
            NextHop::Unknown(interface, address) => roads.neighbours.get(&(interface, address)),
            NextHop::Adjacency(ref id) => Some(id),
            _ => None,
        };
        let adjacency = id.and_then(|id: &AdjacencyId| roads.adjacency(*id));
        let underlay = adjacency.and_then(|it| self.underlay_mtu(it));
        let narrow = adjacency.and_then(|it| it.mtu);
        [underlay, narrow].into_iter().flatten().chain([link.mtu]).min()
    }

    /// The same of what a neighbour behind a tunnel is reached by, less the headers of the tunnel.
    fn underlay_mtu(&self, adjacency: &Adjacency) -> Option<u16> {
        let to = adjacency.tunnel?;
        let outer = self.roads.adjacency(to.outer)?;
        let link = self.interfaces.get(outer.interface.index())?.mtu;
        let path = [to.path_mtu, outer.mtu].into_iter().flatten().fold(link, u16::min);
        Some(path.saturating_sub(vxlan::OVERHEAD))
    }
}

impl<I: PacketIo> Worker<I> {
    /// Lowers the maximum segment size that a SYN or SYN-ACK announces, where configuration says so, to what the ways of
    /// the connection carry: `hop`, by which the packet leaves, and the way back to its sender.
    #[inline]
    pub(crate) fn clamp_mss(
        &mut self,
        received: &mut Received<I::Frame>,
        parsed: &Parsed,
        hop: NextHop,
    ) {
        let opens = parsed.packet.segment().is_some_and(|s| s.flags.has(TcpFlags::SYN));
        if opens {
            self.clamp(received, parsed, hop);
        }
    }

    #[cold]
    fn clamp(&mut self, received: &mut Received<I::Frame>, parsed: &Parsed, hop: NextHop) {
        let most = match self.snapshot.policy.mss_clamp {
            MssClamp::Off => return,
            MssClamp::Bytes(bytes) => Some(bytes),
            MssClamp::Auto => {
                let mtu = self.lane.only_mtu.or_else(|| self.mtu_both_ways(received, parsed, hop));
                mtu.map(|mtu| mtu.saturating_sub(HEADERS))
            }
        };
        if let Some(most) = most {
            let frame = self.io.bytes_mut(&mut received.frame);
            if let Ok(mut tcp) = Tcp::new_checked(parsed.packet.payload_mut(frame)) {
                tcp.lower_mss(most);
            }
        }
    }

    /// The longest packet that both ways carry.
    fn mtu_both_ways(
        &self,
        received: &Received<I::Frame>,
        parsed: &Parsed,
        hop: NextHop,
    ) -> Option<u16> {
        let &Parsed { ref packet, realm, overlay, .. } = parsed;
        let journey = Journey {
            overlay: if realm == Realm::Internal { overlay } else { 0 },
            source: packet.dst.addr,
            ..Journey::to(packet.src.addr)
        };
        // Of a packet that turns back, neither is known: its other half is another session's, which does the same.
        let back = self.snapshot.mtu_of(self.way_to(&journey));
        let arrival = self.interface(received.interface).map(|interface| interface.mtu);
        let there = self.snapshot.mtu_of(hop);
        [there, back, arrival].into_iter().flatten().min()
    }
}
