//! Ethernet II.

use super::{Malformed, read_u16, write_u16};
use crate::interface::Mac;

/// Length of the header.
pub const HEADER: usize = 14;

mod field {
    use std::ops::Range;
    pub(super) const DST: Range<usize> = 0..6;
    pub(super) const SRC: Range<usize> = 6..12;
    pub(super) const TYPE: usize = 12;
}

/// What an Ethernet frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
}

/// An Ethernet frame.
#[derive(Debug)]
pub struct Ethernet<B>(B);

impl<B: AsRef<[u8]>> Ethernet<B> {
    /// A view of `bytes`, which must hold the header.
    #[inline]
    pub fn new_checked(bytes: B) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < HEADER { Err(Malformed) } else { Ok(Self(bytes)) }
    }

    #[inline]
    fn mac(&self, range: std::ops::Range<usize>) -> Mac {
        let mut mac = [0; 6];
        mac.copy_from_slice(&self.0.as_ref()[range]);
        Mac(mac)
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Mac {
        self.mac(field::SRC)
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Mac {
        self.mac(field::DST)
    }

    /// Type of the payload.
    #[inline]
    pub fn ether_type(&self) -> EtherType {
        EtherType(read_u16(self.0.as_ref(), field::TYPE))
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Ethernet<B> {
    /// Sets both addresses.
    #[inline]
    pub fn set_addresses(&mut self, dst: Mac, src: Mac) {
        self.0.as_mut()[field::DST].copy_from_slice(&dst.0);
        self.0.as_mut()[field::SRC].copy_from_slice(&src.0);
    }

    /// Sets the type of the payload.
    pub fn set_ether_type(&mut self, ether_type: EtherType) {
        write_u16(self.0.as_mut(), field::TYPE, ether_type.0);
    }
}
