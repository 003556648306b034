//! What does natgate answer by itself? ARP and pings for pool addresses, and resets. And what does it announce?
//!
//! Answers are written into the frame of the question and go back where it came from.

use std::net::Ipv4Addr;
use std::time::Duration;

use conntrack::Timestamp;

use crate::drop_reason::DropReason;
use crate::interface::{Interface, InterfaceId, Mac};
use crate::io::PacketIo;
use crate::packet::Packet;
use crate::wire::arp::{self, Operation, Party};
use crate::wire::tcp::{self, Reset};
use crate::wire::{Arp, EtherType, Ethernet, Icmp, Ipv4, Malformed, Tcp, ethernet, ipv4};
use crate::worker::Worker;

/// Announcements sent in one loop at most.
const ANNOUNCE_BURST: usize = 16;

/// A token bucket: `rate` a second, a burst of as many.
#[derive(Debug)]
pub(crate) struct RateLimit {
    rate: u64,
    /// Thousandths of a token.
    tokens: u64,
    refilled: Timestamp,
}

impl RateLimit {
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate, tokens: rate * 1000, refilled: Timestamp::default() }
    }

    /// Takes a token, if there is one.
    pub(crate) fn allow(&mut self, now: Timestamp) -> bool {
        let passed = now.since(self.refilled).min(Duration::from_secs(1)).as_millis() as u64;
        self.tokens = (self.tokens + passed * self.rate).min(self.rate * 1000);
        self.refilled = now;
        let allowed = self.tokens >= 1000;
        self.tokens -= if allowed { 1000 } else { 0 };
        allowed
    }
}

/// Pings answered each second at most, all workers together.
pub(crate) const ECHO_RATE: u64 = 100;
/// Resets sent each second at most, all workers together.
pub(crate) const RESET_RATE: u64 = 1_000;
/// Sends the frame back to where it came from.
fn return_to_sender(frame: &mut [u8], interface: &Interface) -> Result<(), Malformed> {
    let mut ethernet = Ethernet::new_checked(frame)?;
    let sender = ethernet.src();
    ethernet.set_addresses(sender, interface.mac);
    Ok(())
}

/// Turns an ARP request for a pool address into its reply. `is_ours` says which addresses are.
pub(crate) fn arp_reply(
    frame: &mut [u8],
    interface: &Interface,
    is_ours: impl Fn(std::net::Ipv4Addr) -> bool,
) -> Result<(), DropReason> {
    let packet = frame.get_mut(ethernet::HEADER..).ok_or(DropReason::Malformed)?;
    let (operation, sender, target) = {
        let arp = Arp::new_checked(&packet)?;
        (arp.operation(), arp.sender(), arp.target())
    };
    if operation != Some(Operation::Request) || !interface.roles.external || !is_ours(target.ip) {
        return Err(DropReason::ArpIgnored);
    }
    let us = Party { mac: interface.mac, ip: target.ip };
    arp::emit(packet, Operation::Reply, us, sender)?;
    Ok(return_to_sender(frame, interface)?)
}

/// Writes a gratuitous ARP for `address` to `frame`, which must have room for [`ANNOUNCEMENT`] bytes.
pub(crate) fn announcement(
    frame: &mut [u8],
    interface: &Interface,
    address: std::net::Ipv4Addr,
) -> Result<(), Malformed> {
    let mut ethernet = Ethernet::new_checked(&mut *frame)?;
    ethernet.set_addresses(Mac::BROADCAST, interface.mac);
    ethernet.set_ether_type(EtherType::ARP);
    let us = Party { mac: interface.mac, ip: address };
    let nobody = Party { mac: Mac::default(), ip: address };
    arp::emit(&mut frame[ethernet::HEADER..], Operation::Request, us, nobody)
}

/// Length of an announcement.
pub(crate) const ANNOUNCEMENT: usize = ethernet::HEADER + arp::LEN;

/// Turns a ping into its reply.
pub(crate) fn echo_reply(
    frame: &mut [u8],
    packet: &Packet,
    interface: &Interface,
) -> Result<(), Malformed> {
    Icmp::new_checked(packet.payload_mut(frame))?.reply();
    let ip = frame.get_mut(ethernet::HEADER..).ok_or(Malformed)?;
    Ipv4::new_checked(ip)?.answer_with_addresses_swapped();
    return_to_sender(frame, interface)
}

/// Turns a TCP segment that belongs to no connection into the reset that ends it.
pub(crate) fn reset<I: PacketIo>(
    io: &mut I,
    frame: &mut I::Frame,
    packet: &Packet,
    interface: &Interface,
) -> Result<(), DropReason> {
    let reset = Reset::answering(&Tcp::new_checked(packet.payload(io.bytes(frame)))?);
    if !io.resize(frame, ethernet::HEADER + ipv4::HEADER + tcp::HEADER) {
        return Err(DropReason::TcpNotSyn);
    }
    let bytes = io.bytes_mut(frame);
    let (ip, segment) = bytes[ethernet::HEADER..].split_at_mut(ipv4::HEADER);
    ipv4::emit(ip, packet.dst.addr, packet.src.addr, 6, tcp::HEADER as u16)?;
    reset.emit(segment, packet.dst.addr, packet.src.addr)?;
    Ok(return_to_sender(bytes, interface)?)
}

impl<I: PacketIo> Worker<I> {
    /// The pool addresses that lie on the link of an external interface: nobody else answers for them.
    pub(crate) fn announcements_due(&self) -> Vec<(InterfaceId, Ipv4Addr)> {
        let snapshot = &self.snapshot;
        let ids = (0..snapshot.interfaces.len()).map(|i| InterfaceId(i as u8));
        let external = ids.filter(|id| snapshot.interfaces[id.index()].roles.external);
        let on_link = |id: InterfaceId| {
            let addresses = snapshot.policy.addresses.keys();
            addresses.filter(move |a| snapshot.roads.is_on_link(id, **a)).map(move |a| (id, *a))
        };
        external.flat_map(on_link).collect()
    }

    pub(crate) fn announce(&mut self, now: Timestamp) {
        for _ in 0..ANNOUNCE_BURST.min(self.announcements.len()) {
            let Some((id, address)) = self.announcements.pop() else { return };
            let Some(interface) = self.interface(id).cloned() else { continue };
            let Some(mut frame) = self.io.allocate() else { return };
            let written = self.io.resize(&mut frame, ANNOUNCEMENT)
                && announcement(self.io.bytes_mut(&mut frame), &interface, address).is_ok();
            if !written {
                self.io.release(frame);
            } else if self.transmit_own(id, frame, now) {
                self.counters().announced.add(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_refills() {
        let mut limit = RateLimit::new(10);
        let at = Timestamp::from_millis;
        assert_eq!((0..50).filter(|_| limit.allow(at(5_000))).count(), 10);
        assert_eq!((0..50).filter(|_| limit.allow(at(5_300))).count(), 3);
        assert_eq!((0..50).filter(|_| limit.allow(at(60_000))).count(), 10, "a burst is bounded");
    }
}
