//! Answers to questions about sessions and subscribers, a slice at a time.

use std::net::Ipv4Addr;

use conntrack::{Nat, SessionView, SubscriberView, Timestamp};
use crossbeam::channel::{Sender, TrySendError};

use crate::request::{
    HoldingRow, Request, SessionFilter, SessionRow, SubscriberFilter, SubscriberRow,
};

/// Places of the table looked at between two bursts.
const SLICE: usize = 256;

/// Places looked at without a row after which an empty slice tells the reader that the worker lives.
const SIGN_OF_LIFE: usize = 16 * SLICE;

/// How far a listing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It can go on at once.
    More,
    /// The reader has no room.
    Blocked,
    /// Nothing is left, or the reader is gone.
    Ended,
}

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
    /// Places looked at since something was sent.
    silent: usize,
    /// Rows that the reader had no room for.
    pending: Vec<R>,
}

impl<F, R> Answer<F, R> {
    fn new(filter: F, reply: Sender<Vec<R>>) -> Self {
        Self { filter, reply, cursor: 0, silent: 0, pending: Vec::new() }
    }

    /// Answers one slice; `rows` looks at the places from the cursor on, `None` at the end.
    fn advance(&mut self, rows: impl FnOnce(&F, &mut usize) -> Option<Vec<R>>) -> Progress {
        let before = self.send();
        if before != Progress::More {
            return before;
        }
        let start = self.cursor;
        let Some(rows) = rows(&self.filter, &mut self.cursor) else { return Progress::Ended };
        self.silent += self.cursor - start;
        self.pending = rows;
        self.send()
    }

    /// Sends what is pending, or a sign of life when one is due.
    fn send(&mut self) -> Progress {
        if self.pending.is_empty() && self.silent < SIGN_OF_LIFE {
            return Progress::More;
        }
        match self.reply.try_send(std::mem::take(&mut self.pending)) {
            Ok(()) => {
                self.silent = 0;
                Progress::More
            }
            // The reader has slices to read and needs no sign.
            Err(TrySendError::Full(rows)) if rows.is_empty() => Progress::More,
            Err(TrySendError::Full(rows)) => {
                self.pending = rows;
                Progress::Blocked
            }
            Err(TrySendError::Disconnected(_)) => Progress::Ended,
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
            Request::Explain(..) | Request::Capture(_) | Request::Announce | Request::Stop => None,
        }
    }

    /// Answers one slice.
    pub(crate) fn advance(&mut self, worker: u16, nat: &Nat, now: Timestamp) -> Progress {
        match self {
            Self::Sessions(answer) => answer.advance(|filter, cursor| {
                let views = nat.sessions(cursor, SLICE, now)?;
                let admitted = views.filter(|view| filter.admits(view));
                Some(admitted.map(|view| session_row(worker, &view)).collect())
            }),
            Self::Subscribers(answer) => answer.advance(|filter, cursor| {
                let views = nat.subscribers(cursor, SLICE)?;
                let admitted = views.filter(|view| filter.admits(view));
                Some(admitted.map(|view| subscriber_row(worker, view)).collect())
            }),
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
            && self.public.as_ref().is_none_or(|(addresses, ports)| {
                addresses.contains(&view.public.addr) && ports.contains(&view.public.port)
            })
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
