//! What do the fragments of one datagram tell each other?

use std::collections::VecDeque;

use super::seen::{Extent, Seen};
use super::{DatagramKey, Part};
use crate::ip_id::FreshId;
use crate::packet::Packet;

/// A datagram of which some fragments have been seen, or the room for one.
#[derive(Debug)]
pub(super) struct Datagram<F> {
    pub(super) key: DatagramKey,
    /// Tells it apart from others in this room; 0: there is none.
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
    /// Room for one.
    pub(super) fn new(key: DatagramKey) -> Self {
        Self {
            key,
            serial: 0,
            seen: Seen::default(),
            ports: None,
            torn: false,
            fresh_id: None,
            waiting: VecDeque::new(),
        }
    }

    /// Makes room for the datagram with `key` and `serial`.
    pub(super) fn begin(&mut self, key: DatagramKey, serial: u64) {
        (self.key, self.serial) = (key, serial);
        (self.ports, self.torn, self.fresh_id) = (None, false, None);
        self.seen.clear();
    }

    /// Ends it; what has waited.
    pub(super) fn end(&mut self) -> VecDeque<Part<F>> {
        self.serial = 0;
        std::mem::take(&mut self.waiting)
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
