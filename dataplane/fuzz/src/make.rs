//! The packets of a story, as bytes.

use std::net::Ipv4Addr;

use crate::frame::{Ip, Party, icmp, tcp, udp};
use crate::gateway::{EXEMPT, PODS};
use crate::knobs::STATIC;
use crate::look::Look;
use crate::story::{Body, Datagram, Reply, Report, Way};

/// Don't fragment.
const DF: u16 = 0x4000;

/// Bytes that a packet carries.
fn carried(len: u16) -> Vec<u8> {
    (0..len % 3000).map(|at| (at % 251) as u8).collect()
}

fn pod((host, port): (u8, u8)) -> Party {
    (Ipv4Addr::new(PODS, 0, 0, 1 + host % 6), 5000 + u16::from(port % 16))
}

fn server((host, port): (u8, u8)) -> Party {
    let port = [53, 80, 443][usize::from(port % 3)];
    let addr = match host % 4 {
        3 => EXEMPT,
        n => Ipv4Addr::new(192, 0, 2, 1 + n),
    };
    (addr, port)
}

fn public((host, port): (u8, u8)) -> Party {
    let addr = match host % 4 {
        3 => STATIC,
        n => Ipv4Addr::new(203, 0, 113, 10 + n),
    };
    let port = match port % 56 {
        n @ 52.. => 6000 + u16::from(n - 52),
        n => 1024 + u16::from(n),
    };
    (addr, port)
}

impl Datagram {
    /// Whether it comes from inside.
    pub fn is_from_inside(&self) -> bool {
        matches!(self.way, Way::Out | Way::Hairpin)
    }

    /// The packet.
    pub fn packet(&self) -> Ip {
        let (pod, server, public) = (pod(self.pod), server(self.server), public(self.public));
        let (src, dst) = match self.way {
            Way::Out => (pod, server),
            Way::In => (server, public),
            Way::Hairpin => (pod, public),
            Way::Around => (server, pod),
        };
        let mut ip = self.body.packet(src, dst, &carried(self.len));
        ip.ttl = match self.ttl % 8 {
            0 => 1,
            1 => 2,
            _ => 64,
        };
        if self.dont_fragment {
            ip.fragment = DF;
        }
        if self.option != 0 {
            ip.options = vec![self.option, 3, 0, 0];
        }
        ip
    }
}

impl Body {
    fn packet(self, src: Party, dst: Party, data: &[u8]) -> Ip {
        match self {
            Self::Udp(has_checksum) => {
                let mut ip = udp(src, dst, data);
                if !has_checksum {
                    ip.payload[6..8].fill(0);
                }
                ip
            }
            Self::Tcp(flags, seq, ack) => {
                // Each side begins at a number of its own, so that what the other one expects is known.
                let base = |port: u16| u32::from(port) << 8;
                let near = |port, step: i8| base(port).wrapping_add_signed(i32::from(step) * 16);
                tcp(src, dst, flags, (near(src.1, seq), near(dst.1, ack)), data)
            }
            Self::Query(kind) => {
                let kind = [8, 0, 13, 14, 15, 16, 17, 18][usize::from(kind % 8)];
                let from_pod = src.0.octets()[0] == PODS;
                let id = if from_pod { src.1 } else { dst.1 };
                icmp(src.0, dst.0, (kind, 0), u32::from(id) << 16 | 1, data)
            }
            // Not one of the above, with contents that make no sense: damage does that.
            Self::Other(1 | 6 | 17) => Ip::new(src.0, dst.0, 47, data.to_vec()),
            Self::Other(protocol) => Ip::new(src.0, dst.0, protocol, data.to_vec()),
        }
    }
}

impl Reply {
    /// The answer to the packet in `frame`, if there can be one.
    pub fn packet(&self, frame: &[u8]) -> Option<Ip> {
        let asked = Look::at(frame)?;
        let (src_port, dst_port) = asked.ports();
        let (src, dst) = ((asked.dst(), dst_port), (asked.src(), src_port));
        let data = carried(self.len);
        let mut ip = match asked.protocol() {
            6 => {
                let field = |at| -> Option<u32> {
                    Some(u32::from_be_bytes(asked.payload.get(at..at + 4)?.try_into().ok()?))
                };
                let opens = asked.payload.get(13)? & 2;
                let ack = field(4)?
                    .wrapping_add(asked.data()?.len() as u32)
                    .wrapping_add(u32::from(opens != 0));
                let seq = if opens != 0 { u32::from(src.1) << 8 } else { field(8)? };
                tcp(src, dst, self.flags, (seq, ack), &data)
            }
            17 => udp(src, dst, &data),
            1 => {
                let kind = match asked.payload.first()? {
                    8 => 0,
                    13 => 14,
                    15 => 16,
                    17 => 18,
                    _ => return None,
                };
                icmp(src.0, dst.0, (kind, 0), u32::from(dst.1) << 16 | 1, &data)
            }
            other => Ip::new(src.0, dst.0, other, data),
        };
        if self.dont_fragment {
            ip.fragment = DF;
        }
        Some(ip)
    }
}

impl Report {
    /// The error about the packet in `frame`.
    pub fn packet(&self, frame: &[u8]) -> Option<Ip> {
        let about = Look::at(frame)?;
        let from_inside = about.dst().octets()[0] == PODS;
        let router = match self.router % 4 {
            0 | 1 => about.dst(),
            2 if from_inside => Ipv4Addr::new(PODS, 9, 9, 9),
            2 => Ipv4Addr::new(203, 0, 113, 1),
            _ => Ipv4Addr::new(192, 0, 2, 254),
        };
        let kind = [3, 3, 3, 11, 12, 4, 5, 3][usize::from(self.kind % 8)];
        let code = if kind == 3 { self.code % 16 } else { self.code % 3 };
        let mut quote = frame[14..].to_vec();
        quote.truncate(usize::from(self.quoted % 600).max(1));
        if let Some((at, value)) = self.changed {
            let at = usize::from(at) % quote.len();
            quote[at] = value;
        }
        let mut rest = self.rest;
        if kind == 3 && code == 4 {
            rest %= 2000;
        }
        if self.extension {
            // RFC 4884: the quote is padded to 128 bytes at least, its length stands in words.
            let words = quote.len().div_ceil(4).max(32);
            quote.resize(words * 4, 0);
            rest = (rest & !0x00ff_0000) | (words as u32) << 16;
            quote.extend([0x20, 0, 0, 0, 0, 8, 1, 1, 0, 0, 0, 0]);
        }
        Some(icmp(router, about.src(), (kind, code), rest, &quote))
    }
}
