//! What is the least that a userspace gateway on `AF_XDP` can do? Receive, rewrite the Ethernet
//! addresses, transmit: the limit of every one that also translates.

use std::time::Duration;

use dataplane::interface::{InterfaceId, Mac};
use dataplane::io::{BURST, PacketIo, Received, touch_headers};

/// Where packets that arrived at one side go.
#[derive(Clone, Copy, Debug)]
pub struct Hop {
    /// The other side.
    pub interface: InterfaceId,
    /// Ethernet address of the next hop.
    pub to: Mac,
    /// Ethernet address of that side.
    pub from: Mac,
}

/// Forwards one burst: what arrived at interface `i` leaves as `hops[i]` says. Returns its length;
/// `burst` is scratch space.
pub fn burst<I: PacketIo>(
    io: &mut I,
    hops: &[Hop; 2],
    burst: &mut Vec<Received<I::Frame>>,
) -> usize {
    let received = io.receive(BURST, burst);
    touch_headers(io, burst);
    for Received { mut frame, interface } in burst.drain(..) {
        let hop = hops[interface.index()];
        let bytes = io.bytes_mut(&mut frame);
        bytes[..6].copy_from_slice(&hop.to.0);
        bytes[6..12].copy_from_slice(&hop.from.0);
        // A full transmit ring shows as loss at the sink.
        let _queued = io.transmit(hop.interface, frame);
    }
    io.flush();
    received
}

/// Forwards for ever.
pub fn forever<I: PacketIo>(io: &mut I, hops: &[Hop; 2]) -> ! {
    let mut scratch = Vec::with_capacity(BURST);
    loop {
        if burst(io, hops, &mut scratch) == 0 {
            io.wait(Duration::from_millis(100));
        }
    }
}
