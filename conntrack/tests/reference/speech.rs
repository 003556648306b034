//! What a TCP host says: segments made from what the reference knows of a connection.

use conntrack::{Direction, Segment, TcpFlags};

use crate::scenario::Say;
use crate::tcp::Tcp;

/// Far enough to lie outside of every window.
const FAR: u32 = 1 << 28;

/// The segment that the sender of `from` says; `tcp`: the connection, if there is one.
pub fn segment(say: Say, from: Direction, tcp: Option<&Tcp>) -> Segment {
    let sides = tcp.map(|tcp| tcp.sides).unwrap_or_default();
    let [own, peer] = [sides[from as usize], sides[1 - from as usize]];
    // Near the wrap, since there things go wrong.
    let start = if from == Direction::Outbound { u32::MAX - 2_000 } else { 0x7fff_ff00 };
    let first = own.first.map_or(start, |first| first.wrapping_sub(1));
    let wild = |by: u32| peer.next.wrapping_add(FAR).wrapping_add(by % (FAR * 8));
    let (window, scale) = match from {
        Direction::Outbound => (1_000, Some(2)),
        Direction::Inbound => (4_000, Some(0)),
    };
    let ack = TcpFlags::ACK;
    let (flags, seq, acks, len) = match say {
        Say::Syn => (TcpFlags::SYN, first, 0, 0),
        Say::OtherSyn(seq) => (TcpFlags::SYN, seq, 0, 0),
        Say::SynAck => (TcpFlags::SYN | ack, first, peer.sent, 0),
        Say::Data(len) => (ack, own.sent, peer.sent, len),
        Say::OldAck => (ack, own.sent, peer.first.unwrap_or(0), 0),
        Say::Fin => (TcpFlags::FIN | ack, own.sent, peer.sent, 0),
        Say::Reset => (TcpFlags::RST, peer.next, 0, 0),
        Say::ResetInWindow => (TcpFlags::RST, peer.next.wrapping_add(peer.room / 2), 0, 0),
        Say::Refuse => (TcpFlags::RST | ack, 0, peer.sent, 0),
        Say::WildReset(by) => (TcpFlags::RST, wild(by), 0, 0),
        Say::WildFin(by) => (TcpFlags::FIN | ack, wild(by), peer.sent, 0),
        Say::WildAck(by) => (ack, own.sent, own.next.wrapping_add(FAR + by % FAR), 0),
        Say::Junk(flags, seq) => (flags, wild(seq), own.next.wrapping_add(FAR + seq % FAR), 0),
    };
    let window_scale = scale.filter(|_| flags & TcpFlags::SYN != 0);
    Segment { flags: TcpFlags(flags), window_scale, window, len, seq, ack: acks }
}

/// As a person would write it.
pub fn describe(segment: &Segment) -> String {
    let names = [
        (TcpFlags::SYN, "SYN"),
        (TcpFlags::FIN, "FIN"),
        (TcpFlags::RST, "RST"),
        (TcpFlags::ACK, "ACK"),
    ];
    let flags: Vec<_> =
        names.iter().filter(|(flag, _)| segment.flags.has(*flag)).map(|(_, name)| *name).collect();
    format!("{} seq {} ack {} len {}", flags.join("+"), segment.seq, segment.ack, segment.len)
}
