//! What is mapped by configuration? Port forwards and 1:1 addresses.
//!
//! A fixed mapping is found from either side: by the public endpoint that somebody addresses, or by the
//! internal endpoint that sends.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ahash::RandomState;
use conntrack::{Endpoint, PoolId, Protocol};

/// Ports of a public address that lead to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortForward {
    /// Its name.
    pub name: String,
    /// The public address.
    pub address: Ipv4Addr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Public ports.
    pub ports: RangeInclusive<u16>,
    /// The pod.
    pub target: Ipv4Addr,
    /// The pod's port for the first public port; the others follow one by one.
    pub target_port: u16,
    /// The VXLAN network that the pod is in, by its VNI; `None`: that to which routes lead.
    pub vni: Option<u32>,
    /// The pool whose settings its sessions have.
    pub pool: PoolId,
}

/// A public address that is all one pod's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticNat {
    /// Its name.
    pub name: String,
    /// The public address.
    pub address: Ipv4Addr,
    /// The pod.
    pub target: Ipv4Addr,
    /// The VXLAN network that the pod is in, by its VNI; `None`: that to which routes lead.
    pub vni: Option<u32>,
    /// The pool whose settings its sessions have.
    pub pool: PoolId,
}

/// A mapping that configuration made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// The pod's endpoint.
    pub internal: Endpoint,
    /// The pod's VXLAN network by its VNI; `None`: that to which routes lead.
    pub vni: Option<u32>,
    /// The public endpoint.
    pub public: Endpoint,
    /// The pool whose settings its sessions have.
    pub pool: PoolId,
}

/// All fixed mappings, ready for look-up.
#[derive(Clone, Debug, Default)]
pub struct Forwards {
    all: Vec<PortForward>,
    statics: Vec<StaticNat>,
    /// Indices of `all` by public address and protocol, and by target and protocol.
    by_public: HashMap<(Ipv4Addr, Protocol), Vec<usize>, RandomState>,
    by_target: HashMap<(Ipv4Addr, Protocol), Vec<usize>, RandomState>,
    /// Indices of `statics`.
    static_by_public: HashMap<Ipv4Addr, usize, RandomState>,
    static_by_target: HashMap<Ipv4Addr, Vec<usize>, RandomState>,
    /// Those that configuration made before, and that live sessions may have.
    former: Option<Box<Self>>,
}

impl Forwards {
    /// Compiles objects that do not overlap.
    pub fn new(forwards: Vec<PortForward>, statics: &[StaticNat]) -> Self {
        let mut all = Self::default();
        for (index, forward) in forwards.iter().enumerate() {
            let (public, target) = (forward.address, forward.target);
            all.by_public.entry((public, forward.protocol)).or_default().push(index);
            all.by_target.entry((target, forward.protocol)).or_default().push(index);
        }
        for (index, one) in statics.iter().enumerate() {
            all.static_by_public.insert(one.address, index);
            all.static_by_target.entry(one.target).or_default().push(index);
        }
        Self { all: forwards, statics: statics.to_vec(), ..all }
    }

    /// The same, beside others that open nothing any more, but whose sessions are still to be found.
    #[must_use]
    pub fn with_former(self, forwards: Vec<PortForward>, statics: &[StaticNat]) -> Self {
        let some = !forwards.is_empty() || !statics.is_empty();
        let former = some.then(|| Box::new(Self::new(forwards, statics)));
        Self { former, ..self }
    }

    /// The 1:1 addresses, as configured.
    pub fn statics(&self) -> &[StaticNat] {
        &self.statics
    }

    /// Those that open nothing any more.
    pub fn former(&self) -> Option<&Self> {
        self.former.as_deref()
    }

    /// The fixed mapping that sessions of a public endpoint have, also if it opens nothing any more.
    #[inline]
    pub fn owner(&self, protocol: Protocol, public: Endpoint) -> Option<Fixed> {
        let former = || self.former.as_ref()?.by_public(protocol, public);
        self.by_public(protocol, public).or_else(former)
    }

    /// The port forwards, as configured.
    pub fn forwards(&self) -> &[PortForward] {
        &self.all
    }

    /// Whether `address` is, or was until now, all one pod's.
    pub fn is_static(&self, address: Ipv4Addr) -> bool {
        let former = || self.former.as_ref().is_some_and(|former| former.is_static(address));
        self.static_by_public.contains_key(&address) || former()
    }

    /// The fixed mapping of a public endpoint.
    #[inline]
    pub fn by_public(&self, protocol: Protocol, public: Endpoint) -> Option<Fixed> {
        if self.is_empty() { None } else { self.find_by_public(protocol, public) }
    }

    fn find_by_public(&self, protocol: Protocol, public: Endpoint) -> Option<Fixed> {
        if let Some(&index) = self.static_by_public.get(&public.addr) {
            return Some(self.statics.get(index)?.at(public.port));
        }
        let indices = self.by_public.get(&(public.addr, protocol))?;
        let forwards = indices.iter().map(|&index| &self.all[index]);
        forwards.filter(|f| f.ports.contains(&public.port)).map(|f| f.at(public.port)).next()
    }

    fn is_empty(&self) -> bool {
        self.all.is_empty() && self.static_by_public.is_empty()
    }

    /// An address of `pool` on which `internal` has ports; `is_its`: whether it is in the network with this VNI.
    pub fn address_of(
        &self,
        internal: Ipv4Addr,
        pool: PoolId,
        is_its: impl Fn(Option<u32>) -> bool,
    ) -> Option<Ipv4Addr> {
        let of = |protocol| self.by_target.get(&(internal, protocol));
        let mut indices = [Protocol::Tcp, Protocol::Udp].into_iter().filter_map(of).flatten();
        let is_it = |f: &&PortForward| f.pool == pool && is_its(f.vni);
        let forward = indices.find_map(|&index| self.all.get(index).filter(is_it));
        forward.map(|forward| forward.address)
    }

    /// The fixed mapping of an internal endpoint; `is_its`: whether it is in the network with this VNI.
    pub fn by_internal(
        &self,
        protocol: Protocol,
        internal: Endpoint,
        is_its: impl Fn(Option<u32>) -> bool,
    ) -> Option<Fixed> {
        let mut statics = self.static_by_target.get(&internal.addr).into_iter().flatten();
        let one = statics.find_map(|&index| self.statics.get(index).filter(|it| is_its(it.vni)));
        if let Some(one) = one {
            return Some(one.at(internal.port));
        }
        let indices = self.by_target.get(&(internal.addr, protocol))?;
        let mut forwards =
            indices.iter().map(|&index| &self.all[index]).filter(|forward| is_its(forward.vni));
        let port = |f: &PortForward| {
            let offset = internal.port.checked_sub(f.target_port)?;
            let port = f.ports.start().checked_add(offset)?;
            f.ports.contains(&port).then_some(port)
        };
        forwards.find_map(|f| port(f).map(|port| f.at(port)))
    }
}

impl PortForward {
    /// The mapping of public port `port`, which must be one of [`PortForward::ports`].
    fn at(&self, port: u16) -> Fixed {
        let target_port = self.target_port.wrapping_add(port.wrapping_sub(*self.ports.start()));
        Fixed {
            internal: Endpoint::new(self.target, target_port),
            vni: self.vni,
            public: Endpoint::new(self.address, port),
            pool: self.pool,
        }
    }
}

impl StaticNat {
    /// The mapping of `port`, the same on both sides.
    fn at(&self, port: u16) -> Fixed {
        let (internal, public) =
            (Endpoint::new(self.target, port), Endpoint::new(self.address, port));
        Fixed { internal, vni: self.vni, public, pool: self.pool }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_find_the_same_mapping() {
        let (public, pod) = (Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(10, 244, 1, 1));
        let forward = PortForward {
            name: "web".into(),
            address: public,
            protocol: Protocol::Tcp,
            ports: 6000..=6010,
            target: pod,
            target_port: 80,
            vni: None,
            pool: PoolId(0),
        };
        let one = Ipv4Addr::new(203, 0, 113, 14);
        let host = Ipv4Addr::new(10, 244, 1, 3);
        let fixed = StaticNat {
            name: "one".into(),
            address: one,
            target: host,
            vni: None,
            pool: PoolId(1),
        };
        let all = Forwards::new(vec![forward], &[fixed]);
        for port in 6000..=6010 {
            let found = all.by_public(Protocol::Tcp, Endpoint::new(public, port)).unwrap();
            assert_eq!(found.internal, Endpoint::new(pod, port - 6000 + 80));
            assert_eq!(all.by_internal(Protocol::Tcp, found.internal, |_| true), Some(found));
            assert_eq!(all.by_public(Protocol::Udp, Endpoint::new(public, port)), None);
        }
        for port in [5999, 6011] {
            assert_eq!(all.by_public(Protocol::Tcp, Endpoint::new(public, port)), None);
        }
        for port in [79, 91] {
            assert_eq!(all.by_internal(Protocol::Tcp, Endpoint::new(pod, port), |_| true), None);
        }
        let found = all.by_public(Protocol::Other(47), Endpoint::new(one, 0)).unwrap();
        assert_eq!(found.internal, Endpoint::new(host, 0));
        assert_eq!(all.by_internal(Protocol::Other(47), found.internal, |_| true), Some(found));
        assert_eq!(all.by_internal(Protocol::Other(47), found.internal, |_| false), None);
        assert!(all.is_static(one) && !all.is_static(public));
    }
}
