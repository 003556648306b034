//! What has changed in the kernel since we last looked?
//!
//! Route, address and link messages are only taken as a hint to read the tables again: the kernel
//! removes IPv4 routes silently when a link goes down or an address is deleted, and replaced routes are
//! announced by one message for two changes. Neighbour messages carry the whole entry and are applied.

use std::io;

use nix::errno::Errno;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{NeighbourMessage, NeighbourState};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols};

use super::MirrorError;
use super::dump::neighbour_fact;
use super::neighbours::Fact;

/// `RTNLGRP_LINK`, `RTNLGRP_NEIGH`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV4_ROUTE`.
const GROUPS: [u32; 4] = [1, 3, 5, 7];
/// Asked for; the kernel gives at most `net.core.rmem_max`.
const RECEIVE_BUFFER: usize = 4 << 20;

/// One thing that happened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Routes, addresses or links are different now.
    Tables,
    /// A neighbour is in this state now.
    Neighbour(Fact),
    /// Messages were lost: nothing that we know is certain.
    Lost,
}

/// The multicast groups that the mirror follows.
pub(super) struct EventSocket {
    socket: TokioSocket,
}

impl EventSocket {
    /// Subscribes; from here on nothing is missed without [`Event::Lost`].
    pub(super) fn subscribe() -> Result<Self, MirrorError> {
        let failed = |source| MirrorError::Socket { what: "subscribe to", source };
        let mut socket = TokioSocket::new(protocols::NETLINK_ROUTE).map_err(failed)?;
        let inner = socket.socket_mut();
        inner.set_rx_buf_sz(RECEIVE_BUFFER as u32).map_err(failed)?;
        inner.bind(&SocketAddr::new(0, 0)).map_err(failed)?;
        for group in GROUPS {
            inner.add_membership(group).map_err(failed)?;
        }
        Ok(Self { socket })
    }

    /// Waits for the next datagram of messages. Cancel-safe.
    pub(super) async fn next(&self) -> io::Result<Vec<Event>> {
        match self.socket.recv_from_full().await {
            Ok((datagram, _)) => Ok(parse(&datagram)),
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                Ok(vec![Event::Lost])
            }
            Err(error) => Err(error),
        }
    }
}

fn parse(datagram: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) else {
            // Something newer than the parser: look at the tables themselves.
            events.push(Event::Lost);
            break;
        };
        let length = (message.header.length as usize).next_multiple_of(4).max(16);
        rest = rest.get(length..).unwrap_or_default();
        events.extend(event(message.payload));
    }
    events
}

fn event(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Event> {
    match payload {
        NetlinkPayload::InnerMessage(message) => match message {
            RouteNetlinkMessage::NewNeighbour(message) => {
                neighbour_fact(&message).map(Event::Neighbour)
            }
            RouteNetlinkMessage::DelNeighbour(message) => deleted(&message).map(Event::Neighbour),
            RouteNetlinkMessage::NewRoute(_)
            | RouteNetlinkMessage::DelRoute(_)
            | RouteNetlinkMessage::NewAddress(_)
            | RouteNetlinkMessage::DelAddress(_)
            | RouteNetlinkMessage::NewLink(_)
            | RouteNetlinkMessage::DelLink(_) => Some(Event::Tables),
            _ => None,
        },
        NetlinkPayload::Overrun(_) => Some(Event::Lost),
        _ => None,
    }
}

fn deleted(message: &NeighbourMessage) -> Option<Fact> {
    let fact = neighbour_fact(message)?;
    Some(Fact { state: NeighbourState::None, mac: None, ..fact })
}
