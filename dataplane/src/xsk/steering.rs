//! How does user space tell the steering program what is natgate's?

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, RawFd};

use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuValues, XskMap};
use aya::programs::Xdp;
use aya::{Ebpf, include_bytes_aligned};
use ipnet::Ipv4Net;

use super::attach::{self, AttachMode};
use super::error::{XskError, missing_capability};
use crate::interface::{Mac, Roles};

/// Name of the program, by which a later natgate knows it again.
pub(super) const PROGRAM: &str = "natgate_steer";

/// Queues that one interface can have.
pub const MAX_QUEUES: u32 = 64;

/// Why the steering program drops packets, in the order of `enum drop_cause` in `steer.bpf.c`.
pub const DROP_NAMES: [&str; 7] = [
    "pod-no-worker",
    "pool-no-worker",
    "arp-no-worker",
    "super-packet",
    "priority-tag",
    "unknown-tunnel",
    "pool-source",
];

/// Where the counters of programs before this one begin.
const CARRIED: u32 = DROP_NAMES.len() as u32;

const OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// Everything by which packets are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SteeringTables {
    /// Sources whose traffic towards the outside is natgate's (`from`).
    pub internal: Vec<Ipv4Net>,
    /// Destinations that internal arrivals may have and that stay with the kernel: addresses of this
    /// host, and what it forwards between pods (the `from` prefixes).
    pub kernel_destinations: Vec<Ipv4Net>,
    /// Public addresses; they win over `kernel_destinations`.
    pub pools: Vec<Ipv4Net>,
    /// Destinations that natgate forwards untranslated.
    pub exempt: Vec<Ipv4Net>,
}

/// What the program knows about an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceEntry {
    /// The kernel's index of it.
    pub ifindex: u32,
    /// Sides it serves.
    pub roles: Roles,
    /// Index of its queue 0 among the sockets: a multiple of [`MAX_QUEUES`].
    pub base: u32,
    /// Its queues.
    pub queues: u32,
    /// Largest frame that a socket takes, in bytes.
    pub room: u32,
    /// Packets of tunnels that arrive there are looked into.
    pub underlay: bool,
    /// And what is natgate's in those of tunnels that it does not know is dropped.
    pub closed: bool,
}

impl InterfaceEntry {
    /// An interface without sockets: all that is natgate's and arrives there is dropped and counted, as it is on the
    /// device of a tunnel whose packets the kernel takes out (fragments; those that arrive by an interface that is no
    /// underlay).
    pub fn without_sockets(ifindex: u32, roles: Roles) -> Self {
        Self { ifindex, roles, base: 0, queues: 0, room: 0, underlay: false, closed: false }
    }
}

/// A tunnel whose packets are natgate's if what is in them is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TunnelEntry {
    /// The network's number.
    pub vni: u32,
    /// UDP port at which it ends.
    pub port: u16,
    /// The gateway's end.
    pub local: Ipv4Addr,
    /// Ethernet address of its device: inner packets to others stay with the kernel.
    pub mac: Mac,
}

/// `struct tunnel_key` and `struct tunnel` of the program, in network order.
type TunnelKey = [u8; 12];
type TunnelValue = [u8; 8];

impl TunnelEntry {
    fn key(&self) -> TunnelKey {
        let mut key = [0; 12];
        key[..3].copy_from_slice(&self.vni.to_be_bytes()[1..]);
        key[4..8].copy_from_slice(&self.local.octets());
        key[8..10].copy_from_slice(&self.port.to_be_bytes());
        key
    }

    fn value(&self) -> TunnelValue {
        let [a, b, c, d, e, f] = self.mac.0;
        [a, b, c, d, e, f, 0, 0]
    }
}

/// The loaded program. Dropping it leaves it attached, and then it drops all that is natgate's.
#[derive(Debug)]
pub struct Steering {
    object: Ebpf,
    applied: [BTreeSet<Ipv4Net>; 4],
    tunnels: HashMap<TunnelKey, TunnelValue>,
    /// What was already carried over from the counters (by map id) of programs before this one.
    carried: HashMap<u32, [u64; DROP_NAMES.len()]>,
}

/// Names of the prefix sets, in the order in which prefixes are added; removed in reverse. A pod's
/// packet passes to the kernel when its source is not `internal`, so that is added first, removed last.
const KERNEL_DESTINATIONS: usize = 1;
const SETS: [&str; 4] = ["internal", "kernel_destinations", "pools", "exempt"];

fn holds(set: &BTreeSet<Ipv4Net>, addr: Ipv4Addr) -> bool {
    set.iter().any(|prefix| prefix.contains(&addr))
}

impl Steering {
    /// Loads the program; it does nothing until attached.
    ///
    /// # Errors
    /// [`XskError::MissingCapability`], or [`XskError::Bpf`] with what the kernel says.
    pub fn load() -> Result<Self, XskError> {
        let what = "load the program";
        if let Some(capability) = missing_capability(&["CAP_NET_ADMIN"]).or_else(|| {
            missing_capability(&["CAP_BPF"])
                .and(missing_capability(&["CAP_SYS_ADMIN"]))
                .and(Some("CAP_BPF"))
        }) {
            return Err(XskError::MissingCapability { what, place: PROGRAM.into(), capability });
        }
        // The first line: what follows is the verifier's log.
        let failed = |error: String| {
            let why = error.lines().next().unwrap_or_default().to_owned();
            XskError::Bpf { what, why }
        };
        let mut object = Ebpf::load(OBJECT).map_err(|error| failed(chain(&error)))?;
        let program: &mut Xdp = object
            .program_mut(PROGRAM)
            .ok_or_else(|| failed(format!("`{PROGRAM}` is not in the object")))?
            .try_into()
            .map_err(|error| failed(chain(&error)))?;
        program.load().map_err(|error| failed(chain(&error)))?;
        Ok(Self {
            object,
            applied: Default::default(),
            tunnels: HashMap::new(),
            carried: HashMap::new(),
        })
    }

    /// Whether the program takes a packet that arrives on a side from the kernel: what it does itself, in its order.
    pub fn takes(&self, roles: Roles, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        let [internal, kernel_destinations, pools, exempt] =
            [0, 1, 2, 3].map(|set: usize| move |addr| holds(&self.applied[set], addr));
        let inside = roles.internal && internal(src);
        if pools(dst) && (inside || roles.external) {
            return true;
        }
        if inside {
            return !dst.is_multicast() && !dst.is_broadcast() && !kernel_destinations(dst);
        }
        roles.external && exempt(src) && internal(dst)
    }

    /// Makes `tables` the program's, prefix by prefix: first all that is new, then away with the old.
    /// A packet that both the old and the new tables take is taken at every moment.
    ///
    /// # Errors
    /// [`XskError::Bpf`]; call again to finish what was begun.
    pub fn apply(&mut self, tables: &SteeringTables) -> Result<(), XskError> {
        let wanted = [&tables.internal, &tables.kernel_destinations, &tables.pools, &tables.exempt]
            .map(|set| set.iter().map(Ipv4Net::trunc).collect::<BTreeSet<_>>());
        // What the kernel no longer keeps goes first: meanwhile such packets are natgate's.
        self.remove_unwanted(KERNEL_DESTINATIONS, &wanted[KERNEL_DESTINATIONS])?;
        for (index, wanted) in wanted.iter().enumerate() {
            for prefix in wanted.difference(&self.applied[index].clone()) {
                self.prefixes(index)?
                    .insert(&key(*prefix), 1, 0)
                    .map_err(failed("add a prefix"))?;
                self.applied[index].insert(*prefix);
            }
        }
        (0..wanted.len()).rev().try_for_each(|index| self.remove_unwanted(index, &wanted[index]))
    }

    fn remove_unwanted(
        &mut self,
        index: usize,
        wanted: &BTreeSet<Ipv4Net>,
    ) -> Result<(), XskError> {
        for prefix in &self.applied[index] - wanted {
            self.prefixes(index)?.remove(&key(prefix)).map_err(failed("remove a prefix"))?;
            self.applied[index].remove(&prefix);
        }
        Ok(())
    }

    /// Tells the program about an interface.
    ///
    /// # Errors
    /// [`XskError::Bpf`].
    pub fn set_interface(&mut self, entry: InterfaceEntry) -> Result<(), XskError> {
        let what = "set an interface";
        let roles = u32::from(entry.roles.internal) | u32::from(entry.roles.external) << 1;
        let mut map: aya::maps::HashMap<_, u32, [u32; 5]> = self.map("interfaces", what)?;
        let underlay = u32::from(entry.underlay) | u32::from(entry.underlay && entry.closed) << 1;
        let value = [roles, entry.base, entry.queues, entry.room, underlay];
        map.insert(entry.ifindex, value, 0).map_err(failed(what))
    }

    /// Has the program forget an interface that is gone: it has room for 16.
    ///
    /// # Errors
    /// [`XskError::Bpf`].
    pub fn forget_interface(&mut self, ifindex: u32) -> Result<(), XskError> {
        let what = "forget an interface";
        let mut map: aya::maps::HashMap<_, u32, [u32; 5]> = self.map("interfaces", what)?;
        map.remove(&ifindex).map_err(failed(what))
    }

    /// Makes `tunnels`, 16 at most, those that are looked into on underlays; the workers must know them already.
    ///
    /// # Errors
    /// [`XskError::Bpf`]; call again to finish what was begun.
    pub fn set_tunnels(&mut self, tunnels: &[TunnelEntry]) -> Result<(), XskError> {
        let what = "set the tunnels";
        let wanted: HashMap<_, _> = tunnels.iter().map(|it| (it.key(), it.value())).collect();
        let before = self.tunnels.clone();
        let mut map: aya::maps::HashMap<_, TunnelKey, TunnelValue> = self.map("tunnels", what)?;
        for key in before.keys().filter(|key| !wanted.contains_key(*key)) {
            map.remove(key).map_err(failed(what))?;
        }
        for (key, value) in wanted.iter().filter(|(key, value)| before.get(*key) != Some(value)) {
            map.insert(key, value, 0).map_err(failed(what))?;
        }
        self.tunnels = wanted;
        Ok(())
    }

    /// Gives the socket with descriptor `socket` the packets of `queue` of the interface whose sockets
    /// start at `base`. The kernel takes it out again when the socket is closed.
    ///
    /// # Errors
    /// [`XskError::Bpf`].
    pub fn set_socket(&mut self, base: u32, queue: u32, socket: RawFd) -> Result<(), XskError> {
        let what = "register a socket";
        let mut map: XskMap<_> = self.map("sockets", what)?;
        map.set(base + queue, socket, 0).map_err(failed(what))
    }

    /// Attaches the program, taking the place of one that a natgate before this one left, whose
    /// counters it carries over. The hook is never empty meanwhile. True if it did take over.
    ///
    /// The caller holds the [`InterfaceLock`](super::InterfaceLock).
    ///
    /// # Errors
    /// [`XskError::HookBusy`], [`XskError::ModeDiffers`], [`XskError::NoNativeMode`] and others.
    pub fn attach(
        &mut self,
        ifindex: u32,
        interface: &str,
        mode: AttachMode,
    ) -> Result<bool, XskError> {
        let what = "attach the program";
        let program = self.object.program(PROGRAM).ok_or_else(|| missing(what))?;
        let program = program.fd().map_err(|error| XskError::Bpf { what, why: chain(&error) })?;
        let old = match attach::inspect(ifindex, interface)? {
            attach::Inspection::Ours { id, .. } => counters_of(id),
            _ => None,
        };
        let replaced = attach::attach(ifindex, interface, program.as_fd(), mode)?;
        if let (Some(_), Some(old)) = (replaced, old) {
            self.carry_over(&old)?;
        }
        Ok(replaced.is_some())
    }

    /// Packets that the program dropped, by cause, those of programs that it took over from included.
    ///
    /// # Errors
    /// [`XskError::Bpf`].
    pub fn drops(&self) -> Result<Vec<(&'static str, u64)>, XskError> {
        let what = "read the drop counters";
        let map = self.object.map("drops").ok_or_else(|| missing(what))?;
        let counts = totals(map).map_err(failed(what))?;
        Ok(DROP_NAMES.into_iter().zip(counts).collect())
    }

    /// Adds what `old` counted since it was last looked at. One program serves several interfaces, and
    /// goes on counting until the last is taken over.
    fn carry_over(&mut self, old: &OldCounters) -> Result<(), XskError> {
        let what = "carry the drop counters over";
        let now = totals(&old.drops).map_err(failed(what))?;
        let before = self.carried.insert(old.id, now).unwrap_or_default();
        let mut map: PerCpuArray<_, u64> = self.map("drops", what)?;
        for (index, (now, before)) in (CARRIED..).zip(now.into_iter().zip(before)) {
            let mut values = map.get(&index, 0).map_err(failed(what))?.to_vec();
            if let Some(first) = values.first_mut() {
                *first += now - before;
            }
            let values = PerCpuValues::try_from(values)
                .map_err(|error| XskError::Bpf { what, why: error.to_string() })?;
            map.set(index, values, 0).map_err(failed(what))?;
        }
        Ok(())
    }

    fn prefixes(&mut self, index: usize) -> Result<LpmTrie<&mut MapData, [u8; 4], u32>, XskError> {
        self.map(SETS[index], "open a prefix set")
    }

    fn map<'a, M: TryFrom<&'a mut Map, Error = MapError>>(
        &'a mut self,
        name: &str,
        what: &'static str,
    ) -> Result<M, XskError> {
        self.object.map_mut(name).ok_or_else(|| missing(what))?.try_into().map_err(failed(what))
    }
}

/// The counters of a program that is still attached, or was a moment ago.
struct OldCounters {
    id: u32,
    drops: Map,
}

fn counters_of(program: u32) -> Option<OldCounters> {
    let ids = attach::program(program)?.map_ids().ok()??;
    let counters = |id: &u32| MapInfo::from_id(*id).is_ok_and(|info| info.name() == b"drops");
    let id = ids.into_iter().find(counters)?;
    Some(OldCounters { id, drops: Map::from_map_data(MapData::from_id(id).ok()?).ok()? })
}

/// Both halves, over all CPUs.
fn totals(drops: &Map) -> Result<[u64; DROP_NAMES.len()], MapError> {
    let drops: PerCpuArray<_, u64> = drops.try_into()?;
    let mut sums = [0; DROP_NAMES.len()];
    for (index, sum) in (0..).zip(&mut sums) {
        let counted = drops.get(&index, 0)?.iter().sum::<u64>();
        *sum = counted + drops.get(&(index + CARRIED), 0)?.iter().sum::<u64>();
    }
    Ok(sums)
}

fn key(prefix: Ipv4Net) -> Key<[u8; 4]> {
    Key::new(prefix.prefix_len().into(), prefix.network().octets())
}

fn failed(what: &'static str) -> impl Fn(MapError) -> XskError {
    move |error| XskError::Bpf { what, why: chain(&error) }
}

fn missing(what: &'static str) -> XskError {
    XskError::Bpf { what, why: "the object was built from another source".into() }
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
