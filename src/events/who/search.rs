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
#[cfg_attr(test, derive(schemars::JsonSchema))]
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

/// A session that has the endpoint now, where pods share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct SessionNow {
    /// The pod's address.
    pub(crate) subscriber: String,
    /// The pod's port.
    pub(crate) subscriber_port: u16,
    /// The overlay of the pod, unless it is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) overlay: Option<u16>,
    /// The peer outside.
    pub(crate) remote: String,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    /// Sessions that have it now, if pods share it, 64 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sessions: Vec<SessionNow>,
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

    /// Takes over since when those who have it now have it, where records know more: of before a restart.
    pub(crate) fn take_beginnings(&mut self, recorded: &Self) {
        for holder in &mut self.holders {
            let same = |it: &&Holding| {
                // Of one form, so that they can be compared.
                let before = it.to.is_none() && it.from < holder.from;
                before && Holding { from: holder.from.clone(), ..(*it).clone() } == *holder
            };
            if let Some(known) = recorded.holders.iter().find(same) {
                holder.from.clone_from(&known.from);
            }
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

    /// Whether it has, or had, it at `at`, as far as is known at `now`: where the clock was set back, `at` may be later.
    fn has(&self, at: u64, now: u64) -> bool {
        let within = |&(from, until): &Piece| (from..=until.unwrap_or(now)).contains(&at);
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
        let known = self.open.iter().position(|open| open.grant == grant);
        match known.map(|place| (place, self.open[place].doubt)) {
            // What goes on after a restart is confirmed at its very beginning: this is another time.
            Some((place, Some((since, until)))) if at > until => {
                self.open[place].close(since);
                self.ended.push(self.open.swap_remove(place));
                self.open.push(Open::new(grant, at));
            }
            Some((place, _)) => self.open[place].doubt = None,
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

/// Who had it at `at`, as the records in `directory` say at `now`. May take as long as it takes to read them all.
pub(crate) fn then(directory: &Path, question: Question, at: u64, now: u64) -> io::Result<Answer> {
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
    let all = reading.open.iter().chain(&reading.ended).filter(|open| open.has(at, now));
    answer.holders = all.map(Open::holding).collect();
    answer.holders.sort_by(|a, b| a.from.cmp(&b.from));
    if reading.oldest.is_none_or(|oldest| at < oldest) {
        answer.notes.push("the records begin later than the time that was asked about".to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::entry::Place;

    const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
    const QUESTION: Question = Question { public: PUBLIC, port: 8_001, protocol: Protocol::Udp };

    fn got(at: u64) -> Record {
        let grant = Grant {
            by: By::Block,
            protocol: None,
            place: Place { public: PUBLIC, first: 8_000, last: 8_063 },
            subscriber: Ipv4Addr::new(10, 244, 1, 7),
            subscriber_port: 0,
            overlay: 0,
            vni: 0,
        };
        Record { kind: Kind::Got, at, other: 0, grant: Some(grant) }
    }

    /// Got at 2 s; natgate stopped at 5 s and started at 6 s, and the pod has the block again at `again`.
    fn restarted(again: u64) -> Reading {
        let mut reading = Reading::default();
        let bare = Record::bare;
        for record in [
            bare(Kind::Segment, 1_000, 0),
            bare(Kind::Started, 1_000, 0),
            got(2_000),
            bare(Kind::Stopped, 5_000, 0),
            bare(Kind::Segment, 6_000, 0),
            bare(Kind::Started, 6_000, 5_000),
            got(again),
        ] {
            reading.read(&record, QUESTION);
        }
        reading.drop_doubtful();
        reading
    }

    #[test]
    fn what_lives_on_after_a_restart_began_before_it() {
        let reading = restarted(6_000);
        assert_eq!((reading.open.len(), reading.ended.len()), (1, 0), "{reading:?}");
        assert_eq!(reading.open[0].pieces, [(2_000, None)]);
        // Who happens to get the same block later began anew.
        let reading = restarted(7_000);
        assert_eq!(reading.open[0].pieces, [(7_000, None)], "{reading:?}");
        assert_eq!(reading.ended[0].pieces, [(2_000, Some(5_000))], "{reading:?}");
    }

    #[test]
    fn a_beginning_is_taken_from_records_of_the_same_holder() {
        let holding = |at| restarted(at).open[0].holding();
        let recorded = Answer { holders: vec![holding(6_000)], ..Answer::default() };
        let now = Holding { from: rfc3339(6_000), ..holding(6_000) };
        let other = Holding { subscriber: "10.244.1.8".into(), ..now.clone() };
        let mut answer = Answer { holders: vec![now, other], ..Answer::default() };
        answer.take_beginnings(&recorded);
        let from: Vec<&str> = answer.holders.iter().map(|it| it.from.as_str()).collect();
        assert_eq!(from, [rfc3339(2_000), rfc3339(6_000)]);
    }
}
