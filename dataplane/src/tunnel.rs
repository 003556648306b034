//! How do packets come out of tunnels, and into them?
//!
//! A tunnel is an interface of the gateway without queues of its own. What arrives through it does so by an underlay: the
//! outer headers go first, and from then on the packet has come by the tunnel's interface; nothing later knows more.
//! What leaves towards a neighbour behind a tunnel gets its headers last, after everything else is written.

use std::net::Ipv4Addr;
use std::num::NonZeroU32;

use conntrack::Timestamp;

use crate::drop_reason::DropReason;
use crate::follow::Changed;
use crate::held::Held;
use crate::hold::Neighbour;
use crate::interface::{Interface, InterfaceId, Mac};
use crate::io::{PacketIo, Received};
use crate::roads::{Adjacency, AdjacencyId, Journey, NextHop};
use crate::snapshot::Snapshot;
use crate::wire::plain::MacWord;
use crate::wire::vxlan::{self, ECN, End, Envelope, combined_ecn};
use crate::wire::{Ipv4, ethernet};
use crate::worker::Worker;

/// Index of an envelope in [`Tunnels`], and of the neighbour that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TunnelId(NonZeroU32);

impl TunnelId {
    fn to(neighbour: AdjacencyId) -> Option<Self> {
        NonZeroU32::new(neighbour.0 + 1).map(Self)
    }

    #[inline]
    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// What one worker knows of the tunnels in its snapshot.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    /// Those that end here, and their interfaces.
    ends: Vec<(End, InterfaceId)>,
    /// By interface: its Ethernet address, if it is an underlay.
    underlays: Vec<Option<MacWord>>,
    /// By adjacency, for each neighbour behind a tunnel whose whole way is known; and the underlay's interface. Empty
    /// where there is no tunnel.
    envelopes: Vec<Option<(Envelope, InterfaceId)>>,
    /// The identification of the next outer packet: of those that this worker may use, they follow each other for all
    /// remotes together, as fast as the kernel's for one flow.
    next_id: u16,
    id_step: u16,
}

impl Tunnels {
    /// Those of `worker`, which is one of `workers`.
    pub(crate) fn new(worker: u16, workers: u16) -> Self {
        Self { next_id: worker, id_step: workers, ..Self::default() }
    }

    /// Takes over what a new snapshot says.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot, changed: &Changed) {
        let interfaces = (0..).map(InterfaceId).zip(&snapshot.interfaces);
        let ends =
            interfaces.filter_map(|(id, interface)| Some((interface.tunnel.as_ref()?.into(), id)));
        self.ends = ends.collect();
        let underlays = snapshot.interfaces.iter();
        self.underlays = underlays.map(|it| it.underlay.then(|| it.mac.into())).collect();
        let adjacencies = &snapshot.roads.adjacencies;
        match changed {
            _ if self.ends.is_empty() => self.envelopes.clear(),
            Changed::All => {
                self.envelopes = adjacencies.iter().map(|it| envelope(snapshot, it)).collect();
            }
            Changed::These(ids) => {
                self.envelopes.resize_with(adjacencies.len(), || None);
                for &AdjacencyId(id) in ids {
                    let id = id as usize;
                    self.envelopes[id] = envelope(snapshot, &adjacencies[id]);
                }
            }
        }
    }

    /// Whether packets may come out of any.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        !self.ends.is_empty()
    }

    /// What packets to this neighbour are put into.
    pub(crate) fn of(&self, id: AdjacencyId) -> Option<TunnelId> {
        self.envelopes.get(id.0 as usize)?.as_ref()?;
        TunnelId::to(id)
    }

    /// The interface of the tunnel that a frame, which arrived by `interface`, came through.
    #[inline]
    fn behind(&self, frame: &[u8], interface: InterfaceId) -> Option<InterfaceId> {
        let own = (*self.underlays.get(interface.index())?)?;
        let end = vxlan::look(frame, own)?;
        self.ends.iter().find(|(it, _)| *it == end).map(|(_, interface)| *interface)
    }
}

/// The envelope for a neighbour, and the underlay's interface.
fn envelope(snapshot: &Snapshot, inner: &Adjacency) -> Option<(Envelope, InterfaceId)> {
    let interface = |id: InterfaceId| snapshot.interfaces.get(id.index());
    let (to, tunnel) = (inner.tunnel?, interface(inner.interface)?.tunnel?);
    let outer = snapshot.roads.adjacency(to.outer)?;
    let underlay = interface(outer.interface).filter(|it| it.tunnel.is_none())?;
    let envelope = Envelope::new(&tunnel, to.remote, (underlay.mac, outer.mac?));
    Some((envelope, outer.interface))
}

/// A way out that is known as far as the first wire.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    /// Where it is counted: the tunnel's, if it is one.
    pub(crate) interface: InterfaceId,
    /// Ethernet addresses of the frame, the inner one.
    pub(crate) from: Mac,
    pub(crate) to: Mac,
    /// Longest IP packet, the inner one.
    pub(crate) mtu: u16,
    pub(crate) tunnel: Option<TunnelId>,
}

/// Whether a packet can leave by a next hop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Exit {
    /// At once.
    Open(Out),
    /// When this neighbour is resolved.
    Waits(Neighbour),
    /// Not at all.
    Closed(DropReason),
}

impl<I: PacketIo> Worker<I> {
    /// Takes what came through tunnels out of them.
    #[inline(never)] // with registers of its own
    pub(crate) fn take_out_of_tunnels(&mut self, burst: &mut Vec<Received<I::Frame>>) {
        let mut index = 0;
        while let Some(received) = burst.get_mut(index) {
            let frame = self.io.bytes(&received.frame);
            index += 1;
            if let Some(tunnel) = self.tunnels.behind(frame, received.interface) {
                let underlay = std::mem::replace(&mut received.interface, tunnel);
                let taken = match vxlan::inner_len(frame) {
                    Some(len) if vxlan::is_intact(frame, len) => {
                        take_out(&mut self.io, &mut received.frame, len)
                    }
                    len => self.take_out_odd(received, underlay, len),
                };
                if let Err(reason) = taken {
                    index -= 1;
                    self.drop_taken(burst.remove(index), reason);
                }
            }
        }
    }

    /// Takes out an inner frame of `len` bytes, though the checksum around it is not right, if that may be.
    #[cold]
    fn take_out_odd(
        &mut self,
        received: &mut Received<I::Frame>,
        underlay: InterfaceId,
        len: Option<usize>,
    ) -> Result<(), DropReason> {
        let len = len.ok_or(DropReason::Malformed)?;
        let repairs = self.interface(underlay).is_some_and(|it| it.repair_checksums);
        if !repairs || !vxlan::is_left_to_card(self.io.bytes(&received.frame), len) {
            return Err(DropReason::TunnelChecksum);
        }
        take_out(&mut self.io, &mut received.frame, len)
    }

    /// Drops what came by a tunnel and is not what it should be.
    #[cold]
    fn drop_taken(&mut self, received: Received<I::Frame>, reason: DropReason) {
        let Received { frame, interface } = received;
        let counters = self.counters().interface(interface);
        counters.received_packets.add(1);
        counters.received_bytes.add(self.io.bytes(&frame).len() as u64);
        self.drop_frame(frame, reason);
    }

    /// Puts a frame with an IPv4 packet into an envelope; returns the interface that it leaves by. `None`: it is too
    /// long, or there is no room for the headers; then the frame is good for nothing.
    #[inline(always)]
    #[allow(clippy::inline_always)] // a fifth of what it costs, otherwise
    pub(crate) fn put_into_tunnel(
        &mut self,
        tunnel: TunnelId,
        frame: &mut I::Frame,
        flow: u64,
    ) -> Option<InterfaceId> {
        let (envelope, underlay) = self.tunnels.envelopes.get(tunnel.index())?.as_ref()?;
        let id = self.tunnels.next_id;
        if !self.io.prepend(frame, envelope.headers()) {
            return None;
        }
        envelope.complete(self.io.bytes_mut(frame), flow, id)?;
        self.tunnels.next_id = id.wrapping_add(self.tunnels.id_step);
        Some(*underlay)
    }

    /// The way to a neighbour that is known, and behind no tunnel.
    #[inline]
    pub(crate) fn plain_way(&self, hop: NextHop) -> Option<Out> {
        let NextHop::Adjacency(id) = hop else { return None };
        let adjacency = self.snapshot.roads.adjacency(id)?;
        let (interface, to) = (adjacency.interface, adjacency.mac?);
        let link = self.interface(interface).filter(|link| link.tunnel.is_none())?;
        let mtu = adjacency.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
        Some(Out { interface, from: link.mac, to, mtu, tunnel: None })
    }

    /// By which way a packet leaves that has this next hop.
    pub(crate) fn exit_by(&self, hop: NextHop) -> Exit {
        let roads = &self.snapshot.roads;
        let id = match hop {
            NextHop::Adjacency(id) => id,
            NextHop::Unknown(interface, address) => {
                match roads.neighbours.get(&(interface, address)) {
                    Some(id) => *id,
                    None => return Exit::Waits((interface, address)),
                }
            }
            NextHop::Unreachable | NextHop::Denied(_) | NextHop::NotOurs | NextHop::Hairpin => {
                return Exit::Closed(DropReason::NoRoute);
            }
        };
        let Some(adjacency) = roads.adjacency(id) else {
            return Exit::Closed(DropReason::NoRoute);
        };
        let Some(Interface { mac, mtu, tunnel, .. }) = self.interface(adjacency.interface) else {
            return Exit::Closed(DropReason::WrongInterface);
        };
        let Some(to) = adjacency.mac else {
            return Exit::Waits((adjacency.interface, adjacency.address));
        };
        let mtu = adjacency.mtu.map_or(*mtu, |narrow| narrow.min(*mtu));
        let way = Out { interface: adjacency.interface, from: *mac, to, mtu, tunnel: None };
        if tunnel.is_none() { Exit::Open(way) } else { self.exit_through(id, adjacency, way) }
    }

    /// The same, to a neighbour behind a tunnel.
    fn exit_through(&self, id: AdjacencyId, adjacency: &Adjacency, way: Out) -> Exit {
        let tunnel = self.tunnels.of(id);
        if tunnel.is_some() {
            let mtu = self.snapshot.mtu_of(NextHop::Adjacency(id)).unwrap_or(way.mtu);
            return Exit::Open(Out { mtu, tunnel, ..way });
        }
        let outer = adjacency.tunnel.and_then(|to| self.snapshot.roads.adjacency(to.outer));
        match outer {
            Some(outer) if outer.mac.is_none() => Exit::Waits((outer.interface, outer.address)),
            _ => Exit::Closed(DropReason::TunnelNoRemote),
        }
    }

    /// Sends what natgate itself says to somebody behind a tunnel, by the routes to there; false: it can't be sent.
    /// One that waits for a neighbour counts as sent.
    #[cold]
    pub(crate) fn send_back(
        &mut self,
        interface: InterfaceId,
        frame: I::Frame,
        now: Timestamp,
    ) -> bool {
        let overlay = self.interface(interface).map_or(0, |it| it.overlay);
        let destination = destination(self.io.bytes(&frame));
        let hop = destination.map_or(NextHop::Unreachable, |destination| {
            self.snapshot.roads.next_hop(&Journey { overlay, ..Journey::to(destination) })
        });
        let right_side = self.snapshot.roads.interface_of(hop).and_then(|id| self.interface(id));
        let exit = right_side.filter(|it| it.roles.internal).map(|_| self.exit_by(hop));
        match exit {
            Some(Exit::Open(way)) => self.send_by(frame, way, 0).is_ok(),
            Some(Exit::Waits(neighbour)) => {
                self.hold_back(Held::Own { frame, hop }, neighbour, now);
                true
            }
            Some(Exit::Closed(_)) | None => {
                self.io.release(frame);
                false
            }
        }
    }
}

fn destination(frame: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4::new_checked(frame.get(ethernet::HEADER..)?).ok()?.dst())
}

/// Takes the inner frame of `len` bytes out, and gives its packet the congestion bits that it should have.
#[inline]
fn take_out<I: PacketIo>(io: &mut I, frame: &mut I::Frame, len: usize) -> Result<(), DropReason> {
    let ecn = vxlan::outer_ecn(io.bytes(frame));
    if !io.strip(frame, vxlan::HEADERS) || !io.resize(frame, len) {
        return Err(DropReason::Malformed);
    }
    if ecn == 0 { Ok(()) } else { mark(io.bytes_mut(frame), ecn) }
}

/// Gives what has come out of a tunnel the congestion bits that it should have.
#[cold]
fn mark(frame: &mut [u8], outer: u8) -> Result<(), DropReason> {
    let ip = frame.get_mut(ethernet::HEADER..).ok_or(DropReason::Malformed)?;
    let mut ip = Ipv4::new_checked(ip)?;
    let tos = ip.tos();
    let ecn = combined_ecn(tos & ECN, outer).ok_or(DropReason::TunnelCongestion)?;
    if ecn != tos & ECN {
        ip.set_tos(tos & !ECN | ecn);
    }
    Ok(())
}
