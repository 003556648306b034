//! What may a `Gateway` say about what is recorded, and where?

use std::path::PathBuf;

use serde_json::json;

use crate::events::{AttributionSettings, FileSettings, IpfixCollector, Transport};

use super::ask::{ANY, COLLECTOR, PATH};
use super::field::{Field, Group, Schema};
use super::problem::Problems;

/// What is recorded, and where; validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Events {
    /// Sessions too, and not only port blocks.
    pub(crate) sessions: bool,
    /// The peers of sessions too (RFC 6888 REQ-12: they should not be).
    pub(crate) destinations: bool,
    /// Every entry as a line of JSON in a file.
    pub(crate) file: Option<FileSettings>,
    /// Who had which ports; `None`: nothing of it is kept.
    pub(crate) attribution: Option<AttributionSettings>,
    /// Records of IPFIX to a collector.
    pub(crate) ipfix: Option<IpfixCollector>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            sessions: false,
            destinations: false,
            file: None,
            attribution: Some(AttributionSettings::default()),
            ipfix: None,
        }
    }
}

impl Events {
    /// As an object says it, nothing left out.
    pub(crate) fn spec(&self) -> serde_json::Value {
        let file = self
            .file
            .as_ref()
            .map(|file| json!({"path": file.path, "maxBytes": file.max_bytes, "keep": file.keep}));
        let attribution = self.attribution.map_or(
            json!(false),
            |kept| json!({"maxBytes": kept.max_bytes, "keepDays": kept.keep_days}),
        );
        json!({
            "sessions": self.sessions,
            "destinations": self.destinations,
            "file": file,
            "attribution": attribution,
            "ipfix": self.ipfix.as_ref().map(collector_spec),
        })
    }

    /// What it says, on one line.
    pub(crate) fn line(&self) -> String {
        let recorded = match (self.sessions, self.destinations) {
            (false, _) => "port blocks, no sessions",
            (true, false) => "port blocks and sessions, without peers",
            (true, true) => "port blocks and sessions, with peers",
        };
        let file = self.file.as_ref().map(|file| {
            let most = binary(file.max_bytes);
            format!("; in {}, {most}, {} kept", file.path.display(), file.keep)
        });
        let past = match self.attribution {
            Some(AttributionSettings { max_bytes, keep_days }) => {
                format!("; for `who` {keep_days} days, {}", binary(max_bytes))
            }
            None => "; nothing for `who` of the past".to_owned(),
        };
        let ipfix = self.ipfix.as_ref().map(|to| {
            let transport = TRANSPORTS.iter().find(|(_, it)| *it == to.transport);
            format!("; to {} by {}", to.address, transport.map_or("", |(name, _)| name))
        });
        format!("{recorded}{}{}{past}", file.unwrap_or_default(), ipfix.unwrap_or_default())
    }
}

/// Bytes in the largest unit that they are a whole number of; the space does not break.
fn binary(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole =
        units.iter().find(|(bits, _)| bytes >= 1 << bits && bytes.is_multiple_of(1 << bits));
    whole.map_or_else(
        || format!("{bytes}\u{a0}bytes"),
        |(bits, unit)| format!("{}\u{a0}{unit}", bytes >> bits),
    )
}

const EVENTS: Schema = Schema {
    of: "events",
    known: &["sessions", "destinations", "file", "attribution", "ipfix"],
    later: &[],
};
const FILE: Schema = Schema { of: "file", known: &["path", "maxBytes", "keep"], later: &[] };
const ATTRIBUTION: Schema =
    Schema { of: "attribution", known: &["maxBytes", "keepDays"], later: &[] };
const IPFIX: Schema = Schema {
    of: "ipfix",
    known: &[
        "collector",
        "transport",
        "insecure",
        "ca",
        "serverName",
        "certificate",
        "key",
        "observationDomain",
    ],
    later: &[],
};
const TRANSPORTS: [(&str, Transport); 3] =
    [("tls", Transport::Tls), ("tcp", Transport::Tcp), ("udp", Transport::Udp)];
/// Where Debian keeps the certificates of public authorities.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Sizes of files: less is rotated all the time.
const BYTES: std::ops::RangeInclusive<u32> = 65_536..=u32::MAX;

/// Reads `events` of a `Gateway`.
pub(super) fn read(gateway: &Group<'_>, problems: &mut Problems) -> Events {
    let mut events = Events::default();
    let group = gateway.get("events").and_then(|field| field.group(&EVENTS, problems));
    let Some(group) = group else { return events };
    let truths = [("sessions", &mut events.sessions), ("destinations", &mut events.destinations)];
    for (name, target) in truths {
        if let Some(truth) = group.get(name).and_then(|field| field.truth(problems)) {
            *target = truth;
        }
    }
    events.file = group.get("file").and_then(|field| read_file(field, problems));
    if let Some(field) = group.get("attribution") {
        events.attribution = read_attribution(field, problems);
    }
    events.ipfix = group.get("ipfix").and_then(|field| read_collector(field, problems));
    if events.destinations && !events.sessions {
        let why = "peers are recorded with sessions, and those are not";
        let remedy = "write sessions: true as well, or leave destinations out";
        problems.error(&group.place, "contradictory settings", why, remedy);
    }
    events
}

fn read_file(field: &Field<'_>, problems: &mut Problems) -> Option<FileSettings> {
    let group = field.group(&FILE, problems)?;
    let remedy = "write for example path: /var/log/natgate/events.json";
    let path = group.required("path", remedy, problems);
    let path = path.and_then(|field| absolute(field, problems));
    let number = |name: &str, range, default, problems: &mut Problems| {
        let field = group.get(name);
        field.and_then(|field| field.number::<u32>(range, problems)).unwrap_or(default)
    };
    let max_bytes = number("maxBytes", BYTES, 64 << 20, problems).into();
    let keep = number("keep", 0..=1_000, 5, problems);
    Some(FileSettings { path: path?, max_bytes, keep })
}

fn read_attribution(field: &Field<'_>, problems: &mut Problems) -> Option<AttributionSettings> {
    if field.is_false(problems) {
        return None;
    }
    let group = field.group(&ATTRIBUTION, problems)?;
    let mut kept = AttributionSettings::default();
    if let Some(bytes) = group.get("maxBytes").and_then(|field| field.number(BYTES, problems)) {
        kept.max_bytes = bytes.into();
    }
    if let Some(days) = group.get("keepDays").and_then(|field| field.number(1..=3_650, problems)) {
        kept.keep_days = days;
    }
    Some(kept)
}

fn absolute(field: &Field<'_>, problems: &mut Problems) -> Option<PathBuf> {
    let text = field.text(&PATH, problems)?;
    if text.starts_with('/') {
        return Some(PathBuf::from(text));
    }
    let why = format!("{text:?} is not an absolute path");
    problems.error(&field.place(), "bad path", why, "write a path that begins with /");
    None
}

fn read_collector(field: &Field<'_>, problems: &mut Problems) -> Option<IpfixCollector> {
    let group = field.group(&IPFIX, problems)?;
    let remedy = "write for example collector: ipfix.example.net:4740";
    let field = group.required("collector", remedy, problems);
    let address = field.and_then(|field| {
        let address = field.text(&COLLECTOR, problems)?;
        let (host, port) = address.rsplit_once(':').unwrap_or_default();
        if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) {
            return Some(address.to_owned());
        }
        let why = format!("{address:?} is not a host and a port");
        problems.error(&field.place(), "bad collector", why, remedy);
        None
    });
    let transport = group.get("transport").and_then(|field| field.choice(&TRANSPORTS, problems));
    let transport = transport.unwrap_or(Transport::Tls);
    let insecure = group.get("insecure").and_then(|field| field.truth(problems)).unwrap_or(false);
    if transport != Transport::Tls && !insecure {
        let why =
            "records of who had which address would travel in clear text (RFC 8158 section 7)";
        let remedy = "leave transport out for TLS, or write insecure: true as well";
        problems.error(&group.place, "insecure transport", why, remedy);
    }
    let mut path = |name| group.get(name).and_then(|field| absolute(field, problems));
    let (ca, certificate, key) = (path("ca"), path("certificate"), path("key"));
    if certificate.is_some() != key.is_some() {
        let why = "a certificate needs its key, and a key its certificate";
        problems.error(&group.place, "contradictory settings", why, "give both, or none");
    }
    let server_name = group.get("serverName").and_then(|field| field.text(&ANY, problems));
    let domain = group.get("observationDomain");
    let domain = domain.and_then(|field| field.number::<u32>(1..=u32::MAX, problems)).unwrap_or(1);
    Some(IpfixCollector {
        address: address?,
        transport,
        ca: ca.unwrap_or_else(|| PathBuf::from(AUTHORITIES)),
        server_name: server_name.map(str::to_owned),
        certificate: certificate.zip(key),
        domain,
    })
}

fn collector_spec(to: &IpfixCollector) -> serde_json::Value {
    let transport = TRANSPORTS.iter().find(|(_, it)| *it == to.transport);
    json!({
        "collector": to.address,
        "transport": transport.map(|(name, _)| name),
        "insecure": to.transport != Transport::Tls,
        "ca": to.ca,
        "serverName": to.server_name,
        "certificate": to.certificate.as_ref().map(|(certificate, _)| certificate),
        "key": to.certificate.as_ref().map(|(_, key)| key),
        "observationDomain": to.domain,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_told_in_the_largest_unit_that_it_is_a_whole_number_of() {
        for (bytes, expected) in [
            (64 << 20, "64\u{a0}MiB"),
            (2 << 30, "2\u{a0}GiB"),
            (3 << 9, "1536\u{a0}bytes"),
            (1 << 10, "1\u{a0}KiB"),
        ] {
            assert_eq!(binary(bytes), expected);
        }
    }
}
