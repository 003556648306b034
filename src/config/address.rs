//! How are addresses, ranges of them, prefixes and ports written?

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};

/// Why a text is refused, and what to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) why: String,
    pub(crate) remedy: String,
}

fn refuse<T>(why: impl Into<String>, remedy: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { why: why.into(), remedy: remedy.into() })
}

/// Consecutive addresses: `A`, `A-B` or `A/N`, every address of which is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AddressRange {
    first: u32,
    last: u32,
}

impl AddressRange {
    /// The first address.
    pub(crate) fn first(self) -> Ipv4Addr {
        self.first.into()
    }

    /// The last address.
    pub(crate) fn last(self) -> Ipv4Addr {
        self.last.into()
    }

    /// How many addresses.
    pub(crate) fn len(self) -> u64 {
        u64::from(self.last - self.first) + 1
    }

    /// All addresses, in order.
    pub(crate) fn addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        (self.first..=self.last).map(Ipv4Addr::from)
    }

    /// Whether `address` is one of them.
    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address.into())
    }

    /// The addresses that both have.
    pub(crate) fn overlap(self, other: Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first <= last).then_some(Self { first, last })
    }
}

impl From<Ipv4Net> for AddressRange {
    fn from(net: Ipv4Net) -> Self {
        Self { first: net.network().into(), last: net.broadcast().into() }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first())?;
        if self.first != self.last {
            write!(f, "-{}", self.last())?;
        }
        Ok(())
    }
}

const POOL_FORMS: &str =
    "write an address (192.0.2.1), a range (192.0.2.1-192.0.2.9) or a prefix (192.0.2.0/28)";

impl FromStr for AddressRange {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let bad = || Refusal { why: not_an_address(text), remedy: POOL_FORMS.to_owned() };
        let address = |part: &str| part.trim().parse::<Ipv4Addr>().map_err(|_| bad());
        if text.contains('/') {
            return prefix(text)
                .map(Self::from)
                .map_err(|refusal| if text.parse::<Ipv4Net>().is_ok() { refusal } else { bad() });
        }
        let Some((first, last)) = text.split_once('-') else {
            let only = address(text)?.into();
            return Ok(Self { first: only, last: only });
        };
        let (first, last) = (address(first)?, address(last)?);
        if first > last {
            let why = format!("the range {text} ends before it begins");
            return refuse(why, format!("write {last}-{first}"));
        }
        Ok(Self { first: first.into(), last: last.into() })
    }
}

fn not_an_address(text: &str) -> String {
    let is_v6 = |part: &str| part.parse::<Ipv6Addr>().is_ok() || part.parse::<Ipv6Net>().is_ok();
    if is_v6(text) || text.split_once('-').is_some_and(|(first, _)| is_v6(first)) {
        return format!("{text:?} is IPv6, which is not in this version of natgate");
    }
    format!("{text:?} is not an IPv4 address, range or prefix")
}

/// Reads `A/N` without host bits.
pub(crate) fn prefix(text: &str) -> Result<Ipv4Net, Refusal> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return refuse(format!("{text} has no prefix length"), format!("write {address}/32"));
    }
    let Ok(net) = text.parse::<Ipv4Net>() else {
        return refuse(not_an_address(text), "write a prefix such as 10.244.0.0/16");
    };
    if net.trunc() != net {
        let (meant, address) = (net.trunc(), net.addr());
        let why = format!("{text} has bits set behind its length of {}", net.prefix_len());
        return refuse(why, format!("write {meant}, or {address}/32 for that address alone"));
    }
    Ok(net)
}

/// Ranges that no address of a pool and no pod may be in, and what they are.
const NOT_UNICAST: [(&str, [u8; 4], u8); 5] = [
    ("\"this network\"", [0, 0, 0, 0], 8),
    ("loopback", [127, 0, 0, 0], 8),
    ("link-local", [169, 254, 0, 0], 16),
    ("multicast", [224, 0, 0, 0], 4),
    ("reserved or broadcast", [240, 0, 0, 0], 4),
];

/// The range of `NOT_UNICAST` that `range` touches: its name and prefix.
pub(super) fn not_unicast(range: AddressRange) -> Option<(&'static str, Ipv4Net)> {
    NOT_UNICAST
        .iter()
        .map(|&(name, octets, length)| (name, Ipv4Net::new_assert(octets.into(), length)))
        .find(|&(_, net)| range.overlap(net.into()).is_some())
}

/// Reads `P` or `P-Q`, ports from 1 to 65,535.
pub(crate) fn ports(text: &str) -> Result<RangeInclusive<u16>, Refusal> {
    let bad = || Refusal {
        why: format!("{text:?} is not a port or a range of ports from 1 to 65535"),
        remedy: "write a port (443) or a range (8000-8100)".to_owned(),
    };
    let port = |part: &str| part.trim().parse::<u16>().ok().filter(|&p| p > 0).ok_or_else(bad);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        let why = format!("the range {text} ends before it begins");
        return refuse(why, format!("write {last}-{first}"));
    }
    Ok(first..=last)
}
