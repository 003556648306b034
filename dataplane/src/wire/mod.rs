//! What do the bytes mean? Typed views over headers.
//!
//! After `new_checked` no accessor panics. Mutators that a checksum covers keep that checksum right
//! (RFC 1624), so that a stale one can't be written.

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub(crate) mod plain;
pub mod quote;
pub mod tcp;
pub mod udp;
pub(crate) mod vxlan;

pub use arp::Arp;
pub use ethernet::{EtherType, Ethernet};
pub use icmp::Icmp;
pub use ipv4::{FragmentField, Ipv4};
pub use quote::Quoted;
pub use tcp::Tcp;
pub use udp::Udp;

/// The bytes are too few, or contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Two bytes in network order at `at`; callers have checked the length.
#[inline(always)]
#[allow(clippy::inline_always)] // a call costs more than it does
fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline(always)]
#[allow(clippy::inline_always)] // as above
fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
fn write_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[inline]
fn write_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}
