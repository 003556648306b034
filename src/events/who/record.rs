//! A record of the log: 40 bytes, big-endian, with a checksum.

use std::net::Ipv4Addr;

use crate::events::entry::{Entry, Happening, Place};
use crate::events::journal::Held;

/// Bytes of a record.
pub(super) const LEN: usize = 40;
/// Says what the file is, in the first record.
const MAGIC: [u8; 8] = *b"natgate1";

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The first of a segment; `other`: zero.
    Segment = 1,
    /// A process begins. `other`: the last sign of life of the one before.
    Started = 2,
    /// A process ends in order.
    Stopped = 3,
    /// Nothing else happened for a while.
    Alive = 4,
    /// What is held now follows, so many records: `other`.
    State = 5,
    /// It is held since then.
    Held = 6,
    /// Somebody got ports.
    Got = 7,
    /// It gave them back.
    Gave = 8,
    /// The clock was set; `other`: what it would have said.
    ClockSet = 9,
    /// From `other` on to here, not everything was recorded.
    Gap = 10,
}

const KINDS: [Kind; 10] = [
    Kind::Segment,
    Kind::Started,
    Kind::Stopped,
    Kind::Alive,
    Kind::State,
    Kind::Held,
    Kind::Got,
    Kind::Gave,
    Kind::ClockSet,
    Kind::Gap,
];

/// By what somebody has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum By {
    /// A port block.
    Block,
    /// A configuration.
    Fixed,
    /// A session.
    Session,
}

/// Some ports, and whose they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Grant {
    pub(super) by: By,
    /// IP protocol number; `None`: every one.
    pub(super) protocol: Option<u8>,
    pub(super) place: Place,
    pub(super) subscriber: Ipv4Addr,
    pub(super) subscriber_port: u16,
    pub(super) overlay: u16,
    /// 0: none.
    pub(super) vni: u32,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: Kind,
    /// Milliseconds since 1970.
    pub(super) at: u64,
    /// Another time or a number; see [`Kind`].
    pub(super) other: u64,
    pub(super) grant: Option<Grant>,
}

impl Record {
    pub(super) fn bare(kind: Kind, at: u64, other: u64) -> Self {
        Self { kind, at, other, grant: None }
    }

    /// What an entry of the journal says about who has which ports.
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        let (kind, other) = match &entry.what {
            Happening::Block { allotted, .. } => (got(*allotted), 0),
            Happening::Fixed { added, .. } => (got(*added), 0),
            Happening::Session { began, .. } => (got(*began), 0),
            Happening::ClockSet(set) => (Kind::ClockSet, set.from_ms),
            Happening::Missing(_) => (Kind::Gap, entry.unix_ms),
            Happening::Stopped => (Kind::Stopped, 0),
            Happening::Started | Happening::Crashed(_) | Happening::Limit { .. } => return None,
        };
        Some(Self { kind, at: entry.unix_ms, other, grant: grant(&entry.what) })
    }

    pub(super) fn held(held: &Held) -> Self {
        let entry = &held.entry;
        Self { kind: Kind::Held, at: entry.unix_ms, other: 0, grant: grant(&entry.what) }
    }

    pub(super) fn bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = self.kind as u8;
        bytes[20..28].copy_from_slice(&self.at.to_be_bytes());
        bytes[28..36].copy_from_slice(&self.other.to_be_bytes());
        if self.kind == Kind::Segment {
            bytes[4..12].copy_from_slice(&MAGIC);
        }
        if let Some(grant) = self.grant {
            bytes[1] = 1 + grant.by as u8;
            bytes[2..4].copy_from_slice(&grant.overlay.to_be_bytes());
            bytes[4..8].copy_from_slice(&grant.place.public.octets());
            bytes[8..10].copy_from_slice(&grant.place.first.to_be_bytes());
            bytes[10..12].copy_from_slice(&grant.place.last.to_be_bytes());
            bytes[12..16].copy_from_slice(&grant.subscriber.octets());
            bytes[16..18].copy_from_slice(&grant.subscriber_port.to_be_bytes());
            bytes[18] = u8::from(grant.protocol.is_some());
            bytes[19] = grant.protocol.unwrap_or_default();
            // Those that grant need no other number.
            bytes[28..32].copy_from_slice(&grant.vni.to_be_bytes());
        }
        let checksum = crc32fast::hash(&bytes[..36]);
        bytes[36..].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// `None`: torn, or damaged.
    pub(super) fn parse(bytes: &[u8; LEN]) -> Option<Self> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_be_bytes(word)
        };
        let half = |at: usize| (word(at) >> 32) as u32;
        let short = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let checksum = u32::from_be_bytes([bytes[36], bytes[37], bytes[38], bytes[39]]);
        if crc32fast::hash(&bytes[..36]) != checksum {
            return None;
        }
        let kind = KINDS.into_iter().find(|kind| *kind as u8 == bytes[0])?;
        if kind == Kind::Segment && bytes[4..12] != MAGIC {
            return None;
        }
        let by = match bytes[1] {
            1 => Some(By::Block),
            2 => Some(By::Fixed),
            3 => Some(By::Session),
            _ => None,
        };
        let grant = by.map(|by| Grant {
            by,
            protocol: (bytes[18] == 1).then_some(bytes[19]),
            place: Place { public: half(4).into(), first: short(8), last: short(10) },
            subscriber: half(12).into(),
            subscriber_port: short(16),
            overlay: short(2),
            vni: half(28),
        });
        let other = if grant.is_some() { 0 } else { word(28) };
        Some(Self { kind, at: word(20), other, grant })
    }
}

const fn got(got: bool) -> Kind {
    if got { Kind::Got } else { Kind::Gave }
}

fn grant(what: &Happening) -> Option<Grant> {
    Some(match what {
        Happening::Block { place, subscriber, overlay, vni, .. } => Grant {
            by: By::Block,
            protocol: None,
            place: *place,
            subscriber: *subscriber,
            subscriber_port: 0,
            overlay: *overlay,
            vni: vni.unwrap_or_default(),
        },
        Happening::Fixed { place, subscriber, fixed, .. } => Grant {
            by: By::Fixed,
            protocol: fixed.protocol.map(conntrack::Protocol::number),
            place: *place,
            subscriber: *subscriber,
            subscriber_port: fixed.target_port,
            overlay: 0,
            vni: fixed.vni.unwrap_or_default(),
        },
        Happening::Session { protocol, internal, overlay, vni, public, .. } => Grant {
            by: By::Session,
            protocol: Some(protocol.number()),
            place: Place { public: public.addr, first: public.port, last: public.port },
            subscriber: internal.addr,
            subscriber_port: internal.port,
            overlay: *overlay,
            vni: vni.unwrap_or_default(),
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_damaged_one_is_not() {
        let grant = Grant {
            by: By::Fixed,
            protocol: Some(17),
            place: Place { public: Ipv4Addr::new(203, 0, 113, 7), first: 8_000, last: 8_063 },
            subscriber: Ipv4Addr::new(10, 244, 1, 7),
            subscriber_port: 80,
            overlay: 3,
            vni: 0x00ab_cdef,
        };
        let at = 1_772_373_720_123;
        let any = Grant { by: By::Block, protocol: None, ..grant };
        let granting =
            [grant, any].map(|grant| Record { kind: Kind::Got, at, other: 0, grant: Some(grant) });
        let bare = KINDS.map(|kind| Record::bare(kind, at, 77));
        for record in granting.into_iter().chain(bare) {
            let bytes = record.bytes();
            assert_eq!(Record::parse(&bytes), Some(record));
            for bit in 0..LEN * 8 {
                let mut damaged = bytes;
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Record::parse(&damaged), None, "{record:?} bit {bit}");
            }
        }
        assert_eq!(Record::parse(&[0; LEN]), None);
    }
}
