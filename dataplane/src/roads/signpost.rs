//! Which routing table decides about a packet? The kernel's rules (`ip rule`).

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Denial, Journey, Roads, Route};
use crate::interface::InterfaceId;

/// Multicast and the limited broadcast address are never forwarded (RFC 1812 5.2.3 and 5.3.5).
static NEVER_FORWARDED: Route = Route::Local;
static DENIALS: [Route; 3] = [
    Route::Denied(Denial::Blackhole),
    Route::Denied(Denial::Unreachable),
    Route::Denied(Denial::Prohibit),
];

/// A rule of `ip rule`: which packets it means, and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signpost {
    /// Where packets may have arrived.
    pub arrival: Arrival,
    /// Sources.
    pub from: Ipv4Net,
    /// Destinations.
    pub to: Ipv4Net,
    /// It means the packets that it does not describe.
    pub inverted: bool,
    /// Where they go.
    pub towards: Towards,
}

/// The arrivals that a rule means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// All.
    Anywhere,
    /// By this interface.
    At(InterfaceId),
    /// By an interface that natgate does not serve.
    Elsewhere,
}

/// Where a rule sends packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// To a table, by its index, unless its answer is a prefix of this length or a shorter one.
    Table(usize, Option<u8>),
    /// Nowhere.
    Denied(Denial),
    /// As if no route were there.
    NoRoute,
    /// To a rule further down, by its index.
    Signpost(usize),
    /// On to the next rule.
    Next,
    /// natgate can't tell which packets it means and passes it by; the kernel may ask this table, by its index.
    Unclear(usize),
}

impl Signpost {
    /// All packets ask `table`.
    pub fn to_table(table: usize) -> Self {
        Self {
            arrival: Arrival::Anywhere,
            from: Ipv4Net::default(),
            to: Ipv4Net::default(),
            inverted: false,
            towards: Towards::Table(table, None),
        }
    }

    /// Whether it means every packet to `destination`, whoever sent it.
    fn means_all_to(&self, destination: Ipv4Addr) -> bool {
        let all = self.arrival == Arrival::Anywhere && self.from.prefix_len() == 0;
        !self.inverted && all && self.to.contains(&destination)
    }

    /// Whether it means some packets to `destination`.
    fn means_some_to(&self, destination: Ipv4Addr) -> bool {
        self.inverted || self.to.contains(&destination)
    }

    #[inline]
    fn means(&self, journey: &Journey) -> bool {
        let arrival = match self.arrival {
            Arrival::Anywhere => true,
            Arrival::At(interface) => journey.arrival == Some(interface),
            Arrival::Elsewhere => false,
        };
        let described = arrival
            && self.from.contains(&journey.source)
            && self.to.contains(&journey.destination);
        described != self.inverted
    }
}

impl Roads {
    /// The route that decides about a packet.
    pub fn route(&self, journey: &Journey) -> Option<&Route> {
        if journey.destination.is_multicast() || journey.destination.is_broadcast() {
            return Some(&NEVER_FORWARDED);
        }
        if journey.overlay != 0 {
            let (_, table) =
                self.overlays.iter().find(|(overlay, _)| *overlay == journey.overlay)?;
            return self.look_up(*table, None, journey.destination).map(|(_, route)| route);
        }
        let mut next = 0;
        while let Some(signpost) = self.signposts.get(next) {
            next += 1;
            if !signpost.means(journey) {
                continue;
            }
            match signpost.towards {
                Towards::Table(table, suppressed) => {
                    let found = self.look_up(table, suppressed, journey.destination);
                    if let Some((_, route)) = found {
                        return Some(route);
                    }
                }
                Towards::Denied(denial) => return Some(&DENIALS[denial as usize]),
                Towards::NoRoute => return None,
                // Never back: the loop ends.
                Towards::Signpost(target) => next = next.max(target),
                Towards::Next | Towards::Unclear(_) => {}
            }
        }
        None
    }

    fn look_up(
        &self,
        table: usize,
        suppressed: Option<u8>,
        destination: Ipv4Addr,
    ) -> Option<(u8, &Route)> {
        let (len, route) = self.tables.get(table)?.longest(destination)?;
        let passes = *route != Route::Throw && suppressed.is_none_or(|longest| len > longest);
        passes.then_some((len, route))
    }

    /// All routes, with their prefixes, that may decide about packets to `destination` in the kernel, whoever sent
    /// them; `None` among them: no route.
    pub fn possible_routes(&self, destination: Ipv4Addr) -> Vec<Option<(Ipv4Net, &Route)>> {
        let of = |(len, route)| {
            let prefix = Ipv4Net::new_assert(destination, len).trunc();
            Some((prefix, route))
        };
        let mut found = Vec::new();
        let mut starts = vec![0];
        let mut seen = vec![false; self.signposts.len()];
        while let Some(start) = starts.pop() {
            for (index, signpost) in self.signposts.iter().enumerate().skip(start) {
                if std::mem::replace(&mut seen[index], true) {
                    break;
                }
                if !signpost.means_some_to(destination) {
                    continue;
                }
                let ends = match signpost.towards {
                    Towards::Table(table, suppressed) => {
                        let route = self.look_up(table, suppressed, destination);
                        found.extend(route.map(of));
                        route.is_some()
                    }
                    Towards::Denied(denial) => {
                        found.push(of((0, &DENIALS[denial as usize])));
                        true
                    }
                    Towards::NoRoute => {
                        found.push(None);
                        true
                    }
                    Towards::Signpost(target) => {
                        starts.push(target.max(index + 1));
                        true
                    }
                    Towards::Next => false,
                    Towards::Unclear(table) => {
                        found.extend(self.look_up(table, None, destination).map(of));
                        false
                    }
                };
                if ends && signpost.means_all_to(destination) {
                    break;
                }
                if index + 1 == seen.len() {
                    found.push(None);
                }
            }
        }
        found
    }
}
