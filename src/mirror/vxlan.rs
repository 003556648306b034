//! Which VXLAN devices has the host, and can natgate do what they do (RFC 7348)?

use std::net::Ipv4Addr;

use dataplane::interface::{InterfaceId, OuterDf, Tunnel};
use ipnet::Ipv4Net;
use rtnetlink::packet_route::link::{InfoVxlan, VxlanDf};

use super::link::Link;

/// What the kernel says where no range of source ports is set (`net.ipv4.ip_local_port_range`).
const LOCAL_PORTS: (u16, u16) = (32768, 60999);
/// The kernel's own time to live (`net.ipv4.ip_default_ttl`).
const DEFAULT_TTL: u8 = 64;

/// A VXLAN device, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vxlan {
    vni: u32,
    port: u16,
    local: Option<Ipv4Addr>,
    /// Index of the interface that it is bound to; 0: none.
    pub(super) link: u32,
    source_ports: (u16, u16),
    /// 0: the kernel's default.
    ttl: u8,
    ttl_inherit: bool,
    /// 1: the inner packet's.
    tos: u8,
    df: OuterDf,
    checksum: bool,
    /// What it does that natgate doesn't.
    unsupported: Option<&'static str>,
}

/// A VXLAN device that natgate serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TunnelLink {
    /// What outer packets are like.
    pub(crate) tunnel: Tunnel,
    /// The interface where they arrive.
    pub(crate) underlay: InterfaceId,
}

impl Vxlan {
    pub(super) fn from_infos(infos: &[InfoVxlan]) -> Self {
        let mut device = Self {
            vni: 0,
            port: 8472,
            local: None,
            link: 0,
            source_ports: (0, 0),
            ttl: 0,
            ttl_inherit: false,
            tos: 0,
            df: OuterDf::Unset,
            checksum: true,
            unsupported: None,
        };
        for info in infos {
            device.take(info);
        }
        device
    }

    fn take(&mut self, info: &InfoVxlan) {
        match info {
            InfoVxlan::Id(vni) => self.vni = *vni,
            InfoVxlan::Port(port) => self.port = *port,
            InfoVxlan::Local(address) => self.local = Some(*address),
            InfoVxlan::Link(ifindex) => self.link = *ifindex,
            InfoVxlan::PortRange(range) => self.source_ports = *range,
            InfoVxlan::Ttl(ttl) => self.ttl = *ttl,
            InfoVxlan::TtlInheritFlag => self.ttl_inherit = true,
            InfoVxlan::TtlInherit(value) => self.ttl_inherit = *value != 0,
            InfoVxlan::Tos(tos) => self.tos = *tos,
            InfoVxlan::Df(VxlanDf::Set) => self.df = OuterDf::Set,
            InfoVxlan::Df(VxlanDf::Inherit) => self.df = OuterDf::Inherit,
            InfoVxlan::UDPCsum(checksum) => self.checksum = *checksum,
            InfoVxlan::CollectMetadata(true) => {
                self.unsupported =
                    Some("it is `external`: who uses it says where each packet goes");
            }
            InfoVxlan::Vnifilter(true) => self.unsupported = Some("it has many VNIs (`vnifilter`)"),
            InfoVxlan::Local6(_) | InfoVxlan::Group6(_) => {
                self.unsupported = Some("its outer packets are IPv6");
            }
            InfoVxlan::Gpe => self.unsupported = Some("it speaks VXLAN-GPE (`gpe`)"),
            InfoVxlan::Gbp => self.unsupported = Some("it marks packets with a policy (`gbp`)"),
            InfoVxlan::RemCsumTX(true) | InfoVxlan::RemCsumRX(true) => {
                self.unsupported = Some("it leaves checksums to the other end (`remcsum`)");
            }
            _ => {}
        }
    }

    /// Number, and port.
    pub(super) fn name(&self) -> (u32, u16) {
        (self.vni, self.port)
    }

    /// Index of the interface where its outer packets arrive: the one that it is bound to, or that has its address.
    pub(super) fn underlay(&self, addresses: &[(u32, Ipv4Net)]) -> Option<u32> {
        if self.link != 0 {
            return Some(self.link);
        }
        let mut addresses = addresses.iter();
        addresses.find(|(_, net)| Some(net.addr()) == self.local).map(|(ifindex, _)| *ifindex)
    }

    /// What its outer packets are like; `Err`: why natgate can't make them.
    pub(super) fn tunnel(&self, addresses: &[(u32, Ipv4Net)]) -> Result<Tunnel, &'static str> {
        if let Some(why) = self.unsupported {
            return Err(why);
        }
        let of_link = || addresses.iter().find(|(ifindex, _)| *ifindex == self.link);
        let local = self.local.or_else(|| of_link().map(|(_, net)| net.addr()));
        let local =
            local.ok_or("it has no address of its own (`local`), nor has its device one")?;
        let (first, last) = self.source_ports;
        // The kernel's last port is the first one that it does not take.
        let source_ports =
            if first < last { (first, last - 1) } else { setting_ports().unwrap_or(LOCAL_PORTS) };
        let ttl = if self.ttl == 0 { setting_ttl().unwrap_or(DEFAULT_TTL) } else { self.ttl };
        Ok(Tunnel {
            vni: self.vni,
            port: self.port,
            local,
            source_ports,
            ttl: (!self.ttl_inherit).then_some(ttl),
            tos: (self.tos != 1).then_some(self.tos & !3),
            df: self.df,
            checksum: self.checksum,
        })
    }
}

fn setting_ports() -> Option<(u16, u16)> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ports = text.split_whitespace().map(str::parse);
    Some((ports.next()?.ok()?, ports.next()?.ok()?))
}

fn setting_ttl() -> Option<u8> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").ok()?;
    text.trim().parse().ok()
}

/// Why natgate can't serve the VXLAN device `link`; else what its outer packets are like, and the index of the
/// interface where they arrive.
pub(super) fn examine(
    link: &Link,
    links: &[Link],
    addresses: &[(u32, Ipv4Net)],
) -> Result<(Tunnel, u32), &'static str> {
    let device = link.vxlan.as_ref().ok_or("it is no VXLAN device")?;
    let master = links.iter().find(|it| it.ifindex == link.master);
    if master.is_some_and(|master| master.driver == "bridge") {
        return Err("it is a port of a bridge: its packets are switched, not routed");
    }
    let tunnel = device.tunnel(addresses)?;
    let underlay = device.underlay(addresses);
    Ok((tunnel, underlay.ok_or("none of this host's interfaces has its address (`local`)")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: [(u32, [u8; 4]); 2] = [(2, [10, 0, 0, 1]), (3, [203, 0, 113, 2])];

    fn addresses() -> Vec<(u32, Ipv4Net)> {
        let net = |(ifindex, address): (u32, [u8; 4])| {
            (ifindex, Ipv4Net::new(address.into(), 24).unwrap())
        };
        ADDRESSES.map(net).to_vec()
    }

    fn device(infos: &[InfoVxlan]) -> Vxlan {
        let mut all = vec![InfoVxlan::Id(7), InfoVxlan::Port(4789)];
        all.extend_from_slice(infos);
        Vxlan::from_infos(&all)
    }

    #[test]
    fn the_end_of_a_tunnel_is_where_the_device_says() {
        let local = InfoVxlan::Local([203, 0, 113, 2].into());
        let ends = |infos: &[InfoVxlan]| {
            let device = device(infos);
            let local = device.tunnel(&addresses()).map(|tunnel| tunnel.local.octets());
            (local.ok(), device.underlay(&addresses()))
        };
        assert_eq!(ends(std::slice::from_ref(&local)), (Some([203, 0, 113, 2]), Some(3)));
        assert_eq!(ends(&[local, InfoVxlan::Link(2)]), (Some([203, 0, 113, 2]), Some(2)));
        assert_eq!(ends(&[InfoVxlan::Link(2)]), (Some([10, 0, 0, 1]), Some(2)));
        assert_eq!(ends(&[InfoVxlan::Link(9)]), (None, Some(9)));
        assert_eq!(ends(&[]), (None, None));
    }

    #[test]
    fn outer_headers_are_as_the_device_says() {
        let link = InfoVxlan::Link(2);
        let tunnel = |infos: &[InfoVxlan]| {
            device(&[std::slice::from_ref(&link), infos].concat()).tunnel(&addresses()).unwrap()
        };
        let plain = tunnel(&[]);
        assert_eq!((plain.vni, plain.port, plain.ttl.is_some()), (7, 4789, true));
        assert_eq!((plain.tos, plain.df, plain.checksum), (Some(0), OuterDf::Unset, true));
        assert!(plain.source_ports.0 < plain.source_ports.1);
        let set = tunnel(&[
            InfoVxlan::Ttl(9),
            InfoVxlan::Tos(0x2b),
            InfoVxlan::Df(VxlanDf::Set),
            InfoVxlan::UDPCsum(false),
            InfoVxlan::PortRange((100, 200)),
        ]);
        assert_eq!(
            (set.ttl, set.tos, set.df, set.checksum),
            (Some(9), Some(0x28), OuterDf::Set, false)
        );
        assert_eq!(set.source_ports, (100, 199));
        let inherit =
            [InfoVxlan::TtlInherit(1), InfoVxlan::Tos(1), InfoVxlan::Df(VxlanDf::Inherit)];
        let inherit = tunnel(&inherit);
        assert_eq!((inherit.ttl, inherit.tos, inherit.df), (None, None, OuterDf::Inherit));
    }

    #[test]
    fn what_natgate_does_not_do_is_named() {
        for (info, named) in [
            (InfoVxlan::CollectMetadata(true), "external"),
            (InfoVxlan::Gpe, "gpe"),
            (InfoVxlan::Gbp, "gbp"),
            (InfoVxlan::RemCsumTX(true), "remcsum"),
            (InfoVxlan::Local6("2001:db8::1".parse().unwrap()), "IPv6"),
        ] {
            let why = device(&[InfoVxlan::Link(2), info]).tunnel(&addresses()).unwrap_err();
            assert!(why.contains(named), "{why}");
        }
    }
}
