//! What has changed in the kernel since we last looked?
//!
//! Messages about routes and neighbours carry the whole entry and are applied. The kernel changes routes without a
//! message, too: when a link goes down or comes up, an address is deleted, or a next-hop object changes. Messages about
//! those are hints to read the tables again.

use std::io;

use futures_util::FutureExt;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_REPLACE, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::{NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols};

use super::MirrorError;
use super::dump::neighbour_fact;
use super::fdb::FdbFact;
use super::link::is_up;
use super::neighbours::Fact;
use super::tables::{Change, KernelRoute};

/// `RTNLGRP_LINK`, `_NEIGH`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_NEXTHOP`.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 8, 32];
/// `RTM_NEWNEXTHOP` to `RTM_GETNEXTHOP`, which the parser does not know.
const NEXT_HOP_OBJECTS: std::ops::RangeInclusive<u16> = 104..=106;
/// Asked for: about 30,000 changes of routes while the control thread is busy.
pub(super) const RECEIVE_BUFFER: usize = 16 << 20;

/// Datagrams that are thrown away before others get their turn.
const EMPTY_AT_ONCE: usize = 1_000;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A route is different now.
    Route(Change),
    /// A neighbour is in this state now.
    Neighbour(Fact),
    /// An entry of a forwarding database is there now, or was deleted.
    Fdb(FdbFact),
    /// The link with this index is up, or down or gone.
    Link(u32, bool),
    /// An address is there now, or was deleted, and routes with it.
    Address,
    /// Next-hop objects are different now, and routes with them.
    NextHopObjects,
    /// Routing rules are different now.
    Rules,
    /// Messages were lost: nothing that we know is certain.
    Lost,
}

/// The multicast groups that the mirror follows.
pub(super) struct EventSocket {
    socket: TokioSocket,
    /// The kernel has reported an overrun, and what it put into the queue before is still there.
    overrun: bool,
}

impl EventSocket {
    /// Subscribes, with room for `buffer` bytes of messages; from here on nothing is missed without [`Event::Lost`].
    pub(super) fn subscribe(buffer: usize) -> Result<Self, MirrorError> {
        let failed = |source| MirrorError::Socket { what: "subscribe to", source };
        let mut socket = TokioSocket::new(protocols::NETLINK_ROUTE).map_err(failed)?;
        let inner = socket.socket_mut();
        // Beyond `net.core.rmem_max` with CAP_NET_ADMIN only.
        if setsockopt(inner, sockopt::RcvBufForce, &buffer).is_err() {
            inner.set_rx_buf_sz(buffer as u32).map_err(failed)?;
        }
        inner.bind(&SocketAddr::new(0, 0)).map_err(failed)?;
        for group in GROUPS {
            inner.add_membership(group).map_err(failed)?;
        }
        Ok(Self { socket, overrun: false })
    }

    /// Waits for the next datagram of messages. Cancel-safe.
    pub(super) async fn next(&mut self) -> io::Result<Vec<Event>> {
        loop {
            if self.overrun {
                self.empty()?;
                if !self.overrun {
                    return Ok(vec![Event::Lost]);
                }
                tokio::task::yield_now().await;
                continue;
            }
            match self.socket.recv_from_full().await {
                Ok((datagram, _)) => return Ok(parse(&datagram)),
                Err(error) => self.overrun_or(error)?,
            }
        }
    }

    /// What waits already; `None`: nothing.
    pub(super) fn next_waiting(&mut self) -> Option<io::Result<Vec<Event>>> {
        // Tokio's budget must not pass for an empty queue.
        tokio::task::unconstrained(self.next()).now_or_never()
    }

    /// Throws away what waits. Once the kernel has reported an overrun, it drops further messages without a word until
    /// the queue is empty; what is in it is old news.
    fn empty(&mut self) -> io::Result<()> {
        for _ in 0..EMPTY_AT_ONCE {
            match tokio::task::unconstrained(self.socket.recv_from_full()).now_or_never() {
                Some(Ok(_)) => {}
                Some(Err(error)) => self.overrun_or(error)?,
                None => {
                    self.overrun = false;
                    break;
                }
            }
        }
        Ok(())
    }

    fn overrun_or(&mut self, error: io::Error) -> io::Result<()> {
        if error.raw_os_error() != Some(Errno::ENOBUFS as i32) {
            return Err(error);
        }
        self.overrun = true;
        Ok(())
    }
}

fn parse(datagram: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    let mut rest = datagram;
    // Length and type of the message (`struct nlmsghdr`).
    while let Some((&[a, b, c, d, low, high], _)) = rest.split_first_chunk() {
        let kind = u16::from_ne_bytes([low, high]);
        if NEXT_HOP_OBJECTS.contains(&kind) {
            events.push(Event::NextHopObjects);
        } else if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
            events.extend(event(message.header.flags, message.payload));
        } else {
            // Something newer than the parser: look at the tables themselves.
            events.push(Event::Lost);
            break;
        }
        let length = (u32::from_ne_bytes([a, b, c, d]) as usize).next_multiple_of(4).max(16);
        rest = rest.get(length..).unwrap_or_default();
    }
    events
}

fn event(flags: u16, payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Event> {
    let message = match payload {
        NetlinkPayload::InnerMessage(message) => message,
        NetlinkPayload::Overrun(_) => return Some(Event::Lost),
        _ => return None,
    };
    match message {
        RouteNetlinkMessage::NewRoute(message) => new_route(flags, &message),
        RouteNetlinkMessage::DelRoute(message) => {
            let (place, route) = KernelRoute::from_message(&message)?;
            Some(Event::Route(Change::Removed(place, route)))
        }
        RouteNetlinkMessage::NewNeighbour(message) => {
            let fdb = || FdbFact::from_message(&message, true).map(Event::Fdb);
            neighbour_fact(&message).map(Event::Neighbour).or_else(fdb)
        }
        RouteNetlinkMessage::DelNeighbour(message) => {
            let fdb = || FdbFact::from_message(&message, false).map(Event::Fdb);
            deleted(&message).map(Event::Neighbour).or_else(fdb)
        }
        RouteNetlinkMessage::NewLink(message) => Some(link(&message, is_up(&message))),
        RouteNetlinkMessage::DelLink(message) => Some(link(&message, false)),
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => {
            Some(Event::Address)
        }
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Some(Event::Rules),
        _ => None,
    }
}

fn new_route(flags: u16, message: &RouteMessage) -> Option<Event> {
    let (place, route) = KernelRoute::from_message(message)?;
    let change = if flags & NLM_F_REPLACE != 0 {
        Change::Replaced(place, route)
    } else if flags & NLM_F_APPEND != 0 {
        Change::Appended(place, route)
    } else {
        Change::Added(place, route)
    };
    Some(Event::Route(change))
}

fn link(message: &LinkMessage, up: bool) -> Event {
    Event::Link(message.header.index, up)
}

fn deleted(message: &NeighbourMessage) -> Option<Fact> {
    let fact = neighbour_fact(message)?;
    Some(Fact { state: NeighbourState::None, mac: None, ..fact })
}
