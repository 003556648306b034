//! Answers to questions about sessions and subscribers, a slice at a time.

use std::net::Ipv4Addr;
use std::time::Duration;

use conntrack::{Nat, SessionView, SubscriberView, Timestamp};
use crossbeam::channel::{Sender, TrySendError};

use crate::io::PacketIo;
use crate::request::{
    HoldingRow, Request, SessionFilter, SessionRow, SubscriberFilter, SubscriberRow,
};
use crate::worker::Worker;

/// Places of the table looked at in an idle turn, and rows sent at once.
const SLICE: usize = 256;

/// A busy worker looks at one place in so many nanoseconds. That costs some 80, and as much again in lines that packets miss
/// then: listings take 2 % of its time.
const NANOSECONDS_A_PLACE: u128 = 8_000;

/// Places looked at without a row after which an empty slice tells the reader that the worker lives.
const SIGN_OF_LIFE: usize = 16 * SLICE;

/// The questions that a worker is answering.
#[derive(Debug, Default)]
pub(crate) struct Listings {
    all: Vec<Listing>,
    /// Time of busy turns for which no place was looked at yet.
    saved: Duration,
}

impl Listings {
    /// Whether the time of a turn is wanted.
    #[inline]
    pub(crate) fn are_timed(&self) -> bool {
        !self.all.is_empty()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Takes steps after a turn: in every listing if it was idle, in one if it was `busy` for so long. Whether one of them
    /// could go on at once.
    fn advance(&mut self, busy: Option<Duration>, worker: u16, nat: &Nat, now: Timestamp) -> bool {
        let (steps, places) = busy.map_or((self.all.len(), SLICE), |time| self.pace(time));
        let mut more = steps == 0 && !self.all.is_empty();
        for _ in 0..steps.min(self.all.len()) {
            let mut listing = self.all.remove(0);
            let progress = listing.advance(worker, nat, places, now);
            more |= progress == Progress::More;
            if progress != Progress::Ended {
                self.all.push(listing);
            }
        }
        more
    }

    /// Steps, and the places looked at in each, after a turn that was busy for so long.
    fn pace(&mut self, time: Duration) -> (usize, usize) {
        self.saved += time;
        let places = (self.saved.as_nanos() / NANOSECONDS_A_PLACE).min(SLICE as u128) as usize;
        if places > 0 {
            self.saved = Duration::ZERO;
        }
        (places.min(1), places)
    }
}

impl<I: PacketIo> Worker<I> {
    /// Takes new requests, and goes on with listings after a turn with so many packets that began then (by the clock;
    /// `None`: nobody wanted to know). Whether one of them could go on at once.
    pub(crate) fn serve_requests(
        &mut self,
        packets: usize,
        began: Option<Duration>,
        now: Timestamp,
    ) -> bool {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Stop => self.stopping = true,
                Request::Announce => {
                    // What was published before this was asked for may be the reason.
                    self.follow_snapshot(now);
                    self.announcements = self.announcements_due();
                }
                Request::Capture(order) => self.start_capture(order),
                Request::Explain(flow, reply) => {
                    if let Some(answer) = self.explain(&flow, now) {
                        // Who asked may have gone.
                        drop(reply.try_send(answer));
                    }
                }
                other => self.listings.all.extend(Listing::new(other)),
            }
        }
        if self.listings.is_empty() {
            return false;
        }
        let passed = |began| self.shared.clock.elapsed().saturating_sub(began);
        let time = began.map_or(Duration::ZERO, passed);
        self.listings.advance((packets > 0).then_some(time), self.id, &self.nat, now)
    }
}

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

    /// Answers one step; `rows` looks at the places from the cursor on, and says false at the end.
    fn advance(&mut self, rows: impl FnOnce(&F, &mut usize, &mut Vec<R>) -> bool) -> Progress {
        if self.pending.len() >= SLICE {
            let before = self.send();
            if before != Progress::More {
                return before;
            }
        }
        if self.pending.capacity() == 0 {
            self.pending.reserve_exact(2 * SLICE);
        }
        let start = self.cursor;
        let more = rows(&self.filter, &mut self.cursor, &mut self.pending);
        self.silent += self.cursor - start;
        let due = self.pending.len() >= SLICE || self.silent >= SIGN_OF_LIFE;
        match more {
            true if due => self.send(),
            true => Progress::More,
            false if self.pending.is_empty() => Progress::Ended,
            // The end is told by the next step, when these have been taken.
            false => self.send(),
        }
    }

    /// Sends what is pending; nothing is a sign of life.
    fn send(&mut self) -> Progress {
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

    /// Looks at so many places, and answers when there is enough to say.
    pub(crate) fn advance(
        &mut self,
        worker: u16,
        nat: &Nat,
        places: usize,
        now: Timestamp,
    ) -> Progress {
        match self {
            Self::Sessions(answer) => answer.advance(|filter, cursor, rows| {
                let Some(views) = nat.sessions(cursor, places, now) else { return false };
                let admitted = views.filter(|view| filter.admits(view));
                rows.extend(admitted.map(|view| session_row(worker, &view)));
                true
            }),
            Self::Subscribers(answer) => answer.advance(|filter, cursor, rows| {
                let Some(views) = nat.subscribers(cursor, places) else { return false };
                let admitted = views.filter(|view| filter.admits(view));
                rows.extend(admitted.map(|view| subscriber_row(worker, view)));
                true
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
        overlay: view.overlay,
        public: view.public,
        remote: view.remote,
        state: view.state.name(),
        pool: view.pool,
        rule: view.rule,
        idle_ms: view.idle_ms,
        age_s: view.age_s,
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
        overlay: view.overlay,
        sessions: view.sessions,
        created: view.created,
        refused: view.refused,
        holdings: holdings.collect(),
    }
}
