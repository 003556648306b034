//! What are the host's network interfaces?

use std::path::Path;

use dataplane::interface::Mac;
use rtnetlink::packet_route::link::{
    InfoData, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::vxlan::{TunnelLink, Vxlan, examine};
use super::{MirrorError, dump::Kernel};

/// A network interface of the host, as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Name, such as `eth0`.
    pub(crate) name: String,
    /// The kernel's index.
    pub(crate) ifindex: u32,
    /// Ethernet address; zero if the interface has none of six bytes.
    pub(crate) mac: Mac,
    /// Its first IPv4 address; filled in by the mirror.
    pub(crate) address: Option<std::net::Ipv4Addr>,
    /// Largest IP packet, in bytes.
    pub(crate) mtu: u32,
    /// Administratively up, and with a carrier.
    pub(crate) up: bool,
    /// It was removed, and is not back; the rest is as it was.
    pub(crate) gone: bool,
    /// Driver, or kind of a virtual interface: `veth`, `virtio_net`, `ixgbe`; empty if unknown.
    pub(crate) driver: String,
    /// Index of the bridge, or the VRF, that it belongs to; 0: none.
    pub(super) master: u32,
    /// The routing table of its interfaces, if it is a VRF.
    pub(super) vrf_table: Option<u32>,
    /// What it is configured as, if it is a VXLAN device.
    pub(super) vxlan: Option<Vxlan>,
    /// How natgate serves it, if it is a VXLAN device; filled in by the mirror.
    pub(crate) tunnel: Option<TunnelLink>,
}

impl Link {
    /// Whether it is a VXLAN device.
    pub(crate) fn is_vxlan(&self) -> bool {
        self.vxlan.is_some()
    }

    pub(super) fn from_message(message: LinkMessage) -> Self {
        let mut link =
            Self { ifindex: message.header.index, up: is_up(&message), ..Self::default() };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(bytes) => {
                    link.mac = bytes.try_into().map(Mac).unwrap_or_default();
                }
                LinkAttribute::Controller(ifindex) => link.master = ifindex,
                LinkAttribute::LinkInfo(infos) => {
                    link.driver = infos.iter().find_map(kind).unwrap_or_default();
                    link.vxlan = infos.iter().find_map(vxlan);
                    link.vrf_table = infos.iter().find_map(vrf_table);
                }
                _ => {}
            }
        }
        if link.driver.is_empty() {
            link.driver = hardware_driver(&link.name).unwrap_or_default();
        }
        link
    }
}

/// Administratively up, and with a carrier.
pub(super) fn is_up(message: &LinkMessage) -> bool {
    message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp)
}

fn kind(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

fn vxlan(info: &LinkInfo) -> Option<Vxlan> {
    match info {
        LinkInfo::Data(InfoData::Vxlan(infos)) => Some(Vxlan::from_infos(infos)),
        _ => None,
    }
}

fn vrf_table(info: &LinkInfo) -> Option<u32> {
    let LinkInfo::Data(InfoData::Vrf(infos)) = info else { return None };
    infos.iter().find_map(|info| match info {
        InfoVrf::TableId(table) => Some(*table),
        _ => None,
    })
}

/// The driver that serves a device, by the link in sysfs.
fn hardware_driver(name: &str) -> Option<String> {
    let link = Path::new("/sys/class/net").join(name).join("device/driver");
    let target = std::fs::read_link(link).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The links with these names, in the same order, and behind them those that packets of VXLAN devices among them
/// arrive by, if they are not named.
///
/// Fails if the host has no such interface (the error lists those that it has), natgate can't serve a VXLAN device, or
/// the kernel refuses.
pub(crate) async fn interfaces_by_name(names: &[String]) -> Result<Vec<Link>, MirrorError> {
    let kernel = Kernel::connect()?;
    let (links, addresses) = (kernel.links().await?, kernel.addresses().await?);
    let find = |name: &String| {
        links.iter().find(|link| link.name == *name).cloned().ok_or_else(|| {
            let mut known: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
            known.sort_unstable();
            MirrorError::UnknownInterface { name: name.clone(), known: known.join(", ") }
        })
    };
    let mut found: Vec<Link> = names.iter().map(find).collect::<Result<_, _>>()?;
    for index in 0..names.len() {
        if found[index].vxlan.is_none() {
            continue;
        }
        let unservable = |why| MirrorError::Unservable { name: names[index].clone(), why };
        let (_, underlay) = examine(&found[index], &links, &addresses).map_err(unservable)?;
        let underlay = links.iter().find(|link| link.ifindex == underlay);
        let underlay = underlay.ok_or_else(|| unservable("its device is not in this namespace"))?;
        if underlay.vxlan.is_some() {
            return Err(unservable("it is a tunnel in a tunnel"));
        }
        if found.iter().all(|link| link.ifindex != underlay.ifindex) {
            found.push(underlay.clone());
        }
    }
    Ok(found)
}
