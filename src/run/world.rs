//! What does the configuration mean on this host? Interfaces, snapshot and steering tables.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use dataplane::counters::MAX_INTERFACES;
use dataplane::interface::{Interface, InterfaceId, Roles, Tunnel};
use dataplane::roads::{Journey, Roads, Route};
use dataplane::rule::Action;
use dataplane::snapshot::{Policy, Snapshot};
use dataplane::xsk::{Steering, SteeringTables, TunnelEntry};
use ipnet::Ipv4Net;

use anyhow::bail;
use tracing::{error, warn};

use crate::config::{Config, Gateway, Tunnels};
use crate::mirror::{Link, MirrorError, MirrorState, interfaces_by_name};

use super::pods;
use super::state::{State, with_left};

/// What is on the pods' side only.
pub(crate) const INTERNAL: Roles = Roles { internal: true, external: false };
/// Drivers that deliver locally generated packets with partial checksums.
const PARTIAL_CHECKSUMS: [&str; 3] = ["veth", "virtio_net", "tun"];

/// The gateway's interfaces as they were found, and the tables that follow from the configuration.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// Those that are there from the start, by [`InterfaceId`]. VXLAN devices above them follow.
    pub(crate) links: Vec<Link>,
    /// By [`InterfaceId`], of all that there may be.
    pub(crate) roles: Vec<Roles>,
    /// VXLAN devices are served though nobody named them.
    takes_tunnels: bool,
    /// Longest IP packet that natgate can receive, in bytes: it is told as the MTU where that is larger.
    pub(super) longest: u32,
    policy: Arc<Policy>,
    tables: SteeringTables,
}

/// What was said about external links inside `from`.
#[derive(Debug, Default)]
pub(crate) struct Overlaps(Vec<Ipv4Net>);

impl Overlaps {
    /// Says what is new (RFC 4787 REQ-7).
    pub(crate) fn follow(&mut self, world: &World, state: &MirrorState) {
        let overlaps = world.overlaps(state);
        for prefix in overlaps.iter().filter(|prefix| !self.0.contains(prefix)) {
            warn!(
                %prefix,
                "an external link has a prefix of pods (inside `from`); its route is not used where there \
                 is one to the pods; give the link another address"
            );
        }
        self.0 = overlaps;
    }
}

/// What the operator should know of this host.
pub(crate) fn host_warnings() -> Vec<String> {
    let forwards = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward");
    if forwards.is_ok_and(|value| value.trim() == "1") {
        let warning = "the kernel forwards (net.ipv4.ip_forward): what is not natgate's passes it untranslated: \
                       sources outside `from`, and what outsiders send to pods; set it to 0, or filter, \
                       unless this is meant";
        vec![warning.to_owned()]
    } else {
        Vec::new()
    }
}

/// Names and roles of the interfaces; a name in both lists has both roles.
fn named_roles(gateway: &Gateway) -> Vec<(String, Roles)> {
    let named = gateway.interface_names().into_iter().map(|name| {
        let internal = gateway.internal.contains(name);
        (name.clone(), Roles { internal, external: gateway.external.contains(name) })
    });
    named.collect()
}

fn tables(policy: &Policy) -> SteeringTables {
    let rules = policy.rules.rules();
    // What was natgate's stays so: it must not get to the kernel untranslated.
    let from = rules.iter().flat_map(|rule| &rule.from).chain(policy.rules.former_sources());
    let exempt = rules.iter().filter(|rule| rule.action == Action::Exempt);
    let addresses: Vec<Ipv4Net> = policy.addresses.keys().map(|&addr| addr.into()).collect();
    SteeringTables {
        internal: from.copied().collect(),
        kernel_destinations: Vec::new(),
        pools: Ipv4Net::aggregate(&addresses),
        exempt: exempt.flat_map(|rule| rule.to.iter().copied()).collect(),
    }
}

/// The device of a tunnel.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    /// The kernel's index of it.
    pub(crate) ifindex: u32,
    pub(crate) name: String,
    pub(crate) entry: TunnelEntry,
    pub(crate) up: bool,
}

impl World {
    /// Finds the configured interfaces on this host.
    pub(crate) async fn discover(config: &Config) -> Result<Self, MirrorError> {
        let gateway = &config.gateway;
        let (names, mut roles): (Vec<_>, Vec<_>) = named_roles(gateway).into_iter().unzip();
        let links = interfaces_by_name(&names).await?;
        let policy = Arc::new(config.policy(1));
        let external = links.iter().zip(&roles).find(|(link, it)| link.is_vxlan() && it.external);
        if let Some((link, _)) = external {
            let why = "the outside is reached through it, and natgate has tunnels to pods only";
            return Err(MirrorError::Unservable { name: link.name.clone(), why });
        }
        // What packets of tunnels arrive by, and what natgate finds later, is on the pods' side.
        roles.resize(MAX_INTERFACES, INTERNAL);
        Ok(Self {
            takes_tunnels: gateway.tunnels == Tunnels::Serve,
            longest: u32::from(u16::MAX),
            links,
            roles,
            tables: tables(&policy),
            policy,
        })
    }

    /// The interfaces whose VXLAN devices are served though nobody named them.
    pub(crate) fn underlays(&self) -> Vec<InterfaceId> {
        let ids = (0..self.links.len()).map(|index| InterfaceId(index as u8));
        let internal = |id: &InterfaceId| {
            self.takes_tunnels && self.roles[id.index()].internal && !self.is_named_tunnel(*id)
        };
        ids.filter(internal).collect()
    }

    /// Whether packets of tunnels are looked for where `id` arrives. A tunnel that was named may be above an external
    /// interface, too.
    pub(crate) fn is_underlay(&self, id: InterfaceId) -> bool {
        let named = self.links.iter().any(Link::is_vxlan);
        self.underlays().contains(&id) || named && !self.is_named_tunnel(id)
    }

    /// Whether it is a VXLAN device that is there from the start because it was named.
    pub(crate) fn is_named_tunnel(&self, id: InterfaceId) -> bool {
        self.links.get(id.index()).is_some_and(Link::is_vxlan)
    }

    /// The tunnels that there are.
    pub(crate) fn tunnels(state: &MirrorState) -> Vec<Device> {
        let tunnels = state.links.iter().filter_map(|link| {
            let Tunnel { vni, port, local, .. } = link.tunnel?.tunnel;
            let entry = TunnelEntry { vni, port, local, mac: link.mac };
            Some(Device { ifindex: link.ifindex, name: link.name.clone(), entry, up: link.up })
        });
        tunnels.collect()
    }

    /// The interfaces' ids with the kernel's index of each.
    pub(crate) fn ids(&self) -> Vec<(InterfaceId, u32)> {
        let ids = (0..self.links.len()).map(|index| InterfaceId(index as u8));
        ids.zip(self.links.iter().map(|link| link.ifindex)).collect()
    }

    /// What the administrator wants.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The same, to be kept.
    pub(crate) fn shared_policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy)
    }

    /// The same interfaces under another policy.
    pub(crate) fn with_policy(&self, policy: Policy) -> Self {
        let tables = tables(&policy);
        Self { tables, policy: Arc::new(policy), ..self.clone() }
    }

    /// What workers are to know, with the kernel's tables as they are in `state`.
    pub(crate) fn snapshot(&self, state: &MirrorState) -> Snapshot {
        let repairs = |link: &Link| {
            let of = link.tunnel.map_or(link, |it| &state.links[it.underlay.index()]);
            PARTIAL_CHECKSUMS.contains(&of.driver.as_str())
        };
        let interface = |(index, (link, roles)): (usize, (&Link, &Roles))| Interface {
            name: link.name.clone(),
            ifindex: link.ifindex,
            mac: link.mac,
            address: link.address,
            mtu: link.mtu.min(self.longest) as u16,
            roles: *roles,
            repair_checksums: repairs(link),
            overlay: state.overlays.get(index).copied().unwrap_or_default(),
            underlay: self.is_underlay(InterfaceId(index as u8)) && link.tunnel.is_none(),
            tunnel: link.tunnel.map(|it| it.tunnel),
        };
        Snapshot {
            interfaces: state.links.iter().zip(&self.roles).enumerate().map(interface).collect(),
            policy: Arc::clone(&self.policy),
            roads: self.roads(state),
        }
    }

    /// Prefixes of external links that lie inside `from` (RFC 4787 REQ-7).
    fn overlaps(&self, state: &MirrorState) -> Vec<Ipv4Net> {
        let froms = Ipv4Net::aggregate(&self.tables.internal);
        let tables = state.roads.tables.iter();
        let routes = tables.flat_map(|table| {
            let of = |from: &Ipv4Net| {
                let routes = table.overlapping(*from).into_iter();
                let from = *from;
                routes.filter(move |(prefix, _)| from.contains(prefix))
            };
            froms.iter().flat_map(of)
        });
        routes.filter(|(_, route)| self.is_external_link(route)).map(|(prefix, _)| prefix).collect()
    }

    fn is_external_link(&self, route: &Route) -> bool {
        let Route::OnLink(id) = route else { return false };
        self.roles.get(id.index()).is_some_and(|roles| roles.external && !roles.internal)
    }

    /// The kernel's roads, but for those that an external link has learnt of a prefix of pods, where there is
    /// a way to the pods as well: they stay reachable (RFC 4787 REQ-7).
    fn roads(&self, state: &MirrorState) -> Arc<Roads> {
        let overlaps = self.overlaps(state);
        if overlaps.is_empty() {
            return Arc::clone(&state.roads);
        }
        let mut roads = Roads::clone(&state.roads);
        for table in &mut roads.tables {
            let learnt = |prefix: &Ipv4Net| {
                let route = table.get_exact(*prefix).filter(|route| self.is_external_link(route));
                Some((*prefix, route?.clone()))
            };
            let taken: Vec<(Ipv4Net, Route)> = overlaps.iter().filter_map(learnt).collect();
            for (prefix, _) in &taken {
                table.remove(*prefix);
            }
            for (prefix, route) in taken {
                let interface = match table.get(prefix.network()) {
                    Some(Route::Via(id)) => state.roads.adjacency(*id).map(|road| road.interface),
                    Some(Route::OnLink(id)) => Some(*id),
                    _ => None,
                };
                let roles = interface.and_then(|id| self.roles.get(id.index()));
                if !roles.is_some_and(|roles| roles.internal) {
                    table.insert(prefix, route);
                }
            }
        }
        Arc::new(roads)
    }

    /// What the steering program is to know, with the kernel's tables as they are in `state`. The kernel
    /// keeps what goes to the host itself, and what pods send to pods that it can reach.
    pub(crate) fn steering_tables(&self, state: &MirrorState) -> SteeringTables {
        let own = state.host_addresses.iter().map(|net| Ipv4Net::from(net.addr()));
        let pods = pods::behind_the_kernel(&self.tables.internal, &state.roads, &self.roles);
        SteeringTables { kernel_destinations: own.chain(pods).collect(), ..self.tables.clone() }
    }

    /// Has addresses leave their pools that sessions of the natgate before are `left` on, if the steering program takes
    /// them.
    pub(crate) fn follow_left(
        &mut self,
        left: Option<&State>,
        state: &MirrorState,
        steering: &mut Steering,
    ) {
        let policy = left.and_then(|left| with_left(left, &self.policy, owners(state)));
        let Some(policy) = policy else { return };
        let wider = self.with_policy(policy);
        if let Err(error) = steering.apply(&wider.steering_tables(state)) {
            error!("sessions on addresses that were taken out of their pool end: {error}");
            if let Err(error) = steering.apply(&self.steering_tables(state)) {
                error!("the steering program does not take its old tables back: {error}");
            }
            return;
        }
        *self = wider;
    }

    /// Refuses pool addresses that belong to others on this host's links: announcing them would cut those
    /// off.
    pub(crate) fn refuse_taken_addresses(&self, state: &MirrorState) -> anyhow::Result<()> {
        let owner = owners(state);
        let mut taken = self.policy.addresses.keys().filter_map(|it| Some((it, owner(*it)?)));
        taken.next().map_or(Ok(()), |(address, owner)| {
            bail!("pool address taken ({address}): it is {owner}; take it out of the pool")
        })
    }
}

/// Tells who has an address on this host's links, if it is known to be somebody's.
fn owners(state: &MirrorState) -> impl Fn(Ipv4Addr) -> Option<String> + '_ {
    let tables = state.roads.tables.iter();
    let routes = tables.flat_map(|table| table.overlapping(Ipv4Net::default()));
    let routers = routes.flat_map(|(_, route)| route.routers());
    let routers: HashMap<Ipv4Addr, InterfaceId> = (routers)
        .filter_map(|id| state.roads.adjacency(id))
        .map(|router| (router.address, router.interface))
        .collect();
    move |address| {
        let router = routers.get(&address).map(|id| {
            let interface = &state.links[id.index()].name;
            format!("a router that this host uses on {interface}")
        });
        router.or_else(|| {
            let own = state.roads.route(&Journey::to(address)) == Some(&Route::Local);
            own.then(|| "an address or a broadcast address of this host".to_owned())
        })
    }
}
