//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use super::{Malformed, read_u16, read_u32, write_u16, write_u32};
use crate::interface::Mac;

/// Length of the packet.
pub const LEN: usize = 28;

mod field {
    use std::ops::Range;
    pub(super) const HARDWARE: usize = 0;
    pub(super) const PROTOCOL: usize = 2;
    pub(super) const LENGTHS: usize = 4;
    pub(super) const OPERATION: usize = 6;
    pub(super) const SENDER_MAC: Range<usize> = 8..14;
    pub(super) const SENDER_IP: usize = 14;
    pub(super) const TARGET_MAC: Range<usize> = 18..24;
    pub(super) const TARGET_IP: usize = 24;
}

/// Who asks or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// Ethernet address.
    pub mac: Mac,
    /// IPv4 address.
    pub ip: Ipv4Addr,
}

/// Request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Operation {
    /// Who has the target address?
    Request = 1,
    /// The sender has the sender address.
    Reply = 2,
}

/// An ARP packet.
#[derive(Debug)]
pub struct Arp<B>(B);

impl<B: AsRef<[u8]>> Arp<B> {
    /// A view of `bytes`, which must be ARP for IPv4 over Ethernet.
    pub fn new_checked(bytes: B) -> Result<Self, Malformed> {
        let b = bytes.as_ref();
        let right = b.len() >= LEN
            && read_u16(b, field::HARDWARE) == 1
            && read_u16(b, field::PROTOCOL) == 0x0800
            && read_u16(b, field::LENGTHS) == 0x0604;
        if right { Ok(Self(bytes)) } else { Err(Malformed) }
    }

    /// The operation, unless it is neither request nor reply.
    pub fn operation(&self) -> Option<Operation> {
        match read_u16(self.0.as_ref(), field::OPERATION) {
            1 => Some(Operation::Request),
            2 => Some(Operation::Reply),
            _ => None,
        }
    }

    fn party(&self, mac: std::ops::Range<usize>, ip: usize) -> Party {
        let mut bytes = [0; 6];
        bytes.copy_from_slice(&self.0.as_ref()[mac]);
        Party { mac: Mac(bytes), ip: Ipv4Addr::from(read_u32(self.0.as_ref(), ip)) }
    }

    /// Who sent it.
    pub fn sender(&self) -> Party {
        self.party(field::SENDER_MAC, field::SENDER_IP)
    }

    /// Who is asked for, or told.
    pub fn target(&self) -> Party {
        self.party(field::TARGET_MAC, field::TARGET_IP)
    }
}

/// Writes an ARP packet to the first [`LEN`] bytes of `bytes`.
pub fn emit(
    bytes: &mut [u8],
    operation: Operation,
    sender: Party,
    target: Party,
) -> Result<(), Malformed> {
    let b = bytes.get_mut(..LEN).ok_or(Malformed)?;
    write_u16(b, field::HARDWARE, 1);
    write_u16(b, field::PROTOCOL, 0x0800);
    write_u16(b, field::LENGTHS, 0x0604);
    write_u16(b, field::OPERATION, operation as u16);
    b[field::SENDER_MAC].copy_from_slice(&sender.mac.0);
    write_u32(b, field::SENDER_IP, sender.ip.into());
    b[field::TARGET_MAC].copy_from_slice(&target.mac.0);
    write_u32(b, field::TARGET_IP, target.ip.into());
    Ok(())
}
