//! IPFIX messages (RFC 7011) of NAT events (RFC 8158), from the same entries that JSON is made of.

use std::net::Ipv4Addr;

use conntrack::EventKind;

use crate::events::entry::{Entry, Happening, limit_of};

/// Bytes of the header of a message.
const HEADER: usize = 16;
/// The set of templates, and that of options templates (RFC 7011 section 3.3.2).
const TEMPLATE_SET: u16 = 2;
const OPTIONS_SET: u16 = 3;

/// Information elements: number and bytes (IANA's registry of IPFIX).
mod element {
    pub(super) type Element = (u16, u16);
    pub(super) const PROTOCOL: Element = (4, 1);
    pub(super) const SOURCE_PORT: Element = (7, 2);
    pub(super) const SOURCE: Element = (8, 4);
    pub(super) const DESTINATION_PORT: Element = (11, 2);
    pub(super) const DESTINATION: Element = (12, 4);
    pub(super) const EXPORTING_PROCESS: Element = (144, 4);
    pub(super) const NOT_SENT_FLOWS: Element = (166, 8);
    pub(super) const NOT_SENT_PACKETS: Element = (167, 8);
    pub(super) const NOT_SENT_OCTETS: Element = (168, 8);
    pub(super) const POST_NAT_SOURCE: Element = (225, 4);
    pub(super) const POST_NAT_DESTINATION: Element = (226, 4);
    pub(super) const POST_NAPT_SOURCE_PORT: Element = (227, 2);
    pub(super) const POST_NAPT_DESTINATION_PORT: Element = (228, 2);
    pub(super) const NAT_EVENT: Element = (230, 1);
    pub(super) const INGRESS_VRF: Element = (234, 4);
    pub(super) const POOL: Element = (283, 4);
    pub(super) const TIME: Element = (323, 8);
    pub(super) const RANGE_START: Element = (361, 2);
    pub(super) const RANGE_END: Element = (362, 2);
    pub(super) const QUOTA_EVENT: Element = (466, 4);
    pub(super) const THRESHOLD_EVENT: Element = (467, 4);
    pub(super) const MAX_SESSIONS: Element = (471, 4);
    pub(super) const MAX_PER_USER: Element = (473, 4);
    pub(super) const POOL_THRESHOLD: Element = (476, 4);
    pub(super) const MAPPING_THRESHOLD: Element = (478, 4);
    pub(super) const PER_USER_THRESHOLD: Element = (480, 4);
}
#[allow(clippy::wildcard_imports)] // all of them, and nothing else
use element::*;

/// What a record looks like. Its template has the number 256 + index; all mandatory elements of RFC 8158 section 4.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// 4.6.10; the VRF is the VNI of the pod's overlay, or 0.
    Block,
    /// The same of a port forward.
    Forward,
    /// 4.6.9.
    Binding,
    /// 4.6.1, without the peer.
    Session,
    /// 4.6.1, with it.
    SessionWithPeer,
    /// 4.6.5.
    PoolExhausted,
    /// 4.6.7.3.
    UserQuota,
    /// 4.6.7.1.
    SessionsExceeded,
    /// 4.6.8.1.
    PoolThreshold,
    /// 4.6.8.3.
    UserThreshold,
    /// 4.6.8.2.
    TableThreshold,
    /// What was not sent (RFC 7011 section 4.3).
    NotSent,
}

const FORMS: [(Form, &[Element]); 12] = [
    (
        Form::Block,
        &[TIME, NAT_EVENT, SOURCE, POST_NAT_SOURCE, RANGE_START, RANGE_END, POOL, INGRESS_VRF],
    ),
    (
        Form::Forward,
        &[
            TIME,
            NAT_EVENT,
            SOURCE,
            POST_NAT_SOURCE,
            RANGE_START,
            RANGE_END,
            PROTOCOL,
            SOURCE_PORT,
            INGRESS_VRF,
        ],
    ),
    (Form::Binding, &[TIME, NAT_EVENT, SOURCE, POST_NAT_SOURCE, INGRESS_VRF]),
    (
        Form::Session,
        &[
            TIME,
            NAT_EVENT,
            SOURCE,
            POST_NAT_SOURCE,
            PROTOCOL,
            SOURCE_PORT,
            POST_NAPT_SOURCE_PORT,
            INGRESS_VRF,
        ],
    ),
    (
        Form::SessionWithPeer,
        &[
            TIME,
            NAT_EVENT,
            SOURCE,
            POST_NAT_SOURCE,
            PROTOCOL,
            SOURCE_PORT,
            POST_NAPT_SOURCE_PORT,
            INGRESS_VRF,
            DESTINATION,
            POST_NAT_DESTINATION,
            DESTINATION_PORT,
            POST_NAPT_DESTINATION_PORT,
        ],
    ),
    (Form::PoolExhausted, &[TIME, NAT_EVENT, POOL]),
    (Form::UserQuota, &[TIME, NAT_EVENT, QUOTA_EVENT, MAX_PER_USER, SOURCE]),
    (Form::SessionsExceeded, &[TIME, NAT_EVENT, QUOTA_EVENT, MAX_SESSIONS]),
    (Form::PoolThreshold, &[TIME, NAT_EVENT, THRESHOLD_EVENT, POOL, POOL_THRESHOLD]),
    (Form::UserThreshold, &[TIME, NAT_EVENT, THRESHOLD_EVENT, PER_USER_THRESHOLD, SOURCE]),
    (Form::TableThreshold, &[TIME, NAT_EVENT, THRESHOLD_EVENT, MAPPING_THRESHOLD]),
    (Form::NotSent, &[EXPORTING_PROCESS, NOT_SENT_FLOWS, NOT_SENT_PACKETS, NOT_SENT_OCTETS]),
];

impl Form {
    const fn template(self) -> u16 {
        256 + self as u16
    }

    fn bytes(self) -> usize {
        FORMS[self as usize].1.iter().map(|(_, bytes)| usize::from(*bytes)).sum()
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DataRecord {
    pub(super) form: Form,
    bytes: Vec<u8>,
}

/// Writes the elements of a record, in the order of its form.
struct Fields(DataRecord);

impl Fields {
    fn new(form: Form, unix_ms: u64, event: u8) -> Self {
        Self::bare(form).long(unix_ms).byte(event)
    }

    fn bare(form: Form) -> Self {
        Self(DataRecord { form, bytes: Vec::with_capacity(form.bytes()) })
    }

    fn put(mut self, bytes: &[u8]) -> Self {
        self.0.bytes.extend_from_slice(bytes);
        self
    }

    fn byte(self, value: u8) -> Self {
        self.put(&[value])
    }

    fn short(self, value: u16) -> Self {
        self.put(&value.to_be_bytes())
    }

    fn word(self, value: u32) -> Self {
        self.put(&value.to_be_bytes())
    }

    fn long(self, value: u64) -> Self {
        self.put(&value.to_be_bytes())
    }

    fn address(self, value: Ipv4Addr) -> Self {
        self.put(&value.octets())
    }

    /// A number in four bytes, as large as it may be.
    fn capped(self, value: u64) -> Self {
        self.word(u32::try_from(value).unwrap_or(u32::MAX))
    }

    fn done(self) -> DataRecord {
        debug_assert_eq!(self.0.bytes.len(), self.0.form.bytes(), "{:?}", self.0.form);
        self.0
    }
}

/// `begin`, or the event after it in RFC 8158's table 2, which is its end.
const fn event(begin: u8, begins: bool) -> u8 {
    if begins { begin } else { begin + 1 }
}

/// The record of an entry; `None`: RFC 8158 has no event for it.
pub(super) fn record(entry: &Entry) -> Option<DataRecord> {
    record_of(&entry.what, entry.unix_ms)
}

/// The same of what was seen at another time.
pub(super) fn record_of(what: &Happening, at: u64) -> Option<DataRecord> {
    Some(match what {
        Happening::Block { allotted, place, subscriber, vni, pool_id, .. } => {
            Fields::new(Form::Block, at, event(16, *allotted))
                .address(*subscriber)
                .address(place.public)
                .short(place.first)
                .short(place.last)
                .word((*pool_id).into())
                .word(vni.unwrap_or_default())
                .done()
        }
        Happening::Fixed { added, place, subscriber, fixed } => match fixed.protocol {
            None => Fields::new(Form::Binding, at, event(14, *added))
                .address(*subscriber)
                .address(place.public)
                .word(fixed.vni.unwrap_or_default())
                .done(),
            Some(protocol) => Fields::new(Form::Forward, at, event(16, *added))
                .address(*subscriber)
                .address(place.public)
                .short(place.first)
                .short(place.last)
                .byte(protocol.number())
                .short(fixed.target_port)
                .word(fixed.vni.unwrap_or_default())
                .done(),
        },
        Happening::Session { began, protocol, internal, vni, public, remote, .. } => {
            let form = if remote.is_some() { Form::SessionWithPeer } else { Form::Session };
            let fields = Fields::new(form, at, event(4, *began))
                .address(internal.addr)
                .address(public.addr)
                .byte(protocol.number())
                .short(internal.port)
                .short(public.port)
                .word(vni.unwrap_or_default());
            match remote {
                None => fields.done(),
                Some(remote) => fields
                    .address(remote.addr)
                    .address(remote.addr)
                    .short(remote.port)
                    .short(remote.port)
                    .done(),
            }
        }
        Happening::Limit { kind, pool, subscriber, used, limit } => {
            let pool = pool.as_ref().map_or(0, |(_, id)| u32::from(*id));
            return limit_record(*kind, (pool, *subscriber), (*used, *limit), at);
        }
        Happening::Started
        | Happening::Stopped
        | Happening::Missing(_)
        | Happening::ClockSet(_)
        | Happening::Crashed(_) => return None,
    })
}

fn limit_record(
    kind: EventKind,
    (pool, subscriber): (u32, Option<Ipv4Addr>),
    (used, limit): (u64, u64),
    at: u64,
) -> Option<DataRecord> {
    let quota = |form, which| Fields::new(form, at, 13).word(which).capped(limit);
    let threshold = |form, which| Fields::new(form, at, 18).word(which);
    Some(match kind {
        EventKind::PoolExhausted => Fields::new(Form::PoolExhausted, at, 3).word(pool).done(),
        EventKind::QuotaExhausted(_) => quota(Form::UserQuota, 3).address(subscriber?).done(),
        EventKind::TableFull => quota(Form::SessionsExceeded, 1).done(),
        EventKind::PoolThreshold => {
            threshold(Form::PoolThreshold, 1).word(pool).capped(used).done()
        }
        EventKind::QuotaSoft(_) => {
            debug_assert!(limit_of(kind).is_some());
            threshold(Form::UserThreshold, 4).capped(used).address(subscriber?).done()
        }
        EventKind::TableThreshold => threshold(Form::TableThreshold, 3).capped(used).done(),
        EventKind::Spill | EventKind::ScatterFull | EventKind::HoldDownOverflow => return None,
    })
}

/// Says how many records were not sent, ever.
pub(super) fn not_sent(total: u64) -> DataRecord {
    Fields::bare(Form::NotSent).word(std::process::id()).long(total).long(0).long(0).done()
}

/// Makes messages, and counts their records.
#[derive(Debug)]
pub(super) struct Messages {
    domain: u32,
    /// Data records sent so far on this connection, modulo 2^32.
    sequence: u32,
    /// Bytes of a message at most.
    room: usize,
}

impl Messages {
    /// For a new connection.
    pub(super) fn new(domain: u32, room: usize) -> Self {
        Self { domain, sequence: 0, room }
    }

    /// A message with all templates.
    pub(super) fn templates(&self, unix_s: u32) -> Vec<u8> {
        let mut message = self.begin(unix_s);
        for options in [false, true] {
            let set = message.len();
            let number = if options { OPTIONS_SET } else { TEMPLATE_SET };
            message.extend(number.to_be_bytes());
            message.extend([0, 0]);
            let is_option = |form: Form| form == Form::NotSent;
            for (form, elements) in FORMS.iter().filter(|(form, _)| is_option(*form) == options) {
                message.extend(form.template().to_be_bytes());
                message.extend((elements.len() as u16).to_be_bytes());
                if options {
                    message.extend(1_u16.to_be_bytes()); // fields of the scope
                }
                for (number, bytes) in *elements {
                    message.extend(number.to_be_bytes());
                    message.extend(bytes.to_be_bytes());
                }
            }
            close_set(&mut message, set);
        }
        finish(message)
    }

    fn begin(&self, unix_s: u32) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.room.min(4096));
        message.extend(10_u16.to_be_bytes());
        message.extend([0, 0]);
        message.extend(unix_s.to_be_bytes());
        message.extend(self.sequence.to_be_bytes());
        message.extend(self.domain.to_be_bytes());
        message
    }

    /// Messages with these records, in their order.
    pub(super) fn data(&mut self, records: &[DataRecord], unix_s: u32) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let mut message = self.begin(unix_s);
        let mut set: Option<(usize, Form)> = None;
        for record in records {
            let same = set.is_some_and(|(_, form)| form == record.form);
            let needed = record.bytes.len() + if same { 0 } else { 4 };
            if message.len() + needed > self.room && message.len() > HEADER {
                if let Some((start, _)) = set.take() {
                    close_set(&mut message, start);
                }
                let full = std::mem::replace(&mut message, self.begin(unix_s));
                messages.push(finish(full));
            }
            if set.is_none_or(|(_, form)| form != record.form) {
                if let Some((start, _)) = set {
                    close_set(&mut message, start);
                }
                set = Some((message.len(), record.form));
                message.extend(record.form.template().to_be_bytes());
                message.extend([0, 0]);
            }
            message.extend(&record.bytes);
            self.sequence = self.sequence.wrapping_add(1);
        }
        if let Some((start, _)) = set {
            close_set(&mut message, start);
            messages.push(finish(message));
        }
        messages
    }
}

fn close_set(message: &mut [u8], start: usize) {
    let len = (message.len() - start) as u16;
    message[start + 2..start + 4].copy_from_slice(&len.to_be_bytes());
}

fn finish(mut message: Vec<u8>) -> Vec<u8> {
    let len = message.len() as u16;
    message[2..4].copy_from_slice(&len.to_be_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_in_the_order_of_their_numbers() {
        for (number, (form, elements)) in FORMS.iter().enumerate() {
            assert_eq!(*form as usize, number);
            assert!(*form == Form::NotSent || elements[..2] == [TIME, NAT_EVENT]);
        }
    }

    #[test]
    fn a_message_is_cut_where_it_is_full_and_the_sequence_counts_records() {
        let mut messages = Messages::new(7, 100);
        let records: Vec<_> = (0..10).map(not_sent).collect();
        let made = messages.data(&records, 1_772_373_720);
        let mut sequence = 0;
        for message in &made {
            assert!(message.len() <= 100);
            assert_eq!(message[..2], [0, 10]);
            assert_eq!(usize::from(u16::from_be_bytes([message[2], message[3]])), message.len());
            assert_eq!(message[8..12], u32::to_be_bytes(sequence));
            assert_eq!(message[12..16], [0, 0, 0, 7]);
            sequence += ((message.len() - HEADER - 4) / Form::NotSent.bytes()) as u32;
        }
        assert_eq!((made.len(), sequence), (5, 10));
        assert_eq!(messages.templates(0)[8..12], u32::to_be_bytes(10));
    }
}
