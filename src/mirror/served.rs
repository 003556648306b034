//! Which interfaces does natgate serve? Those that were named, and the VXLAN devices above them as they come and go.
//!
//! A VXLAN device has no queues of its own, so that it may appear, go and come back while natgate runs.

use dataplane::counters::MAX_INTERFACES;
use dataplane::interface::InterfaceId;
use ipnet::Ipv4Net;

use super::link::Link;
use super::vxlan::{TunnelLink, examine};

/// An interface that natgate serves.
#[derive(Clone, Debug)]
struct One {
    ifindex: u32,
    /// Empty until the first dump.
    name: String,
    /// A VXLAN device, which is the same when it is made again.
    tunnel: bool,
}

/// All of them, by [`InterfaceId`].
#[derive(Debug)]
pub(super) struct Served {
    all: Vec<One>,
    /// VXLAN devices whose packets arrive there are taken.
    underlays: Vec<InterfaceId>,
    /// Devices that are not, a line each.
    refused: Vec<String>,
}

impl Served {
    /// The named interfaces, dense from 0, with the kernel's index of each.
    pub(super) fn new(links: &[(InterfaceId, u32)], underlays: &[InterfaceId]) -> Self {
        let mut links = links.to_vec();
        links.sort_unstable();
        let one = |(_, ifindex)| One { ifindex, name: String::new(), tunnel: false };
        Self {
            all: links.into_iter().map(one).collect(),
            underlays: underlays.to_vec(),
            refused: Vec::new(),
        }
    }

    pub(super) fn ifindex(&self, id: InterfaceId) -> Option<u32> {
        self.all.get(id.index()).map(|one| one.ifindex)
    }

    /// The kernel's index of each.
    pub(super) fn ids(&self) -> impl Iterator<Item = (u32, InterfaceId)> {
        self.all.iter().zip(0..).map(|(one, id)| (one.ifindex, InterfaceId(id)))
    }

    /// VXLAN devices that are not served, a line each.
    pub(super) fn refused(&self) -> &[String] {
        &self.refused
    }

    /// Takes over the links and addresses that the host has; `last` is what this returned before. The links that are
    /// served, in order; one that is gone keeps its last description, and is down.
    pub(super) fn follow(
        &mut self,
        links: &[Link],
        addresses: &[(u32, Ipv4Net)],
        last: &[Link],
    ) -> Vec<Link> {
        let by_ifindex = |ifindex| links.iter().find(|link| link.ifindex == ifindex);
        for one in &mut self.all {
            let again = |link: &&Link| one.tunnel && link.vxlan.is_some() && link.name == one.name;
            let found = by_ifindex(one.ifindex).or_else(|| links.iter().find(again));
            if let Some(link) = found {
                one.ifindex = link.ifindex;
                one.name.clone_from(&link.name);
                one.tunnel = link.vxlan.is_some();
            }
        }
        self.take_tunnels(links, addresses);
        let served = self.all.iter().enumerate().map(|(index, one)| {
            let last = last.get(index);
            let Some(link) = by_ifindex(one.ifindex) else {
                return Link { up: false, gone: true, ..last.cloned().unwrap_or_default() };
            };
            let mut link = link.clone();
            if one.tunnel {
                link.tunnel = self.tunnel(&link, links, addresses).ok();
                // What it was before, while it is something else than what natgate can do.
                link.up &= link.tunnel.is_some();
                link.tunnel = link.tunnel.or_else(|| last?.tunnel);
            }
            link
        });
        served.collect()
    }

    /// Takes the VXLAN devices that are new.
    fn take_tunnels(&mut self, links: &[Link], addresses: &[(u32, Ipv4Net)]) {
        self.refused.clear();
        for link in links.iter().filter(|link| link.vxlan.is_some()) {
            let known = self.all.iter().any(|one| one.ifindex == link.ifindex);
            let underlay = link.vxlan.as_ref().and_then(|vxlan| vxlan.underlay(addresses));
            let underlay = underlay.and_then(|ifindex| self.id(ifindex));
            if !known && !underlay.is_some_and(|id| self.underlays.contains(&id)) {
                continue;
            }
            let name = &link.name;
            if let Err(why) = self.tunnel(link, links, addresses) {
                let closed = underlay.is_some_and(|id| self.underlays.contains(&id));
                let so = if closed {
                    "pods' packets for the outside that arrive by it are dropped"
                } else {
                    "the kernel keeps what arrives by it, and pods' packets that it forwards leave untranslated: \
                     filter them"
                };
                self.refused.push(format!("{name} (VXLAN) is not served: {why}; {so}"));
                continue;
            }
            if known {
                continue;
            }
            let one = One { ifindex: link.ifindex, name: name.clone(), tunnel: true };
            // The place of one that is gone is taken when there is no other.
            let gone = |it: &One| it.tunnel && links.iter().all(|link| link.ifindex != it.ifindex);
            if self.all.len() < MAX_INTERFACES {
                self.all.push(one);
            } else if let Some(place) = self.all.iter_mut().find(|it| gone(it)) {
                *place = one;
            } else {
                self.refused.push(format!(
                    "{name} (VXLAN) is not served: there are more than {MAX_INTERFACES} interfaces; pods' packets in it \
                     are dropped: remove what is not needed, or set `tunnels: ignore` and name those that are"
                ));
            }
        }
    }

    /// The VXLAN devices among `links` that are bound to an interface that is served.
    pub(super) fn above(&self, links: &[Link]) -> Vec<(u32, String)> {
        let bound = links
            .iter()
            .filter(|link| link.vxlan.as_ref().is_some_and(|vxlan| self.id(vxlan.link).is_some()));
        bound.map(|link| (link.ifindex, link.name.clone())).collect()
    }

    fn id(&self, ifindex: u32) -> Option<InterfaceId> {
        self.ids().find(|(it, _)| *it == ifindex).map(|(_, id)| id)
    }

    fn tunnel(
        &self,
        link: &Link,
        links: &[Link],
        addresses: &[(u32, Ipv4Net)],
    ) -> Result<TunnelLink, &'static str> {
        let (tunnel, underlay) = examine(link, links, addresses)?;
        let not_served = "natgate does not serve the interface that its packets arrive by";
        let underlay = self.id(underlay).ok_or(not_served)?;
        if self.all.get(underlay.index()).is_some_and(|one| one.tunnel) {
            return Err("it is a tunnel in a tunnel");
        }
        Ok(TunnelLink { tunnel, underlay })
    }
}
