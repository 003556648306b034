//! Which flow is meant? As an operator types it.

use std::net::Ipv4Addr;

use conntrack::{Endpoint, Protocol};
use serde::Deserialize;

/// The query of `/v1/explain`, as it came.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    /// Who sends: ADDRESS or ADDRESS:PORT.
    from: Option<String>,
    /// To whom: ADDRESS:PORT, ADDRESS:PORT/udp, ADDRESS/icmp and the like.
    to: Option<String>,
    /// It arrives by the tunnel with this number.
    vni: Option<String>,
}

/// A flow that somebody asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// Its protocol.
    pub(crate) protocol: Protocol,
    /// Who sends; port 0: any.
    pub(crate) from: Endpoint,
    /// To whom.
    pub(crate) to: Endpoint,
    /// It arrives by the tunnel with this number.
    pub(crate) vni: Option<u32>,
}

impl Question {
    /// Reads a query; or what is wrong with it.
    pub(crate) fn read(asked: &Asked) -> Result<Self, String> {
        let missing = |field: &str, example: &str| {
            format!("missing value ({field}): both ends of a flow are needed; write {example}")
        };
        let from = asked.from.as_deref();
        let from = from.ok_or_else(|| missing("from", "from=10.244.1.7"))?;
        let to = asked.to.as_deref();
        let to = to.ok_or_else(|| missing("to", "to=192.0.2.80:443/tcp"))?;
        let vni = asked.vni.as_deref().map(|text| {
            text.parse()
                .map_err(|_| bad("vni", text, "it is no number", "a number from 0 to 16777215"))
        });
        Self::parse(from, to, vni.transpose()?)
    }

    /// Reads `from`, as `ADDRESS[:PORT]`, and `to`, as `ADDRESS[:PORT][/PROTOCOL]`; or what is wrong with them.
    pub(crate) fn parse(from: &str, to: &str, vni: Option<u32>) -> Result<Self, String> {
        let (target, protocol) = match to.split_once('/') {
            Some((target, name)) => (target, Some(name)),
            None => (to, None),
        };
        let (source, sender_port) =
            endpoint(from).map_err(|why| bad("from", from, why, "ADDRESS or ADDRESS:PORT"))?;
        let (destination, port) = endpoint(target)
            .map_err(|why| bad("to", to, why, "ADDRESS:PORT, ADDRESS:PORT/udp or ADDRESS/icmp"))?;
        let protocol = match protocol {
            Some(name) => read_protocol(name).ok_or_else(|| {
                bad(
                    "to",
                    to,
                    "there is no such protocol",
                    "/tcp, /udp, /icmp or a number up to /255",
                )
            })?,
            None if port.is_some() => Protocol::Tcp,
            None => Protocol::Icmp,
        };
        let has_ports = matches!(protocol, Protocol::Tcp | Protocol::Udp);
        if has_ports && port.is_none() {
            return Err(bad("to", to, "there is no port", "one, as ADDRESS:443"));
        }
        if !has_ports && port.is_some() {
            return Err(bad("to", to, "this protocol has no ports", "an address alone"));
        }
        if sender_port.is_some() && matches!(protocol, Protocol::Other(_)) {
            return Err(bad("from", from, "this protocol has no ports", "an address alone"));
        }
        let from = Endpoint::new(source, sender_port.unwrap_or(0));
        Ok(Self { protocol, from, to: Endpoint::new(destination, port.unwrap_or(0)), vni })
    }
}

fn bad(field: &str, value: &str, why: &str, remedy: &str) -> String {
    format!("bad value {value:?} ({field}): {why}; give {remedy}")
}

/// An address, and its port if it has one; or what is wrong with it.
fn endpoint(text: &str) -> Result<(Ipv4Addr, Option<u16>), &'static str> {
    let address = |text: &str| text.parse().map_err(|_| "it has no IPv4 address");
    match text.split_once(':') {
        None => Ok((address(text)?, None)),
        Some((before, port)) => {
            let port = port.parse().ok().filter(|&port| port != 0);
            Ok((address(before)?, Some(port.ok_or("its port is not from 1 to 65535")?)))
        }
    }
}

fn read_protocol(name: &str) -> Option<Protocol> {
    let named = Protocol::ALL.into_iter().find(|protocol| protocol.name() == name);
    named.or_else(|| name.parse().ok().map(Protocol::from_number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(from: &str, to: &str) -> Result<(Protocol, String, String), String> {
        let Question { protocol, from, to, .. } = Question::parse(from, to, None)?;
        Ok((protocol, from.to_string(), to.to_string()))
    }

    #[test]
    fn flows_are_read_as_they_are_typed() {
        let flow = |protocol, from: &str, to: &str| Ok((protocol, from.into(), to.into()));
        assert_eq!(
            read("10.0.0.1", "192.0.2.1:443"),
            flow(Protocol::Tcp, "10.0.0.1:0", "192.0.2.1:443")
        );
        assert_eq!(
            read("10.0.0.1:99", "192.0.2.1:53/udp"),
            flow(Protocol::Udp, "10.0.0.1:99", "192.0.2.1:53")
        );
        for to in ["192.0.2.1", "192.0.2.1/icmp"] {
            assert_eq!(read("10.0.0.1", to), flow(Protocol::Icmp, "10.0.0.1:0", "192.0.2.1:0"));
        }
        assert_eq!(
            read("10.0.0.1", "192.0.2.1/47"),
            flow(Protocol::Other(47), "10.0.0.1:0", "192.0.2.1:0")
        );
    }

    #[test]
    fn what_is_no_flow_is_refused_with_a_remedy() {
        for (from, to, expected) in [
            ("10.0.0", "192.0.2.1:1", "\"10.0.0\" (from): it has no IPv4 address; give ADDRESS or"),
            ("10.0.0.1:0", "192.0.2.1:1", "(from): its port is not from 1 to 65535; give"),
            (
                "10.0.0.1",
                "name:443",
                "\"name:443\" (to): it has no IPv4 address; give ADDRESS:PORT",
            ),
            ("10.0.0.1", "192.0.2.1/udp", "\"192.0.2.1/udp\" (to): there is no port; give one"),
            ("10.0.0.1", "192.0.2.1:1/icmp", "this protocol has no ports; give an address alone"),
            ("10.0.0.1:5", "192.0.2.1/47", "(from): this protocol has no ports; give an address"),
            ("10.0.0.1", "192.0.2.1:1/carp", "no such protocol; give /tcp, /udp, /icmp or a"),
            ("10.0.0.1", "192.0.2.1:65536", "(to): its port is not from 1 to 65535; give"),
        ] {
            let error = read(from, to).unwrap_err();
            assert!(error.contains(expected), "{from} {to}: {error}");
        }
        let missing = Question::read(&Asked::default()).unwrap_err();
        assert!(missing.ends_with("; write from=10.244.1.7"), "{missing}");
    }
}
