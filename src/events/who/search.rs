//! Who had an endpoint at a time? All records are read once, in the order in which they were written.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::net::Ipv4Addr;
use std::path::Path;

use conntrack::Protocol;
use serde::{Deserialize, Serialize};

use super::record::{By, Grant, Kind, LEN, Record};
use super::segments;
use crate::events::journal::{Held, Journal};
use crate::events::rfc3339;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The public address.
    pub(crate) public: Ipv4Addr,
    /// The port, or the identifier of ICMP queries.
    pub(crate) port: u16,
    /// The protocol.
    pub(crate) protocol: Protocol,
}

/// Somebody who has, or had, the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holding {
    /// The pod's address.
    pub(crate) subscriber: String,
    /// The pod's port, where the records know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subscriber_port: Option<u16>,
    /// The overlay of the pod, unless it is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) overlay: Option<u16>,
    /// The VNI of that overlay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vni: Option<u32>,
    /// By a port `block`, a `fixed` mapping or a `session`.
    pub(crate) by: String,
    /// The first port that it has.
    pub(crate) first: u16,
    /// The last port that it has.
    pub(crate) last: u16,
    /// Since when.
    pub(crate) from: String,
    /// Until when; none: it still does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<String>,
    /// It may have had it longer, up to this time: natgate ended without a word, or records are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at_most_to: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The endpoint that was asked for.
    pub(crate) public: String,
    /// Its protocol.
    pub(crate) protocol: String,
    /// The time that was asked for.
    pub(crate) at: String,
    /// All that have, or had, it then.
    pub(crate) holders: Vec<Holding>,
    /// The oldest record is of this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) records_since: Option<String>,
    /// What to know about it.
    pub(crate) notes: Vec<String>,
}

impl Answer {
    fn to(question: Question, at: u64) -> Self {
        let Question { public, port, protocol } = question;
        Self {
            public: format!("{public}:{port}"),
            protocol: protocol.name().to_owned(),
            at: rfc3339(at),
            ..Self::default()
        }
    }
}

/// Who has it now, as the journal knows.
pub(crate) fn now(journal: &Journal, question: Question, at: u64) -> Answer {
    let Question { public, port, protocol } = question;
    let holding = |held: &Held| {
        let record = Record::held(held);
        let grant = record.grant?;
        Some(Open::new(grant, record.at).holding())
    };
    let holders = journal.holders(public, port, protocol).iter().filter_map(holding).collect();
    Answer { holders, ..Answer::to(question, at) }
}

/// Times when it was held: from and, if that has come, until.
type Piece = (u64, Option<u64>);

/// Somebody who has it, while records are read.
#[derive(Clone, Debug)]
struct Open {
    grant: Grant,
    pieces: Vec<Piece>,
    /// Nobody has confirmed since a restart, or a gap, that it still does: since, and until then at most.
    doubt: Option<(u64, u64)>,
}

impl Open {
    fn new(grant: Grant, from: u64) -> Self {
        Self { grant, pieces: vec![(from, None)], doubt: None }
    }

    fn close(&mut self, at: u64) {
        if let Some((_, until @ None)) = self.pieces.last_mut() {
            *until = Some(at);
        }
    }

    fn has(&self, at: u64) -> bool {
        let within = |&(from, until): &Piece| from <= at && until.is_none_or(|until| at <= until);
        self.pieces.iter().any(within)
            || self.doubt.is_some_and(|(from, until)| (from..=until).contains(&at))
    }

    fn holding(&self) -> Holding {
        let Grant { by, place, subscriber, subscriber_port, overlay, vni, .. } = self.grant;
        let by = match by {
            By::Block => "block",
            By::Fixed => "fixed",
            By::Session => "session",
        };
        let from = self.pieces.first().map_or(0, |(from, _)| *from);
        Holding {
            subscriber: subscriber.to_string(),
            subscriber_port: Some(subscriber_port).filter(|&port| port != 0),
            overlay: Some(overlay).filter(|&overlay| overlay != 0),
            vni: Some(vni).filter(|&vni| vni != 0),
            by: by.to_owned(),
            first: place.first,
            last: place.last,
            from: rfc3339(from),
            to: self.pieces.last().and_then(|(_, until)| *until).map(rfc3339),
            at_most_to: self.doubt.filter(|(from, until)| from < until).map(|it| rfc3339(it.1)),
        }
    }
}

/// What is known while records are read.
#[derive(Debug, Default)]
struct Reading {
    open: Vec<Open>,
    ended: Vec<Open>,
    /// Records of a state that are still to come.
    state: Option<(u64, u64)>,
    gaps: Vec<(u64, u64)>,
    oldest: Option<u64>,
    damaged: u64,
    newest: u64,
}

impl Reading {
    fn read(&mut self, record: &Record, question: Question) {
        let Record { kind, at, other, .. } = *record;
        self.oldest.get_or_insert(at);
        if kind != Kind::Held {
            self.newest = at;
        }
        let grant = record.grant.filter(|grant| concerns(grant, question));
        match kind {
            // What a natgate that ended in order held, the next one may have taken over.
            Kind::Segment | Kind::Alive | Kind::Stopped => {}
            Kind::Started => self.doubt_all(if other == 0 { at } else { other }, at),
            Kind::State => {
                self.doubt_all(at, at);
                self.state = Some((other, at));
            }
            Kind::Held | Kind::Got => {
                if let Some(grant) = grant {
                    self.gain(grant, at);
                }
            }
            Kind::Gave => {
                if let Some(place) = self.open.iter().position(|open| Some(open.grant) == grant) {
                    let mut open = self.open.swap_remove(place);
                    open.doubt = None;
                    open.close(at);
                    self.ended.push(open);
                }
            }
            Kind::ClockSet => {
                for open in &mut self.open {
                    open.close(other);
                    open.pieces.push((at, None));
                }
            }
            Kind::Gap => self.gaps.push((if other == 0 { at } else { other }, at)),
        }
        if let Some((left, since)) = self.state
            && (kind == Kind::Held || left == 0)
        {
            self.state = (left > 1).then_some((left - 1, since));
            if self.state.is_none() {
                self.drop_doubtful();
            }
        }
    }

    /// Somebody has it; maybe as before.
    fn gain(&mut self, grant: Grant, at: u64) {
        match self.open.iter_mut().find(|open| open.grant == grant) {
            Some(open) => open.doubt = None,
            None => self.open.push(Open::new(grant, at)),
        }
    }

    fn doubt_all(&mut self, since: u64, until: u64) {
        self.drop_doubtful();
        self.open.iter_mut().for_each(|open| open.doubt = Some((since, until)));
    }

    /// What nobody has confirmed has ended.
    fn drop_doubtful(&mut self) {
        let open = std::mem::take(&mut self.open).into_iter();
        let (doubtful, sure): (Vec<_>, _) = open.partition(|open| open.doubt.is_some());
        self.open = sure;
        self.ended.extend(doubtful.into_iter().map(|mut open| {
            open.close(open.doubt.map_or(0, |(since, _)| since));
            open
        }));
    }
}

fn concerns(grant: &Grant, question: Question) -> bool {
    let Question { public, port, protocol } = question;
    let ports = grant.place.first..=grant.place.last;
    grant.place.public == public
        && ports.contains(&port)
        && grant.protocol.is_none_or(|it| it == protocol.number())
}

/// Who had it at `at`, as the records in `directory` say. May take as long as it takes to read them all.
pub(crate) fn then(directory: &Path, question: Question, at: u64) -> io::Result<Answer> {
    let mut reading = Reading::default();
    for (_, path) in segments(directory)? {
        // It may have been forgotten meanwhile.
        let Ok(file) = File::open(&path) else { continue };
        let mut file = BufReader::with_capacity(LEN * 4096, file);
        let mut bytes = [0; LEN];
        loop {
            match file.read_exact(&mut bytes) {
                Ok(()) => {}
                // The last record may be torn, or on its way.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            }
            match Record::parse(&bytes) {
                Some(record) => reading.read(&record, question),
                None => reading.damaged += 1,
            }
        }
    }
    reading.drop_doubtful();
    let mut answer = Answer::to(question, at);
    answer.records_since = reading.oldest.map(rfc3339);
    let all = reading.open.iter().chain(&reading.ended).filter(|open| open.has(at));
    answer.holders = all.map(Open::holding).collect();
    answer.holders.sort_by(|a, b| a.from.cmp(&b.from));
    if reading.oldest.is_none_or(|oldest| at < oldest) {
        answer.notes.push("the records begin later".to_owned());
    }
    for (from, to) in reading.gaps.iter().filter(|(from, to)| (*from..=*to).contains(&at)) {
        let (from, to) = (rfc3339(*from), rfc3339(*to));
        answer.notes.push(format!("between {from} and {to} not everything was recorded"));
    }
    if reading.damaged > 0 {
        answer.notes.push(format!("{} records are damaged and left out", reading.damaged));
    }
    Ok(answer)
}
