//! What has happened, and who is told? One journal of all events, numbered without gaps, and everybody who follows it.
//!
//! Workers write records into a ring each ([`dataplane::Worker::record_to`]) and never wait; one thread ([`collect`])
//! takes them, numbers them and keeps the newest in memory ([`Journal`]). Whoever follows ([`Journal::read`]) has a place
//! in the journal of its own. A follower that is too slow finds a gap, with its first and last number; records that a
//! worker had no room for are an entry of their own. So nothing is lost silently.

mod clock;
mod collect;
mod entry;
mod ipfix;
mod journal;
mod json_lines;
mod sink;
#[cfg(test)]
mod sink_tests;
#[cfg(test)]
mod tests;
mod time;
mod who;

pub(crate) use clock::unix_ms;
pub(crate) use collect::{Before, Collector, Rings, held_blocks};
pub(crate) use entry::{Crash, Happening, Row};
pub(crate) use ipfix::{Collector as IpfixCollector, Transport};
pub(crate) use journal::{Batch, Journal};
pub(crate) use sink::{Running, SinkCounts};
pub(crate) use time::{parse_time, rfc3339};
pub(crate) use who::{Answer, Holding, Question, SessionNow};

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conntrack::Protocol;

/// Where JSON lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileSettings {
    /// The file.
    pub(crate) path: PathBuf,
    /// It is moved away when it has so many bytes.
    pub(crate) max_bytes: u64,
    /// So many of those that were moved away are kept.
    pub(crate) keep: u32,
}

impl FileSettings {
    /// Starts to write there.
    pub(crate) fn start(&self, journal: &Arc<Journal>) -> io::Result<Running> {
        let Self { path, max_bytes, keep } = self;
        let sink = json_lines::JsonLines::new(path, *max_bytes, *keep);
        Running::start("file", sink, Arc::clone(journal))
    }
}

impl IpfixCollector {
    /// Starts to send there.
    pub(crate) fn start(&self, journal: &Arc<Journal>) -> io::Result<Running> {
        Running::start("ipfix", ipfix::Exporter::new(self.clone()), Arc::clone(journal))
    }
}

/// How long records of who had which ports are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttributionSettings {
    /// Bytes at most.
    pub(crate) max_bytes: u64,
    /// For so many days at most.
    pub(crate) keep_days: u32,
}

impl Default for AttributionSettings {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, keep_days: 30 }
    }
}

/// Where the records of who had which ports are.
fn attribution(state_dir: &Path) -> PathBuf {
    state_dir.join(who::DIRECTORY)
}

impl AttributionSettings {
    /// Starts to keep them below `state_dir`.
    pub(crate) fn start(self, state_dir: &Path, journal: &Arc<Journal>) -> io::Result<Running> {
        let keep = Duration::from_secs(86_400 * u64::from(self.keep_days));
        let sink = who::Attribution::new(&attribution(state_dir), self.max_bytes, keep);
        Running::start("who", sink, Arc::clone(journal))
    }
}

/// Who has, or had, a public endpoint at a time?
#[derive(Debug)]
pub(crate) struct Who {
    journal: Arc<Journal>,
    /// Where records of the past are; `None`: nowhere.
    directory: Option<PathBuf>,
}

impl Who {
    /// From `journal` for now, and from what is kept below `state_dir` for the past.
    pub(crate) fn new(journal: Arc<Journal>, state_dir: Option<&Path>) -> Self {
        Self { journal, directory: state_dir.map(attribution) }
    }

    /// The answer for `at`, or for now. Reads files, and may take a while.
    pub(crate) fn answer(&self, question: Question, at: Option<u64>) -> Result<Answer, String> {
        let now = unix_ms();
        let Some(at) = at.filter(|&at| at < now) else {
            let mut answer = who::now(&self.journal, question, now);
            if let (false, Some(directory)) = (answer.holders.is_empty(), &self.directory)
                && let Ok(recorded) = who::then(directory, question, now, now)
            {
                // Of before a restart only the records know.
                answer.take_beginnings(&recorded);
            }
            return Ok(answer);
        };
        let directory = self.directory.as_ref().ok_or(
            "no records (Gateway spec.events.attribution): none of the past are kept; allow them, or ask without a time",
        )?;
        who::then(directory, question, at, now).map_err(|error| {
            let place = directory.display();
            format!("cannot read the records of the past ({place}): {error}; see natgate's log")
        })
    }
}

/// `A.B.C.D:PORT`, with `/udp` and the like behind it; TCP without.
pub(crate) fn parse_question(text: &str) -> Result<Question, String> {
    let bad = |why: &str| {
        let remedy = "write for example 203.0.113.7:40123 or 203.0.113.7:53/udp";
        format!("bad value {text:?} (endpoint): {why}; {remedy}")
    };
    let (endpoint, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = Protocol::ALL.into_iter().find(|it| it.name() == protocol);
    let protocol = protocol.ok_or_else(|| bad("its protocol is not tcp, udp or icmp"))?;
    let (public, port) = endpoint.split_once(':').ok_or_else(|| bad("it has no port"))?;
    let public: Ipv4Addr = public.parse().map_err(|_| bad("it has no IPv4 address"))?;
    let port = port.parse().map_err(|_| bad("its port is not from 0 to 65535"))?;
    Ok(Question { public, port, protocol })
}
