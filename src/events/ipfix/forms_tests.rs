//! Every kind of record against the tables of RFC 8158 section 4.6, read by the templates that are sent with them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use conntrack::{Endpoint, EventKind, Limit, Protocol};

use super::encode::{Messages, record};
use crate::events::entry::{Entry, Fixed, Happening, Known, Place};

const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
const AT: u64 = 1_700_000_000_123;

/// Value by number of the information element.
type Elements = BTreeMap<u16, u64>;

/// What a collector knows of a template: its elements, with their lengths.
type Templates = BTreeMap<u16, Vec<(u16, u16)>>;

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn short(bytes: &[u8], at: usize) -> u16 {
    number(&bytes[at..at + 2]) as u16
}

/// The sets of a message, by number (RFC 7011 section 3.3).
fn sets(message: &[u8]) -> Vec<(u16, &[u8])> {
    assert_eq!((short(message, 0), usize::from(short(message, 2))), (10, message.len()));
    let (mut rest, mut sets) = (&message[16..], Vec::new());
    while !rest.is_empty() {
        let (set, after) = rest.split_at(short(rest, 2).into());
        sets.push((short(set, 0), &set[4..]));
        rest = after;
    }
    sets
}

fn templates(message: &[u8]) -> Templates {
    let mut templates = Templates::new();
    for (set, mut body) in sets(message) {
        let fields = if set == 2 { 4 } else { 6 };
        while !body.is_empty() {
            let count = usize::from(short(body, 2));
            let (template, after) = body.split_at(fields + 4 * count);
            let elements = template[fields..].chunks(4).map(|it| (short(it, 0), short(it, 2)));
            templates.insert(short(template, 0), elements.collect());
            body = after;
        }
    }
    templates
}

fn read(templates: &Templates, message: &[u8]) -> Vec<Elements> {
    let mut records = Vec::new();
    for (set, mut body) in sets(message) {
        while !body.is_empty() {
            let mut record = Elements::new();
            for (element, bytes) in &templates[&set] {
                let (value, after) = body.split_at(usize::from(*bytes));
                assert_eq!(record.insert(*element, number(value)), None, "{element} twice");
                body = after;
            }
            records.push(record);
        }
    }
    records
}

fn limit(kind: EventKind) -> Happening {
    let pool = Some((Arc::from("general"), 3));
    Happening::Limit { kind, pool, subscriber: Some(POD), used: 900, limit: 1_000 }
}

fn block(allotted: bool) -> Happening {
    Happening::Block {
        allotted,
        place: Place { public: PUBLIC, first: 1_024, last: 1_087 },
        subscriber: POD,
        overlay: 2,
        vni: Some(77),
        pool: "general".into(),
        pool_id: 3,
        known: Known::Recorded,
    }
}

fn fixed(added: bool, protocol: Option<Protocol>) -> Happening {
    let place = Place { public: PUBLIC, first: 8_000, last: 8_009 };
    let fixed = Fixed { name: "web".into(), protocol, target_port: 80, vni: Some(78) };
    Happening::Fixed { added, place, subscriber: POD, fixed }
}

fn session(began: bool, peer: bool) -> Happening {
    let endpoint = |addr, port| Endpoint { addr, port };
    Happening::Session {
        began,
        protocol: Protocol::Udp,
        internal: endpoint(POD, 5_000),
        overlay: 0,
        vni: None,
        public: endpoint(PUBLIC, 1_030),
        remote: peer.then_some(endpoint(PEER, 443)),
        pool: "general".into(),
    }
}

/// What is told, and the number of the event, the sub-event with its element, and the further mandatory elements that
/// the table of the section has for it, with their values.
#[allow(clippy::type_complexity)] // a table
fn told() -> Vec<(Happening, u64, Option<(u16, u64)>, Vec<(u16, u64)>)> {
    let [pod, public] = [POD, PUBLIC].map(|it| u64::from(u32::from(it)));
    let peer = u64::from(u32::from(PEER));
    let ends = vec![(8, pod), (225, public)];
    let ports = |first, last| [ends.clone(), vec![(361, first), (362, last)]].concat();
    let flow = [ends.clone(), vec![(4, 17), (7, 5_000), (227, 1_030)]].concat();
    let whole = [flow.clone(), vec![(12, peer), (226, peer), (11, 443), (228, 443)]].concat();
    let user = |element, value| vec![(element, value), (8, pod)];
    vec![
        (session(true, false), 4, None, flow.clone()),
        (session(false, false), 5, None, flow),
        (session(true, true), 4, None, whole.clone()),
        (session(false, true), 5, None, whole),
        (fixed(true, None), 14, None, [ends.clone(), vec![(234, 78)]].concat()),
        (fixed(false, None), 15, None, [ends.clone(), vec![(234, 78)]].concat()),
        (block(true), 16, None, [ports(1_024, 1_087), vec![(234, 77), (283, 3)]].concat()),
        (block(false), 17, None, [ports(1_024, 1_087), vec![(234, 77), (283, 3)]].concat()),
        (
            fixed(true, Some(Protocol::Tcp)),
            16,
            None,
            [ports(8_000, 8_009), vec![(234, 78)]].concat(),
        ),
        (
            fixed(false, Some(Protocol::Tcp)),
            17,
            None,
            [ports(8_000, 8_009), vec![(234, 78)]].concat(),
        ),
        (limit(EventKind::PoolExhausted), 3, None, vec![(283, 3)]),
        (limit(EventKind::TableFull), 13, Some((466, 1)), vec![(471, 1_000)]),
        (limit(EventKind::QuotaExhausted(Limit::Blocks)), 13, Some((466, 3)), user(473, 1_000)),
        (limit(EventKind::QuotaExhausted(Limit::Rate)), 13, Some((466, 3)), user(473, 1_000)),
        (limit(EventKind::PoolThreshold), 18, Some((467, 1)), vec![(283, 3), (476, 900)]),
        (limit(EventKind::TableThreshold), 18, Some((467, 3)), vec![(478, 900)]),
        (limit(EventKind::QuotaSoft(Limit::Sessions)), 18, Some((467, 4)), user(480, 900)),
    ]
}

// Proves: 8158-S4a, 8158-S4.3, 8158-S4.6a, 8158-S4.6.10
#[test]
fn every_kind_of_record_has_the_elements_of_its_table() {
    let told = told();
    let entry = |what: &Happening| Entry {
        seq: 1,
        unix_ms: AT,
        clock_ms: 5,
        worker: Some(0),
        what: what.clone(),
    };
    let records: Vec<_> =
        told.iter().map(|(what, ..)| record(&entry(what)).expect("a record")).collect();
    let mut messages = Messages::new(7, 1_400);
    let templates = templates(&messages.templates(1_700_000_000));
    let sent = messages.data(&records, 1_700_000_000);
    let found: Vec<Elements> = sent.iter().flat_map(|it| read(&templates, it)).collect();
    assert_eq!(found.len(), told.len());
    for ((what, event, sub_event, mandatory), elements) in told.iter().zip(&found) {
        let all = [(323, AT), (230, *event)].into_iter().chain(*sub_event);
        for (element, value) in all.chain(mandatory.iter().copied()) {
            assert_eq!(elements.get(&element), Some(&value), "element {element} of {what:?}");
        }
    }
    // Who is not asked for is not told of: no peers, but where they are asked for.
    let peers = found.iter().filter(|it| it.contains_key(&12) || it.contains_key(&226)).count();
    assert_eq!(peers, 2);
}

/// Every kind of limit that RFC 8158 has an event for is in the table above.
#[test]
fn what_has_no_event_is_named() {
    let kinds = [
        EventKind::QuotaSoft(Limit::Blocks),
        EventKind::QuotaExhausted(Limit::Blocks),
        EventKind::PoolThreshold,
        EventKind::PoolExhausted,
        EventKind::Spill,
        EventKind::ScatterFull,
        EventKind::TableThreshold,
        EventKind::TableFull,
        EventKind::HoldDownOverflow,
    ];
    assert_eq!(kinds.len(), EventKind::COUNT);
    let told: Vec<usize> = told().iter().map(|(what, ..)| what.index()).collect();
    for kind in kinds {
        let entry = Entry { seq: 1, unix_ms: AT, clock_ms: 5, worker: None, what: limit(kind) };
        let has = told.contains(&entry.what.index());
        assert_eq!(record(&entry).is_some(), has, "{kind:?}");
    }
}
