//! Which packets are meant, and how many?

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use dataplane::DropReason;
use dataplane::capture::CaptureFilter;
use ipnet::Ipv4Net;
use serde::Deserialize;

/// The query of `/v1/capture`, as it came.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    /// Only what is dropped, for this reason if it is not empty.
    drops: Option<String>,
    /// One end, before or after translation: address or prefix.
    from: Option<String>,
    /// The other end.
    to: Option<String>,
    /// Packets at most.
    count: Option<String>,
    /// Seconds at most.
    seconds: Option<String>,
    /// Bytes of each packet at most.
    snap: Option<String>,
    /// Packets a second at most, of each worker.
    rate: Option<String>,
}

/// What is captured, within bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) filter: CaptureFilter,
    /// Packets at most.
    pub(crate) count: u64,
    /// For so long at most.
    pub(crate) time: Duration,
    /// Bytes of each packet at most.
    pub(crate) snap: usize,
    /// Packets a second at most, of each worker.
    pub(crate) rate: u32,
}

impl Wanted {
    /// Reads a query; or what is wrong with it.
    pub(crate) fn read(asked: &Asked) -> Result<Self, String> {
        let net = |field: &str, text: &Option<String>| {
            text.as_deref().map(|text| prefix(field, text)).transpose()
        };
        let reason = match asked.drops.as_deref() {
            None | Some("") => None,
            Some(name) => Some(reason(name)?),
        };
        let filter = CaptureFilter {
            from: net("from", &asked.from)?,
            to: net("to", &asked.to)?,
            drops: asked.drops.is_some(),
            reason,
        };
        Ok(Self {
            filter,
            count: number("count", asked.count.as_deref(), 10_000, 1..=1_000_000)?,
            time: Duration::from_secs(number("seconds", asked.seconds.as_deref(), 60, 1..=540)?),
            snap: number("snap", asked.snap.as_deref(), 256, 34..=4_096)?,
            rate: number("rate", asked.rate.as_deref(), 10_000, 1..=100_000)?,
        })
    }
}

fn prefix(field: &str, text: &str) -> Result<Ipv4Net, String> {
    let net =
        text.parse().ok().or_else(|| Some(Ipv4Net::from(text.parse::<std::net::Ipv4Addr>().ok()?)));
    net.ok_or_else(|| format!("bad value {text:?} ({field}): it is no IPv4 address or prefix; give one such as 10.244.0.0/16"))
}

fn reason(name: &str) -> Result<DropReason, String> {
    let found = DropReason::ALL.iter().find(|reason| reason.name() == name);
    found.copied().ok_or_else(|| {
        format!("bad value {name:?} (drops): there is no such reason; give one that 'natgate drops --all' names")
    })
}

fn number<T>(
    field: &str,
    text: Option<&str>,
    default: T,
    range: RangeInclusive<T>,
) -> Result<T, String>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    let Some(text) = text else { return Ok(default) };
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let (first, last) = (range.start(), range.end());
        let why = format!("it is no number from {first} to {last}; give one");
        format!("bad value {text:?} ({field}): {why}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Wanted, String> {
        Wanted::read(&serde_urlencoded::from_str(query).unwrap())
    }

    #[test]
    fn everything_has_a_bound() {
        let all = read("").unwrap();
        assert_eq!((all.count, all.time.as_secs(), all.snap, all.rate), (10_000, 60, 256, 10_000));
        assert_eq!(all.filter, CaptureFilter::default());
        let some =
            read("drops=no-rule&from=10.0.0.0/8&to=192.0.2.1&count=5&seconds=2&snap=64").unwrap();
        assert_eq!(some.filter.reason, Some(DropReason::NoRule));
        assert_eq!(some.filter.to.unwrap().to_string(), "192.0.2.1/32");
        assert!(read("drops=").unwrap().filter.drops);
        for (query, expected) in [
            ("drops=rain", "bad value \"rain\" (drops): there is no such reason; give"),
            ("from=here", "bad value \"here\" (from): it is no IPv4 address or prefix; give one"),
            ("count=0", "bad value \"0\" (count): it is no number from 1 to 1000000; give one"),
            ("seconds=541", "(seconds): it is no number from 1 to 540; give"),
            ("snap=33", "(snap): it is no number from 34 to 4096; give"),
            ("rate=x", "(rate): it is no number from 1 to 100000; give"),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.contains(expected), "{query}: {error}");
        }
    }
}
