//! Answers to questions about sessions and subscribers, a slice at a time.

use std::net::Ipv4Addr;

use conntrack::{Nat, SessionView, SubscriberView, Timestamp};
use crossbeam::channel::{Sender, TrySendError};

use crate::request::{
    HoldingRow, Request, SessionFilter, SessionRow, SubscriberFilter, SubscriberRow,
};

/// Places of the table looked at between two bursts.
const SLICE: usize = 256;

/// A question that is being answered.
#[derive(Debug)]
pub(crate) enum Listing {
    Sessions(Answer<SessionFilter, SessionRow>),
    Subscribers(Answer<SubscriberFilter, SubscriberRow>),
}

#[derive(Debug)]
pub(crate) struct Answer<F, R> {
    filter: F,
    reply: Sender<Vec<R>>,
    cursor: usize,
    /// Rows that the reader had no room for.
    pending: Vec<R>,
}

impl<F, R> Answer<F, R> {
    fn new(filter: F, reply: Sender<Vec<R>>) -> Self {
        Self { filter, reply, cursor: 0, pending: Vec::new() }
    }

    /// Sends what is pending; `None` if the reader is gone, else whether there is room for more.
    fn send(&mut self) -> Option<bool> {
        if self.pending.is_empty() {
            return Some(true);
        }
        match self.reply.try_send(std::mem::take(&mut self.pending)) {
            Ok(()) => Some(true),
            Err(TrySendError::Full(rows)) => {
                self.pending = rows;
                Some(false)
            }
            Err(TrySendError::Disconnected(_)) => None,
        }
    }
}

impl Listing {
    /// The answer to `request`, if it asks for a list.
    pub(crate) fn new(request: Request) -> Option<Self> {
        match request {
            Request::Sessions(filter, reply) => Some(Self::Sessions(Answer::new(filter, reply))),
            Request::Subscribers(filter, reply) => {
                Some(Self::Subscribers(Answer::new(filter, reply)))
            }
            Request::Announce | Request::Stop => None,
        }
    }

    /// Answers one slice; false at the end, or when the reader is gone.
    pub(crate) fn advance(&mut self, worker: u16, nat: &Nat, now: Timestamp) -> bool {
        match self {
            Self::Sessions(answer) => {
                match answer.send() {
                    None => return false,
                    Some(false) => return true,
                    Some(true) => {}
                }
                let Some(views) = nat.sessions(&mut answer.cursor, SLICE, now) else {
                    return false;
                };
                let filter = &answer.filter;
                answer.pending = views
                    .filter(|view| filter.admits(view))
                    .map(|view| session_row(worker, &view))
                    .collect();
                answer.send().is_some()
            }
            Self::Subscribers(answer) => {
                match answer.send() {
                    None => return false,
                    Some(false) => return true,
                    Some(true) => {}
                }
                let Some(views) = nat.subscribers(&mut answer.cursor, SLICE) else { return false };
                let filter = &answer.filter;
                answer.pending = views
                    .filter(|view| filter.admits(view))
                    .map(|view| subscriber_row(worker, view))
                    .collect();
                answer.send().is_some()
            }
        }
    }
}

impl SessionFilter {
    fn admits(&self, view: &SessionView) -> bool {
        let has = |addr: Ipv4Addr| {
            [view.internal, view.public, view.remote].iter().any(|e| e.addr == addr)
        };
        self.address.is_none_or(has)
            && self.pool.is_none_or(|pool| pool == view.pool)
            && self.protocol.is_none_or(|protocol| protocol == view.protocol)
            && self.state.as_ref().is_none_or(|state| state == view.state.name())
    }
}

impl SubscriberFilter {
    fn admits(&self, view: &SubscriberView) -> bool {
        let holds =
            |addr| view.holdings.iter().flat_map(|(_, blocks)| blocks).any(|&(a, _)| a == addr);
        self.address.is_none_or(|addr| view.addr == addr || holds(addr))
            && self.pool.is_none_or(|pool| view.holdings.iter().any(|&(p, _)| p == pool))
    }
}

fn session_row(worker: u16, view: &SessionView) -> SessionRow {
    SessionRow {
        worker,
        protocol: view.protocol,
        internal: view.internal,
        public: view.public,
        remote: view.remote,
        state: view.state.name(),
        pool: view.pool,
        rule: view.rule,
        idle_ms: view.idle_ms,
        expires_in_ms: view.expires_in_ms,
        packets_out: view.outbound.0,
        bytes_out: view.outbound.1,
        packets_in: view.inbound.0,
        bytes_in: view.inbound.1,
    }
}

fn subscriber_row(worker: u16, view: SubscriberView) -> SubscriberRow {
    let holdings = view.holdings.into_iter().map(|(pool, blocks)| HoldingRow { pool, blocks });
    SubscriberRow {
        worker,
        address: view.addr,
        sessions: view.sessions,
        created: view.created,
        refused: view.refused,
        holdings: holdings.collect(),
    }
}
