//! The limit: the worker's loop with the NAT removed. A burst arrives, each header is looked at, gets other
//! Ethernet addresses, and leaves by the other interface.

use dataplane::interface::{InterfaceId, Mac};
use dataplane::io::{self, BURST, PacketIo, Received};
use dataplane::memory::{Frame, MemoryIo};
use dataplane::wire::{EtherType, Ethernet};

use crate::gateway::{INSIDE, NODE_MAC, OUTSIDE, OWN_MAC, ROUTER_MAC};

/// Touches headers and forwards frames.
#[derive(Debug)]
pub struct Limit {
    /// Where packets come from and go to.
    pub io: MemoryIo,
    burst: Vec<Received<Frame>>,
}

impl Limit {
    /// One with `frames` frames.
    pub fn new(frames: usize) -> std::io::Result<Self> {
        Ok(Self { io: MemoryIo::new(frames)?, burst: Vec::with_capacity(BURST) })
    }

    /// One turn; returns the packets forwarded.
    #[inline(never)]
    pub fn turn(&mut self) -> usize {
        let mut burst = std::mem::take(&mut self.burst);
        let packets = self.io.receive(BURST, &mut burst);
        io::touch_headers(&self.io, &burst);
        for Received { mut frame, interface } in burst.drain(..) {
            let (to, mac) = other_side(interface);
            let bytes = self.io.bytes_mut(&mut frame);
            let sent = match Ethernet::new_checked(bytes) {
                Ok(mut ethernet) if ethernet.ether_type() == EtherType::IPV4 => {
                    ethernet.set_addresses(mac, Mac(OWN_MAC));
                    self.io.transmit(to, frame)
                }
                _ => {
                    self.io.release(frame);
                    false
                }
            };
            assert!(sent, "the limit forwards everything");
        }
        self.burst = burst;
        self.io.flush();
        packets
    }
}

/// Where a packet goes that came by `interface`, and to whom.
#[inline]
pub(super) fn other_side(interface: InterfaceId) -> (InterfaceId, Mac) {
    if interface == INSIDE { (OUTSIDE, Mac(ROUTER_MAC)) } else { (INSIDE, Mac(NODE_MAC)) }
}
