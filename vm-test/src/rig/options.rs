//! What can be chosen about a rig, and which addresses are where?

use std::net::Ipv4Addr;

use crate::guest::Machine;

/// The pods' addresses.
pub const PODS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 1, 11), Ipv4Addr::new(10, 244, 1, 12)];
/// The first server's addresses.
pub const S1: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 10), Ipv4Addr::new(192, 0, 2, 11)];
/// The second server's address.
pub const S2: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 70);
/// A host behind the node whose traffic is not natgate's.
pub const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The gateway's own addresses: internal, external.
pub const GATEWAY: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(203, 0, 113, 2)];
/// Ends of the tunnel, if the rig has one: the node's, the gateway's.
pub const UNDER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 0, 2), Ipv4Addr::new(10, 99, 0, 1)];
/// Public addresses beside the pools, for one-to-one translation.
pub const STATIC: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 14), Ipv4Addr::new(203, 0, 113, 15)];
/// What natgate translates.
pub const FROM: &str = "10.244.0.0/16";

/// Who translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translator {
    /// natgate, the subject of the tests.
    Natgate,
    /// Linux's NAT: shows that a suite is fair.
    KernelNat,
    /// Plain forwarding: the negative control.
    Nothing,
}

impl Translator {
    /// natgate, unless `VM_TEST_TRANSLATOR=kernel` asks for Linux's NAT.
    pub fn from_env() -> Self {
        match std::env::var("VM_TEST_TRANSLATOR").as_deref() {
            Ok("kernel") => Self::KernelNat,
            _ => Self::Natgate,
        }
    }
}

/// What lies between the node and the gateway. In an overlay the devices of both ends have the names, addresses and
/// MTUs that their ends of the plain link have otherwise, and `under` is the link beneath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlay {
    /// A plain link.
    Plain,
    /// VXLAN as flannel sets it up: static neighbours and forwarding databases, port 8472.
    Flannel,
    /// VXLAN that finds out: a default remote, ARP and learning, port 4789.
    Learning,
}

impl Overlay {
    /// What `VM_TEST_OVERLAY` says (`plain`, `flannel` or `learning`), or the test program by its name.
    pub fn of_test() -> Self {
        let program = std::env::current_exe().unwrap_or_default();
        let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match std::env::var("VM_TEST_OVERLAY").as_deref().unwrap_or(&program) {
            "learning" => Self::Learning,
            name if name == "flannel" || name.starts_with("flannel-") => Self::Flannel,
            _ => Self::Plain,
        }
    }
}

/// Where the public addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// On the external link: found by ARP.
    OnLink,
    /// Behind the gateway: the router has a route.
    Routed,
}

impl Pool {
    /// First and last address.
    pub fn range(self) -> (Ipv4Addr, Ipv4Addr) {
        match self {
            Self::OnLink => (Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 13)),
            Self::Routed => (Ipv4Addr::new(198, 51, 100, 0), Ipv4Addr::new(198, 51, 100, 15)),
        }
    }

    /// Whether `address` belongs to it.
    pub fn holds(self, address: Ipv4Addr) -> bool {
        let (first, last) = self.range();
        (first..=last).contains(&address)
    }
}

/// The largest packet of each link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtus {
    /// Pods to node.
    pub pods: u16,
    /// Node to gateway.
    pub inside: u16,
    /// Gateway to router.
    pub outside: u16,
    /// Router to first server.
    pub server: u16,
}

impl Default for Mtus {
    fn default() -> Self {
        Self { pods: 1500, inside: 1500, outside: 1500, server: 1500 }
    }
}

/// What a rig is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who translates.
    pub translator: Translator,
    /// Where the public addresses are.
    pub pool: Pool,
    /// What lies between the node and the gateway.
    pub overlay: Overlay,
    /// Queues of both of the gateway's interfaces.
    pub queues: u16,
    /// The links' MTUs.
    pub mtus: Mtus,
    /// Workers of natgate.
    pub workers: u16,
    /// A virtual machine that is the gateway, instead of the namespace.
    pub machine: Option<Machine>,
    /// Whether senders leave checksums to their (virtual) cards.
    pub sender_checksum_offload: bool,
    /// `ip_forward` in the gateway.
    pub gateway_forwards: bool,
    /// Whether the host `other` exists.
    pub other: bool,
    /// Destinations (CIDR) that are not translated; the router has a route to the pods then.
    pub exempt: Vec<String>,
    /// Objects for `natgate run --config`, instead of pool and rule from flags.
    pub config: Option<String>,
    /// Further flags of `natgate run`.
    pub flags: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            translator: Translator::from_env(),
            pool: Pool::OnLink,
            overlay: Overlay::of_test(),
            queues: 1,
            mtus: Mtus::default(),
            workers: 1,
            machine: Machine::of_test(),
            // A machine's tap finishes what senders leave to their cards: errors quote it finished, captures show it
            // unfinished.
            sender_checksum_offload: Machine::of_test().is_none(),
            gateway_forwards: false,
            other: false,
            exempt: Vec::new(),
            config: None,
            flags: Vec::new(),
        }
    }
}

impl Options {
    /// Four queues, four workers.
    pub fn four() -> Self {
        Self { queues: 4, workers: 4, ..Self::default() }
    }

    /// The negative control: everything the same, but nobody translates.
    pub fn untranslated() -> Self {
        Self { translator: Translator::Nothing, gateway_forwards: true, ..Self::default() }
    }

    /// natgate whatever the environment says: for what only natgate does.
    pub fn natgate() -> Self {
        Self { translator: Translator::Natgate, ..Self::default() }
    }
}
