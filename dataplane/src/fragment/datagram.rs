//! What do the fragments of one datagram tell each other?

use std::collections::VecDeque;

use super::Part;
use super::seen::{Extent, Seen};
use crate::ip_id::FreshId;
use crate::packet::Packet;

/// A datagram of which some fragments have been seen.
#[derive(Debug)]
pub(crate) struct Datagram<F> {
    /// Tells it apart from earlier ones of its key.
    pub(super) serial: u64,
    pub(super) seen: Seen,
    /// Source and destination port, from the first fragment.
    pub(super) ports: Option<(u16, u16)>,
    /// Two first fragments named different ports.
    torn: bool,
    /// The identification that all its fragments are sent on with (RFC 6864 section 5.3.1).
    pub(super) fresh_id: Option<FreshId>,
    /// Fragments that came before the first one, in the order of arrival.
    pub(super) waiting: VecDeque<Part<F>>,
}

impl<F> Datagram<F> {
    pub(super) fn new(serial: u64) -> Self {
        Self {
            serial,
            seen: Seen::default(),
            ports: None,
            torn: false,
            fresh_id: None,
            waiting: VecDeque::new(),
        }
    }

    /// Learns the ports of a first fragment, which must be the same as before: else these are two
    /// datagrams with one identification, and nobody can say which fragment is whose. Then none passes any
    /// more, so that none reaches a wrong pod.
    pub(super) fn agrees(&mut self, ports: Option<(u16, u16)>) -> bool {
        if let Some(ports) = ports {
            self.torn |= *self.ports.get_or_insert(ports) != ports;
        }
        !self.torn
    }
}

impl Extent {
    /// Where `packet`, a fragment, lies in its datagram.
    pub(super) fn of(packet: &Packet) -> Self {
        let start = packet.fragment.offset();
        Self { start, end: start + packet.payload_len(), last: !packet.fragment.more() }
    }
}
