//! Where does a VXLAN device send what is for an Ethernet address? The forwarding database of the kernel.
//!
//! Pure state.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ahash::RandomState;
use dataplane::interface::{InterfaceId, Mac};
use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};

/// What stands for every Ethernet address that has no entry of its own.
const OTHERS: Mac = Mac([0; 6]);
/// `NDA_NH_ID`, which the parser does not know.
const NEXT_HOP_OBJECT: u16 = 13;

/// What the kernel says about an Ethernet address behind a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FdbFact {
    pub(super) ifindex: u32,
    mac: Mac,
    remote: Remote,
    /// Whether the entry is there, or was deleted.
    there: bool,
}

/// A tunnel's other end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Remote {
    address: Option<Ipv4Addr>,
    /// If others than the device's.
    port: Option<u16>,
    vni: Option<u32>,
    /// Index of the interface that outer packets must leave by.
    device: Option<u32>,
}

impl FdbFact {
    /// `None` if it is no entry of a VXLAN device.
    pub(super) fn from_message(message: &NeighbourMessage, there: bool) -> Option<Self> {
        let header = &message.header;
        if header.family != AddressFamily::Bridge || !header.flags.contains(NeighbourFlags::Own) {
            return None;
        }
        let mut remote = Remote { address: None, port: None, vni: None, device: None };
        let (mut mac, mut leads) = (None, false);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    mac = bytes.as_slice().try_into().ok().map(Mac);
                }
                NeighbourAttribute::Destination(address) => {
                    leads = true;
                    remote.address = ipv4(address);
                }
                NeighbourAttribute::Port(port) => remote.port = Some(*port),
                NeighbourAttribute::Vni(vni) => remote.vni = Some(*vni),
                NeighbourAttribute::IfIndex(ifindex) => remote.device = Some(*ifindex),
                NeighbourAttribute::Other(other) if other.kind() == NEXT_HOP_OBJECT => leads = true,
                _ => {}
            }
        }
        // Other devices have databases too, without a remote.
        (leads || !there).then_some(())?;
        Some(Self { ifindex: header.ifindex, mac: mac?, remote, there })
    }
}

fn ipv4(address: &NeighbourAddress) -> Option<Ipv4Addr> {
    match address {
        NeighbourAddress::Inet(address) => Some(*address),
        NeighbourAddress::Other(bytes) => {
            <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Into::into)
        }
        _ => None,
    }
}

/// Why nothing can be sent to an Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRemote {
    /// The kernel does not know either.
    Unknown,
    /// natgate does not do what the entry says; for people.
    Refused(&'static str),
}

/// A tunnel's device, as far as entries may contradict it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) vni: u32,
    pub(super) port: u16,
    /// The interface that it is bound to, by index; 0: none.
    pub(super) link: u32,
    /// The address that its outer packets come from, if routers may not cut them.
    pub(super) whole_from: Option<Ipv4Addr>,
}

/// The databases of all tunnels.
#[derive(Debug, Default)]
pub(super) struct Fdb {
    remotes: HashMap<(InterfaceId, Mac), Vec<Remote>, RandomState>,
}

impl Fdb {
    /// Takes over what the kernel says about one entry; whether that is new.
    pub(super) fn apply(&mut self, interface: InterfaceId, fact: &FdbFact) -> bool {
        let key = (interface, fact.mac);
        if !fact.there {
            let Some(remotes) = self.remotes.get_mut(&key) else { return false };
            let before = remotes.len();
            // Without a remote, all are meant.
            remotes.retain(|it| fact.remote.address.is_some() && it.address != fact.remote.address);
            let changed = remotes.len() != before;
            if remotes.is_empty() {
                self.remotes.remove(&key);
            }
            return changed;
        }
        let remotes = self.remotes.entry(key).or_default();
        if remotes.contains(&fact.remote) {
            return false;
        }
        // Several have all addresses together only.
        if fact.mac == OTHERS {
            remotes.retain(|it| it.address != fact.remote.address);
        } else {
            remotes.clear();
        }
        remotes.push(fact.remote.clone());
        true
    }

    /// Takes over a whole dump: what is not in it does not exist. Whether anything is new.
    pub(super) fn replace<'a>(
        &mut self,
        dump: impl Iterator<Item = (InterfaceId, &'a FdbFact)>,
    ) -> bool {
        let before = std::mem::take(&mut self.remotes);
        for (interface, fact) in dump {
            self.apply(interface, fact);
        }
        before != self.remotes
    }

    /// Where a packet for `mac` goes.
    pub(super) fn remote(
        &self,
        interface: InterfaceId,
        mac: Mac,
        device: Device,
    ) -> Result<Ipv4Addr, NoRemote> {
        let own = self.remotes.get(&(interface, mac));
        let remotes = own.or_else(|| self.remotes.get(&(interface, OTHERS)));
        let remote = match remotes.map(Vec::as_slice) {
            None | Some([]) => return Err(NoRemote::Unknown),
            Some([only]) => only,
            Some(_) => return Err(NoRemote::Refused("it has several default remotes")),
        };
        let refused = |why| Err(NoRemote::Refused(why));
        let Some(address) = remote.address else {
            return refused("an entry of its forwarding database is a group of next hops, or IPv6");
        };
        if address.is_multicast() {
            return Err(NoRemote::Unknown);
        }
        if remote.port.is_some_and(|port| port != device.port) {
            return refused("an entry of its forwarding database has a port of its own");
        }
        if remote.vni.is_some_and(|vni| vni != device.vni) {
            return refused("an entry of its forwarding database has a VNI of its own");
        }
        if remote.device.is_some_and(|ifindex| ifindex != device.link) {
            return refused("an entry of its forwarding database has a device of its own");
        }
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: InterfaceId = InterfaceId(3);
    const DEVICE: Device = Device { vni: 7, port: 8472, link: 2, whole_from: None };
    const ONE: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn fact(mac: Mac, last: u8) -> FdbFact {
        let address = Some([192, 0, 2, last].into());
        let remote = Remote { address, port: None, vni: None, device: None };
        FdbFact { ifindex: 9, mac, remote, there: true }
    }

    fn gone(mac: Mac, last: u8) -> FdbFact {
        FdbFact { there: false, ..fact(mac, last) }
    }

    fn last(fdb: &Fdb) -> Result<u8, NoRemote> {
        fdb.remote(ID, ONE, DEVICE).map(|address| address.octets()[3])
    }

    #[test]
    fn an_own_entry_is_better_than_the_default_and_moves() {
        let mut fdb = Fdb::default();
        assert_eq!(last(&fdb), Err(NoRemote::Unknown));
        for (fact, changed, wanted) in [
            (fact(OTHERS, 9), true, Ok(9)),
            (fact(OTHERS, 9), false, Ok(9)),
            (fact(ONE, 1), true, Ok(1)),
            (fact(ONE, 2), true, Ok(2)),
            (gone(ONE, 1), false, Ok(2)),
            (gone(ONE, 2), true, Ok(9)),
            (gone(OTHERS, 9), true, Err(NoRemote::Unknown)),
        ] {
            assert_eq!(fdb.apply(ID, &fact), changed, "{fact:?}");
            assert_eq!(last(&fdb), wanted, "{fact:?}");
        }
    }

    #[test]
    fn several_remotes_and_other_devices_are_refused() {
        let mut fdb = Fdb::default();
        fdb.apply(ID, &fact(OTHERS, 8));
        fdb.apply(ID, &fact(OTHERS, 9));
        assert_eq!(last(&fdb), Err(NoRemote::Refused("it has several default remotes")));
        fdb.apply(ID, &gone(OTHERS, 8));
        assert_eq!(last(&fdb), Ok(9));
        for (change, named) in [
            (Remote { port: Some(1), ..fact(ONE, 1).remote }, "port"),
            (Remote { vni: Some(1), ..fact(ONE, 1).remote }, "VNI"),
            (Remote { device: Some(1), ..fact(ONE, 1).remote }, "device"),
            (Remote { address: None, ..fact(ONE, 1).remote }, "group"),
        ] {
            fdb.apply(ID, &FdbFact { remote: change, ..fact(ONE, 1) });
            let Err(NoRemote::Refused(why)) = last(&fdb) else { panic!("not refused: {named}") };
            assert!(why.contains(named), "{why}");
        }
        let same =
            Remote { port: Some(8472), vni: Some(7), device: Some(2), ..fact(ONE, 1).remote };
        fdb.apply(ID, &FdbFact { remote: same, ..fact(ONE, 1) });
        assert_eq!(last(&fdb), Ok(1));
    }

    #[test]
    fn a_multicast_group_is_no_remote() {
        let mut fdb = Fdb::default();
        let group = Remote { address: Some([239, 1, 1, 1].into()), ..fact(ONE, 1).remote };
        fdb.apply(ID, &FdbFact { remote: group, ..fact(OTHERS, 1) });
        assert_eq!(last(&fdb), Err(NoRemote::Unknown));
    }

    #[test]
    fn a_dump_says_what_is_gone() {
        let mut fdb = Fdb::default();
        let facts = [fact(ONE, 1), fact(OTHERS, 9)];
        assert!(fdb.replace(facts.iter().map(|fact| (ID, fact))));
        assert!(!fdb.replace(facts.iter().map(|fact| (ID, fact))));
        assert!(fdb.replace(facts[1..].iter().map(|fact| (ID, fact))));
        assert_eq!(last(&fdb), Ok(9));
    }
}
