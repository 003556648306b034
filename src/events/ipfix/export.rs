//! The exporting process: connects, sends templates, then what the journal says; and makes good what it could not send.
//!
//! After a gap it sends what lies between what it has sent and what is held now, so that whoever replays the records has
//! the right table again, and a record of options with the number of those that were not sent. After a connection that
//! broke it sends again what may not have arrived.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use conntrack::Protocol;

use super::encode::{DataRecord, Messages, not_sent, record, record_of};
use super::link::{Link, PATIENCE};
use crate::events::clock::unix_ms;
use crate::events::entry::{Entry, Happening, Place};
use crate::events::journal::{Batch, Held, Journal};
use crate::events::sink::{Sink, Taken, up_to_state};

/// Templates are sent again so often over UDP (RFC 7011 section 8.4).
const TEMPLATES: Duration = Duration::from_secs(60);
/// Bytes of a message over TCP, and over UDP: what passes everywhere in one piece.
const ROOM: (usize, usize) = (16_384, 1_400);
/// Records that are sent again at most, when a connection has broken: more than its buffers hold.
const UNCONFIRMED: usize = 1 << 18;
/// A collector that can't be reached is tried again after so long, at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How records travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// TCP with TLS.
    Tls,
    /// TCP in clear text.
    Tcp,
    /// UDP in clear text; what is lost on the way nobody knows.
    Udp,
}

/// Where records go, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Collector {
    /// Host and port.
    pub(crate) address: String,
    /// How.
    pub(crate) transport: Transport,
    /// Certificates that the collector's has to lead to.
    pub(crate) ca: PathBuf,
    /// The name in the collector's certificate, unless it is the host's.
    pub(crate) server_name: Option<String>,
    /// natgate's own certificate and its key.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    /// Observation domain.
    pub(crate) domain: u32,
}

impl Collector {
    /// The host, without brackets.
    pub(crate) fn host(&self) -> &str {
        let host = self.address.rsplit_once(':').map_or(&*self.address, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

/// Which ports, by a configuration for which protocol or by none, and whose they are.
type Key = (Place, Option<Option<u8>>, Ipv4Addr, u16);
/// What a replay of all that was sent comes to.
type Sent = BTreeMap<Key, Happening>;

fn key(what: &Happening) -> Option<Key> {
    match what {
        Happening::Block { place, subscriber, overlay, .. } => {
            Some((*place, None, *subscriber, *overlay))
        }
        Happening::Fixed { place, subscriber, fixed, .. } => {
            Some((*place, Some(fixed.protocol.map(Protocol::number)), *subscriber, 0))
        }
        _ => None,
    }
}

/// The same as a beginning, or as an end.
fn turned(what: &Happening, begins: bool) -> Happening {
    let mut turned = what.clone();
    match &mut turned {
        Happening::Block { allotted: it, .. } | Happening::Fixed { added: it, .. } => *it = begins,
        _ => {}
    }
    turned
}

/// The sink that sends IPFIX.
#[derive(Debug)]
pub(in crate::events) struct Exporter {
    to: Collector,
    open: Option<Open>,
    sent: Sent,
    not_sent: u64,
    /// What was sent lately, and when: it may not have arrived.
    unconfirmed: VecDeque<(Instant, DataRecord)>,
    back_off: Duration,
    not_before: Option<(Instant, String)>,
}

#[derive(Debug)]
struct Open {
    link: Link,
    messages: Messages,
    templates_at: Instant,
}

impl Exporter {
    pub(in crate::events) fn new(to: Collector) -> Self {
        Self {
            to,
            open: None,
            sent: Sent::new(),
            not_sent: 0,
            unconfirmed: VecDeque::new(),
            back_off: BACK_OFF.0,
            not_before: None,
        }
    }

    fn connect(&mut self) -> Result<(), String> {
        if self.open.is_some() {
            return Ok(());
        }
        if let Some((until, why)) = &self.not_before
            && Instant::now() < *until
        {
            return Err(why.clone());
        }
        let opened = Link::open(&self.to).and_then(|mut link| {
            let room = if self.to.transport == Transport::Udp { ROOM.1 } else { ROOM.0 };
            let messages = Messages::new(self.to.domain, room);
            link.send(&messages.templates(unix_s()))?;
            Ok(Open { link, messages, templates_at: Instant::now() })
        });
        match opened {
            Ok(open) => {
                self.open = Some(open);
                self.back_off = BACK_OFF.0;
                self.not_before = None;
                let again: Vec<_> = self.unconfirmed.iter().map(|(_, it)| it.clone()).collect();
                self.send(&again).map_err(|error| self.fail(&error))
            }
            Err(error) => {
                let why = format!("cannot be reached: {error}; see that it listens there");
                self.not_before = Some((Instant::now() + self.back_off, why.clone()));
                self.back_off = (self.back_off * 2).min(BACK_OFF.1);
                Err(why)
            }
        }
    }

    /// The connection is broken: what was sent lately may not have arrived.
    fn fail(&mut self, error: &std::io::Error) -> String {
        self.open = None;
        self.forget_arrived();
        format!("does not take records: {error}; see what it says")
    }

    /// What is older was acknowledged, or the connection would have failed.
    fn forget_arrived(&mut self) {
        let arrived = |(at, _): &(Instant, DataRecord)| at.elapsed() > 2 * PATIENCE;
        while self.unconfirmed.len() > UNCONFIRMED || self.unconfirmed.front().is_some_and(arrived)
        {
            self.unconfirmed.pop_front();
        }
    }

    fn send(&mut self, records: &[DataRecord]) -> std::io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if self.to.transport == Transport::Udp && open.templates_at.elapsed() > TEMPLATES {
            open.link.send(&open.messages.templates(unix_s()))?;
            open.templates_at = Instant::now();
        }
        open.messages.data(records, unix_s()).iter().try_for_each(|it| open.link.send(it))
    }

    fn take_batch(&mut self, batch: Batch, journal: &Journal) -> Result<Taken, String> {
        self.connect()?;
        let (batch, sent, mut records) = if batch.gap.is_some() {
            let (batch, _, state) = up_to_state(batch, journal);
            let (sent, records) = self.make_good(&batch, &state);
            (batch, Some(sent), records)
        } else {
            let records = batch.entries.iter().filter_map(|entry| record(entry)).collect();
            (batch, None, records)
        };
        let missing: u64 = batch.entries.iter().map(|entry| missing(entry)).sum();
        let taken = Taken::all(&batch);
        if missing + taken.lost > 0 {
            self.not_sent += missing + taken.lost;
            records.push(not_sent(self.not_sent));
        }
        if let Err(error) = self.send(&records) {
            self.not_sent -= missing + taken.lost;
            return Err(self.fail(&error));
        }
        if self.to.transport != Transport::Udp {
            let now = Instant::now();
            self.unconfirmed.extend(records.into_iter().map(|record| (now, record)));
        }
        self.forget_arrived();
        match sent {
            Some(sent) => self.sent = sent,
            None => batch.entries.iter().for_each(|entry| self.note(&entry.what)),
        }
        Ok(taken)
    }

    /// Records that lead from what was sent to what is held now, and those that are not of that kind; and what is sent
    /// then.
    fn make_good(&self, batch: &Batch, state: &[Held]) -> (Sent, Vec<DataRecord>) {
        let now = unix_ms();
        let held: BTreeMap<Key, &Held> =
            state.iter().filter_map(|held| Some((key(&held.entry.what)?, held))).collect();
        let ended = self.sent.iter().filter(|(key, _)| !held.contains_key(key));
        let mut records: Vec<_> =
            ended.filter_map(|(_, what)| record_of(&turned(what, false), now)).collect();
        let begun = held.iter().filter(|(key, _)| !self.sent.contains_key(key));
        records.extend(begun.filter_map(|(_, held)| record(&held.entry)));
        let others = batch.entries.iter().filter(|entry| key(&entry.what).is_none());
        records.extend(others.filter_map(|entry| record(entry)));
        (held.into_iter().map(|(key, held)| (key, held.entry.what.clone())).collect(), records)
    }

    fn note(&mut self, what: &Happening) {
        let Some(key) = key(what) else { return };
        match what {
            Happening::Block { allotted: true, .. } | Happening::Fixed { added: true, .. } => {
                self.sent.insert(key, what.clone());
            }
            _ => {
                self.sent.remove(&key);
            }
        }
    }
}

impl Sink for Exporter {
    fn name(&self) -> String {
        format!("IPFIX collector {}", self.to.address)
    }

    fn take(&mut self, batch: Batch, journal: &Journal) -> Result<Taken, String> {
        self.take_batch(batch, journal)
    }

    fn tend(&mut self) -> Result<(), String> {
        self.connect()?;
        let templates = match &self.open {
            Some(open) if self.to.transport == Transport::Udp => {
                open.templates_at.elapsed() > TEMPLATES
            }
            _ => false,
        };
        let looked = match &mut self.open {
            Some(open) => open.link.glance(),
            None => Ok(()),
        };
        let sent = looked.and_then(|()| if templates { self.send(&[]) } else { Ok(()) });
        sent.map_err(|error| self.fail(&error))
    }

    fn end(&mut self) {
        if let Some(open) = &mut self.open {
            open.link.close();
        }
    }
}

fn unix_s() -> u32 {
    u32::try_from(unix_ms() / 1000).unwrap_or(u32::MAX)
}

fn missing(entry: &Entry) -> u64 {
    match entry.what {
        Happening::Missing(count) => count,
        _ => 0,
    }
}
